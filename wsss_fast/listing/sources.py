"""Where images come from: a folder, a file, a list, a VOC folder, a COCO file, tar files. Their names make the plan."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from wsss_fast.files.images import EXTENSIONS
from wsss_fast.files.names import is_file_name, printable
from wsss_fast.files.regular import open_to_read, read_regular
from wsss_fast.listing.plan import Names, Plan, PlanError, output_names, sort_key
from wsss_fast.listing.tars import Tar

Images = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
# Folder, sort keys of the names in it, number of other files, and of each tar file what is wrong with it and its size.
Found = tuple[Path, list[bytes], int, dict[str, tuple[str, int]]]
LISTS = frozenset({".txt", ".lst", ".list"})
LONGEST_NAME = 4096  # bytes of a path
_LARGEST_TEXT = 1 << 30
_LONGEST_LINE = 1 << 20
_SHOWN = 100  # letters of a name that no file has
_BOM, _UTF_16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


def make_plan(
    images: Images,
    out: Path | None = None,
    *,
    operation: str,
    split: str | None = None,
    root: str | None = None,
    batch: int = 1,
    shard: tuple[int, int] = (0, 1),
) -> Plan:
    """List the images.

    Args:
        out: the output folder: what lies in it is no image.
        operation: what the images are for, as error messages begin with it.
        split: of a VOC folder, a list in its ImageSets.
        root: the folder of the images that a list or a COCO file names; by default the file's own.
    """
    try:
        found = _find(images, out, split, root)
        return _planned(images, out, found, batch, shard)
    except PlanError as error:
        raise PlanError(f"{operation}: {error}") from None


def _planned(images: Images, out: Path | None, found: Found, batch: int, shard: tuple[int, int]) -> Plan:
    root, keys, ignored, tars = found
    damaged = {name: damage for name, (damage, _) in tars.items() if damage}
    if damaged and not keys:
        name, damage = next(iter(damaged.items()))
        raise PlanError(f"cannot read {_shown(root / name)}: {damage}. Hint: tar files must not be compressed")
    if not keys:
        kinds = " ".join(sorted(EXTENSIONS))
        raise PlanError(f"no images in {_shown(images)}: {ignored} other files there. Hint: image files end in {kinds}")
    if out is not None and _resolved(root).is_relative_to(_resolved(out)):
        raise PlanError(
            f"the image folder {_shown(root)} lies in the output folder {_shown(out)}: masks could replace it. "
            "Hint: give a folder of its own with --out"
        )
    # A damaged tar file stands in the plan as an image that fails: in the manifest, among the failures, in the exit status.
    keys += [sort_key(name, 0, tars[name][1]) for name in damaged]
    names = Names(keys, bool(tars))
    for name, following in itertools.pairwise(names):
        if name == following:
            raise PlanError(f"{printable(name)} is listed twice")
    return Plan(root, names, output_names(names), batch, shard, {name: damage for name, (damage, _) in tars.items()})


def _resolved(path: Path) -> Path:
    """Where links lead. Path.resolve would raise at a loop of them."""
    return Path(os.path.realpath(path))


def _find(images: Images, out: Path | None, split: str | None, root: str | None) -> Found:
    """Folder, sort keys of the names in it, number of files that are no images, what is known of tar files."""
    if not isinstance(images, str | os.PathLike):
        common, names = _from_list([Path(item) for item in images])
        return common, [sort_key(name) for name in names], 0, {}
    path = Path(images)
    if path.is_dir():
        if (path / "JPEGImages").is_dir():
            return _voc(path, out, split)
        if split is not None:
            raise PlanError(f"'split' is for a VOC folder, and {_shown(path)} has no JPEGImages")
        return _scan(path, out)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".tar":
            keys, ignored, tar = _members(path, path.name)
            return path.parent, keys, ignored, {path.name: tar}
        if suffix == ".json":
            return _named(root or path.parent, _coco_names(path))
        if suffix in LISTS:
            return _named(root or path.parent, _lines(path))
        return path.parent, [sort_key(path.name)], 0, {}
    if path.exists():
        raise PlanError(f"{_shown(path)} is neither a folder nor a regular file")
    raise PlanError(f"there is no image folder or file {_shown(path)}")


def _scan(path: Path, out: Path | None) -> Found:
    skip = _resolved(out) if out is not None and out.exists() else None
    keys: list[bytes] = []
    tars: list[str] = []
    ignored = 0
    # Links to folders are not followed, so that a loop of links ends.
    for folder, subfolders, files in os.walk(path, followlinks=False, onerror=_refuse):
        here = Path(folder)
        subfolders[:] = [name for name in subfolders if skip is None or _resolved(here / name) != skip]
        prefix = "" if here == path else here.relative_to(path).as_posix() + "/"
        for name in files:
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path for each of a million names is slow
            if suffix in EXTENSIONS:
                keys.append(sort_key(prefix + name))
            elif suffix == ".tar":
                tars.append(prefix + name)
            else:
                ignored += 1
    if keys and tars:
        raise PlanError(f"{_shown(path)} holds images and tar files. Hint: label them one after the other")
    known = {}
    for name in tars:
        found, others, known[name] = _members(path / name, name)
        keys += found
        ignored += others
    return path, keys, ignored, known


def _members(path: Path, name: str) -> tuple[list[bytes], int, tuple[str, int]]:
    """Images in a tar file, as ``shard.tar/member.jpg``; only their headers are read. What is wrong with it, and its size."""
    keys, ignored = [], 0
    tar = Tar(path)
    try:
        for member in tar:
            if member.is_file and os.path.splitext(member.name)[1].lower() in EXTENSIONS:  # noqa: PTH122
                keys.append(sort_key(f"{name}/{_inner(member.name, path)}", member.offset, member.size))
            else:
                ignored += 1
    except OSError as error:
        raise PlanError(f"cannot read {_shown(path)}: {error.strerror}") from None
    return keys, ignored, (tar.damage, tar.size)


def _voc(path: Path, out: Path | None, split: str | None) -> Found:
    root = path / "JPEGImages"
    if split is None:
        return _scan(root, out)
    if "/" in split or split.startswith("."):
        raise PlanError(f"'split' must be the name of a list in ImageSets, got {split!r}")
    lists = [path / "ImageSets" / kind / f"{split}.txt" for kind in ("Segmentation", "Main", "SegmentationAug")]
    found = next((item for item in lists if item.is_file()), None)
    if found is None:
        raise PlanError(f"there is no list {split}.txt in {_shown(path / 'ImageSets')}")
    return _named(root, (line.split()[0] + ".jpg" for line in _lines(found) if line.strip()))


def _named(root: str | Path, names: Iterable[str]) -> Found:
    """Names that a file gives: none of them may leave the folder."""
    folder = Path(root)
    if not folder.is_dir():
        raise PlanError(f"there is no image folder {_shown(folder)}. Hint: --root says where the images are")
    absolute = folder.absolute()
    keys = []
    for name in names:
        if name.startswith("/"):
            try:
                name = Path(name).relative_to(absolute).as_posix()
            except ValueError:
                raise PlanError(
                    f"{printable(name)} is not in {_shown(folder)}. Hint: --root names the folder of all images"
                ) from None
        keys.append(sort_key(_inner(name, folder)))
    return folder, keys, 0, {}


def _inner(name: str, where: Path) -> str:
    """The name without detours, if it stays inside."""
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "\0" in name:
        raise PlanError(f"the name {printable(name[:_SHOWN]) or 'without letters'!r} would leave {_shown(where)}")
    if not is_file_name(name):
        raise PlanError(f"the name {printable(name[:_SHOWN])!r} is no text, and no file has it")
    length = len(os.fsencode(name))
    if length > LONGEST_NAME:
        raise PlanError(f"a name has {length} bytes and begins with {printable(name[:_SHOWN])!r}; files have {LONGEST_NAME}")
    if "." in parts or "" in parts:
        return PurePosixPath(name).as_posix()
    return name


def _lines(path: Path) -> Iterator[str]:
    """One name a line, or with zero bytes between names, as ``find -print0`` writes them."""
    with open_to_read(path) as file:
        start = file.read(65536)
        if start.startswith(_UTF_16):
            raise PlanError(f"{_shown(path)} is text in UTF-16. Hint: save it as UTF-8")
        file.seek(len(_BOM) if start.startswith(_BOM) else 0)
        if b"\0" in start:
            if path.stat().st_size > _LARGEST_TEXT:
                raise PlanError(f"{_shown(path)} is larger than {_LARGEST_TEXT >> 20} MiB")
            data = file.read()
            yield from (os.fsdecode(part) for part in data.split(b"\0") if part)
            return
        while line := file.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                raise PlanError(f"{_shown(path)} has a line of more than {_LONGEST_LINE >> 10} KiB. Hint: one name a line")
            if (text := line.rstrip(b"\r\n")).strip():
                yield os.fsdecode(text)


def _coco_names(path: Path) -> Iterator[str]:
    try:
        if path.stat().st_size > _LARGEST_TEXT:
            raise PlanError(f"{_shown(path)} is larger than {_LARGEST_TEXT >> 20} MiB")
        whole = json.loads(read_regular(path))
        names = [entry["file_name"] for entry in whole["images"]]
        if not all(isinstance(name, str) for name in names):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, PlanError):
            raise
        raise PlanError(f"{_shown(path)} is no COCO file: it must hold images with file_name, which is text") from None
    return iter(names)


def _from_list(paths: list[Path]) -> tuple[Path, list[str]]:
    """Paths that the caller gives keep the folders below their common one, so that equal file names stay apart."""
    if not paths:
        return Path(), []
    absolute = [path.absolute() for path in paths]
    root = Path(os.path.commonpath([path.parent for path in absolute]))
    names = [path.relative_to(root).as_posix() for path in absolute]
    if any(".." in PurePosixPath(name).parts for name in names):
        raise PlanError("'images' must not hold paths with '..'. Hint: resolve the paths first")
    return root, names


def _refuse(error: OSError) -> None:
    """Of a folder that cannot be read nobody knows how many images it holds."""
    hint = "make it readable, or list the images that are to be labelled"
    raise PlanError(f"cannot read the folder {_shown(error.filename)}: {error.strerror}. Hint: {hint}")


def _shown(value: object) -> str:
    if isinstance(value, str | os.PathLike):
        return printable(os.fspath(value))
    return "the list given"
