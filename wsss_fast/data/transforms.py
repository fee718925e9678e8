"""Random resize, mirror, colour change and crop of an image together with its saliency map, mask and labels of pairs.

Everything is drawn from one generator a sample, so the result depends on the seed, the epoch and the image alone, never on the
worker that makes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageEnhance

from wsss_fast.files.images import ImageError
from wsss_fast.files.limits import MAX_PIXELS
from wsss_fast.files.png import IGNORE

if TYPE_CHECKING:
    from wsss_fast.methods._training import TrainSettings

MOST_PIXELS = MAX_PIXELS  # of a resized image: a thin strip whose short side grows would fill the memory

BICUBIC = Image.Resampling.BICUBIC
BILINEAR = Image.Resampling.BILINEAR
NEAREST = Image.Resampling.NEAREST


@dataclass(frozen=True)
class Sample:
    """Arrays as a batch holds them, for one image."""

    pixels: np.ndarray  # uint8 [3, S, S], 0 at padding
    inside: np.ndarray  # bool [S, S]
    saliency: np.ndarray | None = None  # uint8 [1, S, S], 0 at padding
    mask: np.ndarray | None = None  # uint8 [S, S], 255 at padding
    affinity: np.ndarray | None = None  # uint8 [S, S], 255 at padding, or [L, S, S], 0 at padding


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, index))))


class Augment:
    """What `settings` (a `TrainSettings`) say of resize, sizes, flip, jitter and crop."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings

    def __call__(
        self,
        pixels: np.ndarray,
        random: np.random.Generator,
        saliency: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        affinity: np.ndarray | None = None,
    ) -> Sample:
        """Pixels uint8 [H, W, 3]; saliency uint8 of any size; mask uint8 [H, W]; affinity uint8, indices [H, W] or any number of
        probability maps [L, H, W]. All get the image's new size."""
        if mask is not None and mask.shape != pixels.shape[:2]:
            raise ImageError(f"its mask has {mask.shape[1]} x {mask.shape[0]} pixels, not {pixels.shape[1]} x {pixels.shape[0]}")
        image = Image.fromarray(pixels)
        size = new_size(image.size, self.settings.resize, self.settings.sizes, random, self.settings.size_choices)
        image = _resized(image, size, BICUBIC)
        layers = [None if layer is None else Image.fromarray(layer) for layer in (saliency, mask)]
        layers = [layer and _resized(layer, size, how) for layer, how in zip(layers, (BICUBIC, NEAREST), strict=True)]
        mirrored = random.random() < 0.5 and self.settings.flip
        if mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            layers = [layer and layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for layer in layers]
        image = jitter(image, self.settings.jitter, random)
        cut = _Cut(size, self.settings.crop, random)
        maps = [layer and np.asarray(layer) for layer in layers]
        return Sample(
            np.ascontiguousarray(cut(np.asarray(image), 0).transpose(2, 0, 1)),
            cut(np.ones(size[::-1], bool), 0),
            None if maps[0] is None else cut(maps[0], 0)[None],
            None if maps[1] is None else cut(maps[1], IGNORE),
            None if affinity is None else _follow(affinity, size, mirrored, cut),
        )


def new_size(
    size: tuple[int, int],
    resize: str,
    sizes: tuple[float, ...],
    random: np.random.Generator,
    choices: tuple[float, ...] = (),
) -> tuple[int, int]:
    """(width, height) after the resize: to one of `choices`, or to anything in the range `sizes`."""
    low, high = sizes
    if resize == "none":
        return size
    drawn = choices[int(random.integers(len(choices)))] if choices else None
    if resize == "scale":
        factor = random.uniform(low, high) if drawn is None else drawn
    else:
        side = int(random.integers(math.ceil(low), max(math.floor(high), math.ceil(low)) + 1) if drawn is None else round(drawn))
        if resize == "squash":
            return side, side
        factor = side / (max(size) if resize == "long" else min(size))
    width, height = (max(1, round(extent * factor)) for extent in size)
    if width * height > MOST_PIXELS:
        raise ImageError(f"resized it would have {width} x {height} pixels")
    return width, height


def _follow(affinity: np.ndarray, size: tuple[int, int], mirrored: bool, cut: _Cut) -> np.ndarray:
    indices = affinity.ndim == 2
    how, fill = (NEAREST, IGNORE) if indices else (BILINEAR, 0)
    planes = [np.asarray(_resized(Image.fromarray(plane), size, how)) for plane in (affinity[None] if indices else affinity)]
    moved = cut(np.stack(planes, axis=-1)[:, :: -1 if mirrored else 1], fill).transpose(2, 0, 1)
    return moved[0] if indices else moved


def _resized(image: Image.Image, size: tuple[int, int], how: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, how)


def jitter(image: Image.Image, strength: tuple[float, ...], random: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation times 1 - s to 1 + s, hue turned by at most h of the circle, in random order."""
    *factors, turn = (random.uniform(-limit, limit) for limit in strength)
    steps: list[Callable[[Image.Image], Image.Image]] = [
        *(lambda picture, f=f, e=e: e(picture).enhance(1 + f) for f, e in zip(factors, _ENHANCERS, strict=True)),
        lambda picture: turned_hue(picture, turn),
    ]
    for step in random.permutation(len(steps)):
        if strength[step] > 0:
            image = steps[step](image)
    return image


_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def turned_hue(image: Image.Image, turn: float) -> Image.Image:
    """Hue in 256 steps of the circle; `turn` is a part of it."""
    hue, saturation, value = image.convert("HSV").split()
    moved = np.asarray(hue) + np.uint8(round(turn * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(moved), saturation, value)).convert("RGB")


class _Cut:
    """A square of side S: a longer extent is cut at a random offset, a shorter one lies at a random offset in it."""

    def __init__(self, size: tuple[int, int], side: int, random: np.random.Generator) -> None:
        self.side = side
        self.source, self.target = [], []
        for extent in size[::-1]:
            offset = int(random.integers(abs(extent - side) + 1))
            length = min(extent, side)
            start, place = (offset, 0) if extent > side else (0, offset)
            self.source.append(slice(start, start + length))
            self.target.append(slice(place, place + length))

    def __call__(self, array: np.ndarray, fill: int) -> np.ndarray:
        out = np.full((self.side, self.side, *array.shape[2:]), fill, array.dtype)
        out[tuple(self.target)] = array[tuple(self.source)]
        return out
