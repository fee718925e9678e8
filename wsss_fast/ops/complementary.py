"""Complementary patches of CPN: two images, each of which shows what the other one hides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wsss_fast.ops import _check, _library
from wsss_fast.ops._reference.complementary import complementary_pair as _reference
from wsss_fast.ops._view import Call, empty

__all__ = ["complementary_pair"]

_RULES = ("", "paper", "code")  # the order of wsss::complementary::Rule; "" is published=None
_TYPES = (*_check.FLOATS, torch.float64, torch.uint8)
_MAX_GRIDS = 16


def complementary_pair(
    image: Tensor,
    segments: Tensor | None = None,
    grid: int | Sequence[int] | None = None,
    hide: float = 0.5,
    generator: torch.Generator | None = None,
    published: str | None = None,
    *,
    impl: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Hide a part of the segments (or of the cells of a grid) of each image, and the rest in its counterpart.

    Exactly `round(hide * K)` of the K segments of an image are drawn, without replacement; they are 0 in `first`, and all the
    others are 0 in `second`. Visible pixels are copied bit by bit.

    Args:
        image: [N, C, H, W], floating point or uint8, any strides. Normalise it before: 0 is what stands for a hidden pixel.
        segments: int32 [N, H, W], labels 0 to K - 1 an image, as `ops.slic` gives them; -1 is masked: 0 in both images, and not
            counted. Exactly one of `segments` and `grid` is given.
        grid: the side of square cells, or a sequence of sides (at most 16) of which each image draws one.
        hide: the part that is hidden in `first`, from 0 to 1.
        generator: a CPU generator; None for torch's own. One number is taken from it a call, and every image of the batch has
            its own draw. The same number gives the same pair with every implementation.
        published: None as above; "paper" hides each cell on its own with probability `hide`; "code" is the released program:
            segments are drawn with replacement, and the share of a grid counts cells (see docs/complementary.md).
        impl: None (by device), "reference", "cpu", "simt" or "cuda".

    Returns:
        first, second: [N, C, H, W], contiguous, of the type of `image`.
        share: float32 [N], the part of the pixels that `first` shows; 0 for an image without a counted pixel.

    Gradients go to `image`: each pixel takes the gradient of the image that shows it. Under autocast the input stays as it is.

    Raises:
        TypeError: not a tensor, or a type that is not supported.
        ValueError: shapes or devices that do not fit, a setting out of range, both or neither of `segments` and `grid`, or labels
            outside -1 to H*W - 1: on CUDA, where looking would wait for the device, these count as masked.
        RuntimeError: CUDA tensors with a build that has no CUDA kernels.
    """
    _check.tensor("complementary_pair", "image", image, "[N, C, H, W]")
    _check.dtype("complementary_pair", "image", image, _TYPES)
    _check.one_given("complementary_pair", "segments", segments, "grid", grid)
    if segments is not None:
        _check_segments(segments, image)
    sizes = [] if grid is None else _sizes(grid, image)
    _check.number("complementary_pair", "hide", hide, 0, 1)
    _check.choice("complementary_pair", "published", published, (None, *_RULES[1:]))
    if generator is not None and (not isinstance(generator, torch.Generator) or generator.device.type != "cpu"):
        hint = "the draw is made of one number of the CPU; torch.Generator() makes such a generator"
        raise ValueError(
            _check.complaint("complementary_pair", "generator", "be None or a torch.Generator of the CPU", repr(generator), hint)
        )
    impl = _check.implementation("complementary_pair", impl, image)
    seed = torch.randint(-(2**63), 2**63 - 1, (), generator=generator, device="cpu")
    if impl == "reference":
        if segments is not None:
            _check_labels(segments)
        return _reference(image, segments, sizes, hide, int(seed), published)
    return torch.ops.wsss_fast.complementary_pair(image, segments, seed, sizes, hide, published or "", impl)[:3]


