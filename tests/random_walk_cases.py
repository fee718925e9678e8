"""Inputs of random_walk, and its definition with the whole matrix: what the tests of its numbers and of its operation share."""

from __future__ import annotations

import torch
from torch import Tensor

from wsss_fast.ops._reference.half_disc import half_disc


def inputs(shape: tuple[int, ...], radius: int = 5, dtype: torch.dtype = torch.float32, device: str = "cpu"):
    """cam with a peak in each row, and affinities of which some are 0 and some 1."""
    n, c, h, w = shape
    generator = torch.Generator().manual_seed(h * 100 + w)
    cam = torch.rand((n, c, h, w), generator=generator) ** 4
    affinity = 1.3 * torch.rand((n, len(half_disc(radius)), h, w), generator=generator) - 0.15
    return cam.to(device, dtype), affinity.clamp(0, 1).to(device, dtype)


def matrix(affinity: Tensor, radius: int = 5, border: str = "full") -> Tensor:
    """[N, P, P] in float64, one pair at a time."""
    n, _, h, w = affinity.shape
    a = torch.eye(h * w, dtype=torch.float64).repeat(n, 1, 1)
    for e, (dy, dx) in enumerate(half_disc(radius)):
        for y in range(h - dy):
            for x in range(max(0, -dx), w - max(0, dx)):
                if border == "published" and not (y < h - radius + 1 and radius - 1 <= x < w - radius + 1):
                    continue
                i, j = y * w + x, (y + dy) * w + x + dx
                a[:, i, j] = a[:, j, i] = affinity[:, e, y, x].double().cpu()
    return a


def transition(affinity: Tensor, radius: int = 5, beta: float = 8, border: str = "full") -> tuple[Tensor, Tensor]:
    """T and the sums of its columns before they were divided by them."""
    a = matrix(affinity, radius, border)
    a = torch.where(a > 0, a**beta, 0)
    degree = a.sum(dim=1)
    return a / degree[:, None], degree


def dense(cam: Tensor, affinity: Tensor, radius: int = 5, beta: float = 8, steps: int = 256, border: str = "full") -> Tensor:
    t, _ = transition(affinity, radius, beta, border)
    out = cam.double().cpu().flatten(2) @ torch.linalg.matrix_power(t, steps)
    return out.reshape(cam.shape)


def planes_of(matrix: Tensor, h: int, w: int, radius: int = 5) -> Tensor:
    """[1, E, H, W] out of a matrix [P, P]; NaN where a plane has no pair, which nobody may read."""
    offsets = half_disc(radius)
    planes = torch.full((1, len(offsets), h, w), float("nan"), dtype=matrix.dtype)
    for e, (dy, dx) in enumerate(offsets):
        for y in range(h - dy):
            for x in range(max(0, -dx), w - max(0, dx)):
                planes[0, e, y, x] = matrix[y * w + x, (y + dy) * w + x + dx]
    return planes
