"""File names as they are shown: a name is data from strangers and must not steer a terminal or break a line."""

from __future__ import annotations


def printable(name: str | bytes) -> str:
    """Control, bidirectional and undecodable characters become escapes; everything else stays."""
    if isinstance(name, bytes):
        name = name.decode("utf-8", "surrogateescape")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
