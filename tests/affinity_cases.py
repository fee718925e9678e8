"""Inputs of affinity and edge_affinity, and their definitions in float64: what the tests of numbers and of operations share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wsss_fast import ops


@dataclass(frozen=True)
class Case:
    """One of the two operations, as the tests that both must pass see it."""

    name: str
    call: Callable[..., Tensor]
    channels: int | None  # None: any

    def input(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> Tensor:
        """Steps of a grid that every type holds exactly, so that differences of 0 and equal maxima are frequent."""
        n, c, h, w = shape
        generator = torch.Generator().manual_seed(seed)
        values = torch.randint(0, 33, (n, self.channels or c, h, w), generator=generator) / 32
        return values.to(device, dtype)

    def exact(self, x: Tensor, radius: int, grad: Tensor | None = None) -> tuple[Tensor, ...]:
        """The definition in float64: the planes, and the gradient."""
        x = x.detach().double().cpu().requires_grad_()
        out = self.call(x, radius, impl="reference")
        return (out,) if grad is None else (out, torch.autograd.grad(out, x, grad.double().cpu())[0])

    def run(self, x: Tensor, radius: int, grad: Tensor, impl: str) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        out = self.call(x, radius, impl=impl)
        return out, torch.autograd.grad(out, x, grad)[0]


AFFINITY = Case("affinity", ops.affinity, None)
EDGE = Case("edge_affinity", ops.edge_affinity, 1)
BOTH = [AFFINITY, EDGE]


def pairs(radius: int, h: int, w: int) -> dict[tuple[int, int, int], tuple[int, int]]:
    """The pixel that plane e has as the partner of (y, x), where there is one; written anew, apart from the library's lists."""
    offsets = [
        (dy, dx)
        for dy in range(radius)
        for dx in range(-radius, radius + 1)
        if (dy, dx) > (0, 0) and (dy**2 + dx**2) ** 0.5 < radius
    ]
    return {
        (e, y, x): (y + dy, x + dx)
        for e, (dy, dx) in enumerate(offsets)
        for y in range(h)
        for x in range(w)
        if y + dy < h and 0 <= x + dx < w
    }
