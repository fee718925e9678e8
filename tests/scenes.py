"""Small pictures of coloured shapes whose masks are known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wsss_fast.methods import pair_labels


def shapes(count: int, side: int) -> tuple[Tensor, np.ndarray]:
    """uint8 RGB [N, 3, S, S] and masks [N, S, S]: a red disc (class 0) and a blue square (class 1) on green."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    masks = np.zeros((count, side, side), np.uint8)
    for mask in masks:
        cy, cx, left = generator.uniform((0.2, 0.3, 0.1), (0.4, 0.7, 0.5))
        mask[(y - cy) ** 2 + (x - cx) ** 2 < 0.2**2] = 1
        mask[(y >= 0.55) & (y < 0.95) & (x >= left) & (x < left + 0.4)] = 2
    return painted(masks), masks


def halves(count: int, side: int) -> tuple[Tensor, np.ndarray]:
    """A slanted border between red (class 0) and green: no pair of equal labels has it in between."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    lines = generator.uniform((0.35, -0.3), (0.65, 0.3), (count, 2))
    masks = np.stack([x < place + slope * (y - 0.5) for place, slope in lines]).astype(np.uint8)
    return painted(masks), masks


def painted(masks: np.ndarray) -> Tensor:
    colours = np.asarray([(60, 150, 70), (210, 50, 40), (40, 60, 200)])[masks]
    noise = np.random.default_rng(1).normal(0, 8, colours.shape)
    return torch.from_numpy((colours + noise).clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


def batch(pictures: tuple[Tensor, np.ndarray], stride: int) -> dict[str, object]:
    """A batch for training on pairs, with labels at the network's stride."""
    pixels, masks = pictures
    n, _, h, w = pixels.shape
    labels = [pair_labels.index_target(mask, stride) for mask in masks]
    return {
        "pixels": pixels,
        "inside": torch.ones(n, h, w, dtype=torch.bool),
        "labels": torch.ones(n, 2),
        "names": [f"picture {i}" for i in range(n)],
        "affinity": torch.from_numpy(np.stack(labels)),
    }
