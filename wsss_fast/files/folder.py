"""Files that appear whole or not at all, and never outside the output folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from wsss_fast.files.names import is_file_name, printable
from wsss_fast.files.regular import NotRegularError, open_regular

_NAME_LIMIT = 255
_NOT_THE_NAMES_FAULT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG})


class OutputStoppedError(Exception):
    """The output folder does not take any more (full, read-only, gone): the job stops and can be resumed."""


class OutputRefusedError(ValueError):
    """One output name cannot be used: too long, or through a link that leads out of the folder."""


class Sink:
    """An open file that counts what it is given. Enough of one for zipfile."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        write_all(self._handle, data)
        self._digest.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


class OutputFolder:
    """Writes below one folder by descriptors, so that a link planted inside is never followed."""

    def __init__(self, path: Path, operation: str = "write") -> None:
        """``operation`` is named in messages."""
        self.path = path
        self._operation = operation
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileExistsError:
            kind = "a link that leads nowhere" if path.is_symlink() else "a file"
            raise OutputRefusedError(f"{operation}: 'out' must be a folder, and {path} is {kind}") from None
        except OSError as error:
            if error.errno in _NOT_THE_NAMES_FAULT:
                raise self._stopped(path, error) from None
            expected = f"be a folder that can be written, got {path}: {error.strerror}"
            raise OutputRefusedError(f"{operation}: 'out' must {expected}") from None

    def close(self) -> None:
        os.close(self._root)

    @property
    def descriptor(self) -> int:
        return self._root

    def lock(self) -> bool:
        """Whether this process alone writes here. The lock leaves nothing behind and ends with the process however that ends."""
        try:
            fcntl.flock(self._root, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in (errno.EAGAIN, errno.EACCES)  # else a file system without locks
        return True

    def write(self, name: str, data: bytes) -> None:
        """Replaces or creates ``name`` whole."""
        with self.replacing(name) as sink:
            sink.write(data)

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[Sink]:
        """What is written into the sink becomes ``name``: written beside it, synced, then renamed."""
        with self.errors(name), self._parent(name) as folder:
            last = PurePosixPath(name).name
            # Derived from the name, so that whoever resumes an interrupted job also replaces what it left behind.
            temporary = f".wsss-{hashlib.sha256(os.fsencode(last)).hexdigest()[:16]}.tmp"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(temporary, flags, 0o666, dir_fd=folder)
            try:
                try:
                    yield Sink(handle)
                    os.fsync(handle)
                finally:
                    os.close(handle)
                os.replace(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            os.fsync(folder)

    def read(self, name: str) -> bytes:
        """A regular file of ours; links are not followed. OSError or OutputRefusedError if there is none."""
        with self._parent(name, create=False) as folder:
            handle = open_regular(PurePosixPath(name).name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        with os.fdopen(handle, "rb") as file:
            return file.read()

    def size(self, name: str) -> int | None:
        """Bytes of a regular file of ours, else None; links do not count."""
        try:
            with self._parent(name, create=False) as folder:
                info = os.stat(PurePosixPath(name).name, dir_fd=folder, follow_symlinks=False)
        except (OSError, OutputRefusedError):
            return None
        return info.st_size if stat.S_ISREG(info.st_mode) else None

    def remove(self, name: str) -> None:
        """Removes a file of an earlier job, if it is still there."""
        with self.errors(name), contextlib.suppress(FileNotFoundError), self._parent(name, create=False) as folder:
            os.unlink(PurePosixPath(name).name, dir_fd=folder)

    def remove_folder(self, name: str) -> None:
        """A folder of ours and the files in it. With folders in it, it is not ours, and an OutputRefusedError."""
        with self.errors(name), self._parent(f"{name}/any", create=False) as folder:
            for entry in os.listdir(folder):  # noqa: PTH208 - of a descriptor
                os.unlink(entry, dir_fd=folder)
        with self.errors(name), self._parent(name, create=False) as parent:
            os.rmdir(PurePosixPath(name).name, dir_fd=parent)

    def open_append(self, name: str) -> int:
        with self.errors(name), self._parent(name) as folder:
            return open_regular(PurePosixPath(name).name, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, dir_fd=folder)

    @contextlib.contextmanager
    def _parent(self, name: str, create: bool = True) -> Iterator[int]:
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
            raise OutputRefusedError("the output name leads out of the folder")
        if not all(map(is_file_name, parts)):
            raise OutputRefusedError("the output name is no text")
        if max(len(os.fsencode(part)) for part in parts) > _NAME_LIMIT:
            raise OutputRefusedError(f"the output name is longer than {_NAME_LIMIT} bytes")
        folder = os.dup(self._root)
        try:
            for part in parts[:-1]:
                if create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=folder)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                inner = os.open(part, flags, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def errors(self, name: str) -> Iterator[None]:
        """Whatever the system says while `name` is written becomes one of the two errors above."""
        try:
            yield
        except NotRegularError as error:
            raise OutputRefusedError(f"{self._operation}: cannot write {self.path / name}: {error.strerror}") from None
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise OutputRefusedError(f"a link or a file stands where {printable(name)} is to be written") from None
            if error.errno in (errno.ENAMETOOLONG, errno.EISDIR):
                raise OutputRefusedError(f"the output name cannot be used: {error.strerror}") from None
            raise self._stopped(self.path / name, error) from None

    def _stopped(self, place: Path, error: OSError) -> OutputStoppedError:
        hint = "make room or rights, then run the same command again: it goes on where it stopped"
        kind = error.strerror or str(error)
        known = "" if error.errno in _NOT_THE_NAMES_FAULT else f" ({errno.errorcode.get(error.errno or 0, 'unknown')})"
        return OutputStoppedError(f"{self._operation}: cannot write {place}: {kind}{known}. Hint: {hint}")


def write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
