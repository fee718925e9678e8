"""What tests of labelling on a Ray cluster share: workers with a stand-in network, slow or mortal; a cluster without Ray."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Future
from types import SimpleNamespace

from label_standins import BrightEngine

from wsss_fast.label import ray_worker


class BrightWorker(ray_worker.Worker):
    """Its network is `BrightEngine`. An image whose name begins with ``poison`` kills it; one with ``slow`` takes a moment."""

    def prepare(self, *arguments):
        ray_worker.load_model = lambda model, settings: BrightEngine()
        return super().prepare(*arguments)

    def label(self, images, labels):
        for image, _ in images:
            if image.name.startswith("poison"):
                os.kill(os.getpid(), signal.SIGKILL)
            if image.name.startswith("slow"):
                time.sleep(0.3)
        return super().label(images, labels)


NEVER = object()  # what a call of a worker of `FakeRay` gives that does not end


class DeathError(Exception):
    """Of a worker of `FakeRay`."""


class FakeRay:
    """What `ray_cluster` uses of Ray, in this process and thread. A call is done when it is made."""

    def __init__(self, worker, hosts):
        self._worker = worker
        self._hosts = {f"{number:056x}": host for number, host in enumerate(hosts, 1)}
        self.started = []

    def nodes(self):
        return [
            {"NodeID": node, "NodeManagerHostname": host, "Alive": True, "Resources": {"CPU": 1.0}}
            for node, host in self._hosts.items()
        ]

    def remote(self, _):
        return self

    def options(self, *, scheduling_strategy, **_):
        host = self._hosts[scheduling_strategy.node_id]
        return SimpleNamespace(remote=lambda: FakeActor(self, self._worker(host)))

    def kill(self, actor):
        actor.dead = True


class FakeActor:
    def __init__(self, ray, worker):
        self.dead = False
        self._worker = worker
        ray.started.append(worker.host)

    def __getattr__(self, method):
        return SimpleNamespace(remote=lambda *arguments: self._call(method, arguments))

    def _call(self, method, arguments):
        from ray.exceptions import ActorDiedError, RayTaskError

        future = Future()
        try:
            if self.dead:
                raise DeathError
            result = getattr(self._worker, method)(*arguments)
            if result is not NEVER:
                future.set_result(result)
        except DeathError:
            self.dead = True
            future.set_exception(ActorDiedError())
        except Exception as error:
            future.set_exception(RayTaskError(method, "", error))
        return SimpleNamespace(future=lambda: future)


class MortalWorker(ray_worker.Worker):
    """Dies of images whose name begins with ``poison``."""

    def __init__(self, host):
        self.host = host

    def label(self, images, labels):
        if any(image.name.startswith("poison") for image, _ in images):
            raise DeathError
        return super().label(images, labels)
