"""Batches for tests of training: eight small pictures of coloured shapes on noise, with labels, saliency and padding."""

from __future__ import annotations

from typing import Any

import torch

from wsss_fast import methods
from wsss_fast.methods._training import Training

NAMES = ("cam", "seam", "cpn", "eps", "l2g")
COLOURS = ((220, 40, 40), (40, 200, 60), (50, 60, 230))  # disc, square, diamond


def shapes(side: int = 32, images: int = 8) -> dict[str, Any]:
    """Image i shows class c where bit c of i is set; image 0 shows none."""
    generator = torch.Generator().manual_seed(0)
    pixels = 110 + 30 * torch.rand(images, 3, side, side, generator=generator)
    labels, saliency = torch.zeros(images, len(COLOURS)), torch.zeros(images, 1, side, side, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    radius = 0.18 * side
    for image in range(images):
        for kind, colour in enumerate(COLOURS):
            if image >> kind & 1:
                dy, dx = (place - side * (0.2 + 0.6 * torch.rand((), generator=generator)) for place in (y, x))
                inside = (
                    dy.square() + dx.square() < radius**2,
                    torch.maximum(dy.abs(), dx.abs()) < radius,
                    dy.abs() + dx.abs() < 1.3 * radius,
                )[kind]
                pixels[image, :, inside] = torch.tensor(colour).float()[:, None]
                labels[image, kind], saliency[image, 0, inside] = 1, 255
    return {
        "pixels": pixels.to(torch.uint8),
        "inside": torch.ones(images, side, side, dtype=torch.bool),
        "labels": labels,
        "names": [f"picture {image}" for image in range(images)],
        "saliency": saliency,
    }


def padded(side: int = 32, images: int = 2) -> dict[str, Any]:
    """As `shapes`, the last quarter of the columns being padding; the first image shows one class, the second another."""
    batch = shapes(side, images + 1)
    batch = {name: value[1:] for name, value in batch.items()}
    edge = side * 3 // 4
    batch["inside"][:, :, edge:] = False
    batch["pixels"][..., edge:] = 0
    batch["saliency"][..., edge:] = 0
    return batch


def small(name: str, published: str | None = None, seed: int = 0, backbone: str | None = None, **changes: Any) -> Training:
    """A narrow network with random weights, in training mode."""
    torch.manual_seed(seed)
    settings = methods.settings(name, published, **changes)
    options = {} if backbone == "efficientnet-lite0" else {"width": 1 / 16}
    return methods.training(name, 3, backbone, published, settings, **options).train()
