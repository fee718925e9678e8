"""What a training learns from, in one number: whoever goes on from earlier work must find the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from wsss_fast.data.dataset import Dataset
from wsss_fast.files.whole import file_sha256

_THREADS = 8
_END = 1 << 13


def fingerprint(dataset: Dataset, wants: Collection[str] = ()) -> dict[str, Any]:
    """Which images with which labels; with `wants` also which saliency maps, masks and labels of pairs.

    Of images the size, the beginning and the end: to read all of them would take longer than many a step of the work, and a
    compressed image that was edited differs there. Maps and masks are small: all bytes.
    """

    def look(name: str) -> list[Any]:
        others = {"saliency": dataset.saliency_path, "mask": dataset.mask_path, "affinity": dataset.affinity_path}
        paths = [place(name) for kind, place in others.items() if kind in wants]
        there = [file_sha256(path) if path is not None and path.is_file() else None for path in paths]
        return [name, list(dataset.indices.get(name, ())), _ends(dataset.image_path(name)), there]

    with ThreadPoolExecutor(_THREADS) as pool:
        rows = list(pool.map(look, dataset.ids))
    digest = hashlib.sha256(json.dumps([dataset.classes, rows]).encode()).hexdigest()
    return {"count": len(dataset), "classes": len(dataset.classes), "sha256": digest}


def _ends(path: Path) -> list[Any] | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_END))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END))
        digest.update(file.read(_END))
    return [size, digest.hexdigest()]
