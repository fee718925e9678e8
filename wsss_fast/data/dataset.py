"""A data set: images by id, with their labels and, where there are any, saliency maps and masks."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from wsss_fast.data._problems import DataError, doubles, hinted, refuse, some
from wsss_fast.data._text import read_json, read_text
from wsss_fast.data.labels import ImageLabels, checked_classes, image_name, read_classes
from wsss_fast.files.images import ImageError, read_indices
from wsss_fast.files.limits import MAX_BYTES, MAX_PIXELS
from wsss_fast.files.names import shown
from wsss_fast.files.png import BACKGROUND, IGNORE

KINDS = ("voc", "coco", "folders", "images")
EMPTY = ("stop", "drop", "keep")
FROM_MASKS = "masks"
NO_LABELS = "none"
NO_AFFINITY = (
    "data: labels of pairs are wanted, and none are given. Hint: affinity= names their folder; methods.pair_labels makes them"
)
NO_SALIENCY = "data: saliency maps are wanted, and none are given. Hint: saliency= names their folder; `wsss saliency` makes them"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    root: Path
    kind: str
    classes: list[str]
    ids: list[str]
    images: Mapping[str, Path] = field(repr=False)
    indices: Mapping[str, tuple[int, ...]] = field(repr=False)
    masks: Mapping[str, Path] = field(repr=False)
    saliency: Path | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)  # where labels and saliency maps come from
    affinity: Path | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def image_path(self, image: str) -> Path:
        return self.images[image]

    def labels(self, image: str) -> np.ndarray:
        """float32 [C], 1 for a class in the image."""
        vector = np.zeros(len(self.classes), np.float32)
        vector[list(self.indices[image])] = 1
        return vector

    def mask_path(self, image: str) -> Path | None:
        return self.masks.get(image)

    def saliency_path(self, image: str) -> Path | None:
        return None if self.saliency is None else self.saliency / f"{image}.png"

    def affinity_path(self, image: str) -> Path | None:
        """Maps of AffinityNet, or an index image of labels."""
        if self.affinity is None:
            return None
        maps = self.affinity / f"{image}.npz"
        return maps if maps.is_file() else self.affinity / f"{image}.png"

    def only(self, images: Sequence[str]) -> Dataset:
        """The same with some images alone, in the order given."""
        return dataclasses.replace(self, ids=list(images))


@dataclass(frozen=True)
class Asked:
    """What `open_dataset` passes on to a layout's `find`."""

    path: Path
    kind: str
    split: str | Path | None
    labels: str | Path | None
    masks: Path | None
    saliency: Path | None
    affinity: Path | None
    names: tuple[str, ...] | None  # of the classes
    difficult: str


@dataclass(frozen=True)
class Found:
    """What a layout knows before labels are joined."""

    images: dict[str, Path]
    masks: dict[str, Path]
    labels: ImageLabels | None = None
    class_names: tuple[str, ...] | None = None  # for labels that are numbers alone


