"""One labeller a folder and shard. The lock file names its owner; it ends with the process however that ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time

from wsss_fast.files.folder import OutputFolder
from wsss_fast.files.names import printable

_MOST = 4096


class LockedError(ValueError):
    """Another job is writing to the folder."""


class Lock:
    def __init__(self, folder: OutputFolder, name: str, patience: float = 0.0) -> None:
        """``patience``: seconds to wait for another owner."""
        self._folder = folder
        self._name = name
        end = time.monotonic() + patience
        while True:
            try:
                self._handle = self._take()
                return
            except LockedError:
                if time.monotonic() >= end:
                    raise
                time.sleep(0.05)

    def _take(self) -> int:
        while True:
            handle = self._folder.open_append(self._name)
            try:
                self._flock(handle)
                # the owner before us may have removed the file while we waited for it
                if _same(handle, self._folder.descriptor, self._name):
                    owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n"
                    with self._folder.errors(self._name):
                        os.ftruncate(handle, 0)
                        os.write(handle, owner.encode("ascii"))
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def _flock(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            without_locks = error.errno not in (errno.EAGAIN, errno.EACCES)
        owner = _owner(handle)
        if without_locks and not _may_live(owner):
            return  # a file system without locks, and nobody there, or somebody who died
        place = self._folder.path / self._name
        who = f"process {owner['pid']} on {printable(str(owner['host']))}" if owner else "another job"
        hint = f"if it is gone, remove {printable(str(place))}" if without_locks else "wait for it, or give another --out"
        raise LockedError(f"label: another job is writing to {printable(str(self._folder.path))} ({who}). Hint: {hint}")

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._name, dir_fd=self._folder.descriptor)
        os.close(self._handle)


def _same(handle: int, folder: int, name: str) -> bool:
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), there)


def _owner(handle: int) -> dict[str, object] | None:
    try:
        told = json.loads(os.pread(handle, _MOST, 0))
        return {"pid": int(told["pid"]), "host": str(told["host"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _may_live(owner: dict[str, object] | None) -> bool:
    if owner is None:
        return False
    if owner["host"] != socket.gethostname():
        return True
    try:
        os.kill(int(str(owner["pid"])), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
