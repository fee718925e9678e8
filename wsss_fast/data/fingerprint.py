"""What a training learns from, in one number: whoever goes on from earlier work must find the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from wsss_fast.data.dataset import Dataset

_THREADS = 8
_BLOCK = 1 << 20


def fingerprint(dataset: Dataset, wants: Collection[str] = ()) -> dict[str, Any]:
    """Which images with which labels; with `wants` also which saliency maps, masks and labels of pairs.

    Of images the sizes in bytes: to read all of them would take longer than many a step of the work, and what was edited is
    rarely as long as before. Maps and masks are small, and often as long as before: their bytes.
    """

    def look(name: str) -> list[Any]:
        others = {"saliency": dataset.saliency_path, "mask": dataset.mask_path, "affinity": dataset.affinity_path}
        paths = [place(name) for kind, place in others.items() if kind in wants]
        image = dataset.image_path(name)
        size = image.stat().st_size if image.is_file() else None
        there = [file_sha256(path) if path is not None and path.is_file() else None for path in paths]
        return [name, list(dataset.indices.get(name, ())), size, there]

    with ThreadPoolExecutor(_THREADS) as pool:
        rows = list(pool.map(look, dataset.ids))
    digest = hashlib.sha256(json.dumps([dataset.classes, rows]).encode()).hexdigest()
    return {"count": len(dataset), "classes": len(dataset.classes), "sha256": digest}


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
