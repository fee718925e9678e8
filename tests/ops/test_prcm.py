"""prcm and pcm_prcm: every implementation against hand-worked numbers and the plain PyTorch definition in float64."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import Implementation, relative_error, types_of
from prcm_cases import VARIANTS, by_hand, inputs, reference, results

from wsss_fast import ops

# C, C1, C2 and HW that are below, at and above the tile sizes (8, 16, 24, 32, 48, 96, 128), and never round
SHAPES = [
    # N, C, C1, C2, H, W
    (1, 1, 1, 1, 1, 1),
    (2, 2, 3, 5, 1, 7),
    (1, 3, 16, 24, 5, 3),
    (1, 8, 25, 23, 4, 8),
    (3, 7, 33, 18, 8, 12),
    (1, 21, 40, 97, 3, 11),
    (2, 25, 20, 10, 11, 9),
    (1, 50, 9, 4, 13, 3),
]
LARGE_SHAPES = [(1, 21, 195, 192, 15, 17), (2, 5, 70, 101, 13, 31)]

# Worst seen in float32: 2e-6. float16 and bfloat16 are bounded by the rounding of the result (2^-11, 2^-8).
BOUND = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def compare(got, expected, bound: float, floor: float = 1e-9) -> None:
    for name, a, b in zip(("out", "query", "phi"), got, expected, strict=False):
        if b.abs().max() < floor:  # a softmax of one element does not move
            assert a.abs().max() < 10 * floor
        else:
            assert relative_error(a, b) < bound, name


def test_definition_by_hand(impl: Implementation) -> None:
    given, _, gates = by_hand()
    dtype = torch.float64 if impl.has_float64 else torch.float32
    for (axis, layout), gate in gates.items():
        out = ops.prcm(*(x.to(impl.device, dtype) for x in given), 1.0, axis, layout, impl=impl.name)
        expected = given[0] * torch.tensor(gate, dtype=torch.float64)[:, None]
        assert relative_error(out, expected) < (1e-14 if impl.has_float64 else 1e-6), (axis, layout)


def test_gradients_by_hand(impl: Implementation) -> None:
    """Over positions, transposed: dS = .16 [[ln 3, -ln 3], [1, -1]], dquery = K^T dS, dK = ln 2 dS; key[1, 1] = 0 lets nothing
    through to phi."""
    given, grad, _ = by_hand()
    dtype = torch.float64 if impl.has_float64 else torch.float32
    given, grad = [x.to(impl.device, dtype) for x in given], grad.to(impl.device, dtype)
    _, query, phi = results(given, grad, impl.name, scale=1.0)
    a, b = 0.16 * (3 * math.log(3) + 2), 0.16 * math.log(3)
    first = 0.16 * math.log(2) * torch.tensor([3 * math.log(3) + 2, math.log(3) + 2], dtype=torch.float64)
    second = -0.16 * math.log(2) * math.log(3) * torch.tensor([3.0, 1.0], dtype=torch.float64)
    bound = 1e-14 if impl.has_float64 else 1e-6
    assert relative_error(query, torch.tensor([[a, -a], [b, -b]], dtype=torch.float64).reshape(query.shape)) < bound
    assert relative_error(phi, torch.stack((first, second))) < bound


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_are_read_and_rounded(kernel: Implementation, dtype: torch.dtype) -> None:
    """One pixel: the gate over positions is 1, so every 16-bit pattern comes out as it went in, denormal numbers too."""
    bits = torch.arange(-(2**15), 2**15, 97 if kernel.name == "simt" else 1, dtype=torch.int32).to(torch.int16)
    cam = bits.view(dtype).nan_to_num(1.0, 2.0, 3.0).reshape(1, -1, 1, 1).to(kernel.device)
    one = torch.ones((1, 1, 1, 1), dtype=dtype, device=kernel.device)
    assert torch.equal(ops.prcm(cam, one, one, one[0, 0], impl=kernel.name), cam)


def test_scale_defaults_to_the_classes_root(impl: Implementation) -> None:
    given = inputs((1, 9, 4, 6, 3, 5), device=impl.device)
    out = ops.prcm(*given, impl=impl.name)
    assert torch.equal(out, ops.prcm(*given, 1 / 3, impl=impl.name))
    assert relative_error(out, reference(given, scale=1 / 3)) < BOUND[torch.float32]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.values()))
def test_forward_and_gradients(impl: Implementation, shape, variant) -> None:
    for dtype in types_of(impl, BOUND):
        given = inputs(shape, dtype, impl.device)
        grad = torch.randn(given[0].shape).to(given[0])
        got = results(given, grad, impl.name, **variant)
        assert all(x.dtype == dtype and x.is_contiguous() and x.device == given[0].device for x in got)
        compare(got, reference(given, grad, **variant), BOUND[dtype], floor=1e-9 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("shape", LARGE_SHAPES, ids=str)
def test_many_tiles(kernel: Implementation, shape) -> None:
    if kernel.name == "simt":
        n, c, c1, c2, h, w = shape
        shape = (n, c, min(c1, 40), min(c2, 101), h, w)  # the emulator runs a thousand times slower
    for variant in VARIANTS[::3]:
        given = inputs(shape, device=kernel.device)
        grad = torch.randn(given[0].shape).to(given[0])
        got = results(given, grad, kernel.name, scale=0.3, **variant)
        compare(got, reference(given, grad, scale=0.3, **variant), BOUND[torch.float32])


def test_seed_and_x_are_constants(impl: Implementation) -> None:
    cam, x, query, phi = (t.requires_grad_() for t in inputs((1, 3, 4, 5, 2, 6), device=impl.device))
    ops.prcm(cam, x, query, phi, impl=impl.name).square().sum().backward()
    assert cam.grad is None and x.grad is None
    assert query.grad.count_nonzero() and phi.grad.count_nonzero()
    assert not ops.prcm(cam, x, query.detach(), phi.detach(), impl=impl.name).requires_grad


SIZES = [(0, 2, 3, 4, 5, 6), (1, 0, 3, 4, 5, 6), (2, 2, 0, 4, 5, 6), (1, 2, 3, 0, 5, 6), (1, 2, 3, 4, 0, 6), (2, 2, 3, 4, 5, 0)]


def test_not_finite(impl: Implementation) -> None:
    given = inputs((2, 3, 6, 7, 4, 5), device=impl.device)
    for variant in VARIANTS:
        for index, where in ((0, (0, 1, 2, 2)), (1, (1, 2, 3, 4)), (2, (0, 3, 1, 1)), (3, (2, 1))):
            for value in (math.nan, math.inf, -math.inf):
                bad = [x.clone() for x in given]
                bad[index][where] = value
                out = ops.prcm(*bad, impl=impl.name, **variant)
                expected = reference(bad, **variant)
                assert torch.equal(out.isfinite().cpu(), expected.isfinite()), (variant, index, value)
                finite = [t.detach().double().cpu().nan_to_num(0, 0, 0) for t in (out, expected)]
                assert relative_error(*finite) < 1e-5


def test_a_class_that_is_nowhere(impl: Implementation) -> None:
    """-Inf everywhere but at one pixel: its class is that pixel's x; everywhere: NaN, as in PyTorch."""
    cam, x, query, phi = inputs((1, 2, 5, 6, 3, 50), device=impl.device)
    cam[0, 0] = -math.inf
    cam[0, 0, 2, 40] = 0.5
    out = ops.prcm(cam, x, query, phi, impl=impl.name)
    expected = reference([cam, x, query, phi])
    assert torch.equal(out.isfinite().cpu(), expected.isfinite())
    assert relative_error(out[:, 1], expected[:, 1]) < BOUND[torch.float32]
    assert relative_error(out[0, 0, 2, 40], expected[0, 0, 2, 40]) < BOUND[torch.float32]
    cam[0, 0] = -math.inf
    out = ops.prcm(cam, x, query, phi, impl=impl.name)
    assert out[:, 0].isnan().all() and out[:, 1].isfinite().all()


