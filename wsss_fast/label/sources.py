"""Where images come from: a folder, a file, a list, a VOC folder, a COCO file, tar files. Their names make the plan."""

from __future__ import annotations

import itertools
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from wsss_fast.files.images import EXTENSIONS
from wsss_fast.files.names import printable
from wsss_fast.files.regular import open_to_read, read_regular
from wsss_fast.label.plan import Names, Plan, PlanError, output_names, sort_key
from wsss_fast.label.settings import LabelSettings

Images = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
LISTS = frozenset({".txt", ".lst", ".list"})
_LARGEST_TEXT = 1 << 30


def make_plan(images: Images, out: Path | None, settings: LabelSettings) -> Plan:
    root, keys, ignored, in_tars = _find(images, out, settings)
    if not keys:
        kinds = " ".join(sorted(EXTENSIONS))
        raise PlanError(f"label: no images in {_shown(images)}: {ignored} other files there. Hint: image files end in {kinds}")
    if out is not None and root.resolve().is_relative_to(out.resolve()):
        raise PlanError(
            f"label: the image folder {_shown(root)} lies in the output folder {_shown(out)}: masks could replace it. "
            "Hint: give a folder of its own with --out"
        )
    names = Names(keys, in_tars)
    for name, following in itertools.pairwise(names):
        if name == following:
            raise PlanError(f"label: {printable(name)} is listed twice")
    return Plan(root, names, output_names(names), settings.batch, settings.place)


def _find(images: Images, out: Path | None, settings: LabelSettings) -> tuple[Path, list[bytes], int, bool]:
    """Folder, sort keys of the names in it, number of files that are no images, whether they are members of tar files."""
    if not isinstance(images, str | os.PathLike):
        root, names = _from_list([Path(item) for item in images])
        return root, [sort_key(name) for name in names], 0, False
    path = Path(images)
    if path.is_dir():
        if (path / "JPEGImages").is_dir():
            return _voc(path, out, settings)
        if settings.split is not None:
            raise PlanError(f"label: 'split' is for a VOC folder, and {_shown(path)} has no JPEGImages")
        return _scan(path, out)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".tar":
            keys, ignored = _members(path, path.name)
            return path.parent, keys, ignored, True
        if suffix == ".json":
            return _named(settings.root or path.parent, _coco_names(path))
        if suffix in LISTS:
            return _named(settings.root or path.parent, _lines(path))
        return path.parent, [sort_key(path.name)], 0, False
    if path.exists():
        raise PlanError(f"label: {_shown(path)} is neither a folder nor a regular file")
    raise PlanError(f"label: there is no image folder or file {_shown(path)}")


def _scan(path: Path, out: Path | None) -> tuple[Path, list[bytes], int, bool]:
    skip = out.resolve() if out is not None and out.exists() else None
    keys: list[bytes] = []
    tars: list[str] = []
    ignored = 0
    # Links to folders are not followed, so that a loop of links ends.
    for folder, subfolders, files in os.walk(path, followlinks=False, onerror=_refuse):
        here = Path(folder)
        subfolders[:] = [name for name in subfolders if skip is None or (here / name).resolve() != skip]
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
        raise PlanError(f"label: {_shown(path)} holds images and tar files. Hint: label them one after the other")
    for tar in tars:
        found, others = _members(path / tar, tar)
        keys += found
        ignored += others
    return path, keys, ignored, bool(tars)


