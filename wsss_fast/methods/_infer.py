"""Inference at several scales, mirrored and not: class maps merged into one a class, and DeepLab's segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from wsss_fast import ops
from wsss_fast.methods._method import Method
from wsss_fast.nets._common import check_choice, check_pixels

if TYPE_CHECKING:
    from wsss_fast.methods.deeplab import DeepLab


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
        model: of `create`, in eval mode, or an engine (`export.load_engine`).
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
    _check_evaluated("infer_cam", model)
    check_pixels("infer_cam", "image", image)
    maps, flipped = [], []
    for scale in model.scales if scales is None else scales:
        small = model.normalise(resized(image, scale))
        for mirrored in (False, True) if flip else (False,):
            maps.append(model.objects(model.forward_cam(small.flip(3) if mirrored else small)))
            flipped.append(mirrored)
    return maps, flipped


def infer_segmentation(
    model: DeepLab,
    pixels: Tensor,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    reduce: str | None = None,
    crf: bool | Mapping[str, Any] | None = None,
    squares: Sequence[int] | None = None,
) -> Tensor:
    """Probabilities of the background and the classes at every pixel, as the published networks are tested.

    The normalised image goes through ``forward_cam`` at each scale (bilinear), one pass at a time. "max" takes the element-wise
    maximum of the logits on the grid of the first scale and enlarges it; "mean" enlarges the logits of each scale and averages.
    Then softmax and, unless left out, the dense CRF.

    Args:
        model: a deeplab of `create`, in eval mode.
        pixels: uint8 RGB [N, 3, H, W].
        scales: of the image, above 0.
        flip: also the mirror image at each scale.
        reduce: "max" or "mean".
        crf: False leaves it out; a dict of arguments of `ops.dense_crf` replaces the published ones.
            None is, here and above, as ``model.inference`` says the network was tested.
        squares: in place of scales the sides of squares that the image is resized to, as DCP tested.

    Returns:
        float32 [N, 1 + C, H, W]; its argmax over channels is the mask.

    Memory: the result, one class more, and a forward pass of the largest scale; the CRF's work besides.
    """
    if not hasattr(model, "inference"):
        raise ValueError(f"infer_segmentation: 'model' must be a deeplab, got '{getattr(model, 'name', type(model).__name__)}'")
    _check_evaluated("infer_segmentation", model)
    check_pixels("infer_segmentation", "pixels", pixels)
    if squares is not None and scales is not None:
        raise ValueError("infer_segmentation: 'squares' come in place of 'scales'. Hint: leave one of both out")
    scales = tuple(model.inference.scales if scales is None else scales)
    if not scales or not all(0 < scale <= 16 for scale in scales):
        raise ValueError(f"infer_segmentation: 'scales' must be numbers above 0, at most 16, got {scales}")
    if squares is not None and (not squares or not all(isinstance(side, int) and 0 < side <= 16384 for side in squares)):
        raise ValueError(f"infer_segmentation: 'squares' must be whole numbers from 1 to 16384, got {squares!r}")
    reduce = model.inference.reduce if reduce is None else reduce
    check_choice("infer_segmentation", "reduce", reduce, ("max", "mean"))
    crf = model.inference.crf if crf is None or crf is True else crf
    mirror = (False, True) if (model.inference.flip if flip is None else flip) else (False,)
    with torch.inference_mode():
        logits = None
        image = model.normalise(pixels)
        views = scales if squares is None else squares
        for view in views:
            small = at_scale(image, view) if squares is None else bilinear(image, (view, view))
            for mirrored in mirror:
                found = _logits(model, small, mirrored)
                if reduce == "mean":
                    logits = _add_enlarged(logits, found, pixels.shape[2:])
                elif logits is None:
                    logits = found
                else:
                    logits = torch.maximum(logits, bilinear(found, logits.shape[2:]))
        del image, small, found
        if reduce == "max":
            logits = _add_enlarged(None, logits, pixels.shape[2:], align_corners=False)
        else:
            logits /= len(views) * len(mirror)
        # softmax in place
        logits -= logits.amax(dim=1, keepdim=True)
        logits.exp_()
        logits /= logits.sum(dim=1, keepdim=True)
        return logits if crf is False else ops.dense_crf(logits, pixels, **crf)


def _logits(model: DeepLab, image: Tensor, mirrored: bool) -> Tensor:
    logits = model.forward_cam(image.flip(3) if mirrored else image).float()
    return logits.flip(3) if mirrored else logits


def _add_enlarged(total: Tensor | None, logits: Tensor, size: Sequence[int], align_corners: bool = True) -> Tensor:
    """A class at a time: all of them enlarged would be as large as the result."""
    n, classes = logits.shape[:2]
    if total is None:
        total = logits.new_zeros(n, classes, *size)
    for index in range(classes):
        total[:, index : index + 1] += bilinear(logits[:, index : index + 1], size, align_corners)
    return total


def at_scale(image: Tensor, scale: float) -> Tensor:
    """A normalised image in another size, as DeepLab's networks were trained: without a filter."""
    if scale == 1:
        return image
    if min(image.shape[2:]) * scale < 1:
        return bilinear(image, [max(1, int(side * scale)) for side in image.shape[2:]])
    return functional.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)


def bilinear(maps: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    return functional.interpolate(maps, size, mode="bilinear", align_corners=align_corners)


def _check_evaluated(caller: str, model: Method) -> None:
    if model.training:
        raise ValueError(f"{caller}: 'model' must be in eval mode. Hint: model.eval()")


def resized(pixels: Tensor, scale: float) -> Tensor:
    """uint8 in and out, bicubic; the filter widens with a reduction, as Pillow's does."""
    return resized_to(pixels, [max(1, round(side * scale)) for side in pixels.shape[2:]])


def resized_to(pixels: Tensor, size: Sequence[int]) -> Tensor:
    if list(size) == list(pixels.shape[2:]):
        return pixels
    # not on uint8: torch's own path for bytes fails on some sizes
    smooth = functional.interpolate(pixels.float(), tuple(size), mode="bicubic", antialias=True, align_corners=False)
    return smooth.round_().clamp_(0, 255).to(torch.uint8)
