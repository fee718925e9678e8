"""The world as a folder in the layout of VOC, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsss_fast.data.scenes.compose import make_crop, make_scene
from wsss_fast.data.scenes.settings import CLASSES, VERSION, SceneSettings
from wsss_fast.files.names import printable
from wsss_fast.files.png import mask_png, png

_CHUNK = 16
_JPEG_QUALITY = 95
_LARGEST = 1_000_000
_SALIENCY = {
    "model": "none: made from the truth of the synthetic world, with misses, false finds, holes and coarse outlines",
    "supervision": "the masks, degraded",
}

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]


def write(
    out: str | Path,
    train: int = 1000,
    test: int = 300,
    seed: int = 0,
    crops: int = 0,
    processes: int | None = None,
    settings: SceneSettings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes the world to ``out``, which must not be there yet, and gives what ``world.json`` says.

    ``crops``: that many images of single objects in Crops/<class>, to train a first network with. The same arguments give the
    same bytes, with any number of ``processes`` (default: one a core, at most 2)."""
    counts = {"train": train, "test": test, "crops": crops}
    for name, count in {**counts, "seed": seed}.items():
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _LARGEST:
            raise ValueError(f"scenes: '{name}' must be a whole number from 0 to {_LARGEST}, got {count!r}")
    if train + test + crops == 0:
        raise ValueError("scenes: 'train', 'test' and 'crops' must not all be 0")
    settings = settings or SceneSettings()
    out = Path(out)
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise ValueError(f"scenes: 'out' must be a new or empty folder, got {printable(str(out))}. Hint: give another --out")
    world = {"version": VERSION, "sha256": settings.digest(), "seed": seed, **counts, "settings": asdict(settings)}
    world["classes"] = [asdict(look) for look in CLASSES]
    partial_folder = out.absolute().with_name(f".{out.absolute().name}.partial-{os.getpid()}")
    try:
        partial_folder.mkdir(parents=True)
    except OSError as error:
        where = printable(str(out))
        raise ValueError(f"scenes: 'out' must be a folder that can be made, got {where}: {error.strerror}") from None
    try:
        _write_all(partial_folder, counts, seed, settings, processes, progress)
        text = json.dumps(world, indent=2) + "\n"
        _write(partial_folder / "world.json", text.encode())
        os.sync()  # once for all files: one by one would take longer than the painting
        partial_folder.replace(out)
    except BaseException:
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise
    log.info("scenes: %s in %s", ", ".join(f"{count} {name}" for name, count in counts.items()), out)
    return world


def _write_all(
    root: Path, counts: dict[str, int], seed: int, settings: SceneSettings, processes: int | None, progress: Progress | None
) -> None:
    folders = ["JPEGImages", "SegmentationClass", "SaliencyMaps", "ImageSets/Segmentation"]
    folders += [f"Crops/{look.name}" for look in CLASSES] if counts["crops"] else []
    for folder in folders:
        (root / folder).mkdir(parents=True)
    jobs = [(split, start, min(start + _CHUNK, count)) for split, count in counts.items() for start in range(0, count, _CHUNK)]
    total, done = sum(counts.values()), 0
    rows: dict[str, str] = {}
    for names in _run(partial(_write_chunk, root, settings, seed), jobs, processes):
        rows.update(names)
        done += len(names)
        if progress is not None:
            progress(done, total)
    for split in ("train", "test"):
        ids = [_id(split, index) for index in range(counts[split])]
        _write(root / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{name}\n" for name in ids).encode())
    labels = [f"{name},{rows[name]}\n" for split in ("train", "test") for name in (_id(split, i) for i in range(counts[split]))]
    _write(root / "labels.csv", ("image,classes\n" + "".join(labels)).encode())
    _write(root / "classes.txt", "".join(f"{look.name}\n" for look in CLASSES).encode())
    provenance = {**_SALIENCY, "world": settings.digest()}
    _write(root / "SaliencyMaps" / "provenance.json", (json.dumps(provenance, indent=2) + "\n").encode())


def _run(work: Callable, jobs: list, processes: int | None) -> Iterator[dict[str, str]]:
    count = min(processes or min(2, os.cpu_count() or 1), len(jobs))
    if count <= 1:
        yield from map(work, jobs)
        return
    # Threads of the caller (torch, progress bars) do not survive a fork: fresh processes.
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(work, jobs)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_chunk(root: Path, settings: SceneSettings, seed: int, job: tuple[str, int, int]) -> dict[str, str]:
    """Images of one split from a first to a last; gives the classes of each as labels.csv writes them."""
    split, start, end = job
    rows = {}
    for index in range(start, end):
        name = _id(split, index)
        if split == "crops":
            label, pixels = make_crop(settings, seed, index)
            _write(root / "Crops" / CLASSES[label].name / f"{name}.jpg", _jpeg(pixels))
            rows[name] = CLASSES[label].name
            continue
        scene = make_scene(settings, seed, split, index)
        _write(root / "JPEGImages" / f"{name}.jpg", _jpeg(scene.image))
        _write(root / "SegmentationClass" / f"{name}.png", mask_png(scene.mask))
        _write(root / "SaliencyMaps" / f"{name}.png", png(Image.fromarray(scene.saliency)))
        rows[name] = ";".join(CLASSES[label].name for label in scene.labels)
    return rows


def _id(split: str, index: int) -> str:
    return f"{split}_{index:06d}"


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def fingerprint(root: str | Path) -> str:
    """sha256 over the names and bytes of all files of a folder: whether two worlds are the same."""
    root = Path(root)
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
