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

from pathlib import Path, PurePosixPath

from wsss_fast.data._problems import DataError, doubles, refuse
from wsss_fast.data.dataset import Asked, Found, Row, read_list, table_given
from wsss_fast.data.labels import ImageLabels, bare, from_rows, read_labels
from wsss_fast.files.images import EXTENSIONS
from wsss_fast.files.names import natural_key, shown

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_MASKS = ("SegmentationClassAug", "SegmentationClass")


def find(asked: Asked) -> Found:
    root = asked.path
    files = images_in(root / "JPEGImages")
    if asked.split is None:
        rows = [Row(image, None, ()) for image in sorted(files, key=natural_key)]
    else:
        rows = read_list(list_file(root, asked.split))
    listed = {PurePosixPath(bare(row.image)).name: row for row in rows}
    refuse("data: images twice in the list", doubles(PurePosixPath(bare(row.image)).name for row in rows))
    folder = asked.masks or next((root / name for name in _MASKS if (root / name).is_dir()), None)
    masks = {} if folder is None else {image: folder / f"{image}.png" for image in listed}
    if asked.masks is None:
        masks |= {image: root / row.mask for image, row in listed.items() if row.mask}
    # A name that is not there keeps VOC's extension, for the message.
    images = {image: root / "JPEGImages" / files.get(image, f"{image}.jpg") for image in listed}
    return Found(images, masks, _labels(asked, listed), None if asked.names else CLASSES)


def is_masks_of_voc(folder: Path) -> bool:
    """Whether it is the folder of masks of a data set laid out like this one that names no classes of its own."""
    if folder.name not in _MASKS or not all((folder.parent / name).is_dir() for name in ("JPEGImages", "ImageSets")):
        return False
    table = table_given(folder.parent, None)
    return table is None or table.suffix.lower() == ".npy"


def images_in(folder: Path) -> dict[str, str]:
    """id → file name, of one folder without its sub-folders."""
    if not folder.is_dir():
        raise DataError(f"data: there is no folder {shown(folder)}")
    files = [path.name for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS]
    refuse(f"data: images of {folder.name} that differ in their extension alone", doubles(bare(name) for name in files))
    return {bare(name): name for name in files}


def list_file(root: Path, split: str | Path) -> Path:
    lists = root / "ImageSets" / "Segmentation"
    for path in (lists / f"{split}.txt", root / f"{split}.txt", root / split, Path(split)):
        if path.is_file():
            return path
    there = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
    raise DataError(
        f"data: there is no list '{shown(split)}'. Hint: lists in ImageSets/Segmentation are {there}; a file works too"
    )


def _labels(asked: Asked, listed: dict[str, Row]) -> ImageLabels | None:
    """Those named; else those of the list, of a table beside the folders, of Annotations."""
    if asked.labels is None and any(row.classes for row in listed.values()):
        return from_rows([(image, list(row.classes)) for image, row in listed.items()], asked.names or CLASSES, "the list")
    given = table_given(asked.path, asked.labels)
    if given is None and asked.labels is None and (asked.path / "Annotations").is_dir():
        given = asked.path / "Annotations"
    return None if given is None else read_labels(given, classes=asked.names, difficult=asked.difficult)
