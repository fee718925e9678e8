"""16-bit results are the exact ones rounded to nearest, not cut off, down to the smallest numbers."""

from __future__ import annotations

import pytest
import torch
from helpers import Implementation

from wsss_fast import ops


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 2.0**-20, 2.0**10])
def test_results_are_rounded_to_nearest(kernel: Implementation, dtype: torch.dtype, scale: float) -> None:
    if kernel.name != "cpu":
        return  # on tensor cores the affinity itself is rounded: test_pcm.py bounds that
    generator = torch.Generator().manual_seed(0)
    cam = (torch.rand((1, 30, 9, 11), generator=generator) * scale).to(dtype)
    feature = torch.randn((1, 24, 9, 11), generator=generator).to(dtype)
    expected = ops.pcm(cam.double(), feature.double(), impl="reference")
    got, nearest = ops.pcm(cam, feature, impl=kernel.name), expected.to(dtype)
    # Summing in float32 may tip a value that lies near the middle of two neighbours, and only those.
    assert (got != nearest).double().mean() < 1e-2
    assert ((got.double() - expected) > 0).double().mean() == pytest.approx(0.5, abs=0.1)
