"""What is wrong with somebody's data, in words: how often, the first five cases, and a hint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wsss_fast.files.names import short

SHOWN = 5


class DataError(ValueError):
    """The data given cannot be used as it is."""


def some(items: Sequence[object]) -> str:
    """`3: a, b, c`, with at most five of them spelt out."""
    rest = ", …" if len(items) > SHOWN else ""
    return f"{len(items)}: " + ", ".join(short(str(item)) for item in items[:SHOWN]) + rest


def hinted(text: str, hint: str) -> str:
    return f"{text}. Hint: {hint}" if hint else text


def refuse(what: str, items: Sequence[object], hint: str = "") -> None:
    """Raises when there is any item."""
    if items:
        raise DataError(hinted(f"{what} ({some(items)})", hint))


def doubles(items: Iterable[str]) -> list[str]:
    """What comes more than once, in order of its second coming."""
    seen: set[str] = set()
    again: dict[str, None] = {}
    for item in items:
        if item in seen:
            again[item] = None
        seen.add(item)
    return list(again)
