"""CAM merge: class maps of several scales and flips become one normalised map an image and class, at image size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wsss_fast.ops import _check, _library
from wsss_fast.ops._reference.cam_merge import cam_merge as _reference
from wsss_fast.ops._view import Call, empty

__all__ = ["CAM_MERGE", "cam_merge"]

MOST_MAPS = 32  # kMaxMaps in csrc/cam_merge/cam_merge.h
CHOICES = {
    "reduce": ("sum", "mean"),
    "normalise": ("max", "minmax"),
    "clamp": ("before", "after"),
    "interpolation": ("bilinear", "bicubic"),
}

_RELU_CAM = {"reduce": "sum", "normalise": "max", "clamp": "before", "interpolation": "bilinear", "align_corners": False}
_REFINED_CAM = {"reduce": "sum", "normalise": "minmax", "clamp": "after", "interpolation": "bilinear", "align_corners": False}

# How each published system merges: arguments of cam_merge.
CAM_MERGE: dict[str, dict[str, Any]] = {
    "psa": {**_RELU_CAM},
    "seam": {**_REFINED_CAM},
    "cpn": {**_REFINED_CAM, "scale": 0.5},
    "irn": {**_RELU_CAM},
    "eps": {**_RELU_CAM},
    "l2g": {
        "reduce": "mean",
        "normalise": "max",
        "clamp": "after",
        "interpolation": "bicubic",
        "align_corners": False,
        "eps": 1e-8,
    },
}


def cam_merge(
    maps: Sequence[Tensor],
    flipped: Sequence[bool],
    size: tuple[int, int],
    present: Tensor | None = None,
    reduce: str = "sum",
    normalise: str = "max",
    clamp: str = "before",
    interpolation: str = "bilinear",
    align_corners: bool = False,
    background: float | None = None,
    dtype: torch.dtype | None = None,
    *,
    eps: float = 1e-5,
    scale: float = 1.0,
    multiple: int = 1,
    impl: str | None = None,
) -> Tensor:
    """Merge class maps of several scales and flips: upsample, un-flip, reduce, clamp, normalise.

    With S the merged map of an image and class, negative values set to 0, and max and min over its pixels::

        "max":     out = scale * S / (max S + eps)
        "minmax":  out = scale * max(S - min S - eps, 0) / (max S - min S + eps)

    Args:
        maps: up to 32 tensors [N, C, h_k, w_k] of any sizes and strides, of one type, on one device.
        flipped: for each map, whether it comes from a mirrored image (it is mirrored back).
        size: (H, W) of the result.
        present: bool [N, C], or None for all; absent classes are 0 and are not computed.
        reduce: "sum" or "mean" over the maps.
        normalise: "max" or "minmax".
        clamp: "before": negative values of each map become 0 on its own grid, before it is upsampled (the ReLU at the end of a
            CAM network), and once more those of the merged map (only bicubic makes any). "after": those of the merged map alone.
        interpolation: "bilinear" or "bicubic", as torch.nn.functional.interpolate computes them.
        align_corners: as there.
        background: alpha; a channel (1 - max over classes of out)**alpha is put in front.
        dtype: None (the type of the maps), a float type, or torch.uint8: round(255 out), half to even.
        eps: see the formulas.
        scale: see the formulas.
        multiple: upsample to `size` rounded up to a multiple of this, and keep the first H rows and W columns.
        impl: None (by device), "reference", "cpu", "simt" or "cuda".

    `CAM_MERGE[name]` holds the arguments of a published system, for name in psa, seam, cpn, irn, eps, l2g::

        ops.cam_merge(maps, flipped, size, **ops.CAM_MERGE["seam"])

    Returns:
        [N, C, H, W] or, with a background, [N, 1 + C, H, W]; contiguous. float16 and bfloat16 are summed in float32; float64 is
        for the CPU.

    No gradient: this is a step of inference. Under autocast the inputs stay as they are. A NaN or Inf makes its class in its
    image NaN or 0 (in uint8: 0), and the background of that image NaN; it does not reach other classes.

    Raises:
        TypeError: not a tensor, a type that is not supported, or two types.
        ValueError: shapes or devices that do not fit, or a setting out of range.
        RuntimeError: CUDA tensors with a build that has no CUDA kernels.
    """
    _check_maps(maps)
    first = maps[0]
    _check_options(len(maps), flipped, size, background, eps, scale, multiple)
    chosen = {"reduce": reduce, "normalise": normalise, "clamp": clamp, "interpolation": interpolation}
    for name, value in chosen.items():
        _check.choice("cam_merge", name, value, CHOICES[name])
    wide = () if first.is_cuda else (torch.float64,)
    if dtype is not None and dtype not in (*_check.FLOATS, *wide, torch.uint8):
        allowed = ", ".join(map(_check.short, (*_check.FLOATS, *wide, torch.uint8)))
        raise TypeError(_check.complaint("cam_merge", "dtype", f"be None or one of {allowed}", repr(dtype)))
    if present is not None:
        _check_present(present, first)
    impl = _check.implementation("cam_merge", impl, first)
    alike = [value.detach() for value in maps]
    flips, sides = list(flipped), [int(side) for side in size]
    align, alpha = bool(align_corners), None if background is None else float(background)
    numbers = (float(eps), float(scale), multiple)
    result = dtype or first.dtype
    if impl == "reference":
        return _reference(alike, flips, sides, present, *chosen.values(), align, alpha, result, *numbers)
    kind = _check.short(result)
    return torch.ops.wsss_fast.cam_merge(alike, flips, sides, present, *chosen.values(), align, alpha, kind, *numbers, impl)


def _check_maps(maps: Sequence[Tensor]) -> None:
    if isinstance(maps, Tensor) or not isinstance(maps, (list, tuple)):
        hint = "a list of one map is [map]" if isinstance(maps, Tensor) else ""
        raise TypeError(_check.complaint("cam_merge", "maps", "be a list or tuple of tensors", _check.kind(maps), hint))
    if not 1 <= len(maps) <= MOST_MAPS:
        raise ValueError(_check.complaint("cam_merge", "maps", f"hold 1 to {MOST_MAPS} maps", len(maps)))
    for index, value in enumerate(maps):
        name = f"maps[{index}]"
        _check.tensor("cam_merge", name, value, "[N, C, h, w]")
        first = maps[0]
        if index == 0:
            _check.floating("cam_merge", name, value)
        else:
            _check.same("cam_merge", name, value, "maps[0]", first)
        _check.shape("cam_merge", name, value, "[N, C, h, w]", (*first.shape[:2], None, None), "N, C of 'maps[0]'")
        if value.shape[2] < 1 or value.shape[3] < 1:
            raise ValueError(_check.complaint("cam_merge", name, "have at least one row and column", list(value.shape)))


def _check_options(
    count: int,
    flipped: Sequence[bool],
    size: tuple[int, int],
    background: float | None,
    eps: float,
    scale: float,
    multiple: int,
) -> None:
    if not isinstance(flipped, (list, tuple)) or not all(isinstance(flip, bool) for flip in flipped):
        raise TypeError(_check.complaint("cam_merge", "flipped", "be a list or tuple of bools", repr(flipped)))
    if len(flipped) != count:
        raise ValueError(_check.complaint("cam_merge", "flipped", f"have one entry a map ({count})", len(flipped)))
    if not isinstance(size, (list, tuple, torch.Size)) or len(size) != 2 or not all(_check.is_whole(side, 1) for side in size):
        raise ValueError(_check.complaint("cam_merge", "size", "be (H, W), whole numbers, 1 or more", repr(size)))
    if background is not None:
        _check.number("cam_merge", "background", background, least=0)
    _check.positive("cam_merge", "eps", eps)
    _check.positive("cam_merge", "scale", scale)
    _check.whole("cam_merge", "multiple", multiple, 1)


def _check_present(present: Tensor, model: Tensor) -> None:
    _check.tensor("cam_merge", "present", present, "[N, C]")
    _check.dtype("cam_merge", "present", present, (torch.bool,), "labels > 0 makes bools of numbers")
    _check.shape("cam_merge", "present", present, "[N, C]", model.shape[:2], "N, C of 'maps[0]'")
    _check.device("cam_merge", "present", present, "maps[0]", model)


def _run(
    maps: list[Tensor],
    flipped: list[bool],
    size: list[int],
    present: Tensor | None,
    reduce: str,
    normalise: str,
    clamp: str,
    interpolation: str,
    align_corners: bool,
    background: float | None,
    dtype: str,
    eps: float,
    scale: float,
    multiple: int,
    impl: str,
) -> Tensor:
    first = maps[0]
    channels = first.shape[1] + (background is not None)
    out = empty("cam_merge", "out", (first.shape[0], channels, *size), getattr(torch, dtype), first.device)
    call = Call("cam_merge", impl, first)
    views = [call.view(value) for value in maps]
    choices = (reduce == "mean", normalise == "minmax", clamp == "before", interpolation == "bicubic", align_corners)
    with_background = (background is not None, 1.0 if background is None else background)
    settings = (*choices, *with_background, eps, scale, multiple)
    workspace = call.workspace(call.module.cam_merge_workspace(views, settings, call.view(out), call.context))
    flags = None if present is None else present.contiguous()
    call.module.cam_merge(views, flipped, call.view(flags), settings, call.view(out), workspace, call.context)
    return out


def _fake(
    maps: list[Tensor],
    flipped: list[bool],
    size: list[int],
    present: Tensor | None,
    reduce: str,
    normalise: str,
    clamp: str,
    interpolation: str,
    align_corners: bool,
    background: float | None,
    dtype: str,
    *_: object,
) -> Tensor:
    n, c = maps[0].shape[:2]
    return maps[0].new_empty((n, c + (background is not None), *size), dtype=getattr(torch, dtype))


_library.define(
    "cam_merge(Tensor[] maps, bool[] flipped, SymInt[] size, Tensor? present, str reduce, str normalise, str clamp, "
    "str interpolation, bool align_corners, float? background, str dtype, float eps, float scale, int multiple, str impl)"
    " -> Tensor",
    _run,
    _fake,
)
