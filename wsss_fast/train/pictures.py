"""Class maps of a few images during training, as a sheet: a row an image, first the image, then each of its classes over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from wsss_fast.methods._infer import infer_cam
from wsss_fast.methods._method import Method

SIDE = 224
CLASSES = 3  # shown of one image
_TITLE = 16
_GAP = 4


@dataclass(frozen=True)
class Example:
    """An image that is drawn again and again: uint8 [H, W, 3], and the numbers of its classes."""

    pixels: np.ndarray
    classes: tuple[int, ...]


def sheet(model: Method, examples: Sequence[Example], names: Sequence[str]) -> np.ndarray:
    """uint8 [H, W, 3]. `model` in eval mode; one scale, no mirror image: this is for watching, not for labels."""
    cell = SIDE + _TITLE
    paper = Image.new("RGB", ((1 + CLASSES) * SIDE, cell * len(examples)), (24, 24, 24))
    draw = ImageDraw.Draw(paper)
    device = next(model.parameters()).device
    for row, example in enumerate(examples):
        top = row * cell + _TITLE
        paper.paste(_fitted(example.pixels), (0, top))
        if not example.classes:
            continue
        present = torch.zeros(1, model.num_classes, dtype=torch.bool, device=device)
        present[0, list(example.classes)] = True
        image = torch.from_numpy(example.pixels).permute(2, 0, 1)[None].to(device)
        maps = infer_cam(model, image, scales=(1.0,), flip=False, present=present)[0].float().cpu().numpy()
        for column, index in enumerate(example.classes[:CLASSES], 1):
            paper.paste(_fitted(_over(example.pixels, maps[index])), (column * SIDE, top))
            draw.text((column * SIDE + 4, top - _TITLE + 2), names[index], fill=(235, 235, 235))
    return np.asarray(paper)


def _over(pixels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The image with a map from 0 (nothing) over blue, green and yellow to 1 (red)."""
    centres = np.array([3.0, 2.0, 1.0])  # where red, green and blue are full, of 0 to 4
    colour = 255 * np.clip(1.5 - np.abs(4 * values[..., None] - centres), 0, 1)
    strength = 0.7 * np.sqrt(values.clip(0, 1))[..., None]
    return ((1 - strength) * pixels + strength * colour).round().clip(0, 255).astype(np.uint8)


def _fitted(pixels: np.ndarray) -> Image.Image:
    return ImageOps.contain(Image.fromarray(pixels), (SIDE - _GAP, SIDE))
