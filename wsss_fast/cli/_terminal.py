"""The one way out to the terminal: names, keys and messages of files from strangers pass here whatever command says them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from wsss_fast.files.names import harmless


class _Harmless:
    """Standard output or error: control characters are written as escapes."""

    def __init__(self, stream: TextIO) -> None:
        self.own = stream

    def write(self, text: str) -> int:
        self.own.write(harmless(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Harmless, before)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def own(stream: Any) -> TextIO:
    """For our own colours and bars: whoever writes here makes strangers' text harmless before."""
    return stream.own if isinstance(stream, _Harmless) else stream