def open_dataset(
    path: str | Path,
    kind: str | None = None,
    split: str | Path | None = None,
    labels: str | Path | None = None,
    saliency: str | Path | None = None,
    masks: str | Path | None = None,
    classes: Sequence[str] | str | Path | None = None,
    difficult: str = "keep",
    empty: str = "stop",
    affinity: str | Path | None = None,
) -> Dataset:
    """Find images and join them with their labels.

    Args:
        path: the folder (for COCO also the file of instances).
        kind: voc, coco, folders (one folder a class) or images (a folder and a table). By default by what lies in the folder.
        split: a list of images by name ("train_aug": ImageSets/Segmentation/train_aug.txt) or file; COCO: "train2014". By
            default all images.
        labels: a file or folder for `read_labels`, "masks" to take them from the masks, or "none". By default what lies in the
            folder.
        saliency: folder of maps named ID.png; also by its name inside `path`.
        masks: folder of masks named ID.png; also by its name inside `path`. By default SegmentationClassAug, else
            SegmentationClass.
        classes: class names in order, or a file of them. By default classes.txt in the folder, else those of the labels.
        difficult: keep or drop VOC's difficult objects.
        empty: what happens to images without a class: stop, drop (leave them out) or keep.
        affinity: folder of labels of pairs, ID.npz or ID.png (see `methods.pair_labels`); also by its name inside `path`.

    Raises:
        DataError: with the first five cases and a hint. `verify.verify` looks at the files themselves.
    """
    from wsss_fast.data import coco, folder, voc

    path = Path(path)
    if not path.exists():
        raise DataError(f"data: there is no folder {shown(path)}")
    kind = kind or _guess(path, labels)
    if kind not in KINDS:
        raise DataError(f"data: 'kind' must be one of {', '.join(KINDS)}, got {kind!r}")
    if empty not in EMPTY:
        raise DataError(f"data: 'empty' must be one of {', '.join(EMPTY)}, got {empty!r}")
    root = path if path.is_dir() else path.parent
    if classes is None and (root / "classes.txt").is_file():
        classes = root / "classes.txt"
    names = read_classes(classes) if isinstance(classes, str | Path) else classes and checked_classes(tuple(classes), "'classes'")
    mask_folder = None if masks is None else inside(root, masks, "masks")
    saliency_folder = None if saliency is None else inside(root, saliency, "saliency")
    affinity_folder = None if affinity is None else inside(root, affinity, "affinity")
    layout = {"voc": voc, "coco": coco, "folders": folder, "images": folder}[kind]
    found: Found = layout.find(Asked(path, kind, split, labels, mask_folder, saliency_folder, affinity_folder, names, difficult))
    if not found.images:
        raise DataError(f"data: no images in {shown(path)}" + (f", split {shown(split)}" if split else ""))
    table = _labels(found, labels, names)
    joined = _joined(table, found, empty) if table is not None else {}
    provenance: dict[str, Any] = {"labels": table.source if table is not None else "none"}
    if saliency_folder is not None:
        provenance["saliency"] = saliency_provenance(saliency_folder)
    ids = [image for image in found.images if table is None or image in joined]
    class_names = table.classes if table is not None else names or found.class_names
    if class_names is None:
        raise DataError("data: without labels the classes are unknown. Hint: put their names into classes.txt, one a line")
    log.info("%s: %d images, %d classes, labels from %s", root, len(ids), len(class_names), provenance["labels"])
    return Dataset(
        root, kind, list(class_names), ids, found.images, joined, found.masks, saliency_folder, provenance, affinity_folder
    )


def _guess(path: Path, labels: str | Path | None) -> str:
    if (path / "JPEGImages").is_dir():
        return "voc"
    if path.is_file() or next((path / "annotations").glob("instances_*.json"), None) is not None:
        return "coco"
    return "images" if labels is not None or table_in(path) is not None else "folders"


def _labels(found: Found, asked: str | Path | None, names: tuple[str, ...] | None) -> ImageLabels | None:
    if asked is not None and str(asked) == NO_LABELS:
        return None
    table = found.labels
    if asked is not None and str(asked) == FROM_MASKS:
        table = labels_of_masks(found, names or (tuple(table.classes) if table is not None else None))
    if table is None:
        hint = "name them with labels=, as in labels='cls_labels.npy' or labels='labels.csv'"
        raise DataError(f"data: there are no image-level labels. Hint: {hint}")
    if not table.named and found.class_names is not None and len(found.class_names) == len(table.classes):
        table = dataclasses.replace(table, classes=found.class_names, named=True)
    return table


def _joined(table: ImageLabels, found: Found, empty: str) -> dict[str, tuple[int, ...]]:
    joined, missing = table.join(found.images)
    hint = f"{table.source} has {len(table)} rows; does it belong to these images?"
    refuse("data: images without a row of labels", missing, hint)
    without = [image for image, indices in joined.items() if not indices]
    if without and empty == "stop":
        hint = "empty='drop' leaves them out, empty='keep' trains on them as pictures of no class"
        raise DataError(f"data: images without any class ({some(without)}). Hint: {hint}")
    if without:
        log.warning("data: images without any class, %s (%s)", {"drop": "left out", "keep": "kept"}[empty], some(without))
    return {image: indices for image, indices in joined.items() if indices or empty == "keep"}


