"""RoIAlign: boxes cut out of feature maps and brought to one size by bilinear samples."""

from __future__ import annotations

import torch
from torch import Tensor

from wsss_fast.methods import _maps
from wsss_fast.ops import _check


def roi_align(features: Tensor, boxes: Tensor, size: tuple[int, int], scale: float = 1.0, aligned: bool = True) -> Tensor:
    """The mean of bilinear samples in each of h x w bins of a box.

    A box goes from a = x1 * scale to b = x2 * scale on the grid; bin k has width (b - a) / w and s = ceil((b - a) / w) samples,
    spaced evenly, in each direction::

        x = a + (k + (i + 1/2) / s) (b - a) / w,   i = 0 ... s - 1

    A sample up to one cell outside is moved to the border, one farther off is 0. `aligned` shifts the box by half a cell, so
    that a box of whole cells cut at its own size gives these cells. Without it (as L2G was published) each value is the mean of
    2 x 2 cells, half a cell off, and sides below one cell count as one.

    Args:
        features: [N, C, H, W].
        boxes: [R, 5], rows (image, x1, y1, x2, y2) in pixels.
        size: (h, w) of the result.
        scale: cells a pixel, as 1 / 8.

    Returns:
        [R, C, h, w], with gradients to `features`. The samples of a grid are a matrix from either side: memory is R C (HW + hw).
    """
    _maps.check_maps("roi_align", "features", features, "[N, C, H, W]")
    _check.tensor("roi_align", "boxes", boxes, "[R, 5]")
    if boxes.shape[1] != 5:
        expected = "have shape [R, 5], rows (image, x1, y1, x2, y2)"
        raise ValueError(_check.complaint("roi_align", "boxes", expected, list(boxes.shape)))
    if len(size) != 2 or min(size) < 1:
        raise ValueError(_check.complaint("roi_align", "size", "be (h, w), 1 or more each", size))
    # what is small is looked at on the host: whole numbers of samples make the shape of the matrices
    rows = boxes.detach().double().cpu()
    image, (x1, y1, x2, y2) = rows[:, 0], rows[:, 1:].T
    if not (rows.isfinite().all() and (x1 < x2).all() and (y1 < y2).all()):
        raise ValueError(_check.complaint("roi_align", "boxes", "have x1 < x2 and y1 < y2", "a box that has not"))
    if not ((image >= 0) & (image < len(features)) & (image == image.floor())).all():
        expected = f"name images 0 to {len(features) - 1}"
        raise ValueError(_check.complaint("roi_align", "boxes", expected, [float(i) for i in image.unique()]))
    down = _samples(y1 * scale, y2 * scale, size[0], features.shape[2], aligned).to(features)
    across = _samples(x1 * scale, x2 * scale, size[1], features.shape[3], aligned).to(features)
    return down[:, None] @ features[image.long().to(features.device)] @ across[:, None].mT


def _samples(start: Tensor, stop: Tensor, bins: int, cells: int, aligned: bool) -> Tensor:
    """[R, bins, cells]: how much of each cell is in each bin, along one side."""
    length = stop - start
    if aligned:
        start = start - 0.5
    else:
        length = length.clamp(min=1)
    count = (length / bins).ceil().clamp(min=1)
    i = torch.arange(int(count.max()) if len(count) else 1, dtype=start.dtype)
    within = (i + 0.5) / count[:, None]
    k = torch.arange(bins, dtype=start.dtype)
    x = start[:, None, None] + (k[None, :, None] + within[:, None, :]) * (length / bins)[:, None, None]
    weight = ((i < count[:, None])[:, None] & (x >= -1) & (x <= cells)) / count[:, None, None]
    distance = (x.clamp(0, cells - 1)[..., None] - torch.arange(cells, dtype=start.dtype)).abs()
    return ((1 - distance).clamp(min=0) * weight[..., None]).sum(dim=2)
