"""TensorBoard's event files, written through the output folder: TensorBoard's own writer follows links that lie there."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import numpy as np

from wsss_fast._extras import install
from wsss_fast.files.folder import OutputFolder

TENSORBOARD = "tensorboard"

log = logging.getLogger(__name__)


def available() -> bool:
    """Whether TensorBoard is installed; if not, says so."""
    try:
        import torch.utils.tensorboard  # noqa: F401 - looks for a TensorBoard that fits
    except ImportError:
        hint = f"{install('train')}; --tensorboard false says nothing"
        log.warning("train: TensorBoard is not installed, so no event files are written. Hint: %s", hint)
        return False
    return True


class Events:
    """A new event file. What earlier files hold from `step` on is void."""

    def __init__(self, folder: OutputFolder, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard import summary

        self._folder, self._event, self._summary = folder, Event, summary
        # Readers look for "tfevents" and take files in the order of their names.
        self.name = f"{TENSORBOARD}/events.out.tfevents.{time.time():017.6f}.{os.getpid()}"
        self._file = os.fdopen(folder.open_append(self.name), "ab")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        self._write(step=step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._write(step=step, summary=self._summary.scalar(name, value))

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._write(step=step, summary=self._summary.image(name, pixels, dataformats="HWC"))

    def flush(self) -> None:
        with self._folder.errors(self.name):
            self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, **content: Any) -> None:
        with self._folder.errors(self.name):
            self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
