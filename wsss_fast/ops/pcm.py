"""PCM, the pixel correlation module of SEAM: a class map refined by the similarity of pixels' features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wsss_fast.ops import _check, _library
from wsss_fast.ops._reference.pcm import pcm as _reference
from wsss_fast.ops._view import Call, empty

__all__ = ["pcm"]


def pcm(cam: Tensor, feature: Tensor, eps: float = 1e-5, *, impl: str | None = None) -> Tensor:
    """Refine class maps by the cosine similarity of features.

    With f_i = feature_i / (||feature_i|| + eps) for pixel i and A_ij = max(f_i . f_j, 0)::

        out[:, j] = sum_i cam[:, i] A_ij / (sum_i A_ij + eps)

    The (HW)^2 matrix A is never stored: memory grows with HW (C + D).

    Args:
        cam: [N, C, H, W], any strides.
        feature: [N, D, H, W], not normalised, any strides; type and device of `cam`.
        eps: added to norms and to sums.
        impl: None (by device), "reference", "cpu", "simt" or "cuda".

    Returns:
        [N, C, H, W], contiguous, of the type of `cam`. float16 and bfloat16 are summed in float32; float64 is for the CPU.

    Gradients go to both inputs (once: there is no second derivative). The gradient of max(x, 0) at 0 is 0. Under autocast the
    inputs are cast to the autocast type, as for a matrix product. A NaN or Inf in the feature of one pixel makes the output
    of its whole image NaN; a NaN in one class of `cam` makes that class NaN. A pixel without similar pixels (a zero feature)
    gets 0.

    Raises:
        TypeError: not a tensor, a type that is not supported, or two types.
        ValueError: shapes or devices that do not fit, or `eps` negative.
        RuntimeError: CUDA tensors with a build that has no CUDA kernels.
    """
    _check.tensor("pcm", "cam", cam, "[N, C, H, W]")
    _check.tensor("pcm", "feature", feature, "[N, D, H, W]")
    cam, feature = _library.autocast(cam, feature)
    _check.same("pcm", "feature", feature, "cam", cam)
    _check.floating("pcm", "cam", cam)
    n, _, h, w = cam.shape
    _check.shape("pcm", "feature", feature, "[N, D, H, W]", (n, None, h, w), "N, H, W of 'cam'")
    _check.number("pcm", "eps", eps, least=0)
    impl = _check.implementation("pcm", impl, cam)
    if impl == "reference":
        return _reference(cam, feature, eps)
    return torch.ops.wsss_fast.pcm(cam, feature, eps, impl)[0]


def _forward(cam: Tensor, feature: Tensor, eps: float, impl: str) -> tuple[Tensor, Tensor]:
    out = empty("pcm", "out", cam.shape, cam.dtype, cam.device)
    denominator = empty("pcm", "denominator", (cam.shape[0], cam.shape[2] * cam.shape[3]), _sum_type(cam), cam.device)
    call = Call("pcm", impl, cam)
    views = call.view(cam), call.view(feature)
    workspace = call.workspace(call.module.pcm_forward_workspace(*views, call.context))
    call.module.pcm_forward(*views, eps, call.view(out), call.view(denominator), workspace, call.context)
    return out, denominator


def _fake_forward(cam: Tensor, feature: Tensor, eps: float, impl: str) -> tuple[Tensor, Tensor]:
    n, _, h, w = cam.shape
    return cam.new_empty(cam.shape), cam.new_empty((n, h * w), dtype=_sum_type(cam))


def _sum_type(cam: Tensor) -> torch.dtype:
    return torch.promote_types(cam.dtype, torch.float32)


def _backward(
    grad: Tensor,
    cam: Tensor,
    feature: Tensor,
    out: Tensor,
    denominator: Tensor,
    eps: float,
    want: list[bool],
    impl: str,
) -> tuple[Tensor, Tensor]:
    gradients = _fake_backward(grad, cam, feature, out, denominator, eps, want, impl)
    call = Call("pcm", impl, cam)
    views = call.view(cam), call.view(feature)
    workspace = call.workspace(call.module.pcm_backward_workspace(*views, call.context))
    wanted = (call.view(gradient) if wish else None for gradient, wish in zip(gradients, want, strict=True))
    sums = call.view(out), call.view(denominator)
    call.module.pcm_backward(call.view(grad), *views, *sums, eps, *wanted, workspace, call.context)
    return gradients


def _fake_backward(
    grad: Tensor,
    cam: Tensor,
    feature: Tensor,
    out: Tensor,
    denominator: Tensor,
    eps: float,
    want: list[bool],
    impl: str,
) -> tuple[Tensor, Tensor]:
    # an operator returns tensors, never None: a gradient that is not wanted is an empty one
    return tuple(model.new_empty(model.shape if wish else (0,)) for model, wish in zip((cam, feature), want, strict=True))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    cam, feature, ctx.eps, ctx.impl = inputs
    out, denominator = output
    ctx.mark_non_differentiable(denominator)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(cam, feature, out, denominator)


def _differentiate(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    want = list(ctx.needs_input_grad[:2])
    if grad is None or not any(want):
        return None, None, None, None
    cam, feature, out, denominator = ctx.saved_tensors
    gradients = torch.ops.wsss_fast.pcm_backward(grad, cam, feature, out, denominator, ctx.eps, want, ctx.impl)
    return *(gradient if wish else None for gradient, wish in zip(gradients, want, strict=True)), None, None


_library.define("pcm(Tensor cam, Tensor feature, float eps, str impl) -> (Tensor, Tensor)", _forward, _fake_forward)
_library.define(
    "pcm_backward(Tensor grad, Tensor cam, Tensor feature, Tensor out, Tensor denominator, float eps, bool[2] want, str impl)"
    " -> (Tensor, Tensor)",
    _backward,
    _fake_backward,
)
_library.differentiable("pcm", _differentiate, _save)
_library.differentiable_once("pcm_backward", "pcm")
