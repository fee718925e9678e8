"""affinity against the published gather of AffinityNet, torch.compile of it, and shifted planes in plain PyTorch.

The results compared are the published pairs, those of interior pixels; ours computes the planes of all pixels and takes them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from wsss_fast.bench._definition import OURS, Condition, Contestant, Function, Operation, Size, Work

RADIUS, PLANES = 5, 34


def inputs(size: Size) -> Mapping[str, Tensor]:
    return {"feature": torch.randn(size, generator=torch.Generator().manual_seed(0))}


def ours() -> Function:
    from wsss_fast import ops

    return lambda feature: ops.affinity_pairs(ops.affinity(feature, RADIUS), RADIUS)


@cache
def _pairs(h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Flat indices of the published sources, and of the partners of all of them: [S], [E * S]."""
    from wsss_fast import ops

    pixel = torch.arange(h * w).view(1, 1, h, w)
    source = pixel[..., : h - RADIUS + 1, RADIUS - 1 : w - RADIUS + 1].flatten()
    steps = torch.tensor([dy * w + dx for dy, dx in ops.affinity_offsets(RADIUS).tolist()])
    return source.to(device), (source + steps[:, None]).flatten().to(device)


def published(feature: Tensor) -> Tensor:
    """The steps of the published network: both ends of every pair gathered."""
    n, c, h, w = feature.shape
    source, target = _pairs(h, w, feature.device)
    flat = feature.flatten(2)
    first = torch.index_select(flat, 2, source).unsqueeze(2)
    second = torch.index_select(flat, 2, target).view(n, c, -1, len(source))
    return torch.exp(-torch.mean(torch.abs(second - first), dim=1))


def compiled() -> Function:
    return torch.compile(published, dynamic=False)


def in_planes() -> Function:
    """A plane an offset: what a careful user writes."""

    def run(feature: Tensor) -> Tensor:
        from wsss_fast import ops

        return ops.affinity_pairs(ops.affinity(feature, RADIUS, impl="reference"), RADIUS)

    return run


def result_shape(size: Size) -> Size:
    n, _, h, w = size
    return n, PLANES, (h - RADIUS + 1) * (w - 2 * RADIUS + 2)


def work(size: Size, mode: str, dtype: str) -> Work:
    """A difference, a magnitude and a sum for each pair and channel; backward a difference, a sign and two sums."""
    n, c, h, w = size
    pairs = n * h * w * PLANES
    forward, backward = 3.0 * c * pairs, 4.0 * c * pairs
    itemsize = getattr(torch, dtype).itemsize
    feature, planes = n * c * h * w * itemsize, pairs * itemsize
    flop = {"fwd": forward, "bwd": backward}.get(mode, forward + backward)
    traffic = {"fwd": feature + planes, "bwd": 2 * feature + 2 * planes}.get(mode, 3 * feature + 3 * planes)
    return Work(flop, traffic)


VOC, CROP = (1, 448, 47, 63), (1, 448, 56, 56)

OPERATION = Operation(
    name="affinity",
    what="how alike pixels less than 5 apart are, by their features",
    axes="NxCxHxW",
    sizes=(VOC, CROP),
    cuda_sizes=(CROP, (8, *CROP[1:])),
    inputs=inputs,
    exact=in_planes(),
    contestants=(
        Contestant(OURS, "wsss_fast.ops.affinity", ours),
        Contestant("gather", "PyTorch, as AffinityNet publishes it", lambda: published),
        Contestant("compile", "torch.compile of the same", compiled),
        Contestant("planes", "PyTorch, a plane an offset", in_planes),
    ),
    work=work,
    modes={"fwd": (), "bwd": ("feature",), "fwdbwd": ("feature",)},
    default_modes=("fwd", "bwd"),
    conditions=(
        Condition(VOC, "fwd", "ratio", 40.0, "gather"),
        Condition(VOC, "bwd", "ratio", 10.0, "gather"),
        Condition(VOC, "fwd", "memory", 10.0),
        Condition(VOC, "bwd", "memory", 10.0),
        Condition(VOC, "fwd", "error", 1e-5),
        Condition(VOC, "bwd", "gradient error", 1e-5),
    ),
    result_shape=result_shape,
)
