"""What a training leaves for its readers: losses.jsonl, TensorBoard events, pictures, and how fast it goes."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque

import numpy as np
from PIL import Image

from wsss_fast.files.folder import OutputFolder, write_all
from wsss_fast.files.png import png
from wsss_fast.train import events

LOSSES = "losses.jsonl"
PICTURES = "pictures"


class Speed:
    """Images a second over the last steps."""

    def __init__(self, batch: int, window: int = 50) -> None:
        self._batch = batch
        self._times = deque([time.monotonic()], maxlen=window)

    def step(self) -> None:
        self._times.append(time.monotonic())

    @property
    def images_per_second(self) -> float:
        seconds = self._times[-1] - self._times[0]
        return (len(self._times) - 1) * self._batch / seconds if seconds > 0 else 0.0

    def seconds_for(self, steps: int) -> float:
        rate = self.images_per_second
        return steps * self._batch / rate if rate else 0.0


class RunLog:
    """Appends to the logs of a run folder; what an earlier process logged after `step` is dropped first."""

    def __init__(self, folder: OutputFolder, step: int, tensorboard: bool) -> None:
        self._folder = folder
        folder.write(LOSSES, _until(folder, step))
        self._losses = folder.open_append(LOSSES)
        self._events = events.Events(folder, step + 1) if tensorboard and events.available() else None

    def losses(self, step: int, epoch: int, rate: float, terms: dict[str, float], images_per_second: float) -> None:
        row = {"step": step, "epoch": epoch, "lr": rate, **terms, "images_per_second": round(images_per_second, 2)}
        with self._folder.errors(LOSSES):
            write_all(self._losses, json.dumps(row).encode() + b"\n")
        if self._events:
            values = {f"loss/{name}": value for name, value in terms.items()}
            self._events.scalars(step, {**values, "lr": rate, "images_per_second": images_per_second})

    def picture(self, step: int, pixels: np.ndarray) -> None:
        self._folder.write(f"{PICTURES}/step-{step:08d}.png", png(Image.fromarray(pixels)))
        if self._events:
            self._events.image(step, "class maps", pixels)

    def sync(self) -> None:
        """Before a checkpoint speaks of steps, their losses are on disk."""
        with self._folder.errors(LOSSES):
            os.fsync(self._losses)
        if self._events:
            self._events.flush()

    def close(self) -> None:
        os.close(self._losses)
        if self._events:
            with contextlib.suppress(OSError):  # whatever made the training end is said already
                self._events.close()


def _until(folder: OutputFolder, step: int) -> bytes:
    """The whole lines of an earlier log up to a step; a line that a crash tore is no line."""
    kept = []
    with contextlib.suppress(FileNotFoundError):
        for line in folder.read(LOSSES).splitlines(keepends=True) if step else ():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                    kept.append(line)
    return b"".join(kept)
