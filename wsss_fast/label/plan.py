"""Which images, in which order and batches, and what each mask is called: decided before the first image is read."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from wsss_fast.label.names import printable

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
_DIGITS = re.compile(r"([0-9]+)")


class PlanError(ValueError):
    """The images or the output folder given cannot make a job."""


@dataclass(frozen=True, slots=True)
class PlannedImage:
    name: str  # path inside the image folder, with forward slashes
    output: str  # path of the mask inside the output folder


@dataclass(frozen=True)
class Plan:
    root: Path
    images: tuple[PlannedImage, ...]
    batch: int
    ignored: int  # files in the folder without an image's extension

    def batches(self) -> Iterator[tuple[PlannedImage, ...]]:
        remaining = iter(self.images)
        while members := tuple(islice(remaining, self.batch)):
            yield members

    def digest(self) -> str:
        """SHA-256 over the members and their order."""
        whole = hashlib.sha256(f"batch {self.batch}\0".encode())
        for image in self.images:
            whole.update(os.fsencode(image.name) + b"\0" + os.fsencode(image.output) + b"\0")
        return whole.hexdigest()

    def path(self, image: PlannedImage) -> Path:
        return self.root / image.name


def make_plan(images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], out: Path | None, batch: int) -> Plan:
    if isinstance(images, str | os.PathLike):
        root, names, ignored = _scan(Path(images), out)
    else:
        root, names, ignored = _from_list([Path(item) for item in images])
    if not names:
        kinds = " ".join(sorted(EXTENSIONS))
        raise PlanError(f"label: no images in {_shown(images)}: {ignored} other files there. Hint: image files end in {kinds}")
    if out is not None and _inside(root, out):
        raise PlanError(
            f"label: the image folder {_shown(root)} lies in the output folder {_shown(out)}: masks could replace it. "
            "Hint: give a folder of its own with --out"
        )
    names.sort(key=natural_key)
    planned = tuple(PlannedImage(name, output) for name, output in zip(names, output_names(names), strict=True))
    return Plan(root, planned, batch, ignored)


def natural_key(name: str) -> tuple[object, ...]:
    """Sorts ``img2`` before ``img10``; the name itself comes last so that no two different names are equal."""
    parts = (int(part) if part.isascii() and part.isdecimal() else part for part in _DIGITS.split(name))
    return (*(("", part, "") if isinstance(part, int) else (part, 0, "") for part in parts), ("", 0, name))


def output_names(names: Sequence[str]) -> list[str]:
    """``a.jpg`` → ``a.png``; where two would share a name, also after case folding, ``a.jpg.png`` for each of them."""
    short = [short_output(name) for name in names]
    chosen = list(short)
    while True:
        count = Counter(_folded(name) for name in chosen)
        clashes = [i for i, name in enumerate(chosen) if name == short[i] and count[_folded(name)] > 1]
        clashes = [i for i in clashes if chosen[i] != names[i] + ".png"]
        if not clashes:
            return chosen
        for i in clashes:
            chosen[i] = names[i] + ".png"


def short_output(name: str) -> str:
    return os.path.splitext(name)[0] + ".png"  # noqa: PTH122 - called for each of a million names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _scan(path: Path, out: Path | None) -> tuple[Path, list[str], int]:
    if path.is_file():
        return path.parent, [path.name], 0
    if not path.exists():
        raise PlanError(f"label: there is no image folder or file {_shown(path)}")
    if not path.is_dir():
        raise PlanError(f"label: {_shown(path)} is neither a folder nor a regular file")
    skip = out.resolve() if out is not None and out.exists() else None
    names: list[str] = []
    ignored = 0
    # Links to folders are not followed, so that a loop of links ends.
    for folder, subfolders, files in os.walk(path, followlinks=False, onerror=_refuse):
        here = Path(folder)
        subfolders[:] = [name for name in subfolders if skip is None or (here / name).resolve() != skip]
        prefix = "" if here == path else here.relative_to(path).as_posix() + "/"
        for name in files:
            if os.path.splitext(name)[1].lower() in EXTENSIONS:  # noqa: PTH122 - a Path for each of a million names is slow
                names.append(prefix + name)
            else:
                ignored += 1
    return path, names, ignored


def _from_list(paths: list[Path]) -> tuple[Path, list[str], int]:
    """A list of files keeps the folders below their common one, so that equal file names stay apart."""
    if not paths:
        return Path(), [], 0
    absolute = [path.absolute() for path in paths]
    root = Path(os.path.commonpath([path.parent for path in absolute]))
    names = [path.relative_to(root).as_posix() for path in absolute]
    doubled = _first_double(names)
    if doubled is not None:
        raise PlanError(f"label: {_shown(doubled)} is listed twice")
    if any(".." in PurePosixPath(name).parts for name in names):
        raise PlanError("label: 'images' must not hold paths with '..'. Hint: resolve the paths first")
    return root, names, 0


def _first_double(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _refuse(error: OSError) -> None:
    raise error


def _shown(value: object) -> str:
    if isinstance(value, str | os.PathLike):
        return printable(os.fspath(value))
    return "the list given"
