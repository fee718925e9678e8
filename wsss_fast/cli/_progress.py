"""Progress on standard error: a bar on a terminal once a job lasts two seconds, else a plain line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from wsss_fast.cli import _terminal
from wsss_fast.files.names import harmless

_BAR_AFTER = 2.0
_LINE_EVERY = 15.0


class ProgressLine:
    def __init__(self, verb: str, hidden: bool = False) -> None:
        self._verb = verb
        self._hidden = hidden
        self._terminal = sys.stderr.isatty()
        self._started = self._last = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_bar()

    def begin(self, verb: str) -> None:
        """Another part of the job, counted anew."""
        self._end_bar()
        self._verb = verb
        self._started = self._last = time.monotonic()

    def update(self, done: int, total: int, detail: str = "") -> None:
        """`detail` stands in place of what is measured here."""
        now = time.monotonic()
        if self._hidden or now - self._started < _BAR_AFTER:
            return
        if self._terminal:
            if self._bar is None:
                self._start_bar(total, bool(detail))
            self._bar.update(self._task, completed=done, total=total, detail=harmless(detail))
        elif now - self._last >= _LINE_EVERY:
            self._last = now
            detail = detail or f"{done / (now - self._started):.1f} a second"
            sys.stderr.write(f"{self._verb}: {done} of {total}, {detail}\n")

    def complain(self, text: str) -> None:
        """One line about one image; shown above a running bar."""
        if self._bar is not None:
            self._bar.console.print(harmless(text), markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stderr.write(text + "\n")

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start_bar(self, total: int, detailed: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        last = TextColumn("{task.fields[detail]}") if detailed else TimeRemainingColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), last)
        self._bar = Progress(
            *columns,
            console=Console(file=_terminal.own(sys.stderr)),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task(self._verb, total=total, detail="")
        self._bar.start()
