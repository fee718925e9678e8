"""Affinities of nearby pixels by their features (AffinityNet), and the pairs that a pair loss is made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from wsss_fast.ops import _check, _library, _planes
from wsss_fast.ops._reference.affinity import affinity as _reference
from wsss_fast.ops._reference.half_disc import MAX_RADIUS, half_disc
from wsss_fast.ops._view import Call, empty

__all__ = ["AffinityLabels", "affinity", "affinity_labels", "affinity_offsets", "affinity_pairs"]

IGNORED = 255


def affinity_offsets(radius: int = 5) -> Tensor:
    """The offsets (dy, dx) of the planes: int64 [E, 2]. 34 of them for radius 5, 152 for radius 10.

    They run through the half disc dy^2 + dx^2 < radius^2: row 0 to the right of the centre, then the rows below it from left
    to right. So each pair of pixels stands once, at the one that comes first in reading order.
    """
    _check.whole("affinity_offsets", "radius", radius, 1, MAX_RADIUS)
    return torch.tensor(half_disc(radius), dtype=torch.int64).reshape(-1, 2)


def affinity(feature: Tensor, radius: int = 5, *, impl: str | None = None) -> Tensor:
    """How alike nearby pixels are, by their features::

        out[:, e] at p = exp(-mean_c |feature_c(p) - feature_c(p + offset e)|)

    Args:
        feature: [N, C, H, W], any strides.
        radius: 1 to 32; offsets are shorter than it, in the order of `affinity_offsets`.
        impl: None (by device), "reference", "cpu", "simt" or "cuda".

    Returns:
        [N, E, H, W], contiguous, of the type of `feature`; 0 where p + offset is outside the image. The affinity of a pixel and
        itself, 1, is not stored. float16 and bfloat16 are summed in float32; float64 is for the CPU.

    Gradients go to `feature` (once: there is no second derivative). The gradient of |x| at 0 is 0. Under autocast the input is
    cast to the autocast type, as for a matrix product. A NaN makes the pairs of its pixel NaN, and with them the gradients of
    both their pixels.

    Raises:
        TypeError: not a tensor, or a type that is not supported.
        ValueError: a shape that does not fit, or a `radius` out of range.
        RuntimeError: CUDA tensors with a build that has no CUDA kernels.
    """
    feature = _planes.checked("affinity", "feature", feature, "[N, C, H, W]", radius)
    impl = _check.implementation("affinity", impl, feature)
    if impl == "reference":
        return _reference(feature, radius)
    return torch.ops.wsss_fast.affinity(feature, radius, impl)


def affinity_pairs(planes: Tensor, radius: int = 5) -> Tensor:
    """The pairs that the published systems use, read out of planes [N, E, H, W]: [N, E, sources].

    Sources are the pixels of rows [0, H-radius+1) and columns [radius-1, W-radius+1), row by row: those with all E pairs inside
    the image. The result is a copy; gradients reach `planes`.
    """
    _check.whole("affinity_pairs", "radius", radius, 1, MAX_RADIUS)
    _check.tensor("affinity_pairs", "planes", planes, "[N, E, H, W]")
    wanted = (None, len(half_disc(radius)), None, None)
    _check.shape("affinity_pairs", "planes", planes, "[N, E, H, W]", wanted, f"E for radius {radius}")
    return _interior(planes, radius).flatten(2)


class AffinityLabels(NamedTuple):
    """Which pairs a pair loss draws together and which it pushes apart: bool [N, E, H, W] each, no pair in two of them."""

    background: Tensor
    foreground: Tensor
    different: Tensor


def affinity_labels(labels: Tensor, radius: int = 5, *, border: str = "full") -> AffinityLabels:
    """The index sets of the pair loss of AffinityNet and IRN.

    A pair counts if both its labels are 0 to 254. `background`: both are 0; `foreground`: both are the same class above 0;
    `different`: they differ.

    Args:
        labels: integers [N, H, W]; 0 is the background, 255 and more (and negative numbers) are to be ignored.
        radius: 1 to 32.
        border: "full": every pair of two pixels inside the image; "published": only the sources of `affinity_pairs`.

    Raises:
        TypeError: not a tensor, or a type that is not supported.
        ValueError: a shape that does not fit, or a `radius` or `border` out of range.
    """
    _check.whole("affinity_labels", "radius", radius, 1, MAX_RADIUS)
    _check.tensor("affinity_labels", "labels", labels, "[N, H, W]")
    _check.dtype("affinity_labels", "labels", labels, _check.INTEGERS)
    _check.choice("affinity_labels", "border", border, ("full", "published"))
    h, w = labels.shape[1:]
    source = labels.long()
    source = torch.where((source < 0) | (source > IGNORED), IGNORED, source)
    if border == "published":
        kept = torch.zeros_like(source, dtype=torch.bool)
        _interior(kept, radius).fill_(True)
    else:
        kept = torch.ones_like(source, dtype=torch.bool)
    reach = radius - 1
    around = pad(source, (reach, reach, 0, reach), value=IGNORED)
    target = [around[:, dy : dy + h, reach + dx : reach + dx + w] for dy, dx in half_disc(radius)]
    target = torch.stack(target, dim=1) if target else source.new_zeros((len(source), 0, h, w))
    source = source.unsqueeze(1)
    valid = (source != IGNORED) & (target != IGNORED) & kept.unsqueeze(1)
    same = source == target
    return AffinityLabels(valid & same & (source == 0), valid & same & (source != 0), valid & ~same)


def _interior(x: Tensor, radius: int) -> Tensor:
    h, w = x.shape[-2:]
    return x[..., : max(h - radius + 1, 0), radius - 1 : max(w - radius + 1, 0)]


def _forward(feature: Tensor, radius: int, impl: str) -> Tensor:
    out = empty("affinity", "out", _planes.shape(feature, radius), feature.dtype, feature.device)
    call = Call("affinity", impl, feature)
    view = call.view(feature)
    workspace = call.workspace(call.module.affinity_forward_workspace(view, radius, call.context))
    call.module.affinity_forward(view, radius, call.view(out), workspace, call.context)
    return out


def _backward(grad: Tensor, feature: Tensor, out: Tensor, radius: int, impl: str) -> Tensor:
    grad_feature = feature.new_empty(feature.shape)
    call = Call("affinity", impl, feature)
    views = call.view(grad), call.view(feature)
    workspace = call.workspace(call.module.affinity_backward_workspace(views[1], radius, call.context))
    call.module.affinity_backward(*views, call.view(out), radius, call.view(grad_feature), workspace, call.context)
    return grad_feature


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feature, ctx.radius, ctx.impl = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(feature, output)


def _differentiate(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None
    feature, out = ctx.saved_tensors
    return torch.ops.wsss_fast.affinity_backward(grad, feature, out, ctx.radius, ctx.impl), None, None


_library.define("affinity(Tensor feature, int radius, str impl) -> Tensor", _forward, _planes.fake_forward)
_library.define(
    "affinity_backward(Tensor grad, Tensor feature, Tensor out, int radius, str impl) -> Tensor", _backward, _planes.fake_backward
)
_library.differentiable("affinity", _differentiate, _save)
_library.differentiable_once("affinity_backward", "affinity")
