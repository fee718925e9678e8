"""cam_merge against the same steps in PyTorch, on 8 maps: scales 0.5, 1, 1.5 and 2 of an image at stride 8, each with its mirror
image."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss_fast.bench._definition import OURS, Condition, Contestant, Function, Operation, Size, Work

SCALES, STRIDE = (0.5, 1.0, 1.5, 2.0), 8
FLIPPED = [False, True] * len(SCALES)
EPS = 1e-5


def inputs(size: Size) -> Mapping[str, Tensor]:
    n, c, h, w, present = size
    generator = torch.Generator().manual_seed(0)
    grids = [(math.ceil(h * scale / STRIDE), math.ceil(w * scale / STRIDE)) for scale in SCALES for _ in range(2)]
    maps = {f"map{k}": torch.rand((n, c, *grid), generator=generator) for k, grid in enumerate(grids)}
    there = torch.zeros(c, dtype=torch.bool)
    there[:: c // present][:present] = True
    return {"shape": torch.tensor([h, w]), "present": there, **maps}


def of_present(out: Tensor, present: Tensor) -> Tensor:
    """The channels of present classes, which lie at equal distances: a view."""
    count = int(present.sum())
    return out[:, :: out.shape[1] // count][:, :count]


def ours() -> Function:
    from wsss_fast import ops

    def run(shape: Tensor, present: Tensor, *maps: Tensor) -> Tensor:
        there = None if present.all() else present.expand(maps[0].shape[0], -1)
        return of_present(ops.cam_merge(maps, FLIPPED, shape.tolist(), there, **ops.CAM_MERGE["psa"]), present)

    return run


def definition(shape: Tensor, present: Tensor, *maps: Tensor) -> Tensor:
    from wsss_fast import ops

    out = ops.cam_merge(maps, FLIPPED, shape.tolist(), **ops.CAM_MERGE["psa"], impl="reference")
    return of_present(out, present)


def normalised(total: Tensor) -> Tensor:
    return total / (F.adaptive_max_pool2d(total, (1, 1)) + EPS)


def accumulate() -> Function:
    """As the published scripts do it, without leaving the device; present classes only."""

    def run(shape: Tensor, present: Tensor, *maps: Tensor) -> Tensor:
        chosen, size, total = torch.nonzero(present)[:, 0], shape.tolist(), None
        for value, flip in zip(maps, FLIPPED, strict=True):
            value = value[:, chosen]
            large = F.interpolate(value.flip(-1) if flip else value, size, mode="bilinear", align_corners=False)
            total = large if total is None else total.add_(large)
        return normalised(total)

    return run


def pairs() -> Function:
    """A map and its mirror image are added before they are enlarged: half the work."""

    def run(shape: Tensor, present: Tensor, *maps: Tensor) -> Tensor:
        chosen, size, total = torch.nonzero(present)[:, 0], shape.tolist(), None
        for value, mirrored in zip(maps[::2], maps[1::2], strict=True):
            pair = value[:, chosen] + mirrored[:, chosen].flip(-1)
            large = F.interpolate(pair, size, mode="bilinear", align_corners=False)
            total = large if total is None else total.add_(large)
        return normalised(total)

    return run


def work(size: Size, mode: str, dtype: str) -> Work:
    """Two multiply-adds a scale and pixel; maps read and results written once, the zeros of absent classes too."""
    n, c, h, w, present = size
    element = 4 if dtype == "float32" else 2
    maps = sum(2 * math.ceil(h * scale / STRIDE) * math.ceil(w * scale / STRIDE) for scale in SCALES)
    pixels = n * h * w
    return Work(pixels * present * (4 * len(SCALES) + 2), element * (n * present * maps + pixels * c))


ALL, THREE = (1, 20, 375, 500, 20), (1, 20, 375, 500, 3)

OPERATION = Operation(
    name="cam_merge",
    what="8 maps of an image at stride 8 (4 scales, each with its mirror image) to image size; P of C classes are present",
    axes="NxCxHxWxP",
    sizes=(ALL, THREE),
    cuda_sizes=(ALL, THREE, (8, 20, 375, 500, 3)),
    inputs=inputs,
    exact=definition,
    contestants=(
        Contestant(OURS, "wsss_fast.ops.cam_merge", ours),
        Contestant("accumulate", "F.interpolate, flip and add map by map, present classes only", accumulate),
        Contestant("pairs", "likewise, a map and its mirror image added first", pairs),
    ),
    work=work,
    modes={"fwd": ()},
    default_modes=("fwd",),
    conditions=(
        Condition(ALL, "fwd", "ratio", 4.0, "accumulate"),
        Condition(ALL, "fwd", "ratio", 6.0, "accumulate", decides=False),
        Condition(THREE, "fwd", "ratio", 2.0, "accumulate"),
        Condition(ALL, "fwd", "error", 1e-4),
        Condition(THREE, "fwd", "error", 1e-4),
    ),
)
