"""A folder with one folder a class, or a folder of images with a table of their labels."""

from __future__ import annotations

import os
from pathlib import Path

from wsss_fast.data._problems import DataError, refuse
from wsss_fast.data.dataset import FORMS, Asked, Found, read_list, table_given
from wsss_fast.data.labels import ImageLabels, from_rows, read_labels
from wsss_fast.data.voc import list_file
from wsss_fast.files.names import natural_key, shown
from wsss_fast.listing.plan import PlanError
from wsss_fast.listing.sources import make_plan


def find(asked: Asked) -> Found:
    """An image's id is its path without the extension; the extension stays where two images differ in it alone."""
    root = asked.path
    try:
        planned = tuple(make_plan(root, operation="data").images())
    except PlanError as error:
        raise DataError(str(error)) from None
    except OSError as error:
        raise DataError(f"data: {error}") from None
    aside = _inside(root, asked.masks, asked.saliency, asked.affinity)
    planned = tuple(image for image in planned if not image.name.startswith(aside))
    if asked.kind == "folders" and asked.labels is None:
        # What lies beside the class folders is no image of a class.
        planned = tuple(image for image in planned if "/" in image.name)
        table: ImageLabels | None = _of_folders([image.name for image in planned], asked)
    else:
        table = _table(asked)
    ids = {image.output.removesuffix(".png"): image.name for image in planned}
    if asked.split is not None:
        ids = _listed(ids, list_file(root, asked.split))
    elif table is not None and asked.kind == "images":
        ids = _in_table(ids, table)
    files = {} if asked.masks is None else {image: asked.masks / f"{image}.png" for image in ids}
    return Found({image: root / name for image, name in ids.items()}, files, table)


def _inside(root: Path, *folders: Path | None) -> tuple[str, ...]:
    """How the names of files begin that lie in these folders: masks, saliency maps and labels of pairs are no images."""
    whole = Path(os.path.realpath(root))
    given = [Path(os.path.realpath(folder)) for folder in folders if folder is not None]
    return tuple(
        f"{folder.relative_to(whole).as_posix()}/" for folder in given if folder.is_relative_to(whole) and folder != whole
    )


def _of_folders(images: list[str], asked: Asked) -> ImageLabels:
    rows = [(image, [image.partition("/")[0]]) for image in images]
    classes = asked.names or tuple(sorted({folder for _, (folder,) in rows}, key=natural_key))
    if not rows:
        raise DataError(f"data: {shown(asked.path)} holds no labels of its images. Hint: {FORMS}")
    return from_rows(rows, classes, "the folders")


def _table(asked: Asked) -> ImageLabels | None:
    given = table_given(asked.path, asked.labels)
    if given is not None:
        return read_labels(given, classes=asked.names, difficult=asked.difficult)
    if asked.labels is None:
        raise DataError(f"data: {shown(asked.path)} has no table of labels. Hint: {FORMS}")
    return None


def _listed(ids: dict[str, str], path: Path) -> dict[str, str]:
    rows = read_list(path)
    by_name = {name: image for image, name in ids.items()}
    chosen = [by_name.get(row.image, row.image) for row in rows]
    refuse(f"data: images of the list {shown(path.name)} that are missing", [image for image in chosen if image not in ids])
    return {image: ids[image] for image in chosen}


def _in_table(ids: dict[str, str], table: ImageLabels) -> dict[str, str]:
    """Of a plain folder, the images in the table; the table's images must all be there."""
    rows = table.rows(ids.values())
    used = set(rows.values())
    missing = [row for row in table.indices if row not in used]
    refuse(f"data: images of {table.source} that are missing", missing, "rows name images by their path in the folder")
    return {image: name for image, name in ids.items() if name in rows}
