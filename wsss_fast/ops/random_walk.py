"""The random walk of AffinityNet and IRN: class maps spread over an affinity graph of neighbouring pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wsss_fast.ops import _check, _library
from wsss_fast.ops._reference.half_disc import MAX_RADIUS, half_disc
from wsss_fast.ops._reference.random_walk import random_walk as _reference
from wsss_fast.ops._reference.random_walk import windows
from wsss_fast.ops._view import Call, empty

__all__ = ["random_walk"]

MAX_STEPS = 2**31 - 1


def random_walk(
    cam: Tensor,
    affinity: Tensor,
    radius: int = 5,
    beta: float = 8,
    steps: int = 256,
    mode: str = "exact",
    tolerance: float = 1e-3,
    border: str = "full",
    *,
    impl: str | None = None,
) -> Tensor:
    """Spread class maps by `steps` steps of a random walk between pixels of high affinity.

    With A the symmetric matrix of the affinities (diagonal 1) and A_ij ** beta taken element by element::

        T_ij = A_ij ** beta / sum_k A_kj ** beta,      out = cam T ** steps

    so each step replaces a pixel's value by a weighted mean of its neighbourhood. T is applied as a stencil: no matrix of
    (HW)^2 is ever stored or squared.

    Args:
        cam: [N, C, H, W], the rows to walk (leave absent classes out), any strides.
        affinity: [N, E, H, W], as `ops.affinity` and `ops.edge_affinity` give it: plane e at pixel p is the affinity of p and
            p + offset e, from 0 to 1. Values where that neighbour lies outside the image are not read. Type and device of `cam`.
        radius: of the graph, 1 to 32; E is the number of its offsets (5: 34, 10: 152).
        beta: 0 or more. An affinity of 0 stays 0 for every beta.
        steps: 0 (the identity) to 2**31 - 1.
        mode: "exact" applies T `steps` times; "chebyshev" some 5 sqrt(steps) times.
        tolerance: of "chebyshev": no pixel is wrong by more than tolerance * max|cam| (float rounding apart; seen are a hundred
            times less). 0 asks for all terms.
        border: "full", or "published": without the pairs whose first pixel is outside rows [0, H - radius + 1) or columns
            [radius - 1, W - radius + 1), as the released AffinityNet code walks.
        impl: None (by device), "reference", "cpu", "simt" or "cuda".

    Returns:
        [N, C, H, W], contiguous, of the type of `cam`. float16 and bfloat16 are computed in float32; float64 is for the CPU.

    No gradient: this is a step of inference. Under autocast the inputs are taken in float32, as for a power. A NaN or Inf in
    `cam` spreads in its own row, radius - 1 pixels a step at most. A constant map stays as it is, and so does sum_j d_j out_j
    (not the plain sum: columns of T sum to 1, rows do not). A pixel without neighbours keeps its value.

    Raises:
        TypeError: not a tensor, a type that is not supported, or two types.
        ValueError: shapes or devices that do not fit, a setting out of range, or affinities outside [0, 1]: on CUDA, where
            looking would wait for the device, these are not looked for, and the result is meaningless.
        RuntimeError: CUDA tensors with a build that has no CUDA kernels.
    """
    _check.tensor("random_walk", "cam", cam, "[N, C, H, W]")
    _check.tensor("random_walk", "affinity", affinity, "[N, E, H, W]")
    # 16-bit affinities to the power of 8 would keep two digits
    cam, affinity = _library.autocast(cam.detach(), affinity.detach(), to=torch.float32)
    _check.same("random_walk", "affinity", affinity, "cam", cam)
    _check.floating("random_walk", "cam", cam)
    _check.whole("random_walk", "radius", radius, 1, MAX_RADIUS)
    wanted = (cam.shape[0], len(half_disc(radius)), *cam.shape[2:])
    why = f"N, H, W of 'cam', E for radius {radius}"
    _check.shape("random_walk", "affinity", affinity, "[N, E, H, W]", wanted, why)
    _check.number("random_walk", "beta", beta, least=0)
    _check.whole("random_walk", "steps", steps, 0, MAX_STEPS)
    _check.choice("random_walk", "mode", mode, ("exact", "chebyshev"))
    if not (_check.is_number(tolerance) and 0 <= tolerance < 1):
        raise ValueError(_check.complaint("random_walk", "tolerance", "be a number from 0 to below 1", repr(tolerance)))
    _check.choice("random_walk", "border", border, ("full", "published"))
    impl = _check.implementation("random_walk", impl, cam)
    if impl == "reference":
        _check_range(affinity, radius)
        return _reference(cam, affinity, radius, beta, steps, mode, tolerance, border)
    chebyshev, published = mode == "chebyshev", border == "published"
    return torch.ops.wsss_fast.random_walk(cam, affinity, radius, beta, steps, chebyshev, tolerance, published, impl)


def _check_range(affinity: Tensor, radius: int) -> None:
    """What the CPU kernel sees while it reads: pairs inside the image alone."""
    for e, (dy, dx) in enumerate(half_disc(radius)):
        here, _ = windows(dy, dx, *affinity.shape[2:])
        plane = affinity[:, e][here]
        if not bool(((plane >= 0) & (plane <= 1)).all()):
            hint = "affinity.clamp(0, 1) takes away what rounding added"
            raise ValueError(_check.complaint("random_walk", "affinity", "hold numbers from 0 to 1", "others or NaN", hint))


def _run(
    cam: Tensor,
    affinity: Tensor,
    radius: int,
    beta: float,
    steps: int,
    chebyshev: bool,
    tolerance: float,
    published: bool,
    impl: str,
) -> Tensor:
    out = empty("random_walk", "out", cam.shape, cam.dtype, cam.device)
    call = Call("random_walk", impl, cam)
    views = call.view(cam), call.view(affinity)
    settings = (radius, beta, steps, chebyshev, tolerance, published)
    workspace = call.workspace(call.module.random_walk_workspace(*views, settings, call.context))
    call.module.random_walk(*views, settings, call.view(out), workspace, call.context)
    return out


def _fake(cam: Tensor, *_: object) -> Tensor:
    return cam.new_empty(cam.shape)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.mark_non_differentiable(output)


def _no_gradient(ctx: Any, grad: Tensor | None) -> tuple[None, ...]:
    return (None,) * 9


_library.define(
    "random_walk(Tensor cam, Tensor affinity, int radius, float beta, int steps, bool chebyshev, float tolerance, "
    "bool published, str impl) -> Tensor",
    _run,
    _fake,
)
_library.differentiable("random_walk", _no_gradient, _save_nothing)
