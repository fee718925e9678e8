"""Image-level labels from every form they come in, joined to images by name and never by line."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from wsss_fast.data import npy_labels
from wsss_fast.data._problems import DataError, doubles, hinted, refuse
from wsss_fast.data._text import read_json, read_text, read_xml
from wsss_fast.data.class_names import ClassNames, unknown_classes
from wsss_fast.files.images import EXTENSIONS
from wsss_fast.files.names import is_text, natural_key, shown

KINDS = ("npy", "xml", "coco", "folders", "csv", "json", "list")
DIFFICULT = ("keep", "drop")
UNKNOWN = ("stop", "drop")
# A first row of a CSV file is a header when both of its cells say so: an image may be called `id`.
_HEADERS = (
    frozenset({"image", "images", "image_name", "path", "file", "filename", "file_name", "name", "id", "image_id"}),
    frozenset({"class", "classes", "class_name", "class_names", "label", "labels", "category", "categories", "tag", "tags"}),
)
MOST_CLASSES = 65_535
_INTEGER_ID = re.compile(r"((?:19|20)[0-9]{2})([0-9]{6})")
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class ImageLabels:
    """Which classes each image holds. `indices`: name of the image → places in `classes`, in ascending order."""

    classes: tuple[str, ...]
    indices: Mapping[str, tuple[int, ...]]
    source: str
    named: bool = True  # False: the file has numbers only, and `classes` are made up from them
    unknown: Mapping[str, Sequence[str]] = field(default_factory=dict)  # names that were dropped → images that had them

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def empty(self) -> list[str]:
        """Images without a class."""
        return [name for name, classes in self.indices.items() if not classes]

    def vector(self, name: str) -> np.ndarray:
        """float32 [C], 1 for a class in the image."""
        vector = np.zeros(len(self.classes), np.float32)
        vector[list(self.indices[name])] = 1
        return vector

    def join(self, images: Iterable[str]) -> tuple[dict[str, tuple[int, ...]], list[str]]:
        """The labels of `images`, and the images that have none."""
        images = list(images)
        rows = self.rows(images)
        return {image: self.indices[row] for image, row in rows.items()}, [image for image in images if image not in rows]

    def rows(self, images: Iterable[str]) -> dict[str, str]:
        """image → the name of its row.

        A row belongs to an image when, extensions aside, one name is the tail of the other: `2007_000032`,
        `JPEGImages/2007_000032.jpg` and `2007_000032.png` are one image, `a/1.jpg` and `b/1.jpg` are not.
        """
        by_stem: dict[str, list[str]] = defaultdict(list)
        for row in self.indices:
            by_stem[_stem(row)].append(row)
        chosen = {image: _closest(image, by_stem.get(_stem(image), ())) for image in images}
        refuse(
            f"labels: images with more than one row in {self.source}",
            [image for image, found in chosen.items() if len(found) > 1],
            "give the rows the folders of their images",
        )
        equal = {found[0] for image, found in chosen.items() if found and bare(found[0]) == bare(image)}
        taken: dict[str, list[str]] = defaultdict(list)
        for image, found in chosen.items():
            if found and (found[0] not in equal or bare(found[0]) == bare(image)):
                taken[found[0]].append(image)
        refuse(
            f"labels: rows of {self.source} that fit more than one image",
            [row for row, several in taken.items() if len(several) > 1],
            "give the rows the folders of their images",
        )
        return {image: row for row, (image,) in taken.items()}


def _closest(image: str, rows: Sequence[str]) -> list[str]:
    for same in (lambda row: row == image, lambda row: bare(row) == bare(image), lambda row: _tail(row, image)):
        if found := [row for row in rows if same(row)]:
            return found
    return []


def bare(name: str) -> str:
    """Without the extension of an image; other dots stay."""
    path = PurePosixPath(name)
    return name[: -len(path.suffix)] if path.suffix.lower() in EXTENSIONS else name


def _stem(name: str) -> str:
    return bare(name).rpartition("/")[2]


def _tail(first: str, second: str) -> bool:
    first, second = "/" + bare(first), "/" + bare(second)
    return first.endswith(second) or second.endswith(first)


def image_name(text: str) -> str:
    """A name as it is joined: forward slashes, not starting with one; IRN's whole numbers become VOC's names."""
    name = text.strip().replace("\\", "/")
    while name.startswith(("./", "/")):
        name = name[1:].lstrip("/") if name.startswith("/") else name[2:]
    if found := _INTEGER_ID.fullmatch(name):
        return f"{found.group(1)}_{found.group(2)}"
    return name


def read_classes(path: str | Path) -> tuple[str, ...]:
    """One class name a line; a line `background` at the top is left out, since background is no class here."""
    lines = [line.strip() for line in read_text(Path(path)).splitlines()]
    names = tuple(line for line in lines if line)
    if names and names[0].lower() in ("background", "_background_"):
        names = names[1:]
    return checked_classes(names, f"classes file {shown(path)}")


def read_labels(
    path: str | Path,
    kind: str | None = None,
    classes: Sequence[str] | str | Path | None = None,
    difficult: str = "keep",
    images: Iterable[str] | None = None,
    unknown: str = "stop",
) -> ImageLabels:
    """Read image-level labels.

    Args:
        path: `cls_labels.npy`; a folder of VOC XML files; COCO's instances JSON; a folder with one folder a class; a CSV file of
            `image,class1;class2`; a JSON file of {"image": ["class", …]}; a list of `image class class`.
        kind: one of KINDS where the name does not tell: npy, xml, coco, folders, csv, json, list.
        classes: class names in their order, or a file with one a line; names are matched as `data.class_names` says. By default
            those of the file: COCO's by category id, names in alphabetical order, and where the file has numbers only, the
            numbers.
        difficult: keep or drop the objects that VOC marks as difficult. A class that only such objects have goes with them.
        images: read the XML files of these images alone. The classes are then those of these images, unless given.
        unknown: "stop" at names that `classes` does not have, or "drop" them; `.unknown` then tells which.

    Raises:
        DataError: unknown class names, numbers out of range, images twice; the first five are named. Images without a class are
            no error here: `.empty` lists them.
    """
    path = Path(path)
    kind = kind or _guess(path)
    if kind not in KINDS:
        raise DataError(f"labels: 'kind' must be one of {', '.join(KINDS)}, got {kind!r}")
    if difficult not in DIFFICULT:
        raise DataError(f"labels: 'difficult' must be keep or drop, got {difficult!r}")
    if unknown not in UNKNOWN:
        raise DataError(f"labels: 'unknown' must be stop or drop, got {unknown!r}")
    if isinstance(classes, str | Path):
        classes = read_classes(classes)
    elif classes is not None:
        classes = checked_classes(tuple(classes), "'classes'")
    source = shown(path.name or path)
    if kind == "npy":
        return _from_npy(path, classes, source)
    if kind == "xml":
        rows: Iterable[tuple[str, list[Any]]] = _xml_rows(path, difficult, images)
    elif kind == "coco":
        return from_coco(read_json(path), classes, source, unknown)
    elif kind == "folders":
        return _from_folders(path, classes, source, unknown)
    elif kind == "csv":
        rows = _csv_rows(path)
    elif kind == "json":
        rows = _json_rows(read_json(path), path)
    else:
        rows = [(line.split()[0], line.split()[1:]) for line in read_text(path).splitlines() if line.strip()]
    return from_rows(list(rows), classes, source, unknown)


def _guess(path: Path) -> str:
    if path.is_dir():
        return "xml" if next(path.glob("*.xml"), None) is not None else "folders"
    if not path.exists():
        raise DataError(f"labels: there is no file or folder {shown(path)}")
    suffix = path.suffix.lower()
    if suffix == ".json":
        whole = read_json(path)
        return "coco" if isinstance(whole, dict) and {"images", "annotations", "categories"} <= whole.keys() else "json"
    known = {".npy": "npy", ".csv": "csv", ".tsv": "csv", ".txt": "list"}
    if suffix not in known:
        hint = "files end in .npy, .json, .csv, .tsv or .txt; else tell the kind"
        raise DataError(f"labels: cannot tell what kind of labels {shown(path)} is. Hint: {hint}")
    return known[suffix]


def checked_classes(names: tuple[str, ...], what: str) -> tuple[str, ...]:
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(f"labels: {what} must hold at least one class name, and no empty one")
    refuse(f"labels: {what} has class names that are no text", [name for name in names if not is_text(name)])
    refuse(f"labels: {what} names classes twice", doubles(names))
    return names


def from_rows(
    rows: list[tuple[str, list[Any]]], classes: Sequence[str] | None, source: str, unknown: str = "stop"
) -> ImageLabels:
    """Rows of an image and its classes, each by name or by number counted from 0."""
    rows = [(image_name(image), [str(entry).strip() for entry in found]) for image, found in rows]
    if not rows:
        raise DataError(f"labels: {source} has no rows")
    _refuse_doubles((image for image, _ in rows), source)
    entries = {entry for _, found in rows for entry in found}
    known = ClassNames(classes or ())
    places = {entry: known.find(entry) for entry in entries}
    numbers = bool(entries) and all(_NUMBER.fullmatch(entry) for entry in entries) and None in places.values()
    named = classes is not None or not numbers
    if classes is None:
        if not entries:
            raise DataError(f"labels: no row of {source} names a class")
        if numbers and (largest := max(map(int, entries))) >= MOST_CLASSES:
            raise DataError(f"labels: {source} has the class number {largest}; at most {MOST_CLASSES} classes are read")
        classes = [str(i) for i in range(1 + largest)] if numbers else checked_classes(tuple(sorted(entries)), source)
        places = {name: place for place, name in enumerate(classes)}
    missing: dict[str, list[str]] = {}
    if numbers:
        bad = [f"{entry} of {image}" for image, found in rows for entry in found if int(entry) >= len(classes)]
        hint = f"there are {len(classes)} classes, and numbers count from 0"
        refuse(f"labels: class numbers out of range in {source}", bad, hint)
        places = {entry: int(entry) for entry in entries}
    else:
        for image, found in rows:
            for entry in dict.fromkeys(found):
                if places[entry] is None:
                    missing.setdefault(entry, []).append(image)
        if missing and unknown == "stop":
            hint = "known are " + ", ".join(classes[:20]) + (", …" if len(classes) > 20 else "")
            raise unknown_classes(missing, classes, source, hint)
    indices = {image: tuple(sorted({places[entry] for entry in found} - {None})) for image, found in rows}
    return ImageLabels(tuple(classes), indices, source, named, missing)


def _refuse_doubles(images: Iterable[str], source: str) -> None:
    refuse(f"labels: images twice in {source}", doubles(images), "keep one row an image, with all its classes")


def _from_npy(path: Path, classes: Sequence[str] | None, source: str) -> ImageLabels:
    entries = [(image_name(str(key)), vector) for key, vector in npy_labels.read(path).items()]
    if not entries:
        raise DataError(f"labels: {source} has no rows")
    _refuse_doubles((image for image, _ in entries), source)
    count = len(entries[0][1]) if classes is None else len(classes)
    if count > MOST_CLASSES:
        raise DataError(f"labels: {source} has {count} classes; at most {MOST_CLASSES} are read")
    wrong = [f"{image} has {len(vector)}" for image, vector in entries if len(vector) != count]
    refuse(f"labels: rows of {source} that do not have {count} classes", wrong, "does the list of classes belong to this file?")
    odd = [image for image, vector in entries if not np.isin(vector, (0, 1)).all()]
    refuse(f"labels: rows of {source} with values other than 0 and 1", odd)
    names = tuple(classes) if classes is not None else tuple(str(i) for i in range(count))
    found = {image: tuple(np.flatnonzero(vector).tolist()) for image, vector in entries}
    return ImageLabels(names, found, source, classes is not None)


def _xml_rows(folder: Path, difficult: str, images: Iterable[str] | None) -> list[tuple[str, list[str]]]:
    if images is None:
        files = sorted(folder.glob("*.xml"))
    else:
        files = [folder / f"{_stem(image)}.xml" for image in images]
        refuse("labels: annotations are missing", [shown(path) for path in files if not path.is_file()], "one XML file an image")
    rows = []
    for path in files:
        found = []
        for item in read_xml(path).findall("object"):
            hard = (item.findtext("difficult") or "0").strip()
            if difficult == "keep" or hard != "1":
                found.append((item.findtext("name") or "").strip())
        rows.append((path.stem, found))
    return rows


def from_coco(whole: Any, classes: Sequence[str] | None, source: str, unknown: str = "stop") -> ImageLabels:
    """Categories get contiguous numbers in the order of their ids; crowds count as their class."""
    try:
        for kind in ("images", "categories"):
            odd = [entry["id"] for entry in whole[kind] if type(entry["id"]) not in (int, str)]
            refuse(f"labels: {kind} of {source} whose id is neither a whole number nor text", odd)  # 1.0 and true equal 1
        odd = [entry["file_name"] for entry in whole["images"] if not isinstance(entry["file_name"], str)]
        refuse(f"labels: images of {source} whose file_name is no text", odd)
        categories = {entry["id"]: entry["name"] for entry in sorted(whole["categories"], key=lambda entry: entry["id"])}
        images = {entry["id"]: entry["file_name"] for entry in whole["images"]}
        _refuse_doubles((entry["file_name"] for entry in whole["images"]), source)
        refuse(f"labels: image ids twice in {source}", doubles(str(entry["id"]) for entry in whole["images"]))
        refuse(f"labels: category ids twice in {source}", doubles(str(entry["id"]) for entry in whole["categories"]))
        pairs = [(entry["image_id"], entry["category_id"]) for entry in whole["annotations"]]
        found: dict[Any, set[str]] = {key: set() for key in images}
        refuse(f"labels: annotations of unknown images in {source}", [image for image, _ in pairs if image not in images])
        refuse(f"labels: unknown categories in {source}", [category for _, category in pairs if category not in categories])
        for image, category in pairs:
            found[image].add(categories[category])
        rows = [(images[key], sorted(names)) for key, names in found.items()]
        names = tuple(categories.values())
    except (KeyError, TypeError, AttributeError) as error:
        hint = "instances are images (id, file_name), annotations (image_id, category_id) and categories (id, name)"
        raise DataError(f"labels: {source} is no COCO file: {type(error).__name__} {error}. Hint: {hint}") from None
    return from_rows(rows, checked_classes(names, source) if classes is None else classes, source, unknown)


def _from_folders(root: Path, classes: Sequence[str] | None, source: str, unknown: str) -> ImageLabels:
    """One folder a class, named like it; what lies below one folder has that class alone."""
    folders = sorted((entry for entry in root.iterdir() if entry.is_dir()), key=lambda entry: natural_key(entry.name))
    if not folders:
        raise DataError(f"labels: {shown(root)} holds no folders. Hint: one folder a class, named like it, is expected")
    names = checked_classes(tuple(folder.name for folder in folders), source) if classes is None else tuple(classes)
    rows = [
        (path.relative_to(root).as_posix(), [folder.name])
        for folder in folders
        for path in sorted(folder.rglob("*"), key=lambda path: natural_key(path.name))
        if path.suffix.lower() in EXTENSIONS
    ]
    return from_rows(rows, names, source, unknown)


def _csv_rows(path: Path) -> list[tuple[str, list[str]]]:
    text = read_text(path)
    tab = path.suffix.lower() == ".tsv" or ("\t" in text[:4096] and "," not in text[:4096])
    try:
        lines = csv.reader(io.StringIO(text), delimiter="\t" if tab else ",", strict=True)
        rows = [row for row in lines if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"labels: {shown(path)} is no CSV: {error}") from None
    if rows and len(rows[0]) == 2 and all(cell.strip().lower() in names for cell, names in zip(rows[0], _HEADERS, strict=True)):
        rows = rows[1:]
    hint = "a row is image,class1;class2; quote names that hold a comma"
    refuse(f"labels: rows of {shown(path.name)} without two columns", [",".join(row) for row in rows if len(row) != 2], hint)
    return [(image, [part for part in found.split(";") if part.strip()]) for image, found in rows]


def _json_rows(whole: Any, path: Path) -> list[tuple[str, list[Any]]]:
    if not isinstance(whole, dict):
        hint = '{"image": ["class", …]} is expected'
        raise DataError(hinted(f"labels: {shown(path)} holds a {type(whole).__name__}", hint))
    rows = [(image, [found] if isinstance(found, str) else found) for image, found in whole.items()]
    good = [isinstance(found, list) and all(type(entry) in (str, int) for entry in found) for _, found in rows]
    bad = [image for (image, _), right in zip(rows, good, strict=True) if not right]
    refuse(f"labels: images in {shown(path.name)} without a list of classes", bad)
    return rows
