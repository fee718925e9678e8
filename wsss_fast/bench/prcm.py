"""prcm against plain PyTorch as CPN publishes it, and torch.compile of that."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wsss_fast.bench._definition import OURS, Condition, Contestant, Function, Operation, Size, Work


def inputs(size: Size) -> Mapping[str, Tensor]:
    n, c1, c2, c, h, w = size
    generator = torch.Generator().manual_seed(0)
    return {
        "cam": torch.rand((n, c, h, w), generator=generator),
        "x": torch.randn((n, c1, h, w), generator=generator) + torch.randn((n, c1, 1, 1), generator=generator),
        "query": torch.randn((n, c2, h, w), generator=generator).relu(),
        "phi": torch.randn((c2, c1), generator=generator) / c1**0.5,
    }


def ours() -> Function:
    from wsss_fast import ops

    def run(cam: Tensor, x: Tensor, query: Tensor, phi: Tensor) -> Tensor:
        return ops.prcm(cam, x, query, phi, layout="view")

    return run


def published(cam: Tensor, x: Tensor, query: Tensor, phi: Tensor) -> Tensor:
    """The steps of the released code: the memory of the key is read as [C, C2], the gate sums to 1 over positions."""
    n, c = cam.shape[:2]
    weights = torch.softmax(cam.flatten(2), dim=2)
    proxy = torch.matmul(weights, x.flatten(2).transpose(1, 2)).transpose(1, 2).unsqueeze(3)
    key = torch.relu(torch.nn.functional.conv2d(proxy, phi[:, :, None, None])).contiguous().view(n, c, -1)
    similarity = torch.matmul(key, query.flatten(2)) * c**-0.5
    return cam * torch.softmax(similarity, dim=2).view(cam.shape)


def compiled() -> Function:
    return torch.compile(published, dynamic=False)


def work(size: Size, mode: str, dtype: str) -> Work:
    n, c1, c2, c, h, w = size
    pixels = h * w
    forward = 2.0 * n * c * (pixels * (c1 + c2) + c1 * c2)
    backward = 2.0 * n * c * (2 * pixels * c2 + c1 * c2)
    flop = {"fwd": forward, "bwd": backward}.get(mode, forward + backward)
    itemsize = getattr(torch, dtype).itemsize
    maps, xs, queries, weight = (count * itemsize for count in (n * c * pixels, n * c1 * pixels, n * c2 * pixels, c1 * c2))
    moved = {"fwd": 2 * maps + xs + queries + weight, "bwd": 2 * maps + 2 * queries + weight}
    return Work(flop, moved.get(mode, sum(moved.values())))


VOC, LARGE, BATCH = (1, 195, 192, 21, 56, 56), (1, 195, 192, 21, 112, 84), (4, 195, 192, 21, 56, 56)
PAIR = (2, *VOC[1:])

OPERATION = Operation(
    name="prcm",
    what="class maps gated by the likeness of pixels to their class's average",
    axes="NxC1xC2xCxHxW",
    sizes=(VOC, LARGE, BATCH, PAIR),
    cuda_sizes=(VOC, LARGE, BATCH),
    inputs=inputs,
    exact=published,
    contestants=(
        Contestant(OURS, "wsss_fast.ops.prcm", ours),
        Contestant("eager", "PyTorch, as CPN publishes it", lambda: published),
        Contestant("compile", "torch.compile of the same", compiled),
    ),
    work=work,
    modes={"fwd": (), "bwd": ("query", "phi"), "fwdbwd": ("query", "phi")},
    conditions=(
        *(Condition(size, mode, "ratio", 1.0, "eager") for size in (VOC, LARGE, BATCH) for mode in ("fwd", "fwdbwd")),
        *(Condition(size, mode, "share of memory", 1.0, "eager") for size in (VOC, LARGE, BATCH) for mode in ("fwd", "fwdbwd")),
        # neither has a matrix of (HW)^2: a few maps against a few more
        Condition(PAIR, "fwdbwd", "share of memory", 0.3, "eager"),
        *(Condition(size, "fwd", "error", 1e-5) for size in (VOC, LARGE, BATCH)),
        *(Condition(size, "fwdbwd", "gradient error", 1e-4) for size in (VOC, LARGE, BATCH)),
    ),
)
