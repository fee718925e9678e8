"""Files that are whole or not there, and their hashes. Free of torch, which the process that builds an engine does not load."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from wsss_fast.files.regular import open_to_read


@contextlib.contextmanager
def whole_file(path: Path, operation: str = "export") -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well; the old file stays otherwise.

    A link is replaced, not followed. A folder, pipe or device is refused.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{operation}: cannot write '{path}': it is no regular file")
    try:
        handle, name = tempfile.mkstemp(prefix=".wsss-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise OSError(f"{operation}: cannot write '{path}': {error.strerror}") from None
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    with open_to_read(path) as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
