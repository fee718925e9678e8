"""pcm: every implementation against the plain PyTorch definition in float64, and how it behaves as a torch operation."""

from __future__ import annotations

import pytest
import torch
from helpers import Implementation, relative_error
from pcm_cases import inputs, reference

from wsss_fast import ops

# C, D and HW that are below, at and above the tile sizes (8, 16, 48, 64, 96, 192), and never round
SHAPES = [
    # N, C, D, H, W
    (1, 1, 1, 1, 1),
    (2, 2, 3, 1, 7),
    (1, 3, 16, 5, 3),
    (1, 21, 192, 9, 12),
    (3, 7, 33, 8, 8),
    (2, 21, 195, 7, 14),
    (1, 40, 20, 11, 9),
    (1, 5, 260, 13, 5),
]
LARGE_SHAPES = [(1, 21, 192, 28, 29), (2, 20, 195, 15, 13), (1, 2, 8, 33, 35)]  # several super-blocks

# Worst seen: float32 4e-7 forward; the bounds leave room for another processor's rounding. float16 and bfloat16 are bounded by
# their own rounding of the result (2^-11, 2^-8) with a factor for the rounding of A on tensor cores.
FORWARD_BOUND = {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
GRADIENT_BOUND = {torch.float64: 1e-12, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}
CUDA_FORWARD_BOUND = {**FORWARD_BOUND, torch.float32: 1e-4}  # float32 is split into two bfloat16 terms


def forward_bound(impl: Implementation, dtype: torch.dtype) -> float:
    return (CUDA_FORWARD_BOUND if impl.name in ("simt", "cuda") else FORWARD_BOUND)[dtype]


def types_of(impl: Implementation) -> list[torch.dtype]:
    return [t for t in FORWARD_BOUND if t != torch.float64 or impl.has_float64]


def test_definition_by_hand() -> None:
    """Two pixels at 60 degrees and one opposite to the first: A = [[1, .5, 0], [.5, 1, 0], [0, 0, 1]] with max(cos, 0)."""
    feature = torch.tensor([[2.0, 0.5, -3.0], [0.0, 0.75**0.5, 0.0]], dtype=torch.float64).reshape(1, 2, 1, 3)
    cam = torch.tensor([[3.0, 6.0, 9.0]], dtype=torch.float64).reshape(1, 1, 1, 3)
    expected = torch.tensor([(3 + 3) / 1.5, (1.5 + 6) / 1.5, 9.0], dtype=torch.float64).reshape(1, 1, 1, 3)
    for name in ("reference", "cpu"):
        assert relative_error(ops.pcm(cam, feature, 0.0, impl=name), expected) < 1e-12


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(impl: Implementation, shape) -> None:
    for dtype in types_of(impl):
        cam, feature = inputs(shape, dtype, impl.device)
        out = ops.pcm(cam, feature, impl=impl.name)
        assert out.dtype == dtype and out.is_contiguous() and out.device == cam.device
        assert relative_error(out, reference(cam, feature)) < forward_bound(impl, dtype), dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_are_read_and_rounded_as_torch_does(dtype: torch.dtype) -> None:
    """One pixel: out = cam / (1 + eps), for every 16-bit pattern there is."""
    cam = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).reshape(1, -1, 1, 1)
    for eps in (0.0, 0.1, 3.0):
        out = ops.pcm(cam, torch.full((1, 1, 1, 1), 2.0, dtype=dtype), eps, impl="cpu")
        expected = (cam.float() * (2 / (2 + torch.tensor(eps))) ** 2 / ((2 / (2 + torch.tensor(eps))) ** 2 + eps)).to(dtype)
        assert torch.equal(out.isnan(), expected.isnan())
        # -0 is 0
        bits = [(x.nan_to_num(0.0, torch.inf, -torch.inf) + 0.0).view(torch.int16).int() for x in (out, expected)]
        # the float32 value before rounding may differ in its last bit, which moves a result by one step now and then
        assert (bits[0] - bits[1]).abs().max() <= 1 and (bits[0] != bits[1]).float().mean() < 0.01


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients(impl: Implementation, shape) -> None:
    for dtype in types_of(impl):
        cam, feature = (x.requires_grad_() for x in inputs(shape, dtype, impl.device))
        out = ops.pcm(cam, feature, impl=impl.name)
        grad = torch.randn(out.shape).to(out)
        got = torch.autograd.grad(out, (cam, feature), grad)
        _, *expected = reference(cam, feature, grad)
        for name, a, b in zip(("cam", "feature"), got, expected, strict=True):
            if b.abs().max() < 1e-6:  # a single pixel: the feature's gradient is 0 up to eps
                assert a.abs().max() < 1e-2
            else:
                assert relative_error(a, b) < GRADIENT_BOUND[dtype], (name, dtype)


