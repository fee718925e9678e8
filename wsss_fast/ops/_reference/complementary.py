from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_BITS = 0xFFFFFFFF


def complementary_pair(
    image: Tensor, segments: Tensor | None, grid: Sequence[int], hide: float, seed: int, published: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    """image [N,C,H,W], segments [N,H,W] or sizes of cells -> both images of the pair, the visible share [N] of the first."""
    n, _, h, w = image.shape
    sides = torch.zeros((n, h, w), dtype=torch.uint8, device=image.device)
    share = torch.zeros(n, device=image.device)
    for i in range(n if h * w else 0):
        salt, twist = _stream(seed, i)
        if segments is None:
            cell = grid[int(_numbers(salt, twist, _BITS)) * len(grid) >> 32]
            y, x = torch.arange(h, device=image.device) // cell, torch.arange(w, device=image.device) // cell
            label = y[:, None] * -(-w // cell) + x
        else:
            label = segments[i].long()
        cells = int(label.max()) + 1
        numbers = _numbers(salt, twist, torch.arange(max(cells, 1), device=image.device))
        if published == "paper":
            hidden = numbers < math.ceil(hide * 2**32)
        elif published is None:
            hidden = torch.zeros_like(numbers, dtype=torch.bool)
            hidden[numbers[:cells].argsort()[: round(hide * cells)]] = True
        elif segments is None:
            hidden = numbers <= int(hide * 2**32)
        else:
            draws = _numbers(salt, twist, torch.arange(int((cells + 1) * hide), device=image.device)) * (cells + 1) >> 32
            hidden = torch.isin(torch.arange(1, max(cells, 1) + 1, device=image.device), draws)
        sides[i] = torch.where(label < 0, 0, torch.where(hidden[label.clamp_min(0)], 2, 1))
        visible, counted = (sides[i] == 1).sum().double(), (sides[i] > 0).sum().double()
        if published == "code" and segments is None:
            visible, counted = (~hidden).sum().double(), torch.tensor(float(cells))
        share[i] = visible / counted.clamp_min(1)
    side = sides[:, None]
    zero = torch.zeros((), dtype=image.dtype, device=image.device)
    return torch.where(side == 1, image, zero), torch.where(side == 2, image, zero), share


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit numbers kept in int64: products wrap modulo 2^64, of which the lower half counts."""
    x = (x ^ (x >> 16)) * 0x85EBCA6B & _BITS
    x = (x ^ (x >> 13)) * 0xC2B2AE35 & _BITS
    return x ^ (x >> 16)


def _stream(seed: int, image: int) -> tuple[Tensor, Tensor]:
    low, high = torch.tensor(seed & _BITS), torch.tensor(seed >> 32 & _BITS)
    salt = _mix(_mix(image + low & _BITS) ^ high)
    return salt, _mix(_mix(image + high & _BITS) ^ salt ^ _BITS)


def _numbers(salt: Tensor, twist: Tensor, k: Tensor | int) -> Tensor:
    return _mix(_mix(k ^ salt) + twist & _BITS)
