"""Inputs of prcm, and its definition in float64: what the tests of its numbers and of its operation share."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from wsss_fast import ops

VARIANTS = [
    {"axis": axis, "layout": layout} for axis, layout in itertools.product(("positions", "classes"), ("transpose", "view"))
]


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[Tensor]:
    """cam, x, query, phi; no key so near 0 that rounding decides whether its gradient counts."""
    n, c, c1, c2, h, w = shape
    for attempt in range(50):
        generator = torch.Generator().manual_seed(attempt)
        cam = 2 * torch.rand((n, c, h, w), generator=generator)
        x = torch.randn((n, c1, h, w), generator=generator) + torch.randn((n, c1, 1, 1), generator=generator)
        query = torch.randn((n, c2, h, w), generator=generator).relu()
        phi = torch.randn((c2, c1), generator=generator) / max(c1, 1) ** 0.5
        made = [tensor.to(dtype) for tensor in (cam, x, query, phi)]
        proxy = made[0].double().flatten(2).softmax(2) @ made[1].double().flatten(2).transpose(1, 2)
        key = made[3].double() @ proxy.transpose(1, 2)
        if key.numel() == 0 or key.abs().min() > 1e-5:
            break
    return [tensor.to(device) for tensor in made]


def reference(given: list[Tensor], grad: Tensor | None = None, **options) -> Tensor | tuple[Tensor, ...]:
    """The definition in float64: out, and the gradients of query and phi."""
    cam, x, query, phi = (tensor.detach().double().cpu().requires_grad_(i >= 2) for i, tensor in enumerate(given))
    out = ops.prcm(cam, x, query, phi, impl="reference", **options)
    if grad is None:
        return out
    return out, *torch.autograd.grad(out, (query, phi), grad.double().cpu())


def results(given: list[Tensor], grad: Tensor, impl: str, **options) -> tuple[Tensor, ...]:
    """out, and the gradients of query and phi."""
    cam, x, query, phi = (tensor.detach().requires_grad_(i >= 2) for i, tensor in enumerate(given))
    out = ops.prcm(cam, x, query, phi, impl=impl, **options)
    return out, *torch.autograd.grad(out, (query, phi), grad)


def by_hand() -> tuple[list[Tensor], Tensor, dict[tuple[str, str], list[list[float]]]]:
    """Two classes, two pixels, C1 = C2 = 2, scale 1, worked out on paper: inputs, a gradient, and the gate of each variant.

    Z = [[3, 1], [2, 2]], as the first class weighs the pixels 3 : 1 and the second 1 : 1. phi Z^T = [[3, 2], [1, -2]], so
    key = [[3, 2], [1, 0]]. K is [[3, 1], [2, 0]] transposed and [[3, 2], [1, 0]] viewed; S is ln 2 times that.
    """
    cam = torch.tensor([[math.log(3), 0.0], [1.0, 1.0]], dtype=torch.float64).reshape(1, 2, 1, 2)
    x = torch.tensor([[4.0, 0.0], [0.0, 4.0]], dtype=torch.float64).reshape(1, 2, 1, 2)
    query = math.log(2) * torch.eye(2, dtype=torch.float64).reshape(1, 2, 1, 2)
    phi = torch.tensor([[1.0, 0.0], [1.0, -2.0]], dtype=torch.float64)
    grad = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64).reshape(1, 2, 1, 2)
    gates = {
        ("positions", "transpose"): [[0.8, 0.2], [0.8, 0.2]],  # 8 : 2 and 4 : 1 in rows
        ("classes", "transpose"): [[2 / 3, 2 / 3], [1 / 3, 1 / 3]],  # 8 : 4 and 2 : 1 in columns
        ("positions", "view"): [[2 / 3, 1 / 3], [2 / 3, 1 / 3]],  # 8 : 4 and 2 : 1 in rows
        ("classes", "view"): [[0.8, 0.8], [0.2, 0.2]],  # 8 : 2 and 4 : 1 in columns
    }
    return [cam, x, query, phi], grad, gates
