"""Files that speak of all images, made at the end from the masks on disk: COCO, panoptic, CVAT, Label Studio.

So they resume with the masks. A shard writes those of its own images.
"""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from wsss_fast._extras import require
from wsss_fast.files.folder import OutputFolder, Sink
from wsss_fast.files.names import printable
from wsss_fast.files.png import BACKGROUND, IGNORE, PALETTE, mask_png, png
from wsss_fast.label.brush_rle import brush_rle
from wsss_fast.listing.plan import PlannedImage

logger = logging.getLogger("wsss_fast.label")

PANOPTIC = "panoptic"


@dataclass(frozen=True)
class Labelled:
    """What the collected files are made of."""

    folder: OutputFolder
    images: Callable[[], Iterator[PlannedImage]]  # those with a mask, anew at every call
    classes: tuple[str, ...]
    suffix: str  # of a shard

    def mask(self, image: PlannedImage) -> np.ndarray:
        with Image.open(io.BytesIO(self.folder.read(image.output)), formats=("PNG",)) as picture:
            return np.array(picture)

    def size(self, image: PlannedImage) -> tuple[int, int]:
        with Image.open(io.BytesIO(self.folder.read(image.output)), formats=("PNG",)) as picture:
            return picture.size


def collected_file(kind: str, suffix: str) -> str:
    stem, ending = {"coco": ("coco", "json"), "panoptic": ("panoptic", "json"), "cvat": ("cvat", "zip")}.get(kind, (kind, "json"))
    return f"{stem}{suffix}.{ending}"


def collect(kind: str, labelled: Labelled) -> dict[str, Any]:
    """Writes the file; gives its row of the manifest."""
    name = collected_file(kind, labelled.suffix)
    with labelled.folder.replacing(name) as sink:
        _WRITERS[kind](labelled, sink)
    return {"kind": "file", "output": name, "output_bytes": sink.size, "sha256": sink.sha256}


def check(kind: str) -> None:
    """What the format needs, before hours of work."""
    if kind == "coco":
        require("pycocotools.mask", "label")


