"""A folder with one folder a class, or a folder of images with a table of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from wsss_fast.data._problems import DataError, refuse, shown
from wsss_fast.data.dataset import FROM_MASKS, NO_LABELS, Found, read_list, table_of
from wsss_fast.data.labels import ImageLabels, read_labels
from wsss_fast.data.voc import list_file
from wsss_fast.label.plan import PlanError
from wsss_fast.label.settings import LabelSettings
from wsss_fast.label.sources import make_plan


def find(
    root: Path,
    kind: str,
    split: str | Path | None,
    masks: Path | None,
    labels: str | Path | None,
    names: Sequence[str] | None,
    difficult: str,
) -> Found:
    """An image's id is its path without the extension; the extension stays where two images differ in it alone."""
    try:
        planned = tuple(make_plan(root, None, LabelSettings()).images())
    except (PlanError, OSError) as error:
        raise DataError(f"data: {str(error).removeprefix('label: ')}") from None
    table: ImageLabels | None
    if kind == "folders" and labels is None:
        table = read_labels(root, "folders", names)
        # What lies beside the class folders is no image of a class.
        planned = tuple(image for image in planned if "/" in image.name)
    else:
        table = table_of(root, labels, names, difficult)
        if table is None and labels is None:
            hint = "a table is named labels.csv, labels.json, labels.txt or cls_labels.npy, or given with labels="
            raise DataError(f"data: {shown(root)} has no table of labels. Hint: {hint}")
    ids = {image.output.removesuffix(".png"): image.name for image in planned}
    if split is not None:
        ids = _listed(ids, list_file(root, split))
    elif table is not None and labels not in (FROM_MASKS, NO_LABELS) and kind == "images":
        ids = _in_table(ids, table)
    files = {} if masks is None else {image: masks / f"{image}.png" for image in ids}
    return Found({image: root / name for image, name in ids.items()}, files, table)


def _listed(ids: dict[str, str], path: Path) -> dict[str, str]:
    rows = read_list(path)
    by_name = {name: image for image, name in ids.items()}
    chosen = [by_name.get(row.image, row.image) for row in rows]
    refuse(f"data: images of the list {shown(path.name)} that are missing", [image for image in chosen if image not in ids])
    return {image: ids[image] for image in chosen}


def _in_table(ids: dict[str, str], table: ImageLabels) -> dict[str, str]:
    """Of a plain folder, the images in the table; the table's images must all be there."""
    joined, _ = table.join(list(ids.values()))
    if len(joined) < len(table):
        there = {PurePosixPath(name).stem for name in ids.values()}
        missing = [row for row in table.indices if PurePosixPath(row).stem not in there]
        refuse(f"data: images of {table.source} that are missing", missing, "rows name images by their path in the folder")
    return {image: name for image, name in ids.items() if name in joined}
