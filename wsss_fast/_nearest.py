"""The known name that somebody probably meant: one rule for options, commands, settings, classes and layers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from wsss_fast.files.names import short

# One wrong letter of three is a slip, of two another word. Dashes count for nothing: with them, "--foo" is much like "--root".
_LEAST = 0.65


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name most like ``word``, whatever its case; None when none is near."""
    names: dict[str, str] = {}
    for name in known:
        names.setdefault(_letters(name), name)
    close = difflib.get_close_matches(_letters(word), names, 1, _LEAST)
    return names[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """A hint with the nearest name, else the other one."""
    close = nearest(word, known)
    return otherwise if close is None else f"did you mean '{short(close)}'?"


def _letters(name: str) -> str:
    return name.strip("-").casefold()