def labels_of_masks(found: Found, names: tuple[str, ...] | None) -> ImageLabels:
    """The classes that a mask shows; values are class + 1, 255 is ignored."""
    refuse(
        "data: images without a mask, from which labels were asked", [image for image in found.images if image not in found.masks]
    )
    log.info("data: reading %d masks for their labels", len(found.images))
    indices = {}
    for image in found.images:
        try:
            values = np.unique(read_indices(found.masks[image], MAX_PIXELS, MAX_BYTES))
        except ImageError as error:
            raise DataError(f"data: the mask {shown(found.masks[image])}: {error}") from None
        indices[image] = tuple(int(value) - 1 for value in values if value not in (BACKGROUND, IGNORE))
    count = len(names) if names is not None else 1 + max((max(found) for found in indices.values() if found), default=0)
    refuse(
        f"data: masks with values above {count}, the number of classes",
        [image for image, found_here in indices.items() if found_here and max(found_here) >= count],
    )
    return ImageLabels(names or tuple(str(i) for i in range(count)), indices, "the masks", names is not None)


TABLES = ("cls_labels.npy", "labels.csv", "labels.tsv", "labels.json", "labels.txt")
FORMS = (
    f"a folder of images needs one of: a table of labels in it ({', '.join(TABLES)}) or named (--labels, labels=); "
    "one folder a class, named like it; VOC's layout (JPEGImages, Annotations); COCO's (annotations/instances_*.json)"
)


def table_in(root: Path) -> Path | None:
    """The one file of labels that lies in a folder."""
    here = [root / name for name in TABLES if (root / name).is_file()]
    if len(here) > 1:
        listed = ", ".join(path.name for path in here)
        raise DataError(hinted(f"data: {shown(root)} holds several files of labels ({listed})", "name one with labels="))
    return here[0] if here else None


def table_given(root: Path, labels: str | Path | None) -> Path | None:
    """What `labels` names, as it stands or inside the folder; what lies in the folder when it names nothing."""
    if labels is None:
        return table_in(root)
    if str(labels) in (FROM_MASKS, NO_LABELS):
        return None
    if not Path(labels).exists() and (root / labels).exists():
        return root / labels
    return Path(labels)


def inside(root: Path, folder: str | Path, argument: str) -> Path:
    """A folder given as it stands or by its name inside the data set."""
    for path in (root / folder, Path(folder)):
        if path.is_dir():
            return path
    raise DataError(f"data: '{argument}' must name a folder, got {shown(folder)}. Hint: it is looked for in {shown(root)} first")


def saliency_provenance(folder: Path) -> dict[str, Any]:
    """What made the maps: EPS and L2G learn from them, so a result means little without it."""
    path = folder / "provenance.json"
    content = read_json(path) if path.is_file() else {"model": "unknown"}
    return content if isinstance(content, dict) else {"model": "unknown"}


@dataclass(frozen=True)
class Row:
    image: str  # a name, perhaps with folders and extension
    mask: str | None
    classes: tuple[str, ...]


def read_list(path: Path) -> list[Row]:
    """A list of images: an id or a path a line; a path of a mask, or class numbers, may follow."""
    rows = []
    for line in read_text(path).splitlines():
        first, *rest = line.split() or [""]
        if first:
            mask = rest[0] if rest and "/" in rest[0] else None
            rows.append(Row(safe_name(first, path), mask and safe_name(mask, path), () if mask else tuple(rest)))
    if not rows:
        raise DataError(f"data: the list {shown(path)} is empty")
    refuse(f"data: images twice in {shown(path.name)}", doubles(row.image for row in rows))
    return rows


def safe_name(text: str, source: Path) -> str:
    """A name that stays inside the folder it is looked up in."""
    name = image_name(text)
    if not name or ".." in PurePosixPath(name).parts or "\0" in name:
        raise DataError(f"data: {shown(source)} names {shown(text)!r}, which leads out of the folder")
    return name