def _coco(labelled: Labelled, sink: Sink) -> None:
    """One annotation an image and class; background and ignored pixels have none."""
    from pycocotools import mask as coco_mask

    def annotations() -> Iterator[dict[str, Any]]:
        for image in labelled.images():
            values = labelled.mask(image)
            for value in _values(values):
                code = coco_mask.encode(np.asfortranarray(values == value, dtype=np.uint8))
                box = [float(side) for side in coco_mask.toBbox(code)]
                yield {
                    "id": image.number * (len(labelled.classes) + 1) + value,
                    "image_id": image.number + 1,
                    "category_id": value,
                    "segmentation": {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")},
                    "area": float(coco_mask.area(code)),
                    "bbox": box,
                    "iscrowd": 0,
                }

    _json(sink, {"images": _images(labelled), "annotations": annotations(), "categories": _categories(labelled)})


def _panoptic(labelled: Labelled, sink: Sink) -> None:
    """A segment an image and class, its id being the mask value; background and ignored pixels are void (0)."""

    def annotations() -> Iterator[dict[str, Any]]:
        for image in labelled.images():
            values = labelled.mask(image)
            shown = np.where(values == IGNORE, BACKGROUND, values)
            # an id is R + 256 G + 65536 B
            colours = np.stack([shown, np.zeros_like(shown), np.zeros_like(shown)], axis=-1)
            labelled.folder.write(f"{PANOPTIC}/{image.output}", png(Image.fromarray(colours)))
            segments = [_segment(value, values == value) for value in _values(values)]
            yield {"image_id": image.number + 1, "file_name": image.output, "segments_info": segments}

    categories = ({**entry, "isthing": 0} for entry in _categories(labelled))
    _json(sink, {"images": _images(labelled), "annotations": annotations(), "categories": categories})


def _segment(value: int, chosen: np.ndarray) -> dict[str, Any]:
    return {"id": value, "category_id": value, "area": int(chosen.sum()), "bbox": _box(chosen), "iscrowd": 0}


def _cvat(labelled: Labelled, sink: Sink) -> None:
    """Segmentation mask 1.1. The value 255 becomes a label of its own, ``ignore``: CVAT refuses undeclared values."""
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as file:  # type: ignore[arg-type]

        def add(name: str, data: bytes) -> None:
            file.writestr(zipfile.ZipInfo(name), data)

        named = [("background", BACKGROUND), *((name, i + 1) for i, name in enumerate(labelled.classes)), ("ignore", IGNORE)]
        lines = ["# label:color_rgb:parts:actions"]
        lines += [f"{_plain(name)}:{','.join(map(str, PALETTE[3 * value : 3 * value + 3]))}::" for name, value in named]
        add("labelmap.txt", ("\n".join(lines) + "\n").encode())
        listed = []
        for image in labelled.images():
            stem = image.output[:-4]
            if not stem.isprintable() or '"' in stem:
                logger.warning("%s cannot stand in a CVAT list and is left out", printable(image.name))
                continue
            listed.append(f'"{stem}"' if " " in stem else stem)
            add(f"SegmentationClass/{image.output}", mask_png(labelled.mask(image)))
        add("ImageSets/Segmentation/default.txt", "".join(line + "\n" for line in listed).encode())


def _labelstudio(labelled: Labelled, sink: Sink) -> None:
    """Tasks with pre-annotations for a labelling interface with an Image named image and BrushLabels named label."""

    def tasks() -> Iterator[dict[str, Any]]:
        for image in labelled.images():
            values = labelled.mask(image)
            height, width = values.shape
            results = [
                {
                    "id": f"{image.number + 1}-{value}",
                    "type": "brushlabels",
                    "from_name": "label",
                    "to_name": "image",
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "value": {
                        "format": "rle",
                        "rle": brush_rle(values == value),
                        "brushlabels": ["ignore" if value == IGNORE else labelled.classes[value - 1]],
                    },
                }
                for value in (*_values(values), *([IGNORE] if (values == IGNORE).any() else []))
            ]
            yield {"data": {"image": image.name}, "predictions": [{"model_version": "wsss_fast", "result": results}]}

    _json_array(sink, tasks())


_WRITERS = {"coco": _coco, "panoptic": _panoptic, "cvat": _cvat, "labelstudio": _labelstudio}


def _images(labelled: Labelled) -> Iterator[dict[str, Any]]:
    for image in labelled.images():
        width, height = labelled.size(image)
        yield {"id": image.number + 1, "file_name": image.name, "width": width, "height": height}


def _categories(labelled: Labelled) -> Iterator[dict[str, Any]]:
    yield from ({"id": i + 1, "name": name, "supercategory": ""} for i, name in enumerate(labelled.classes))


def _values(values: np.ndarray) -> list[int]:
    return [value for value in np.unique(values).tolist() if value not in (BACKGROUND, IGNORE)]


def _box(chosen: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(chosen.any(axis=1)), np.flatnonzero(chosen.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def _plain(name: str) -> str:
    """A label map's line parts its fields by colons."""
    return " ".join(printable(name).replace(":", " ").split())


def _json(sink: Sink, parts: dict[str, Iterator[dict[str, Any]]]) -> None:
    """Entry by entry: a million annotations never stand in memory."""
    for i, (name, entries) in enumerate(parts.items()):
        sink.write(f"{', ' if i else '{'}{json.dumps(name)}: ".encode())
        _json_array(sink, entries)
    sink.write(b"}\n")


def _json_array(sink: Sink, entries: Iterator[dict[str, Any]]) -> None:
    separator = b"[\n"
    for entry in entries:
        sink.write(separator + json.dumps(entry).encode("ascii"))
        separator = b",\n"
    sink.write(b"[]" if separator == b"[\n" else b"\n]")
