#!/usr/bin/env python3
"""Makes the pictures of these pages: python docs/pictures.py

Needs the extra `demo`. The photos are scikit-image's `chelsea` by Stefan van der Walt, `coffee` by Rachel Michetti and `camera`
by Lav Varshney (CC0: no rights reserved).
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image, ImageOps
from skimage import data
from torch import Tensor
from torch.nn.functional import interpolate

from wsss_fast import label, ops
from wsss_fast.data.scenes import SceneSettings, make_scene
from wsss_fast.files.png import PALETTE
from wsss_fast.label.demo import write_photos
from wsss_fast.label.predict import load_model
from wsss_fast.label.settings import LabelSettings
from wsss_fast.nets import efficientnet
from wsss_fast.ops._reference.half_disc import half_disc

FOLDER = Path(__file__).parent / "pictures"


def sheet(panels: list[Tensor], width: int, height: int, gap: int, columns: int = 3) -> Image.Image:
    """Panels, uint8 [3, H, W] each, so many in a row; what is higher is cut to the middle."""
    rows = -(-len(panels) // columns)
    whole = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, panel in enumerate(panels):
        picture = Image.fromarray(np.ascontiguousarray(panel.permute(1, 2, 0).numpy()))
        place = (i % columns * (width + gap), i // columns * (height + gap))
        whole.paste(ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS), place)
    return whole


# ---- superpixel_pair ------------------------------------------------------------------------------------------------------


def superpixel_pair() -> Image.Image:
    """Above: the photo with its segments, and both images of the pair. Below: the map of the photo's first class in each."""
    photo = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None].contiguous()
    segments = ops.slic(photo, segments=200)
    mean, std = efficientnet.MEAN[0], efficientnet.STD[0]
    image = (photo.float() - mean) / std
    first, second, _ = ops.complementary_pair(image, segments, generator=torch.Generator().manual_seed(4))
    images = torch.cat((image, first, second))
    shown = (images * std + mean).round().to(torch.uint8)
    outlined = shown[0].clone()
    outlined[:, borders(segments[0])] = torch.tensor([[255], [235], [60]], dtype=torch.uint8)
    panels = [outlined, *shown[1:], *(heat(pixels, one) for pixels, one in zip(shown, class_maps(images), strict=True))]
    return sheet(panels, 264, 176, gap=6).quantize(256, method=Image.Quantize.MAXCOVERAGE)


def borders(segments: Tensor) -> Tensor:
    """[H, W]: pixels whose right or lower neighbour is of another segment."""
    edge = torch.zeros(segments.shape, dtype=torch.bool)
    edge[:, :-1] |= segments[:, 1:] != segments[:, :-1]
    edge[:-1] |= segments[1:] != segments[:-1]
    return edge


@torch.inference_mode()
def class_maps(images: Tensor) -> Tensor:
    """[N, H, W] in 0..1, each by its own largest value: of the class that scores highest in the first image."""
    network, _ = efficientnet.load_pretrained(output_stride=16)
    features = network.features(images)
    best = int(network.scores(features)[0].argmax())
    maps = interpolate(network.class_maps(features)[:, best : best + 1], images.shape[2:], mode="bilinear")
    return maps[:, 0].relu() / maps[:, 0].amax((1, 2), keepdim=True).clamp_min(1e-6)


def heat(pixels: Tensor, strength: Tensor) -> Tensor:
    """The picture in grey, red to yellow where the map is strong."""
    grey = pixels.float().mean(0) * 0.6
    colour = torch.stack((torch.full_like(strength, 255), 255 * strength, torch.zeros_like(strength)))
    weight = strength * 0.8
    return (grey * (1 - weight) + colour * weight).round().to(torch.uint8)


# ---- random_walk ----------------------------------------------------------------------------------------------------------

STRIDE, RADIUS, BETA, STEPS = 4, 5, 10, 256
CLASS = "cup"
SIZE = (450, 300)


