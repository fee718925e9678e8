"""What long jobs share: signals that let the running step end, and the library's log above the progress bar."""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import Any

from wsss_fast.cli import exit_codes
from wsss_fast.cli._progress import ProgressLine

GO_ON = "the same command goes on where this one stopped"


class Stop:
    """The first SIGINT or SIGTERM lets the running step end and its state be written; SIGINT again ends at once.

    Before the first step there is nothing to save: signals end the command as they always do.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._running = False
        self._since = 0.0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        try:
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:
            self._before = {}  # not the main thread: the program around us handles signals
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        self._running = True
        return self.signal is not None

    @property
    def status(self) -> int:
        """The exit status of a job that was stopped."""
        return exit_codes.INTERRUPTED if self.signal == signal.SIGINT else exit_codes.TERMINATED

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            return  # a worker that was forked from us
        # torchrun passes on what the terminal sent already: only a second thought counts
        again = number == signal.SIGINT == self.signal and time.monotonic() - self._since > 1
        if self._running and not again:
            if self.signal is None:
                self.signal, self._since = number, time.monotonic()
            return
        before = self._before.get(number)
        if callable(before):
            before(number, frame)
        raise KeyboardInterrupt


class Log(logging.Handler):
    """What the library says, as lines above the progress bar."""

    def __init__(self, progress: ProgressLine, quiet: bool, speaks: bool = True) -> None:
        super().__init__()
        self._progress = progress
        self._logger = logging.getLogger("wsss_fast")
        self._level = logging.ERROR if not speaks else logging.WARNING if quiet else logging.INFO

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.complain(record.getMessage())

    def __enter__(self) -> Log:
        self._before = self._logger.level
        self._logger.setLevel(self._level)
        self._logger.addHandler(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._before)
