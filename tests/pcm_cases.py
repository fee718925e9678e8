"""Inputs of pcm, and its definition in float64: what the tests of its numbers and of its operation share."""

from __future__ import annotations

import torch
from torch import Tensor

from wsss_fast import ops


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, device: str = "cpu", *, away_from_zero: bool = True):
    """cam and feature. `away_from_zero`: no cosine so near 0 that rounding decides whether its gradient counts."""
    n, c, d, h, w = shape
    for attempt in range(50):
        generator = torch.Generator().manual_seed(attempt)
        cam = torch.rand((n, c, h, w), generator=generator)
        feature = torch.randn((n, d, h, w), generator=generator) + 0.3
        if not away_from_zero or dtype in (torch.float16, torch.bfloat16):
            break
        x = torch.nn.functional.normalize(feature.double().flatten(2), dim=1)
        if (x.transpose(1, 2) @ x).abs().min() > 1e-6:
            break
    return cam.to(device, dtype), feature.to(device, dtype)


def reference(cam: Tensor, feature: Tensor, grad: Tensor | None = None, eps: float = 1e-5):
    """The definition in float64: out, and the gradients of both inputs."""
    cam, feature = (x.detach().double().cpu().requires_grad_() for x in (cam, feature))
    out = ops.pcm(cam, feature, eps, impl="reference")
    if grad is None:
        return out
    return out, *torch.autograd.grad(out, (cam, feature), grad.double().cpu())
