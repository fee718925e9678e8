"""Class maps of an image at several scales, mirrored and not, merged into one map a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from wsss_fast import ops
from wsss_fast.methods._method import Method
from wsss_fast.nets._common import check_pixels


def infer_cam(
    model: Method,
    image: Tensor,
    size: tuple[int, int] | None = None,
    scales: Sequence[float] | None = None,
    flip: bool = True,
    present: Tensor | None = None,
    preset: str | None = None,
) -> Tensor:
    """Normalised class maps as the published systems infer them.

    The pixels are resized (bicubic) to each scale, normalised for the network, and go through ``forward_cam``, one pass at a
    time so that memory is that of the largest; ``ops.cam_merge`` merges the maps of the objects.

    Args:
        model: of `create`, in eval mode.
        image: uint8 RGB [N, 3, H, W].
        size: (H, W) of the result; default that of the image.
        scales: of the image; default those of the method.
        flip: also the mirror image at each scale.
        present: bool [N, C], or None for all; absent classes are 0.
        preset: of `ops.CAM_MERGE`; default that of the method.

    Returns:
        [N, C, H, W], the objects' maps from 0 to 1.
    """
    maps, flipped = infer_maps(model, image, scales, flip)
    size = tuple(image.shape[2:]) if size is None else size
    return ops.cam_merge(maps, flipped, size, present, **ops.CAM_MERGE[preset or model.merge])


@torch.inference_mode()
def infer_maps(
    model: Method, image: Tensor, scales: Sequence[float] | None = None, flip: bool = True
) -> tuple[list[Tensor], list[bool]]:
    """What `infer_cam` merges: the maps of each scale and mirror image, and whether they are mirrored."""
    if model.merge is None:
        raise ValueError(f"infer_cam: 'model' must give class maps, got '{model.name}'")
    if model.training:
        raise ValueError("infer_cam: 'model' must be in eval mode. Hint: model.eval()")
    check_pixels("infer_cam", "image", image)
    maps, flipped = [], []
    for scale in model.scales if scales is None else scales:
        small = model.normalise(resized(image, scale))
        for mirrored in (False, True) if flip else (False,):
            maps.append(model.objects(model.forward_cam(small.flip(3) if mirrored else small)))
            flipped.append(mirrored)
    return maps, flipped


def resized(pixels: Tensor, scale: float) -> Tensor:
    """uint8 in and out, bicubic; the filter widens with a reduction, as Pillow's does."""
    size = [max(1, round(side * scale)) for side in pixels.shape[2:]]
    if size == list(pixels.shape[2:]):
        return pixels
    # not on uint8: torch's own path for bytes fails on some sizes
    smooth = functional.interpolate(pixels.float(), size, mode="bicubic", antialias=True, align_corners=False)
    return smooth.round_().clamp_(0, 255).to(torch.uint8)
