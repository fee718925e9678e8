from __future__ import annotations

import torch
from torch import Tensor

from wsss_fast.ops._reference.affinity import plane, sources
from wsss_fast.ops._reference.half_disc import half_disc


def path(dy: int, dx: int) -> list[tuple[int, int]]:
    """The pixels less than 1 away from the segment from (0, 0) to (dy, dx), inside the box it spans, row by row."""
    return [
        (y, x) for y in range(dy + 1) for x in range(min(dx, 0), max(dx, 0) + 1) if (dy * x - dx * y) ** 2 < dy * dy + dx * dx
    ]


def edge_affinity(edge: Tensor, radius: int) -> Tensor:
    """edge [N,1,H,W] -> [N,E,H,W]: 1 - maximum of the edge along the path. The first of equal maxima takes the gradient."""
    n, _, h, w = edge.shape
    x = edge[:, 0].to(torch.promote_types(edge.dtype, torch.float32))
    planes = []
    for dy, dx in half_disc(radius):
        along = torch.stack([sources(x, dy, dx, *point) for point in path(dy, dx)])
        planes.append(plane(1 - along.max(dim=0).values, dy, dx, h, w))
    out = torch.stack(planes, dim=1) if planes else x.new_zeros((n, 0, h, w)) + x.sum() * 0
    return out.to(edge.dtype)
