"""What a training leaves for its readers: losses.jsonl, TensorBoard events, pictures, and how fast it goes."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsss_fast._extras import install
from wsss_fast.files.folder import OutputFolder, write_all
from wsss_fast.files.png import png

LOSSES = "losses.jsonl"
TENSORBOARD = "tensorboard"
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
        self._events: Any = None
        writer = summary_writer() if tensorboard else None
        folder.write(LOSSES, _until(folder.path / LOSSES, step))
        self._losses = folder.open_append(LOSSES)
        if writer:
            with folder.errors(TENSORBOARD):
                self._events = writer(str(folder.path / TENSORBOARD), purge_step=step + 1)

    def losses(self, step: int, epoch: int, rate: float, terms: dict[str, float], images_per_second: float) -> None:
        row = {"step": step, "epoch": epoch, "lr": rate, **terms, "images_per_second": round(images_per_second, 2)}
        with self._folder.errors(LOSSES):
            write_all(self._losses, json.dumps(row).encode() + b"\n")
        if self._events:
            with self._folder.errors(TENSORBOARD):
                for name, value in {**{f"loss/{name}": value for name, value in terms.items()}, "lr": rate}.items():
                    self._events.add_scalar(name, value, step)
                self._events.add_scalar("images_per_second", images_per_second, step)

    def picture(self, step: int, pixels: np.ndarray) -> None:
        self._folder.write(f"{PICTURES}/step-{step:08d}.png", png(Image.fromarray(pixels)))
        if self._events:
            with self._folder.errors(TENSORBOARD):
                self._events.add_image("class maps", pixels, step, dataformats="HWC")

    def sync(self) -> None:
        """Before a checkpoint speaks of steps, their losses are on disk."""
        with self._folder.errors(LOSSES):
            os.fsync(self._losses)
        if self._events:
            with self._folder.errors(TENSORBOARD):
                self._events.flush()

    def close(self) -> None:
        os.close(self._losses)
        if self._events:
            with contextlib.suppress(OSError):  # whatever made the training end is said already
                self._events.close()


def summary_writer() -> Any:
    """TensorBoard's writer.

    Raises:
        ModuleNotFoundError: saying how to install it, and how to do without.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        hint = install("train") + ", or --tensorboard false to train without its files"
        raise ModuleNotFoundError(f"train: TensorBoard is not installed. Hint: {hint}", name="tensorboard") from error
    return SummaryWriter


def _until(path: Path, step: int) -> bytes:
    """The whole lines of an earlier log up to a step; a line that a crash tore is no line."""
    kept = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines(keepends=True) if step else ():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                    kept.append(line)
    return b"".join(kept)
