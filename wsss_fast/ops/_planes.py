"""What affinity and edge_affinity share: the check of their input, and the shapes that torch.compile asks for."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from wsss_fast.ops import _check, _library
from wsss_fast.ops._reference.half_disc import MAX_RADIUS, half_disc


def checked(op: str, argument: str, value: Tensor, layout: str, radius: int) -> Tensor:
    _check.tensor(op, argument, value, layout)
    (value,) = _library.autocast(value)
    _check.floating(op, argument, value)
    _check.whole(op, "radius", radius, 1, MAX_RADIUS)
    return value


def shape(x: Tensor, radius: int) -> tuple[int, ...]:
    return (x.shape[0], len(half_disc(radius)), *x.shape[2:])


def fake_forward(x: Tensor, radius: int, impl: str) -> Tensor:
    return x.new_empty(shape(x, radius))


def fake_backward(grad: Tensor, x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)