def test_extreme_magnitudes(impl: Implementation) -> None:
    """A softmax looks at differences alone; one that is peaked gives 0 and 1."""
    cam, x, query, phi = inputs((1, 4, 9, 8, 5, 7), device=impl.device)
    seed, shifted = ops.prcm(cam, x, query, phi, impl=impl.name), ops.prcm(cam + 100, x, query, phi, impl=impl.name)
    assert relative_error(shifted / (cam + 100), (seed / cam).cpu()) < 1e-4
    for variant in VARIANTS:
        for factor in (1e4, 1e-30):
            given = [cam * 50, x, query * factor, phi]
            grad = torch.ones_like(cam)
            out, *gradients = results(given, grad, impl.name, **variant)
            assert relative_error(out, reference(given, **variant)) < 1e-3
            assert all(gradient.isfinite().all() for gradient in gradients)


def test_flipped_and_permuted(kernel: Implementation) -> None:
    cam, x, query, phi = inputs((1, 4, 20, 9, 9, 13), device=kernel.device)
    out = ops.prcm(cam, x, query, phi, impl=kernel.name)
    assert relative_error(ops.prcm(cam.flip(-1), x.flip(-1), query.flip(-1), phi, impl=kernel.name), out.flip(-1)) < 1e-4
    order = [2, 0, 3, 1]
    assert relative_error(ops.prcm(cam[:, order], x, query, phi, impl=kernel.name), out[:, order]) < 1e-6
    gate = ops.prcm(torch.ones_like(cam), x, query, phi, axis="classes", impl=kernel.name)
    assert (gate.sum(1) - 1).abs().max() < 1e-5
    gate = ops.prcm(torch.ones_like(cam), x, query, phi, impl=kernel.name)
    assert (gate.sum((2, 3)) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.values()))
def test_pcm_prcm_is_the_sum(impl: Implementation, variant) -> None:
    """Also its gradients: that of the feature has a part through each, and one of them passes a ReLU."""
    for dtype in types_of(impl, BOUND):
        cam, x, _, phi = inputs((2, 3, 7, 12, 6, 9), dtype, impl.device)
        feature = torch.randn((2, 12, 6, 9), generator=torch.Generator().manual_seed(3)).to(cam)
        grad = torch.randn(cam.shape).to(cam)
        leaves = feature.clone().requires_grad_(), phi.clone().requires_grad_()
        out = ops.pcm_prcm(cam.requires_grad_(), x, *leaves, eps=0.1, scale=2.0, impl=impl.name, **variant)
        got = out, *torch.autograd.grad(out, leaves, grad)
        wide = [t.detach().double().cpu().requires_grad_(i >= 2) for i, t in enumerate((cam, x, feature, phi))]
        whole = ops.pcm(wide[0], wide[2], 0.1, impl="reference")
        whole = whole + ops.prcm(*wide[:2], wide[2].relu(), wide[3], 2.0, impl="reference", **variant)
        expected = whole, *torch.autograd.grad(whole, wide[2:], grad.double().cpu())
        bound = BOUND[dtype] if dtype == torch.float64 else max(1e-3, 3 * BOUND[dtype])
        compare(got, expected, bound)
