"""complementary_pair against the NumPy mask of a careful user and the loop over pixels of the released CPN.

All hide the same segments: the peers are given the numbers that ours draws, and do not pay for a draw.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wsss_fast.bench._definition import OURS, Condition, Contestant, Function, Operation, Size, Work

SEED = 0


def inputs(size: Size) -> Mapping[str, Tensor]:
    n, c, h, w, k = size
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((n, c, h, w), generator=generator)
    segments = torch.stack([voronoi(h, w, k, generator) for _ in range(n)])
    drawn = _pair(torch.ones(n, 1, h, w), segments, "reference")[1][:, 0]
    hidden = torch.zeros((n, k), dtype=torch.bool).scatter_(1, segments.flatten(1).long(), drawn.flatten(1) > 0)
    return {"image": image, "segments": segments, "hidden": hidden}


def voronoi(h: int, w: int, k: int, generator: torch.Generator) -> Tensor:
    """Each pixel belongs to the nearest of k points."""
    points = torch.rand((k, 2), generator=generator) * torch.tensor([h, w])
    x = torch.arange(w, dtype=torch.float32)
    rows = [torch.stack((torch.full_like(x, y), x), dim=1) for y in range(h)]
    nearest = torch.stack([torch.cdist(row, points).argmin(1) for row in rows])
    return nearest.unique(return_inverse=True)[1].int()


def _pair(image: Tensor, segments: Tensor, impl: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    from wsss_fast import ops

    return ops.complementary_pair(image, segments, generator=torch.Generator().manual_seed(SEED), impl=impl)


def ours() -> Function:
    return lambda image, segments, hidden: _pair(image, segments)[0]


def definition(image: Tensor, segments: Tensor, hidden: Tensor) -> Tensor:
    return torch.where(hidden.gather(1, segments.flatten(1).long()).view_as(segments)[:, None], 0.0, image)


def with_numpy() -> Function:
    import numpy as np

    def one(image: Tensor, segments: Tensor, hidden: Tensor) -> Tensor:
        pixels, mask = image.numpy(), np.isin(segments.numpy(), np.flatnonzero(hidden.numpy()))
        first, _, _ = pixels * ~mask, pixels * mask, 1 - mask.mean()  # quicker than assigning to a copy
        return torch.from_numpy(first)

    return lambda *batch: _batched(one, batch)


def pixel_loop() -> Function:
    """The released program's way: every pixel asks whether its segment is in the list."""

    def one(image: Tensor, segments: Tensor, hidden: Tensor) -> Tensor:
        first, second = image.clone(), image.clone()
        labels, drawn = segments.numpy(), set(hidden.nonzero()[:, 0].tolist())
        for y in range(labels.shape[0]):
            for x in range(labels.shape[1]):
                if labels[y, x] in drawn:
                    first[:, y, x] = 0
                else:
                    second[:, y, x] = 0
        return first

    return lambda *batch: _batched(one, batch)


def _batched(one: Function, batch: tuple[Tensor, ...]) -> Tensor:
    parts = [one(*item) for item in zip(*batch, strict=True)]
    return parts[0][None] if len(parts) == 1 else torch.stack(parts)


def work(size: Size, mode: str, dtype: str) -> Work:
    """An image and its labels read, two images written."""
    n, c, h, w, _ = size
    return Work(0.0, n * h * w * (3 * c * getattr(torch, dtype).itemsize + 4))


VOC = (1, 3, 448, 448, 200)

OPERATION = Operation(
    name="complementary",
    what="an image into two, each with half of the segments hidden",
    axes="NxCxHxWxK",
    sizes=(VOC,),
    cuda_sizes=(VOC, (16, *VOC[1:])),
    inputs=inputs,
    exact=definition,
    contestants=(
        Contestant(OURS, "wsss_fast.ops.complementary_pair", ours),
        Contestant("numpy", "a NumPy mask from isin", with_numpy, devices=("cpu",)),
        Contestant("loop", "a loop over pixels, as CPN is released", pixel_loop, devices=("cpu",), extra=True),
    ),
    work=work,
    modes={"fwd": ()},
    default_modes=("fwd",),
    conditions=(Condition(VOC, "fwd", "ratio", 1.5, "numpy"), Condition(VOC, "fwd", "error", 0.0)),
    tolerance=dict.fromkeys(("float32", "bfloat16", "float16"), (0.0, 0.0)),
)
