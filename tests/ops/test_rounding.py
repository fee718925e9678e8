"""16-bit numbers are read exactly, down to the smallest, and results are the exact ones rounded to nearest, not cut off."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import Implementation, threads
from torch import Tensor

from wsss_fast import ops

SMALLEST = 2.0**-24  # float16; its numbers below 2**-14 are denormal in float16, and not in the float32 they are summed in


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


def gradient(of: Callable[..., Tensor], x: Tensor, **settings: object) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(of(x, **settings).sum(), x)[0]


READERS = {
    "pcm": lambda small, plain, **kind: ops.pcm(small, plain, **kind),
    "prcm": lambda small, plain, **kind: ops.prcm(small, plain, plain, plain[0, :, 0, :6], axis="classes", **kind),
    "affinity": lambda small, _, **kind: gradient(ops.affinity, small, radius=3, **kind),
    "edge_affinity": lambda small, _, **kind: gradient(ops.edge_affinity, small[:, :1], radius=3, **kind),
    "random_walk": lambda small, plain, **kind: ops.random_walk(small, plain[:, :1].expand(-1, 4, -1, -1), 2, steps=3, **kind),
    "cam_merge": lambda small, _, **kind: ops.cam_merge([small, small.flip(3)], [False, True], (13, 17), **kind),
}


@pytest.mark.parametrize("flush", [False, True], ids=["denormals", "caller flushes"])
@pytest.mark.parametrize("name", READERS)
def test_small_float16_numbers_are_not_zero(kernel: Implementation, name: str, flush: bool) -> None:
    """Also where the processor is told to take float32's denormals for zero: by a kernel, or by the caller."""
    generator = torch.Generator().manual_seed(0)
    small = (torch.randint(1, 1023, (1, 6, 9, 11), generator=generator) * SMALLEST).half()
    plain = torch.rand((1, 6, 9, 11), generator=generator).half()
    expected = READERS[name](small.double(), plain.double(), impl="reference")
    assert expected.abs().max() > 20 * SMALLEST
    small, plain = small.to(kernel.device), plain.to(kernel.device)
    try:
        torch.set_flush_denormal(flush)
        with threads(1):  # the mode is the calling thread's
            got = READERS[name](small, plain, impl=kernel.name)
    finally:
        torch.set_flush_denormal(False)
    assert (got.double().cpu() - expected).abs().max() <= max(SMALLEST, 2e-3 * expected.abs().max())
