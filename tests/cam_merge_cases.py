"""What the tests of cam_merge share: maps as networks give them, and each published system's merge, written on its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from helpers import Implementation
from torch import Tensor

from wsss_fast import ops

BOUND = 1e-4
Grids = Sequence[tuple[int, int]]


def maps_of(impl: Implementation, grids: Grids, n: int = 2, c: int = 3, signed: bool = False) -> list[Tensor]:
    maps = [torch.randn(n, c, *grid) + 0.5 if signed else torch.rand(n, c, *grid) for grid in grids]
    return [value.to(impl.device) for value in maps]


def flips(count: int) -> list[bool]:
    return [k % 2 == 1 for k in range(count)]


def of_image(size: tuple[int, int], scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0), stride: int = 8) -> Grids:
    """The grids of an image's scales, each twice: as it is and mirrored."""
    return [tuple(math.ceil(side * scale / stride) for side in size) for scale in scales for _ in range(2)]


def definition(maps: Sequence[Tensor], flipped: Sequence[bool], size: tuple[int, int], *args, **settings) -> Tensor:
    """The reference in float64, on the CPU."""
    present = settings.pop("present", None)
    wide = [value.cpu().double() for value in maps]
    there = None if present is None else present.cpu()
    return ops.cam_merge(wide, flipped, size, there, *args, **settings, impl="reference")


# ---- the published systems: maps, flips, size, labels [N, C] (0 or 1) -> the stored maps ------------------------------------


def enlarged(value: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    return F.interpolate(value, size, mode=mode, align_corners=False)


def psa(maps: Sequence[Tensor], flipped: Sequence[bool], size: tuple[int, int], labels: Tensor) -> Tensor:
    """ReLU maps to image size, times the labels, mirrored back, added, over maximum + 1e-5."""
    total = 0
    for value, flip in zip(maps, flipped, strict=True):
        large = enlarged(value, size) * labels[:, :, None, None]
        total = total + (large.flip(-1) if flip else large)
    return total / (total.amax((2, 3), keepdim=True) + 1e-5)


def seam(maps: Sequence[Tensor], flipped: Sequence[bool], size: tuple[int, int], labels: Tensor) -> Tensor:
    """Refined maps of any sign; the sum is clamped; (S - min - 1e-5) / (max - min + 1e-5). The minimum's -1e-5 is 0 here."""
    total = 0
    for value, flip in zip(maps, flipped, strict=True):
        large = enlarged(value, size)
        total = total + (large.flip(-1) if flip else large)
    total = total.clamp(min=0)
    top, low = total.amax((2, 3), keepdim=True), total.amin((2, 3), keepdim=True)
    return ((total - low - 1e-5) / (top - low + 1e-5)).clamp(min=0) * labels[:, :, None, None]


def cpn(maps: Sequence[Tensor], flipped: Sequence[bool], size: tuple[int, int], labels: Tensor) -> Tensor:
    """As SEAM, then halved."""
    return seam(maps, flipped, size, labels) / 2


def irn(maps: Sequence[Tensor], flipped: Sequence[bool], size: tuple[int, int], labels: Tensor) -> Tensor:
    """Pairs of a map and its mirror image are added on their grid, then enlarged and added; over maximum + 1e-5."""
    assert list(flipped) == flips(len(maps))
    pairs = [plain + mirrored.flip(-1) for plain, mirrored in zip(maps[::2], maps[1::2], strict=True)]
    total = torch.stack([enlarged(pair, size) for pair in pairs]).sum(0)
    return total / (F.adaptive_max_pool2d(total, (1, 1)) + 1e-5) * labels[:, :, None, None]


def irn_high_resolution(maps: Sequence[Tensor], flipped: Sequence[bool], size: tuple[int, int]) -> Tensor:
    """Enlarged to the next multiples of 16, cut to the image, then normalised."""
    pairs = [plain + mirrored.flip(-1) for plain, mirrored in zip(maps[::2], maps[1::2], strict=True)]
    grid = tuple((side + 15) // 16 * 16 for side in size)
    total = torch.stack([enlarged(pair, grid) for pair in pairs]).sum(0)[:, :, : size[0], : size[1]]
    return total / (F.adaptive_max_pool2d(total, (1, 1)) + 1e-5)


def eps(maps: Sequence[Tensor], flipped: Sequence[bool], size: tuple[int, int], labels: Tensor) -> Tensor:
    """Softmax probabilities, enlarged, mirrored back, times the labels, added, over maximum + 1e-5."""
    large = [enlarged(value, size) for value in maps]
    upright = [value.flip(-1) if flip else value for value, flip in zip(large, flipped, strict=True)]
    total = sum(value * labels[:, :, None, None] for value in upright)
    return total / (total.flatten(2).max(2).values[:, :, None, None] + 1e-5)


def l2g(maps: Sequence[Tensor], flipped: Sequence[bool], size: tuple[int, int], labels: Tensor) -> Tensor:
    """Raw maps enlarged bicubically, mirrored back, averaged, clamped, over maximum + 1e-8."""
    large = [enlarged(value, size, "bicubic") for value in maps]
    mean = torch.stack([value.flip(-1) if flip else value for value, flip in zip(large, flipped, strict=True)]).mean(0)
    mean = mean.clamp(min=0)
    return mean / (mean.amax((2, 3), keepdim=True) + 1e-8) * labels[:, :, None, None]


# each system and whether its maps have a sign
PUBLISHED: dict[str, tuple[Callable[..., Tensor], bool]] = {
    "psa": (psa, False),
    "seam": (seam, True),
    "cpn": (cpn, True),
    "irn": (irn, False),
    "eps": (eps, False),
    "l2g": (l2g, True),
}
