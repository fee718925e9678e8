"""Affinities of nearby pixels by the edges between them (IRN)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wsss_fast.ops import _check, _library, _planes
from wsss_fast.ops._reference.edge_affinity import edge_affinity as _reference
from wsss_fast.ops._view import Call, empty

__all__ = ["edge_affinity"]


def edge_affinity(edge: Tensor, radius: int = 5, *, impl: str | None = None) -> Tensor:
    """How connected nearby pixels are: no edge stands between them::

        out[:, e] at p = 1 - max of edge on the path from p to p + offset e

    The path holds the pixels of the box spanned by its ends that are less than 1 away from the segment between them.

    Args:
        edge: [N, 1, H, W], the strength of edges, usually in [0, 1]; any strides.
        radius: 1 to 32; IRN takes 10 in training and 5 for the walk.
        impl: None (by device), "reference", "cpu", "simt" or "cuda".

    Returns:
        [N, E, H, W], contiguous, of the type of `edge`; 0 where p + offset is outside the image. float16 and bfloat16 are
        compared in float32; float64 is for the CPU.

    Gradients go to `edge` (once: there is no second derivative), each to the place of the maximum: of equal ones, the first in
    reading order. Under autocast the input is cast to the autocast type, as for a matrix product. A NaN makes every pair NaN
    whose path holds it.

    Raises:
        TypeError: not a tensor, or a type that is not supported.
        ValueError: a shape that does not fit, or a `radius` out of range.
        RuntimeError: CUDA tensors with a build that has no CUDA kernels.
    """
    edge = _planes.checked("edge_affinity", "edge", edge, "[N, 1, H, W]", radius)
    _check.shape("edge_affinity", "edge", edge, "[N, 1, H, W]", (None, 1, None, None), "one map of edges")
    impl = _check.implementation("edge_affinity", impl, edge)
    if impl == "reference":
        return _reference(edge, radius)
    return torch.ops.wsss_fast.edge_affinity(edge, radius, impl)


def _forward(edge: Tensor, radius: int, impl: str) -> Tensor:
    out = empty("edge_affinity", "out", _planes.shape(edge, radius), edge.dtype, edge.device)
    call = Call("edge_affinity", impl, edge)
    view = call.view(edge)
    workspace = call.workspace(call.module.edge_affinity_forward_workspace(view, radius, call.context))
    call.module.edge_affinity_forward(view, radius, call.view(out), workspace, call.context)
    return out


def _backward(grad: Tensor, edge: Tensor, radius: int, impl: str) -> Tensor:
    grad_edge = edge.new_empty(edge.shape)
    call = Call("edge_affinity", impl, edge)
    views = call.view(grad), call.view(edge)
    workspace = call.workspace(call.module.edge_affinity_backward_workspace(views[1], radius, call.context))
    call.module.edge_affinity_backward(*views, radius, call.view(grad_edge), workspace, call.context)
    return grad_edge


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    edge, ctx.radius, ctx.impl = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(edge)


def _differentiate(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None
    (edge,) = ctx.saved_tensors
    return torch.ops.wsss_fast.edge_affinity_backward(grad, edge, ctx.radius, ctx.impl), None, None


_library.define("edge_affinity(Tensor edge, int radius, str impl) -> Tensor", _forward, _planes.fake_forward)
_library.define(
    "edge_affinity_backward(Tensor grad, Tensor edge, int radius, str impl) -> Tensor", _backward, _planes.fake_backward
)
_library.differentiable("edge_affinity", _differentiate, _save)
_library.differentiable_once("edge_affinity_backward", "edge_affinity")
