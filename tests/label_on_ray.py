"""What tests of labelling on a Ray cluster share: workers with a stand-in network, which can be slow or die."""

from __future__ import annotations

import os
import signal
import time

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


class OtherWorker(BrightWorker):
    """No two of them hold the same network."""

    def prepare(self, *arguments):
        ray_worker.load_model = lambda model, settings: BrightEngine(made_by=os.getpid())
        return ray_worker.Worker.prepare(self, *arguments)
