"""pcm against plain PyTorch as SEAM publishes it, torch.compile of that, the same in blocks, and FlexAttention."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wsss_fast.bench._definition import OURS, Condition, Contestant, Function, Operation, Size, Work

EPS = 1e-5


def inputs(size: Size) -> Mapping[str, Tensor]:
    n, d, c, h, w = size
    generator = torch.Generator().manual_seed(0)
    return {"cam": torch.rand((n, c, h, w), generator=generator), "feature": torch.randn((n, d, h, w), generator=generator)}


def ours() -> Function:
    from wsss_fast import ops

    return ops.pcm


def published(cam: Tensor, feature: Tensor) -> Tensor:
    """The order of steps of the published module: the affinity is divided as a matrix."""
    unit = feature.flatten(2)
    unit = unit / (torch.norm(unit, dim=1, keepdim=True) + EPS)
    affinity = torch.relu_(unit.transpose(1, 2) @ unit)
    affinity = affinity / (affinity.sum(dim=1, keepdim=True) + EPS)
    return (cam.flatten(2) @ affinity).view(cam.shape)


def compiled() -> Function:
    return torch.compile(published, dynamic=False)


def divided_late() -> Function:
    """Plain PyTorch that divides the result in place of the matrix: what a careful user writes."""
    from wsss_fast.ops._reference.pcm import pcm

    return pcm


def in_blocks(cam: Tensor, feature: Tensor, block: int = 448) -> Tensor:
    """Columns in blocks, each recomputed for its gradient: no whole matrix at any time."""
    unit = feature.flatten(2)
    unit = unit / (unit.norm(dim=1, keepdim=True) + EPS)
    value = cam.flatten(2)
    value = torch.cat((value, torch.ones_like(value[:, :1])), dim=1)

    def columns(unit: Tensor, some: Tensor, value: Tensor) -> Tensor:
        sums = value @ torch.relu(unit.transpose(1, 2) @ some)
        return sums[:, :-1] / (sums[:, -1:] + EPS)

    parts = [checkpoint(columns, unit, some, value, use_reentrant=False) for some in unit.split(block, dim=2)]
    return torch.cat(parts, dim=2).view(cam.shape)


def flex() -> Function:
    """FlexAttention with the score log(max(s, 0)): softmax of it is max(s, 0) over its sum (without eps)."""
    from torch.nn.attention.flex_attention import flex_attention

    def score(s: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        # The inner where keeps the logarithm's derivative at 0, which is infinite, out of the gradient.
        return torch.where(s > 0, torch.log(torch.where(s > 0, s, 1.0)), -float("inf"))

    attention = torch.compile(flex_attention, dynamic=False)

    def run(cam: Tensor, feature: Tensor) -> Tensor:
        unit = feature.flatten(2)
        unit = (unit / (unit.norm(dim=1, keepdim=True) + EPS)).transpose(1, 2).unsqueeze(1)
        unit = torch.nn.functional.pad(unit, (0, -unit.shape[-1] % 16)).contiguous()
        value = cam.flatten(2).transpose(1, 2).unsqueeze(1)
        classes = value.shape[-1]
        value = torch.nn.functional.pad(value, (0, -classes % 16)).contiguous()
        out = attention(unit, unit, value, score_mod=score, scale=1.0)
        return out[..., :classes].squeeze(1).transpose(1, 2).reshape(cam.shape)

    return run


def work(size: Size, mode: str, dtype: str) -> Work:
    """Every product counted once and whole (using its symmetry halves the first). Backward forms the affinity anew."""
    n, d, c, h, w = size
    pixels = h * w
    pair = 2.0 * n * pixels * pixels
    forward = pair * (d + c + 1)
    backward = pair * (d + 2 * c + 2 + d)  # affinity, bracket of 2C + 2 terms, gradient of the features
    if mode == "fwdbwd-all":
        backward += pair * c
    flop = {"fwd": forward, "bwd": backward}.get(mode, forward + backward)
    itemsize = getattr(torch, dtype).itemsize
    maps, features = n * c * pixels * itemsize, n * d * pixels * itemsize
    traffic = {"fwd": 2 * maps + features, "bwd": 3 * maps + 2 * features}.get(mode, 5 * maps + 3 * features)
    if mode == "fwdbwd-all":
        traffic += maps
    return Work(flop, traffic, 3 if dtype == "float32" else 1)


VOC, LARGE, BATCH = (1, 192, 21, 56, 56), (1, 192, 21, 112, 84), (2, 195, 21, 56, 56)
_BOUNDS = (("fwd", "eager", 4.0), ("fwd", "compile", 3.0), ("fwdbwd", "eager", 3.3))

OPERATION = Operation(
    name="pcm",
    what="class maps refined by the cosine similarity of features",
    axes="NxDxCxHxW",
    sizes=(VOC, LARGE, BATCH),
    cuda_sizes=(VOC, (8, *VOC[1:]), LARGE, BATCH),
    inputs=inputs,
    exact=in_blocks,
    contestants=(
        Contestant(OURS, "wsss_fast.ops.pcm", ours),
        Contestant("eager", "PyTorch, as SEAM publishes it", lambda: published),
        Contestant("compile", "torch.compile of the same", compiled),
        Contestant("blocks", "PyTorch in blocks of columns, checkpointed", lambda: in_blocks),
        Contestant("late", "PyTorch, dividing the result in place of the matrix", divided_late, extra=True),
        Contestant("flex", "FlexAttention, score log(max(s, 0))", flex, devices=("cuda",)),
    ),
    work=work,
    modes={"fwd": (), "bwd": ("feature",), "fwdbwd": ("feature",), "fwdbwd-all": ("cam", "feature")},
    conditions=(
        *(Condition(VOC, mode, "ratio", bound, peer) for mode, peer, bound in _BOUNDS),
        Condition(BATCH, "fwdbwd", "share of memory", 0.3, "eager"),
        Condition(VOC, "fwd", "memory", 4.0),
        Condition(VOC, "fwdbwd", "memory", 22.0),
        *(Condition(size, mode, "ratio", 0.8 * bound, peer) for size in (LARGE, BATCH) for mode, peer, bound in _BOUNDS),
        *(Condition(size, "fwd", "error", 1e-5) for size in (VOC, LARGE, BATCH)),
        *(Condition(size, "fwdbwd", "gradient error", 1e-3) for size in (VOC, LARGE, BATCH)),
        *(Condition(size, "fwdbwd", "gradient error", 1e-3, "eager", decides=False) for size in (VOC, LARGE, BATCH)),
    ),
    # a peer's float32 may put a cosine near 0 on the other side than float64 does; 5e-2 was seen
    tolerance={"float32": (1e-4, 1e-1), "bfloat16": (5e-2, 5e-1), "float16": (1e-2, 2e-1)},
)
