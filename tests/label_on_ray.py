"""What tests of labelling on a Ray cluster share: workers with a stand-in network, which can be slow or die."""

from __future__ import annotations

import os
import signal
import socket
import time

from label_standins import BrightEngine

from wsss_fast._version import __version__
from wsss_fast.label import ray_worker
from wsss_fast.label.predict import Defaults


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


class OtherWorker(ray_worker.Worker):
    """No two of them hold the same network."""

    def prepare(self, *_):
        tool = {"tool": f"wsss_fast {__version__}"}
        identity = {"made_by": os.getpid()}
        return ray_worker.Description(("bright",), identity, Defaults(), True, None, tool, socket.gethostname(), os.getpid(), ())
