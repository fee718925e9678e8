from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from wsss_fast.ops._reference.half_disc import half_disc


def sources(x: Tensor, dy: int, dx: int, y: int = 0, left: int = 0) -> Tensor:
    """The pixels of x [..., H, W] that have a partner (dy, dx) further on, moved by (y, left): by (dy, dx) the partners."""
    h, w = x.shape[-2:]
    rows, columns = max(h - dy, 0), max(w - abs(dx), 0)
    return x[..., y : y + rows, max(-dx, 0) + left : max(-dx, 0) + left + columns]


def plane(values: Tensor, dy: int, dx: int, h: int, w: int) -> Tensor:
    """Values of the pairs p, p + (dy, dx) as a plane [..., H, W]: 0 where there is no such pair."""
    if values.numel() == 0:
        return values.new_zeros((*values.shape[:-2], h, w)) + values.sum()
    return pad(values, (max(-dx, 0), max(dx, 0), 0, dy))


def affinity(feature: Tensor, radius: int = 5) -> Tensor:
    """feature [N,C,H,W] -> [N,E,H,W], E offsets of the half disc. Differences of half types are summed in float32."""
    n, channels, h, w = feature.shape
    x = feature.to(torch.promote_types(feature.dtype, torch.float32))
    planes = [
        plane(torch.exp(-(sources(x, dy, dx) - sources(x, dy, dx, dy, dx)).abs().sum(1) / max(channels, 1)), dy, dx, h, w)
        for dy, dx in half_disc(radius)
    ]
    out = torch.stack(planes, dim=1) if planes else x.new_zeros((n, 0, h, w)) + x.sum() * 0
    return out.to(feature.dtype)
