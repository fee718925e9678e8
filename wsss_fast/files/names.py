"""File names as they are shown and sorted: a name is data from strangers and must not steer a terminal or break a line."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

# As os.fsencode, which looks up the encoding for each of a million names.
AS_FILES = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
_DIGITS = re.compile(rb"([0-9]+)")


def printable(name: str | bytes) -> str:
    """Control, bidirectional and undecodable characters become escapes; everything else stays."""
    if isinstance(name, bytes):
        name = name.decode("utf-8", "surrogateescape")
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def state_of(path: str | os.PathLike[str]) -> str:
    """Of a path that is not what it should be, for messages: 'x.pth', which does not exist."""
    path = Path(path)
    return "is a folder" if path.is_dir() else "is a file" if path.is_file() else "does not exist"


def short(name: str, most: int = 200) -> str:
    """For a message: `printable`, and not longer than a few lines."""
    shown = printable(name[: most + 1])
    return shown if len(shown) <= most else shown[:most] + "…"


def shown(path: object) -> str:
    """A path of any length that a file can have."""
    return short(str(path), 4096)


def harmless(text: str) -> str:
    """A message, whose lines are ours: what `printable` does, but for line feeds."""
    return "\n".join(map(printable, text.split("\n")))


def is_text(name: str) -> bool:
    """Whether it can be written into a file: JSON and YAML can name halves of characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_file_name(name: str) -> bool:
    """Whether the system can be asked for it: it may hold bytes that are no text, and no halves of characters or zeros."""
    try:
        return b"\0" not in name.encode(*AS_FILES)
    except UnicodeEncodeError:
        return False


def natural_key(name: str) -> bytes:
    """Sorts ``img2`` before ``img10``: the number of its digits stands before a number."""
    parts = _DIGITS.split(name.encode(*AS_FILES))
    for i in range(1, len(parts), 2):
        digits = parts[i].lstrip(b"0")
        parts[i] = b"\x01" + len(digits).to_bytes(4, "big") + digits
    return b"".join(parts)
