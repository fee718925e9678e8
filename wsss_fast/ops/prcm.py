"""PRCM, the region correlation module of CPN: a class map gated by the likeness of pixels to their class's average."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wsss_fast.ops import _check, _library
from wsss_fast.ops._reference.prcm import prcm as _reference
from wsss_fast.ops._view import Call, empty
from wsss_fast.ops.pcm import pcm

__all__ = ["pcm_prcm", "prcm"]


def prcm(
    cam: Tensor,
    x: Tensor,
    query: Tensor,
    phi: Tensor,
    scale: float | None = None,
    axis: str = "positions",
    layout: str = "transpose",
    *,
    impl: str | None = None,
) -> Tensor:
    """Gate class maps by the likeness of each pixel to the average of its class.

    For one image, matrices with a column a pixel::

        Z   = softmax(cam, over pixels) x^T    [C, C1]
        key = relu(phi Z^T)                    [C2, C]
        S   = scale * key^T query              [C, HW]
        out = cam * softmax(S, over `axis`)    [C, HW]

    Args:
        cam: [N, C, H, W], the seed, any strides.
        x: [N, C1, H, W], what the seed averages.
        query: [N, C2, H, W]; CPN's is relu(conv9(x)).
        phi: [C2, C1], the weight of a 1x1 convolution as a matrix.
        scale: default C ** -0.5, as in CPN's released code; its paper has 1.
        axis: what the gate sums to 1 over: "positions" (each class map) or "classes" (each pixel).
        layout: "transpose", or "view": the memory of `key` read as [C, C2], as CPN's released code does.
        impl: None (by device), "reference", "cpu", "simt" or "cuda".

    Returns:
        [N, C, H, W], contiguous, of the type of `cam`. float16 and bfloat16 are summed in float32; float64 is for the CPU.

    Gradients go to `query` and `phi` (once: there is no second derivative); `cam` and `x` are taken as constants, also where they
    require a gradient. Under autocast the inputs are cast to the autocast type, as for a matrix product. NaN and Inf spread as
    in PyTorch: a NaN in one class of `cam` makes the class NaN, and with it, over "classes", the image.

    Raises:
        TypeError: not a tensor, a type that is not supported, or two types.
        ValueError: shapes or devices that do not fit, or a `scale`, `axis` or `layout` out of range.
        RuntimeError: CUDA tensors with a build that has no CUDA kernels.
    """
    return _prcm(cam, x, query, phi, scale, axis, layout, impl, "query", rectify=False)


def pcm_prcm(
    cam: Tensor,
    x: Tensor,
    feature: Tensor,
    phi: Tensor,
    eps: float = 1e-5,
    scale: float | None = None,
    axis: str = "positions",
    layout: str = "transpose",
    *,
    impl: str | None = None,
) -> Tensor:
    """The refined map of CPN: ``pcm(cam, feature, eps) + prcm(cam, x, relu(feature), phi, scale, axis, layout)``.

    `feature` = conv9(x), [N, C2, H, W], not normalised and without ReLU, is evaluated once by the caller and serves both; its
    gradient comes from both. relu(feature) is never stored. `cam` and `x` are constants here as in `prcm`, in both terms.
    """
    _check.tensor("prcm", "cam", cam, "[N, C, H, W]")
    regions = _prcm(cam, x, feature, phi, scale, axis, layout, impl, "feature", rectify=True)
    return pcm(cam.detach(), feature, eps, impl=impl) + regions


def _prcm(
    cam: Tensor,
    x: Tensor,
    query: Tensor,
    phi: Tensor,
    scale: float | None,
    axis: str,
    layout: str,
    impl: str | None,
    query_name: str,
    *,
    rectify: bool,
) -> Tensor:
    """prcm of `query`, or with `rectify` of relu(query); `query_name` is what the caller calls that argument."""
    _check.tensor("prcm", "cam", cam, "[N, C, H, W]")
    _check.tensor("prcm", "x", x, "[N, C1, H, W]")
    _check.tensor("prcm", query_name, query, "[N, C2, H, W]")
    if isinstance(phi, Tensor) and phi.dim() == 4:
        hint = "a 1x1 convolution's weight fits as weight.flatten(1)"
        raise ValueError(_check.complaint("prcm", "phi", "have shape [C2, C1]", list(phi.shape), hint))
    _check.tensor("prcm", "phi", phi, "[C2, C1]")
    cam, x, query, phi = _library.autocast(cam, x, query, phi)
    for name, value in (("x", x), (query_name, query), ("phi", phi)):
        _check.same("prcm", name, value, "cam", cam)
    _check.floating("prcm", "cam", cam)
    n, c, h, w = cam.shape
    _check.shape("prcm", "x", x, "[N, C1, H, W]", (n, None, h, w), "N, H, W of 'cam'")
    _check.shape("prcm", query_name, query, "[N, C2, H, W]", (n, None, h, w), "N, H, W of 'cam'")
    channels = (query.shape[1], x.shape[1])
    hint = "phi.T" if phi.shape == channels[::-1] else ""
    _check.shape("prcm", "phi", phi, "[C2, C1]", channels, f"the channels of '{query_name}' and of 'x'", hint)
    if scale is None:
        scale = max(c, 1) ** -0.5
    _check.number("prcm", "scale", scale)
    _check.choice("prcm", "axis", axis, ("positions", "classes"))
    _check.choice("prcm", "layout", layout, ("transpose", "view"))
    impl = _check.implementation("prcm", impl, cam)
    if impl == "reference":
        return _reference(cam, x, query.relu() if rectify else query, phi, scale, axis, layout)
    options = float(scale), axis == "classes", layout == "view", rectify
    return torch.ops.wsss_fast.prcm(cam.detach(), x.detach(), query, phi, *options, impl)[0]


def _forward(
    cam: Tensor, x: Tensor, query: Tensor, phi: Tensor, scale: float, classes: bool, view: bool, rectify: bool, impl: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    names = ("out", "gate", "proxy", "key")
    outputs = tuple(empty("prcm", name, *model, cam.device) for name, model in zip(names, _outputs(cam, x, query), strict=True))
    call = Call("prcm", impl, cam)
    views = tuple(call.view(tensor) for tensor in (cam, x, query, phi))
    workspace = call.workspace(call.module.prcm_forward_workspace(*views, call.context))
    results = (call.view(output) for output in outputs)
    call.module.prcm_forward(*views, scale, classes, view, rectify, *results, workspace, call.context)
    return outputs


def _outputs(cam: Tensor, x: Tensor, query: Tensor) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
    """Shape and type of out, gate, proxy (Z) and key."""
    n, c = cam.shape[:2]
    wide = torch.promote_types(cam.dtype, torch.float32)
    return (cam.shape, cam.dtype), (cam.shape, wide), ((n, c, x.shape[1]), wide), ((n, query.shape[1], c), wide)


def _fake_forward(
    cam: Tensor, x: Tensor, query: Tensor, phi: Tensor, scale: float, classes: bool, view: bool, rectify: bool, impl: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tuple(cam.new_empty(shape, dtype=dtype) for shape, dtype in _outputs(cam, x, query))


def _backward(
    grad: Tensor,
    cam: Tensor,
    query: Tensor,
    gate: Tensor,
    proxy: Tensor,
    key: Tensor,
    scale: float,
    classes: bool,
    view: bool,
    rectify: bool,
    want: list[bool],
    impl: str,
) -> tuple[Tensor, Tensor]:
    gradients = _fake_backward(grad, cam, query, gate, proxy, key, scale, classes, view, rectify, want, impl)
    call = Call("prcm", impl, cam)
    views = tuple(call.view(tensor) for tensor in (grad, cam, query, gate, proxy, key))
    workspace = call.workspace(call.module.prcm_backward_workspace(*views, call.context))
    wanted = (call.view(gradient) if wish else None for gradient, wish in zip(gradients, want, strict=True))
    call.module.prcm_backward(*views, scale, classes, view, rectify, *wanted, workspace, call.context)
    return gradients


def _fake_backward(
    grad: Tensor,
    cam: Tensor,
    query: Tensor,
    gate: Tensor,
    proxy: Tensor,
    key: Tensor,
    scale: float,
    classes: bool,
    view: bool,
    rectify: bool,
    want: list[bool],
    impl: str,
) -> tuple[Tensor, Tensor]:
    # an operator returns tensors, never None: a gradient that is not wanted is an empty one
    shapes = query.shape, (query.shape[1], proxy.shape[2])
    return tuple(query.new_empty(shape if wish else (0,)) for shape, wish in zip(shapes, want, strict=True))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    cam, _, query, _, *ctx.options = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(cam, query, *output[1:])


def _differentiate(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    want = list(ctx.needs_input_grad[2:4])
    unchanging = (None,) * len(ctx.options)
    if grad is None or not any(want):
        return None, None, None, None, *unchanging
    *options, impl = ctx.options
    gradients = torch.ops.wsss_fast.prcm_backward(grad, *ctx.saved_tensors, *options, want, impl)
    return None, None, *(gradient if wish else None for gradient, wish in zip(gradients, want, strict=True)), *unchanging


_OPTIONS = "float scale, bool classes, bool view, bool rectify"
_library.define(
    f"prcm(Tensor cam, Tensor x, Tensor query, Tensor phi, {_OPTIONS}, str impl) -> (Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _fake_forward,
)
_library.define(
    f"prcm_backward(Tensor grad, Tensor cam, Tensor query, Tensor gate, Tensor proxy, Tensor key, {_OPTIONS}, bool[2] want,"
    " str impl) -> (Tensor, Tensor)",
    _backward,
    _fake_backward,
)
_library.differentiable("prcm", _differentiate, _save)
_library.differentiable_once("prcm_backward", "prcm")
