"""pcm_prcm, the attention of CPN: both modules of one feature, against plain PyTorch as CPN publishes them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wsss_fast.bench import pcm, prcm
from wsss_fast.bench._definition import OURS, Condition, Contestant, Function, Operation, Size, Work


def inputs(size: Size) -> Mapping[str, Tensor]:
    made = dict(prcm.inputs(size))
    made["feature"] = torch.randn(made.pop("query").shape, generator=torch.Generator().manual_seed(1))
    return {name: made[name] for name in ("cam", "x", "feature", "phi")}


def ours() -> Function:
    from wsss_fast import ops

    def run(cam: Tensor, x: Tensor, feature: Tensor, phi: Tensor) -> Tensor:
        return ops.pcm_prcm(cam, x, feature, phi, layout="view")

    return run


def published(cam: Tensor, x: Tensor, feature: Tensor, phi: Tensor) -> Tensor:
    return pcm.published(cam, feature) + prcm.published(cam, x, feature.relu(), phi)


def exact(cam: Tensor, x: Tensor, feature: Tensor, phi: Tensor) -> Tensor:
    return pcm.in_blocks(cam, feature) + prcm.published(cam, x, feature.relu(), phi)


def work(size: Size, mode: str, dtype: str) -> Work:
    n, _, c2, c, h, w = size
    one, other = pcm.work((n, c2, c, h, w), mode, dtype), prcm.work(size, mode, dtype)
    return Work(one.flop + other.flop, one.bytes + other.bytes)


BATCH = (2, 195, 192, 21, 56, 56)

OPERATION = Operation(
    name="pcm_prcm",
    what="class maps refined by pixels and by regions, as CPN does",
    axes="NxC1xC2xCxHxW",
    sizes=(BATCH,),
    cuda_sizes=(BATCH,),
    inputs=inputs,
    exact=exact,
    contestants=(
        Contestant(OURS, "wsss_fast.ops.pcm_prcm", ours),
        Contestant("eager", "PyTorch, as CPN publishes it", lambda: published),
    ),
    work=work,
    modes={"fwd": (), "bwd": ("feature", "phi"), "fwdbwd": ("feature", "phi")},
    conditions=(
        Condition(BATCH, "fwdbwd", "ratio", 2.5, "eager"),
        Condition(BATCH, "fwdbwd", "share of memory", 0.3, "eager"),
        Condition(BATCH, "fwd", "error", 1e-5),
        Condition(BATCH, "fwdbwd", "gradient error", 1e-3),
    ),
    tolerance=pcm.OPERATION.tolerance,
)
