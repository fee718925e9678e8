"""Images for slic, what every result must satisfy, and measures of how well segments follow a known outline."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry", "retina", "hubble_deep_field")
NATURAL = PHOTOS[:4]


@cache
def photo(name: str, h: int, w: int) -> Tensor:
    """A scikit-image photo, [3, H, W] uint8."""
    import numpy as np
    from PIL import Image
    from skimage import data

    pixels = getattr(data, name)()[..., :3]
    return torch.from_numpy(np.array(Image.fromarray(pixels).resize((w, h)))).permute(2, 0, 1).contiguous()


def noise(h: int, w: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def smooth(h: int, w: int, seed: int, low: int = 5) -> Tensor:
    """A smooth random surface [H, W]."""
    coarse = torch.randn((1, 1, low, low), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (h, w), mode="bicubic", align_corners=True)[0, 0]


def composite(index: int, size: int) -> tuple[Tensor, Tensor]:
    """A photo with smooth random shapes of another pasted on it [3, H, W], and where [H, W] bool."""
    first = index % len(PHOTOS)
    second = (first + 1 + index // len(PHOTOS) % (len(PHOTOS) - 1)) % len(PHOTOS)
    surface = smooth(size, size, index)
    pasted = surface > surface.flatten().quantile(0.6)
    return torch.where(pasted, photo(PHOTOS[first], size, size), photo(PHOTOS[second], size, size)), pasted


def outlines(labels: Tensor) -> Tensor:
    """Pixels whose right or lower neighbour has another label."""
    edge = torch.zeros(labels.shape, dtype=torch.bool)
    edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    edge[:-1] |= labels[1:] != labels[:-1]
    return edge


def quality(labels: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """Boundary recall: the share of the true outline with a boundary of segments at most 2 pixels away in x and in y.
    Under-segmentation error: the share of pixels in the lesser part of their segment. Boundary length: pairs of neighbours."""
    near = torch.nn.functional.max_pool2d(outlines(labels).float()[None], 5, stride=1, padding=2)[0] > 0
    outline = outlines(truth)
    size = torch.bincount(labels.flatten())
    inside = torch.bincount(labels.flatten()[truth.flatten()], minlength=len(size))
    length = (labels[1:] != labels[:-1]).sum() + (labels[:, 1:] != labels[:, :-1]).sum()
    return (
        (near & outline).sum().item() / outline.sum().item(),
        torch.minimum(inside, size - inside).sum().item() / labels.numel(),
        length.item(),
    )


def number_of(labels: Tensor) -> int:
    return int(labels.max()) + 1


def as_many_as(wanted: int, segments: Callable[[int], Tensor], within: int) -> Tensor | None:
    """A result with `wanted` segments, give or take `within`. Grids do not give every number: None if there is none."""
    asked = range(wanted * 4 // 5, wanted * 5 // 4, max(1, wanted // 100))
    best = min((segments(number) for number in asked), key=lambda labels: abs(number_of(labels) - wanted))
    return best if abs(number_of(best) - wanted) <= within else None


def check_segments(labels: Tensor, mask: Tensor | None = None) -> None:
    """Numbered 0 .. K-1 in raster order, each 4-connected, -1 exactly where the mask is false."""
    from skimage import measure

    labels = labels.cpu()
    taken = torch.ones(labels.shape, dtype=torch.bool) if mask is None else mask.cpu()
    assert labels.dtype == torch.int32 and torch.equal(labels >= 0, taken) and labels.min() >= -1
    if not taken.any():
        return
    count = int(labels.max()) + 1
    first = [int((labels.flatten() == k).nonzero()[0]) for k in range(count)]
    assert first == sorted(first)
    assert measure.label(labels.numpy(), background=-1, connectivity=1).max() == count
