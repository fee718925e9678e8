"""Makes docs/pictures/random_walk.png (python docs/pictures_walk.py): the class map of a photo before and after the walk.

Needs the extra `demo`. The photo is scikit-image's `coffee` by Rachel Michetti (CC0: no rights reserved).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from torch import Tensor
from torch.nn.functional import interpolate

from wsss_fast import ops
from wsss_fast.label.predict import load_engine
from wsss_fast.label.settings import LabelSettings
from wsss_fast.ops._reference.half_disc import half_disc

STRIDE, RADIUS, BETA, STEPS = 4, 5, 10, 256
CLASS = "cup"
SIZE = (450, 300)
WIDTH = 320


def class_map(pixels: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """[1, 1, h, w]: the maps of all scales and flips, resized, added, without what is negative, divided by the largest."""
    engine = load_engine("efficientnet-lite0", LabelSettings())
    index = engine.class_names.index(CLASS)
    maps = [m[None, None, index].float() for m in engine.predict(pixels).maps]
    cam = sum(interpolate(m, grid, mode="bilinear", align_corners=False) for m in maps).relu()
    return cam / cam.max()


def image_edges(image: Tensor, grid: tuple[int, int]) -> Tensor:
    """[h, w] from 0 to 1: the length of the colour gradient on the grid, 1 for its strongest tenth."""
    small = interpolate(image, grid, mode="area")
    dy, dx = torch.gradient(small, dim=(2, 3))
    length = (dy.square() + dx.square()).sum(dim=1).sqrt()[0]
    return (length / length.quantile(0.9)).clamp(max=1)


def affinities(edge: Tensor) -> Tensor:
    """1 - the largest edge among points half a pixel apart on the way from a pixel to its neighbour."""
    h, w = edge.shape
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    planes = []
    for dy, dx in half_disc(RADIUS):
        way = torch.linspace(0, 1, 2 * max(dy, abs(dx)) + 1)
        rows, columns = ((p + (d * way).round().long()[:, None, None]) for p, d in ((y, dy), (x, dx)))
        on_the_way = edge[rows.clamp(0, h - 1), columns.clamp(0, w - 1)]
        planes.append(1 - on_the_way.amax(dim=0))
    return torch.stack(planes)[None]


def painted(image: np.ndarray, cam: Tensor) -> np.ndarray:
    """The photo in grey, the map over it from blue to yellow."""
    value = interpolate(cam, image.shape[:2], mode="bilinear", align_corners=False)[0, 0].clamp(0, 1).numpy()[..., None]
    grey = image.mean(axis=2, keepdims=True)
    colour = np.concatenate((255 * value, 220 * value, 160 * (1 - value)), axis=2)
    return (0.45 * grey + 0.55 * colour).astype(np.uint8)


def main() -> None:
    photo = Image.fromarray(data.coffee()).resize(SIZE, Image.Resampling.LANCZOS)
    pixels = np.array(photo)
    grid = (photo.height // STRIDE, photo.width // STRIDE)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    cam = class_map(pixels, grid)
    walked = ops.random_walk(cam, affinities(image_edges(image, grid)), RADIUS, BETA, STEPS)
    panels = [pixels, painted(pixels, cam), painted(pixels, walked / walked.max())]
    height = WIDTH * photo.height // photo.width
    sheet = Image.new("RGB", (3 * WIDTH + 16, height), "white")
    for i, panel in enumerate(panels):
        sheet.paste(Image.fromarray(panel).resize((WIDTH, height), Image.Resampling.LANCZOS), (i * (WIDTH + 8), 0))
    target = Path(__file__).parent / "pictures" / "random_walk.png"
    target.parent.mkdir(exist_ok=True)
    sheet.quantize(256).save(target, optimize=True)


if __name__ == "__main__":
    main()