def _check_segments(segments: Tensor, image: Tensor) -> None:
    _check.tensor("complementary_pair", "segments", segments, "[N, H, W]")
    _check.dtype("complementary_pair", "segments", segments, (torch.int32,), "convert it with .int()")
    n, _, h, w = image.shape
    _check.shape("complementary_pair", "segments", segments, "[N, H, W]", (n, h, w), "N, H, W of 'image'")
    _check.device("complementary_pair", "segments", segments, "image", image)


def _check_labels(segments: Tensor) -> None:
    if segments.numel() == 0:
        return
    lowest, highest, pixels = int(segments.min()), int(segments.max()), segments[0].numel()
    if lowest < -1 or highest >= pixels:
        expected = f"hold labels from -1 to H*W - 1 = {pixels - 1}"
        hint = "number the segments of an image 0, 1, ..."
        raise ValueError(_check.complaint("complementary_pair", "segments", expected, f"labels from {lowest} to {highest}", hint))


def _sizes(grid: int | Sequence[int], image: Tensor) -> list[int]:
    sizes = list(grid) if isinstance(grid, (tuple, list)) else [grid]
    if not 1 <= len(sizes) <= _MAX_GRIDS:
        raise ValueError(_check.complaint("complementary_pair", "grid", f"name 1 to {_MAX_GRIDS} sizes", f"{len(sizes)} of them"))
    h, w = image.shape[2:]
    for size in sizes:
        if not _check.is_whole(size, 1):
            raise ValueError(
                _check.complaint("complementary_pair", "grid", "be a whole number, 1 or more, or a sequence of them", repr(grid))
            )
        if h * w > 0 and size > max(h, w):
            expected = f"be no larger than the image ({h} x {w})"
            raise ValueError(
                _check.complaint("complementary_pair", "grid", expected, size, "such a cell would be the whole image")
            )
    return sizes


def _run(
    image: Tensor, segments: Tensor | None, seed: Tensor, grid: list[int], hide: float, published: str, impl: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, _, h, w = image.shape
    first, second = (empty("complementary_pair", name, image.shape, image.dtype, image.device) for name in ("first", "second"))
    share = empty("complementary_pair", "share", (n,), torch.float32, image.device)
    side = empty("complementary_pair", "side", (n, h, w), torch.uint8, image.device)
    call = Call("complementary_pair", impl, image)
    segments = None if segments is None else segments.contiguous()
    views = call.view(image), call.view(segments)
    options = grid, hide, _RULES.index(published), int(seed)
    workspace = call.workspace(call.module.complementary_pair_workspace(*views, options, call.context))
    outputs = tuple(map(call.view, (first, second, share, side)))
    call.module.complementary_pair(*views, options, outputs, workspace, call.context)
    return first, second, share, side


def _fake(
    image: Tensor, segments: Tensor | None, seed: Tensor, grid: list[int], hide: float, published: str, impl: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, _, h, w = image.shape
    pair = (image.new_empty(image.shape) for _ in range(2))
    return *pair, image.new_empty((n,), dtype=torch.float32), image.new_empty((n, h, w), dtype=torch.uint8)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    *_, share, side = output
    ctx.mark_non_differentiable(share, side)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(side)


def _differentiate(ctx: Any, grad_first: Tensor | None, grad_second: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    side = ctx.saved_tensors[0].unsqueeze(1)
    parts = [
        torch.where(side == shows, grad, torch.zeros((), dtype=grad.dtype, device=grad.device))
        for shows, grad in ((1, grad_first), (2, grad_second))
        if grad is not None
    ]
    return sum(parts[1:], parts[0]) if parts else None, None, None, None, None, None, None


_library.define(
    "complementary_pair(Tensor image, Tensor? segments, Tensor seed, int[] grid, float hide, str published, str impl)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _run,
    _fake,
)
_library.differentiable("complementary_pair", _differentiate, _save)
