"""Which images, in which order and batches, and what each mask is called: decided before the first image is read.

A plan of a million images takes some 60 MB: names stand in one block of bytes.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsss_fast.files.images import Location
from wsss_fast.files.names import AS_FILES, natural_key

_ENDINGS = (".png", ".npz", ".jpg")
_ENDINGS_OF_FOLDERS = tuple(f"{ending}/" for ending in _ENDINGS)


class PlanError(ValueError):
    """The images or the output folder given cannot make a job."""


@dataclass(frozen=True, slots=True)
class PlannedImage:
    name: str  # path inside the image folder, with forward slashes
    output: str  # path of the mask inside the output folder
    number: int  # place in the plan


class Names(Sequence[str]):
    """Names in natural order. ``places``: of members of tar files, their offset and size in it."""

    def __init__(self, keys: list[bytes], in_tars: bool = False) -> None:
        """``keys``, made by `sort_key`, are used up: twice their memory would be most of the job's."""
        keys.sort()
        self._block = bytearray()
        self._ends = array("Q")
        self.places = array("Q") if in_tars else None
        for i, key in enumerate(keys):
            keys[i] = b""
            length = int.from_bytes(key[-3:], "big")
            self._block += key[-19 - length : -19]
            self._ends.append(len(self._block))
            if self.places is not None:
                self.places.extend((int.from_bytes(key[-19:-11], "big"), int.from_bytes(key[-11:-3], "big")))
        keys.clear()

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: int) -> str:  # type: ignore[override]
        start = self._ends[i - 1] if i else 0
        return self._block[start : self._ends[i]].decode(*AS_FILES)

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self._ends:
            yield self._block[start:end].decode(*AS_FILES)
            start = end

    def find(self, name: str, near: int = 0) -> int | None:
        """The place of a name; at once if it is ``near``."""
        if near < len(self) and self[near] == name:
            return near
        wanted, low, high = sort_key(name)[:-19], 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if sort_key(self[middle])[:-19] < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self[low] == name else None


@dataclass(frozen=True)
class Plan:
    root: Path
    names: Names
    unusual: dict[int, str]  # outputs that are not `short_output` of the name
    batch: int
    shard: tuple[int, int] = (0, 1)
    tars: Mapping[str, str] = field(default_factory=dict)  # name of each tar file → what is wrong with it, or nothing

    def __len__(self) -> int:
        """Images of this shard."""
        i, n = self.shard
        whole, rest = divmod(len(self.names), self.batch)
        mine = len(range(i, whole, n)) * self.batch
        return mine + (rest if whole % n == i else 0)

    def __getitem__(self, number: int) -> PlannedImage:
        name = self.names[number]
        return PlannedImage(name, self.unusual.get(number) or short_output(name), number)

    def batches(self) -> Iterator[tuple[PlannedImage, ...]]:
        i, n = self.shard
        for start in range(i * self.batch, len(self.names), n * self.batch):
            yield tuple(self[number] for number in range(start, min(start + self.batch, len(self.names))))

    def images(self) -> Iterator[PlannedImage]:
        for members in self.batches():
            yield from members

    def digest(self) -> str:
        """SHA-256 over the members and their order, those of all shards."""
        whole = hashlib.sha256(f"batch {self.batch}\0".encode())
        for number, name in enumerate(self.names):
            output = self.unusual.get(number) or short_output(name)
            whole.update(name.encode(*AS_FILES) + b"\0" + output.encode(*AS_FILES) + b"\0")
        return whole.hexdigest()

    def location(self, image: PlannedImage) -> Location:
        if self.names.places is None:
            return Location(os.path.join(self.root, image.name))  # noqa: PTH118 - for each of a million names
        offset, size = self.names.places[2 * image.number : 2 * image.number + 2]
        tar = self.tar_of(image)
        return Location(os.path.join(self.root, tar), offset, size, self.tars[tar] if tar == image.name else "")  # noqa: PTH118

    def tar_of(self, image: PlannedImage) -> str:
        """The tar file of a member. A damaged one stands in the plan as well, as an image that fails."""
        end = image.name.find("/")
        while end >= 0 and image.name[:end] not in self.tars:
            end = image.name.find("/", end + 1)
        return image.name if end < 0 else image.name[:end]


def sort_key(name: str, offset: int = 0, size: int = 0) -> bytes:
    """The natural key, then the name itself so that no two different names are equal, its place in a tar file, its length."""
    data = name.encode(*AS_FILES)
    places = offset.to_bytes(8, "big") + size.to_bytes(8, "big")
    return natural_key(name) + b"\0" + data + places + len(data).to_bytes(3, "big")


def output_names(names: Sequence[str]) -> dict[int, str]:
    """``a.jpg`` → ``a.png``; where two would share a name, also after case folding, ``a.jpg.png`` for each of them.

    So too where ``a.png`` is a folder of other images: else whichever was written first would decide which of them fails. What
    still shares a name gets another ``.png``. Gives those that are not the short name, by place.
    """
    endings: dict[int, int] = {}  # how many .png follow the whole name
    stems = _stems_of_folders(names)

    def output(i: int) -> str:
        return names[i] + ".png" * endings[i] if i in endings else short_output(names[i])

    while True:
        longer = [i for i in range(len(names)) if _folded(output(i))[:-4] in stems] if stems else []
        for places in _doubled(len(names), output):
            # One whole name among equals may stay: all of them could meet again for ever.
            longer += [i for i in places if i not in endings] or places[1:]
        if not longer:
            return {i: name for i in endings if (name := output(i)) != short_output(names[i])}
        for i in set(longer):
            endings[i] = endings.get(i, 0) + 1


def _stems_of_folders(names: Sequence[str]) -> set[str]:
    """Of folders that a file of an image could be called like, folded: masks are .png or .npz, pairs .npz, overlays .jpg."""
    folders: set[str] = set()
    for name in names:
        if not any(ending in name.lower() for ending in _ENDINGS_OF_FOLDERS):
            continue
        parts = _folded(name).split("/")[:-1]
        for end, part in enumerate(parts, 1):
            if part.endswith(_ENDINGS):
                # files of images stand in the output folder, or in one of these
                start = 1 if parts[0] in ("overlays", "pairs") and end > 1 else 0
                folders.update(("/".join(parts[:end])[:-4], "/".join(parts[start:end])[:-4]))
    return folders


def _doubled(count: int, output: Callable[[int], str]) -> list[list[int]]:
    """Places whose outputs are equal after folding, together. Hashes first: a million folded names would take 100 MB."""
    import numpy as np

    hashes = np.fromiter((hash(_folded(output(i))) for i in range(count)), np.int64, count)
    ordered = np.sort(hashes)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    same: dict[str, list[int]] = defaultdict(list)
    for i in np.flatnonzero(np.isin(hashes, again)).tolist():
        same[_folded(output(i))].append(i)
    return [places for places in same.values() if len(places) > 1]


def short_output(name: str) -> str:
    return os.path.splitext(name)[0] + ".png"  # noqa: PTH122 - called for each of a million names


def _folded(name: str) -> str:
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()
