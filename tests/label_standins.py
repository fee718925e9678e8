"""Stand-ins that the labelling tests share: a network without weights, pictures without files, the bytes of a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import wsss_fast
from wsss_fast.label.predict import Prediction


class BrightEngine:
    """A stand-in network: class 0 is where the picture is bright, class 1 where it is dark."""

    class_names = ("bright", "dark")

    def __init__(self, **identity):
        self.identity = {"name": "bright", **identity}
        self.calls = 0
        self.fail_at = None

    def predict(self, pixels):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        grey = torch.from_numpy(pixels.astype(np.float32)).mean(2) / 255
        return Prediction(torch.tensor([0.9, 0.05]), (torch.stack([grey - 0.5, 0.5 - grey]),))


def picture(seed: int, size=(24, 16)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 60, (size[1], size[0], 3), dtype=np.uint8)
    noise[: size[1] // 2] += 180
    return Image.fromarray(noise)


def five_pictures(parent: Path) -> Path:
    images = parent / "images"
    images.mkdir()
    for index in range(5):
        picture(index).save(images / f"img{index + 8}.png")
    return images


def tree(root: Path) -> dict[str, str]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def label(images, out=None, engine=None, **settings):
    """In this thread alone unless ``workers`` says otherwise: tests of what is computed need no processes."""
    return wsss_fast.label(images, engine or BrightEngine(), out, **{"workers": 0, **settings})
