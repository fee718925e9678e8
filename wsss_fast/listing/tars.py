"""Members of a tar file, and whether they are all of them: where a header is damaged, `tarfile` stops as if the archive ended."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsss_fast.files.regular import open_regular

_BLOCK = tarfile.BLOCKSIZE
_LARGEST_HEADER = 1 << 16  # of names and attributes; it is held in memory
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    offset: int  # of its bytes
    size: int
    is_file: bool


class _Headers(io.FileIO):
    """What `tarfile` may read: headers, never the bytes of a member."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


class Tar:
    """Iterate over it once; ``damage`` then says what is wrong with the file, or nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damage = ""
        self.size = 0

    def __iter__(self) -> Iterator[Member]:
        """Folders are passed over."""
        with _Headers(open_regular(self._path)) as file:
            self.size = os.fstat(file.fileno()).st_size
            count, at = 0, 0
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    while (member := tar.next()) is not None:
                        if not 0 <= member.size < 1 << 62:
                            raise tarfile.ReadError(f"a member of {member.size} bytes")
                        if not at < tar.offset <= self.size:
                            raise tarfile.ReadError("a member that the file does not hold whole")
                        at = tar.offset
                        count += 1
                        tar.members = []  # it would keep every header
                        if not member.isdir():
                            yield Member(member.name, member.offset_data, member.size, member.isreg())
                wrong = self._behind(file, at)
            except GeneratorExit:
                raise
            except Exception as error:  # of damaged numbers, names and chains of headers: nearly anything
                wrong = str(error) or type(error).__name__
            if wrong:
                lost = f"the {count} members before it are read, those behind it are lost" if at else "no member can be read"
                self.damage = f"the tar file is damaged at byte {at} of {self.size} ({wrong}): {lost}"

    def _behind(self, file: _Headers, end: int) -> str:
        """What stands behind the last member: nothing or zeros, else it was not the last."""
        file.seek(end)
        first = True
        while block := os.read(file.fileno(), _BLOCK if first else _CHUNK):
            if block.count(0) != len(block):
                return "no header of a member" if first else "more than zeros behind the end mark"
            first = False
        return ""
