"""PASCAL VOC 2012, and whatever is laid out like it.

::

    JPEGImages/ID.jpg                       (also .png and the other kinds)
    ImageSets/Segmentation/SPLIT.txt        lists of the PSA, IRN, EPS and L2G kind
    SegmentationClassAug/ID.png             masks, else SegmentationClass/ID.png
    Annotations/ID.xml                      objects
    cls_labels.npy, labels.txt, ...         labels, in place of Annotations
    classes.txt                             class names, in place of VOC's
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from wsss_fast.data._problems import DataError, doubles, refuse, shown
from wsss_fast.data.dataset import Found, Row, read_list, table_given
from wsss_fast.data.labels import ImageLabels, from_rows, read_labels
from wsss_fast.label.plan import EXTENSIONS, natural_key

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_MASKS = ("SegmentationClassAug", "SegmentationClass")


def find(
    root: Path,
    kind: str,
    split: str | Path | None,
    masks: Path | None,
    labels: str | Path | None,
    names: Sequence[str] | None,
    difficult: str,
) -> Found:
    files = images_in(root / "JPEGImages")
    rows = (
        [Row(image, None, ()) for image in sorted(files, key=natural_key)] if split is None else read_list(list_file(root, split))
    )
    ids = [PurePosixPath(row.image).stem if "/" in row.image else _bare(row.image) for row in rows]
    refuse("data: images twice in the list", doubles(ids))
    folder = masks or next((root / name for name in _MASKS if (root / name).is_dir()), None)
    chosen: dict[str, Path] = {}
    if folder is not None:
        chosen = {image: folder / f"{image}.png" for image in ids}
    if masks is None:
        chosen.update({image: root / row.mask for image, row in zip(ids, rows, strict=True) if row.mask})
    table = _labels(root, labels, dict(zip(ids, rows, strict=True)), names, difficult)
    # A name that is not there keeps VOC's extension, for the message.
    found = {image: root / "JPEGImages" / files.get(image, f"{image}.jpg") for image in ids}
    return Found(found, chosen, table, None if names else CLASSES)


def images_in(folder: Path) -> dict[str, str]:
    """id → file name, of one folder without its sub-folders."""
    if not folder.is_dir():
        raise DataError(f"data: there is no folder {shown(folder)}")
    files = [path.name for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS]
    refuse(f"data: images of {folder.name} that differ in their extension alone", doubles(_bare(name) for name in files))
    return {_bare(name): name for name in files}


def _bare(name: str) -> str:
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in EXTENSIONS else path.name


def list_file(root: Path, split: str | Path) -> Path:
    lists = root / "ImageSets" / "Segmentation"
    for path in (lists / f"{split}.txt", root / f"{split}.txt", root / split, Path(split)):
        if path.is_file():
            return path
    there = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
    raise DataError(
        f"data: there is no list '{shown(split)}'. Hint: lists in ImageSets/Segmentation are {there}; a file works too"
    )


def _labels(
    root: Path, labels: str | Path | None, rows: dict[str, Row], names: Sequence[str] | None, difficult: str
) -> ImageLabels | None:
    """Those named; else those of the list, of a table beside the folders, of Annotations."""
    if labels is None and any(row.classes for row in rows.values()):
        classes = list(names or CLASSES)
        return from_rows([(image, list(row.classes)) for image, row in rows.items()], classes, "the list")
    given = table_given(root, labels)
    if given is None and labels is None and (root / "Annotations").is_dir():
        given = root / "Annotations"
    return None if given is None else read_labels(given, classes=names, difficult=difficult)