@pytest.mark.parametrize("shape", LARGE_SHAPES, ids=str)
def test_many_tiles(kernel: Implementation, shape) -> None:
    if kernel.name == "simt":
        n, c, d, h, w = shape
        shape = (n, c, min(d, 48), h, w)  # the emulator runs a thousand times slower; depth is covered by SHAPES
    cam, feature = (x.requires_grad_() for x in inputs(shape, device=kernel.device, away_from_zero=False))
    out = ops.pcm(cam, feature, impl=kernel.name)
    grad = torch.randn(out.shape).to(out)
    got = (out, *torch.autograd.grad(out, (cam, feature), grad))
    expected = reference(cam, feature, grad)
    bounds = (forward_bound(kernel, torch.float32), 1e-4, 5e-3)  # a cosine near 0 may fall on the other side
    for a, b, bound in zip(got, expected, bounds, strict=True):
        assert relative_error(a, b) < bound


@pytest.mark.parametrize("seed", range(3))
def test_signs_near_zero(kernel: Implementation, seed: int) -> None:
    """Cosines of 1e-8: float32 cannot tell their sign, and a pair that counts on the wrong side costs percents."""
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn((1, 40, 6, 8), generator=generator).double()
    flat = feature.flatten(2)[0]
    # every pixel of the second half is made nearly orthogonal to its partner in the first, on a random side of it
    first, second = flat[:, :24], flat[:, 24:]
    second -= first * (first * second).sum(0) / (first * first).sum(0)
    # rounding to float32 leaves cosines of 1e-8; the CUDA kernel keeps 22 bits of a feature, so its pairs stand further off
    push = 0.0 if kernel.name == "cpu" else 3e-7
    second += first * torch.where(torch.rand(24, generator=generator) < 0.5, -push, push)
    feature = feature.float().to(kernel.device)
    cam = torch.rand((1, 3, 6, 8), generator=generator).to(kernel.device)
    grad = torch.randn((1, 3, 6, 8), generator=generator).to(kernel.device)
    leaf = feature.clone().requires_grad_()
    (got,) = torch.autograd.grad(ops.pcm(cam, leaf, impl=kernel.name), leaf, grad)
    _, _, expected = reference(cam, feature, grad)
    assert relative_error(got, expected) < 1e-4


def test_without_features_nothing_is_similar(impl: Implementation) -> None:
    cam = torch.rand((1, 2, 4, 5), device=impl.device)
    assert not ops.pcm(cam, cam[:, :0], impl=impl.name).count_nonzero()


def test_zero_feature_is_similar_to_nothing(impl: Implementation) -> None:
    cam, feature = inputs((1, 2, 6, 3, 4), device=impl.device)
    feature[:, :, 1, 2] = 0
    out = ops.pcm(cam.requires_grad_(), feature.requires_grad_(), impl=impl.name)
    assert not out[:, :, 1, 2].count_nonzero()
    out.sum().backward()
    assert cam.grad.isfinite().all() and feature.grad.isfinite().all()
    assert not cam.grad[:, :, 1, 2].count_nonzero()


def test_not_finite(impl: Implementation) -> None:
    cam, feature = inputs((2, 3, 6, 4, 5), device=impl.device)
    clean = ops.pcm(cam, feature, impl=impl.name)
    bad_class = cam.clone()
    bad_class[0, 1, 2, 2] = float("nan")
    out = ops.pcm(bad_class, feature, impl=impl.name)
    assert out[0, 1].isnan().all() and torch.equal(out[0, ::2], clean[0, ::2]) and torch.equal(out[1], clean[1])
    for value in (float("nan"), float("inf"), float("-inf")):
        bad_feature = feature.clone()
        bad_feature[1, 0, 3, 4] = value
        out = ops.pcm(cam, bad_feature, impl=impl.name)
        assert out[1].isnan().all() and torch.equal(out[0], clean[0])


def test_extreme_magnitudes(impl: Implementation) -> None:
    """The cosine does not depend on a feature's length; class values scale through."""
    cam, feature = inputs((1, 2, 9, 4, 4), device=impl.device)
    expected = reference(cam, feature)
    for scale in (1e-3, 1e6, 1e15):
        assert relative_error(ops.pcm(cam, feature * scale, impl=impl.name), expected) < 1e-2
        assert relative_error(ops.pcm(cam * scale, feature, impl=impl.name) / scale, expected) < 1e-4


def test_weights_of_a_pixel_sum_to_one(impl: Implementation) -> None:
    cam, feature = inputs((1, 4, 20, 9, 13), device=impl.device)
    assert (ops.pcm(torch.ones_like(cam), feature, impl=impl.name) - 1).abs().max() < 1e-4
