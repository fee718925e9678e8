"""Opening what must be a regular file: in its place, a named pipe would make `open` wait for ever, and a device never ends."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISLNK, "a link, which is not followed here"),
)
# What the system says of folders, sockets and links before there is anything to look at.
_PERHAPS_ANOTHER_KIND = (errno.EISDIR, errno.ENXIO, errno.ELOOP)


class NotRegularError(OSError):
    """Something else stands where a file is expected; ``strerror`` says what."""

    def __init__(self, path: str | os.PathLike[str], mode: int) -> None:
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a device")
        super().__init__(errno.EINVAL, f"a regular file is expected, and it is {kind}", os.fspath(path))


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY, *, dir_fd: int | None = None) -> int:
    """As `os.open`, and an OSError for whatever is no regular file."""
    try:
        # With O_NONBLOCK a pipe is opened without anybody at its other end; of regular files it changes nothing.
        handle = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o666, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in _PERHAPS_ANOTHER_KIND:
            _refuse_other_kinds(path, os.stat(path, dir_fd=dir_fd, follow_symlinks=not flags & os.O_NOFOLLOW).st_mode)
        raise
    try:
        _refuse_other_kinds(path, os.fstat(handle).st_mode)
    except NotRegularError:
        os.close(handle)
        raise
    return handle


def open_to_read(path: str | os.PathLike[str]) -> BinaryIO:
    return os.fdopen(open_regular(path), "rb")


def read_regular(path: Path) -> bytes:
    with open_to_read(path) as file:
        return file.read()


def _refuse_other_kinds(path: str | os.PathLike[str], mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise NotRegularError(path, mode)
