"""What the tests of complementary_pair share: an image with segments, and a call with a seed."""

from __future__ import annotations

from typing import Any

import torch
from helpers import Implementation
from torch import Tensor

from wsss_fast import ops


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, device: str = "cpu", *, masked: bool = True):
    """An image, and segments: cells of 4 x 3 pixels with every label used, and -1 in a corner."""
    n, c, h, w = shape
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(1, 256, (n, c, h, w), generator=generator).to(dtype)  # no zeros: what is 0 is hidden
    if dtype != torch.uint8:
        image = (image - 127.5) / 64
    segments = (torch.arange(h)[:, None] // 4 * -(-w // 3) + torch.arange(w) // 3).int().repeat(n, 1, 1)
    if masked and h > 4 and w > 3:
        segments[:, -2:, -1:] = -1
        segments[-1, 0, 0] = -1
    return image.to(device), segments.to(device)


def call(seed: int, impl: Implementation, image: Tensor, *arguments: Any, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    return ops.complementary_pair(image, *arguments, generator=torch.Generator().manual_seed(seed), impl=impl.name, **settings)