def _members(path: Path, name: str) -> tuple[list[bytes], int]:
    """Images in a tar file, as ``shard.tar/member.jpg``; only their headers are read."""
    keys, ignored = [], 0
    try:
        with open_to_read(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isreg() and os.path.splitext(member.name)[1].lower() in EXTENSIONS:  # noqa: PTH122
                    keys.append(sort_key(f"{name}/{_inner(member.name, path)}", member.offset_data, member.size))
                else:
                    ignored += not member.isdir()
                tar.members = []  # it would keep every header
    except (tarfile.TarError, OSError, ValueError) as error:
        if isinstance(error, PlanError):
            raise
        raise PlanError(f"label: cannot read {_shown(path)}: {error}. Hint: tar files must not be compressed") from None
    return keys, ignored


def _voc(path: Path, out: Path | None, settings: LabelSettings) -> tuple[Path, list[bytes], int, bool]:
    root = path / "JPEGImages"
    if settings.split is None:
        return _scan(root, out)
    if "/" in settings.split or settings.split.startswith("."):
        raise PlanError(f"label: 'split' must be the name of a list in ImageSets, got {settings.split!r}")
    lists = [path / "ImageSets" / kind / f"{settings.split}.txt" for kind in ("Segmentation", "Main", "SegmentationAug")]
    found = next((item for item in lists if item.is_file()), None)
    if found is None:
        raise PlanError(f"label: there is no list {settings.split}.txt in {_shown(path / 'ImageSets')}")
    return _named(root, (line.split()[0] + ".jpg" for line in _lines(found)))


def _named(root: str | Path, names: Iterable[str]) -> tuple[Path, list[bytes], int, bool]:
    """Names that a file gives: none of them may leave the folder."""
    folder = Path(root)
    if not folder.is_dir():
        raise PlanError(f"label: there is no image folder {_shown(folder)}. Hint: --root says where the images are")
    absolute = folder.absolute()
    keys = []
    for name in names:
        if name.startswith("/"):
            try:
                name = Path(name).relative_to(absolute).as_posix()
            except ValueError:
                raise PlanError(
                    f"label: {printable(name)} is not in {_shown(folder)}. Hint: --root names the folder of all images"
                ) from None
        keys.append(sort_key(_inner(name, folder)))
    return folder, keys, 0, False


def _inner(name: str, where: Path) -> str:
    """The name without detours, if it stays inside."""
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "\0" in name:
        raise PlanError(f"label: the name {printable(name) or 'without letters'!r} would leave {_shown(where)}")
    if "." in parts or "" in parts:
        return PurePosixPath(name).as_posix()
    return name


def _lines(path: Path) -> Iterator[str]:
    """One name a line, or with zero bytes between names, as ``find -print0`` writes them."""
    with open_to_read(path) as file:
        zeros = b"\0" in file.read(65536)
        file.seek(0)
        if zeros:
            data = file.read(_LARGEST_TEXT)
            yield from (os.fsdecode(part) for part in data.split(b"\0") if part)
            return
        for line in file:
            if text := line.rstrip(b"\r\n"):
                yield os.fsdecode(text)


def _coco_names(path: Path) -> Iterator[str]:
    try:
        if path.stat().st_size > _LARGEST_TEXT:
            raise PlanError(f"label: {_shown(path)} is larger than {_LARGEST_TEXT >> 20} MiB")
        whole = json.loads(read_regular(path))
        names = [str(entry["file_name"]) for entry in whole["images"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, PlanError):
            raise
        raise PlanError(f"label: {_shown(path)} is no COCO file: it must hold images with file_name") from None
    return iter(names)


def _from_list(paths: list[Path]) -> tuple[Path, list[str]]:
    """Paths that the caller gives keep the folders below their common one, so that equal file names stay apart."""
    if not paths:
        return Path(), []
    absolute = [path.absolute() for path in paths]
    root = Path(os.path.commonpath([path.parent for path in absolute]))
    names = [path.relative_to(root).as_posix() for path in absolute]
    if any(".." in PurePosixPath(name).parts for name in names):
        raise PlanError("label: 'images' must not hold paths with '..'. Hint: resolve the paths first")
    return root, names


def _refuse(error: OSError) -> None:
    """Of a folder that cannot be read nobody knows how many images it holds."""
    hint = "make it readable, or list the images that are to be labelled"
    raise PlanError(f"label: cannot read the folder {_shown(error.filename)}: {error.strerror}. Hint: {hint}")


def _shown(value: object) -> str:
    if isinstance(value, str | os.PathLike):
        return printable(os.fspath(value))
    return "the list given"