def random_walk() -> Image.Image:
    """The photo, the map of one class, and the same after the walk."""
    photo = Image.fromarray(data.coffee()).resize(SIZE, Image.Resampling.LANCZOS)
    pixels = np.array(photo)
    grid = (photo.height // STRIDE, photo.width // STRIDE)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    cam = class_map(pixels, grid)
    walked = ops.random_walk(cam, affinities(image_edges(image[None].float() / 255, grid)), RADIUS, BETA, STEPS)
    panels = [image, painted(image, cam), painted(image, walked / walked.max())]
    return sheet(panels, 320, 320 * photo.height // photo.width, gap=8).quantize(256)


def class_map(pixels: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """[1, 1, h, w]: the maps of all scales and flips, resized, added, without what is negative, divided by the largest."""
    model = load_model("efficientnet-lite0", LabelSettings())
    index = model.class_names.index(CLASS)
    found = model.predict(pixels)
    maps = [(m.flip(2) if flipped else m)[None, None, index] for m, flipped in zip(found.maps, found.flipped, strict=True)]
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


def painted(image: Tensor, cam: Tensor) -> Tensor:
    """The photo in grey, the map over it from blue to yellow."""
    value = interpolate(cam, image.shape[1:], mode="bilinear", align_corners=False)[0].clamp(0, 1)
    grey = image.float().mean(0, keepdim=True)
    colour = torch.cat((255 * value, 220 * value, 160 * (1 - value)))
    return (0.45 * grey + 0.55 * colour).to(torch.uint8)


# ---- label ----------------------------------------------------------------------------------------------------------------


def label_walk_crf() -> Image.Image:
    """The photos of the demo, a row each: photo, mask of the class maps, after the walk, after the CRF."""
    walk = {"walk": "image"}
    palette = torch.tensor(PALETTE, dtype=torch.uint8).reshape(256, 3)
    with TemporaryDirectory() as folder:
        paths = sorted(str(path) for path in write_photos(Path(folder)))  # the order of the results
        photos = [np.array(Image.open(path)) for path in paths]
        runs = [label(paths, "efficientnet-lite0", workers=0, **given).results for given in ({}, walk, {**walk, "crf": True})]
    panels = []
    for photo, *found in zip(photos, *runs, strict=True):
        image = torch.from_numpy(photo).permute(2, 0, 1)
        panels.append(image)
        for result in found:
            mask = torch.from_numpy(result.mask)
            colour = palette[mask.long()].permute(2, 0, 1)
            shown = torch.where(mask > 0, 0.35 * image + 0.65 * colour, 0.6 * image).to(torch.uint8)
            shown[:, borders(mask)] = 255
            panels.append(shown)
    return sheet(panels, 240, 160, gap=6, columns=4).quantize(256, method=Image.Quantize.MAXCOVERAGE)


# ---- scenes ---------------------------------------------------------------------------------------------------------------


def scenes() -> Image.Image:
    """Six images of the synthetic world, in two columns: image, truth, saliency map."""
    palette = torch.tensor(PALETTE, dtype=torch.uint8).reshape(256, 3)
    gap, side = 6, 128
    whole = Image.new("RGB", (6 * (side + gap) + gap, 3 * (side + gap) - gap), "white")
    for index in range(6):
        scene = make_scene(SceneSettings(), 0, "train", index)
        truth = palette[torch.from_numpy(scene.mask).long()].numpy()
        for panel, pixels in enumerate((scene.image, truth, np.repeat(scene.saliency[..., None], 3, axis=2))):
            column = index % 2 * 3 + panel
            left = column * (side + gap) + (gap if column > 2 else 0) + (side - pixels.shape[1]) // 2
            whole.paste(Image.fromarray(pixels), (left, index // 2 * (side + gap) + (side - pixels.shape[0]) // 2))
    return whole


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for make in (superpixel_pair, random_walk, label_walk_crf, scenes):
        make().save(FOLDER / f"{make.__name__}.png", optimize=True)
