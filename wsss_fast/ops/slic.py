"""SLIC superpixels: an image cut into connected pieces of like colour."""

from __future__ import annotations

import torch
from torch import Tensor

from wsss_fast.ops import _check, _library
from wsss_fast.ops._reference.slic import slic as _reference
from wsss_fast.ops._view import Call, empty

__all__ = ["slic"]

LARGEST = 1e6  # kLargestCompactness in csrc/slic/slic_rules.h


def slic(
    image: Tensor,
    segments: int = 200,
    compactness: float = 10,
    iterations: int = 10,
    mask: Tensor | None = None,
    *,
    impl: str | None = None,
) -> Tensor:
    """Cut images into about `segments` connected pieces of like colour.

    Every pixel goes to the nearest of a grid of centres by (CIELAB colours; S is the spacing of the grid)::

        |lab_p - lab_k|^2 + (compactness / S)^2 |xy_p - xy_k|^2

    every centre to the mean of its pixels, and so on; then labels are cut into their connected pieces, of which those smaller
    than a fifth of a grid cell join a neighbour. docs/slic.md tells the details.

    Args:
        image: [N, 3, H, W] uint8 sRGB, any strides.
        segments: 1 or more. The grid comes near to this number, with cells of 2x2 pixels at least; pieces that split off or
            are swallowed move the result by some percent.
        compactness: above 0, at most 1e6. Large: square segments; small: segments that follow every edge.
        iterations: 0 or more; 0 gives the cells of the grid.
        mask: [N, H, W] or [N, 1, H, W] bool; True takes part. The grid is that of the whole image, so an image of which half
            takes part gets about half the segments.
        impl: None (by device), "reference", "cpu", "simt" or "cuda".

    Returns:
        [N, H, W] int32: the segments of an image are numbered 0 .. K-1 in raster order of their first pixels, each connected
        by its pixels' four neighbours; -1 where the mask is False. The same on every device and for every number of threads.

    Raises:
        TypeError, ValueError: naming the argument. RuntimeError: as for every operation.
    """
    _check.photo("slic", "image", image)
    _check.whole("slic", "segments", segments, 1)
    _check.whole("slic", "iterations", iterations, 0)
    if not (_check.is_number(compactness) and 0 < compactness <= LARGEST):
        raise ValueError(_check.complaint("slic", "compactness", f"be above 0 and at most {LARGEST:g}", repr(compactness)))
    if mask is not None:
        mask = _checked_mask(mask, image)
    impl = _check.implementation("slic", impl, image)
    if impl == "reference":
        return _reference(image, segments, compactness, iterations, mask)
    return torch.ops.wsss_fast.slic(image, segments, compactness, iterations, mask, impl)


def _checked_mask(mask: Tensor, image: Tensor) -> Tensor:
    """[N, H, W], of what the caller gave."""
    n, _, h, w = image.shape
    if isinstance(mask, Tensor) and mask.shape == (n, 1, h, w):
        mask = mask[:, 0]
    _check.tensor("slic", "mask", mask, "[N, H, W]")
    _check.dtype("slic", "mask", mask, (torch.bool,), "True takes part; mask != 0 makes one")
    _check.shape("slic", "mask", mask, "[N, H, W] or [N, 1, H, W]", (n, h, w), "N, H, W of 'image'")
    _check.device("slic", "mask", mask, "image", image)
    return mask


def _run(image: Tensor, segments: int, compactness: float, iterations: int, mask: Tensor | None, impl: str) -> Tensor:
    out = empty("slic", "out", (image.shape[0], *image.shape[2:]), torch.int32, image.device)
    call = Call("slic", impl, image)
    pixels = call.view(image)
    workspace = call.workspace(call.module.slic_workspace(pixels, segments, call.context))
    call.module.slic(pixels, call.view(mask), segments, compactness, iterations, call.view(out), workspace, call.context)
    return out


def _fake(image: Tensor, *_: object) -> Tensor:
    n, _, h, w = image.shape
    return image.new_empty((n, h, w), dtype=torch.int32)


_library.define(
    "slic(Tensor image, int segments, float compactness, int iterations, Tensor? mask, str impl) -> Tensor", _run, _fake
)
