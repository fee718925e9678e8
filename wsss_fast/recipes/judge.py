"""How good maps and masks of a folder are on the images of a data set that have a truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wsss_fast.counts import BACKGROUND_NAME, Confusion, Curve
from wsss_fast.data import Dataset
from wsss_fast.evaluate import read_maps, read_mask

Report = Callable[[int, int], None]


def measure_masks(folder: Path, dataset: Dataset, ids: Sequence[str], report: Report) -> dict[str, Any]:
    counts = Confusion([BACKGROUND_NAME, *dataset.classes])
    for done, name in enumerate(ids, 1):
        counts.add(read_mask(folder / f"{name}.png"), read_mask(dataset.mask_path(name)), name)
        report(done, len(ids))
    return {"miou": counts.miou(), "images": len(ids)}


def measure_maps(folder: Path, dataset: Dataset, ids: Sequence[str], report: Report) -> dict[str, Any]:
    """At the best constant score of the background."""
    counts = Curve([BACKGROUND_NAME, *dataset.classes])
    for done, name in enumerate(ids, 1):
        counts.add(*read_maps(folder / f"{name}.npz"), read_mask(dataset.mask_path(name)), name)
        report(done, len(ids))
    best = counts.best()
    return {"miou": float(counts.miou()[best]), "threshold": best / 100, "images": len(ids)}


def judged(dataset: Dataset, made: Sequence[str]) -> list[str]:
    """The images with a truth among those that something was made for."""
    known = set(made)
    return [name for name in dataset.ids if name in known and (path := dataset.mask_path(name)) is not None and path.is_file()]
