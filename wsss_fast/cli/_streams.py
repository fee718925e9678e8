"""Standard streams that are closed, full, or left by their reader: none of them stops a command.

A closed descriptor is the worst of these: the next file that is opened, a mask perhaps, gets its number, and what is written to
"standard output" then goes into that file. So the missing ones are opened first of all, on the null device.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

_NAMES = {"stdout": "standard output", "stderr": "standard error"}


class Outlet:
    """A text stream whose failing writes are remembered instead of raised."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        with self._remembering():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._remembering():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error

    def close_quietly(self) -> None:
        """What is still in its buffer goes nowhere: Python would try it once more at exit, and end with status 120."""
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


def open_missing() -> None:
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            # the lowest free number is this one, since those below are open
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))


@contextlib.contextmanager
def guarded() -> Iterator[tuple[Outlet, Outlet]]:
    """Standard output and standard error as they may be used inside; afterwards they are what they were."""
    open_missing()
    before = sys.stdout, sys.stderr
    outlets = Outlet(sys.stdout), Outlet(sys.stderr)
    sys.stdout, sys.stderr = outlets  # type: ignore[assignment]
    try:
        yield outlets
    finally:
        for outlet in outlets:
            outlet.flush()
            if outlet.failure is not None:
                outlet.close_quietly()
        sys.stdout, sys.stderr = before
