#!/usr/bin/env python3
"""Makes the pictures of these pages: python docs/pictures.py

Needs the extra `demo`. The photo is scikit-image's `chelsea` by Stefan van der Walt (CC0: no rights reserved).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from torch import Tensor
from torch.nn import functional

from wsss_fast import ops
from wsss_fast.nets import efficientnet

FOLDER = Path(__file__).parent / "pictures"
PANEL = (264, 176)  # width, height


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
    return sheet(panels, across=3)


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
    maps = functional.interpolate(network.class_maps(features)[:, best : best + 1], images.shape[2:], mode="bilinear")
    return maps[:, 0].relu() / maps[:, 0].amax((1, 2), keepdim=True).clamp_min(1e-6)


def heat(pixels: Tensor, strength: Tensor) -> Tensor:
    """The picture in grey, red to yellow where the map is strong."""
    grey = pixels.float().mean(0) * 0.6
    colour = torch.stack((torch.full_like(strength, 255), 255 * strength, torch.zeros_like(strength)))
    weight = strength * 0.8
    return (grey * (1 - weight) + colour * weight).round().to(torch.uint8)


def sheet(panels: list[Tensor], across: int, gap: int = 6) -> Image.Image:
    width, height = PANEL
    rows = -(-len(panels) // across)
    whole = Image.new("RGB", (across * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, panel in enumerate(panels):
        picture = Image.fromarray(np.ascontiguousarray(panel.permute(1, 2, 0).numpy())).resize(PANEL, Image.Resampling.LANCZOS)
        whole.paste(picture, (i % across * (width + gap), i // across * (height + gap)))
    return whole.quantize(256, method=Image.Quantize.MAXCOVERAGE)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    superpixel_pair().save(FOLDER / "superpixel_pair.png", optimize=True)
