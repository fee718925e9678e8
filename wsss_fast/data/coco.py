"""COCO 2014 (or any instances file of its kind).

::

    annotations/instances_SPLIT.json
    SPLIT/…, images/SPLIT/… or JPEGImages/SPLIT/…     images
    SegmentationClass/SPLIT/ID.png                    masks: see `write_masks`
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast._extras import require
from wsss_fast.data._problems import DataError, refuse
from wsss_fast.data._text import read_json
from wsss_fast.data.dataset import Asked, Found, read_list, safe_name, table_given
from wsss_fast.data.labels import bare, from_coco, read_labels
from wsss_fast.files.limits import MAX_PIXELS
from wsss_fast.files.names import shown

_PLACES = ("{}", "images/{}", "JPEGImages/{}", "images", "JPEGImages")


def find(asked: Asked) -> Found:
    file, root, part = _instances(asked.path, asked.split)
    table = from_coco(read_json(file), asked.names, shown(file.name))
    folder = next((root / place.format(part) for place in _PLACES if (root / place.format(part)).is_dir()), None)
    if folder is None:
        looked = ", ".join(place.format(part) for place in _PLACES)
        raise DataError(f"data: the images of {shown(file.name)} are not there. Hint: looked for {looked} in {shown(root)}")
    images = {bare(name): folder / name for name in (safe_name(row, file) for row in table.indices)}
    if asked.split is not None and str(asked.split) != part:
        images = _listed(images, Path(asked.split))
    default = root / "SegmentationClass" / part
    mask_folder = asked.masks or (default if default.is_dir() else None)
    masks = {} if mask_folder is None else {image: mask_folder / f"{image}.png" for image in images}
    given = None if asked.labels is None else table_given(root, asked.labels)
    if given is not None:
        table = read_labels(given, classes=asked.names or table.classes, difficult=asked.difficult)
    return Found(images, masks, table, table.classes)


def _instances(path: Path, split: str | Path | None) -> tuple[Path, Path, str]:
    """The file, the root of the data set, and the name of the part (train2014)."""
    if path.is_file():
        file, root = path, path.parent.parent if path.parent.name == "annotations" else path.parent
    else:
        files = sorted((path / "annotations").glob("instances_*.json"))
        if split is not None:
            wanted = [f for f in files if f.stem == f"instances_{split}"]
            files = wanted or (files if Path(split).is_file() else [])
        if len(files) != 1:
            known = ", ".join(f.stem.removeprefix("instances_") for f in sorted((path / "annotations").glob("instances_*.json")))
            raise DataError(
                f"data: {shown(path)} has no single file of instances for split {split!r}. Hint: splits are {known or 'none'}"
            )
        file, root = files[0], path
    return file, root, file.stem.removeprefix("instances_")


def _listed(images: dict[str, Path], path: Path) -> dict[str, Path]:
    chosen = [bare(row.image) for row in read_list(path)]
    refuse(f"data: images of the list {shown(path.name)} that are missing", [image for image in chosen if image not in images])
    return {image: images[image] for image in chosen}


def write_masks(instances: str | Path, out: str | Path) -> int:
    """Masks of all images as palette PNG, OUT/ID.png, with class + 1 in the order of the category ids; returns how many.

    Where objects overlap the smaller one stays in front; crowds count as their class. Needs pycocotools (extra `train`).
    """
    from wsss_fast.files.folder import OutputFolder
    from wsss_fast.files.png import mask_png

    whole = read_json(Path(instances))
    table = from_coco(whole, None, shown(instances))
    folder = OutputFolder(Path(out), "data")
    try:
        for name, mask in _drawn(whole, table.classes):
            folder.write(f"{bare(safe_name(name, Path(instances)))}.png", mask_png(mask))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"data: {shown(instances)} has no masks: {type(error).__name__} {error}") from None
    finally:
        folder.close()
    return len(table)


def _drawn(whole: dict, classes: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    rle = require("pycocotools.mask", "data")
    order = {entry["id"]: classes.index(entry["name"]) + 1 for entry in whole["categories"]}
    of_image: dict[int, list[dict]] = {entry["id"]: [] for entry in whole["images"]}
    for entry in whole["annotations"]:
        of_image[entry["image_id"]].append(entry)
    for image in whole["images"]:
        height, width = image["height"], image["width"]
        if not 0 < height * width <= MAX_PIXELS:
            raise ValueError(f"{image['file_name']} is said to have {width} x {height} pixels")
        mask = np.zeros((height, width), np.uint8)
        for entry in sorted(of_image[image["id"]], key=lambda entry: -entry["area"]):
            shape = entry["segmentation"]
            if isinstance(shape, list):
                shape = rle.merge(rle.frPyObjects(shape, height, width))
            elif isinstance(shape["counts"], list):
                shape = rle.frPyObjects(shape, height, width)
            if list(shape["size"]) != [height, width]:
                raise ValueError(f"a segmentation of {image['file_name']} has another size than its image")
            mask[_decoded(rle, shape) != 0] = order[entry["category_id"]]
        yield image["file_name"], mask


def _decoded(rle: Any, shape: dict) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools and NumPy 2 disagree about a keyword
        return rle.decode(shape)
