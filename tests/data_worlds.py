"""Small data sets on disk, in the layouts that the tests of the data share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

IDS = [f"2007_{number:06d}" for number in range(8)]


@dataclass(frozen=True)
class Settings:
    """What the loader reads of the settings of a training."""

    resize: str = "long"
    sizes: tuple[float, ...] = (20, 40)
    size_choices: tuple[float, ...] = ()
    crop: int = 32
    flip: bool = True
    jitter: tuple[float, ...] = (0.3, 0.3, 0.3, 0.1)
    batch: int = 2
    shuffle: bool = True
    segments: tuple[int, ...] = (4, 9)


def photo(seed: int, size: tuple[int, int] = (30, 24)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def repaint(path: Path, value: int) -> None:
    """One value of a map is another one; without compression size and time of the file tell nothing."""
    pixels = np.asarray(Image.open(path)).copy()
    pixels[5, 5] = value
    Image.fromarray(pixels).save(path, compress_level=0)
    os.utime(path, (0, 0))


def voc(root: Path, saliency: bool = True) -> Path:
    """Eight images of two classes; class 0 in even images, class 1 in those that 3 divides, and in every odd one."""
    for number, name in enumerate(IDS):
        pixels = photo(number)
        save(root / "JPEGImages" / f"{name}.jpg", pixels)
        mask = np.zeros(pixels.shape[:2], np.uint8)
        for place in labels_of(number):
            mask[4 + 8 * place : 10 + 8 * place, 5:20] = place + 1
        mask[0] = 255
        save(root / "SegmentationClassAug" / f"{name}.png", mask)
        if saliency:
            save(root / "saliency" / f"{name}.png", ((mask > 0) * 255).astype(np.uint8))
    (root / "classes.txt").write_text("cat\ndog\n")
    rows = [f"{name} " + " ".join(map(str, labels_of(number))) for number, name in enumerate(IDS)]
    (root / "labels.txt").write_text("\n".join(rows) + "\n")
    write_list(root, "train", IDS[:6])
    write_list(root, "val", IDS[6:])
    return root


def labels_of(number: int) -> tuple[int, ...]:
    return ((0, 1) if number % 3 == 0 else (0,)) if number % 2 == 0 else (1,)


def write_list(root: Path, name: str, rows: list[str]) -> None:
    path = root / "ImageSets" / "Segmentation" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")
