from __future__ import annotations

import math

import torch
from torch import Tensor

from wsss_fast.ops._reference.half_disc import half_disc


def random_walk(
    cam: Tensor,
    affinity: Tensor,
    radius: int = 5,
    beta: float = 8,
    steps: int = 256,
    mode: str = "exact",
    tolerance: float = 1e-3,
    border: str = "full",
) -> Tensor:
    """cam [N,C,H,W], affinity [N,E,H,W] -> cam T^steps, T being the affinity matrix to the power beta, columns summing to 1."""
    wide = torch.float64  # rounding errors of float32 grow with the steps: the kernels have remedies, a definition is simple
    pairs = _pairs(affinity.to(wide), radius, beta, border == "published")
    degree = _times_matrix(torch.ones_like(cam[:, :1], dtype=wide), pairs)

    def step(x: Tensor) -> Tensor:
        return _times_matrix(x, pairs) / degree

    x = cam.to(wide)
    if mode == "exact":
        for _ in range(steps):
            x = step(x)
        return x.to(cam.dtype, copy=True)
    bound = tolerance / math.sqrt(x.shape[2] * x.shape[3] * (2 * len(pairs) + 1) or 1)
    before, now, out = torch.zeros_like(x), x, torch.zeros_like(x)  # T_(k-1), T_k: Chebyshev polynomials of T, applied to cam
    for k, coefficient in enumerate(series(steps, bound)):
        if k > 0:
            before, now = now, (1 if k == 1 else 2) * step(now) - before * (k > 1)
        out += coefficient * now
    return out.to(cam.dtype)


def _pairs(affinity: Tensor, radius: int, beta: float, published: bool) -> list[tuple[tuple, tuple, Tensor]]:
    """For each offset: the window of pixels that have such a neighbour, the window of those neighbours, the weights between."""
    h, w = affinity.shape[2:]
    margin = radius - 1
    inside = torch.zeros((h, w), dtype=torch.bool, device=affinity.device)
    inside[: max(h - margin, 0), margin : max(w - margin, 0)] = True
    pairs = []
    for e, (dy, dx) in enumerate(half_disc(radius)):
        here, there = windows(dy, dx, h, w)
        a = affinity[:, e : e + 1][here]
        weight = torch.where(a > 0, a**beta, 0)  # no affinity is no pair, also where beta is 0
        pairs.append((here, there, weight * inside[here] if published else weight))
    return pairs


def windows(dy: int, dx: int, h: int, w: int) -> tuple[tuple, tuple]:
    """The pixels p for which p and p + (dy, dx) lie in the image, and those p + (dy, dx)."""
    here = (..., slice(0, max(h - dy, 0)), slice(max(-dx, 0), max(w - max(dx, 0), 0)))
    there = (..., slice(dy, h), slice(max(dx, 0), max(w + min(dx, 0), 0)))
    return here, there


def _times_matrix(x: Tensor, pairs: list[tuple[tuple, tuple, Tensor]]) -> Tensor:
    out = x.clone()  # the diagonal is 1
    for here, there, weight in pairs:
        out[here] += weight * x[there]
        out[there] += weight * x[here]
    return out


def series(steps: int, bound: float) -> list[float]:
    """c with x^steps = sum_k c_k T_k(x) for |x| <= 1, within `bound`: binomial coefficients, cut where few are left and
    divided by their sum, so that at x = 1 it is exact."""
    k = steps % 2
    terms, total = [1.0], 1.0
    while k < steps and terms[-1] > 1e-20 * total:
        terms.append(terms[-1] * (2 if k == 0 else 1) * (steps - k) / (steps + k + 2))
        k, total = k + 2, total + terms[-1]
    allowed, dropped = total * bound / (2 + bound), 0.0
    while len(terms) > 1 and dropped + terms[-1] <= allowed:
        dropped += terms.pop()
    coefficients = [0.0] * (steps % 2 + 2 * len(terms) - 1)
    coefficients[steps % 2 :: 2] = [term / (total - dropped) for term in terms]
    return coefficients
