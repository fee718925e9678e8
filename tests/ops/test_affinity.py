"""affinity and edge_affinity: every implementation against the plain PyTorch definitions in float64."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from affinity_cases import AFFINITY, BOTH, EDGE, Case, pairs
from helpers import Implementation, relative_error, types_of
from torch import Tensor

from wsss_fast import ops
from wsss_fast.ops._reference.edge_affinity import path
from wsss_fast.ops._reference.half_disc import half_disc

ORACLE = Path(__file__).parents[2].parent / "shared" / "oracle" / "affinitynet_resnet38.npz"

# below, at and above the tile (4 x 64 on the CPU, 8 x 32 on CUDA), the slices of channels (8, 16) and the vectors
SHAPES = [
    # N, C, H, W, radius
    (1, 1, 1, 1, 5),
    (1, 2, 1, 2, 2),
    (2, 3, 4, 5, 3),
    (1, 8, 9, 12, 5),
    (2, 9, 5, 33, 4),
    (1, 17, 8, 32, 5),
    (1, 5, 3, 70, 6),
    (3, 16, 13, 7, 5),
    (1, 3, 2, 3, 9),
    (1, 4, 12, 11, 10),
    (1, 6, 6, 6, 1),
]
LARGE_SHAPES = [(1, 40, 21, 67, 5), (2, 33, 17, 40, 7), (1, 2, 18, 66, 13)]

# float32 was seen at 3e-7; 16-bit types are bounded by their own rounding of the result
BOUND = {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@pytest.fixture(params=BOTH, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_offsets() -> None:
    assert [len(ops.affinity_offsets(r)) for r in (1, 2, 5, 10, 32)] == [0, 4, 34, 152, 1602]
    offsets = ops.affinity_offsets(5)
    assert offsets.dtype == torch.int64 and offsets.shape == (34, 2)
    assert offsets[:5].tolist() == [[0, 1], [0, 2], [0, 3], [0, 4], [1, -4]] and offsets[-1].tolist() == [4, 2]
    assert [(offsets[:, 0] == dy).sum().item() for dy in range(5)] == [4, 9, 9, 7, 5]


def test_paths() -> None:
    for radius, points, longest in ((5, 242, 11), (10, 2134, 22)):
        lengths = [len(path(*offset)) for offset in half_disc(radius)]
        assert (sum(lengths), min(lengths), max(lengths)) == (points, 2, longest)
    assert path(0, 3) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert path(2, -2) == [(0, -1), (0, 0), (1, -2), (1, -1), (1, 0), (2, -2), (2, -1)]


def test_affinity_by_hand(impl: Implementation) -> None:
    """Two channels of 1 x 3 pixels: mean differences 2, 1 and, between the ends, 3."""
    feature = torch.tensor([[0.0, 3.0, 4.0], [0.0, 1.0, 2.0]], device=impl.device).reshape(1, 2, 1, 3)
    out = ops.affinity(feature, 3, impl=impl.name)
    expected = torch.zeros(1, 12, 1, 3)
    expected[0, 0, 0] = torch.tensor([math.exp(-2), math.exp(-1), 0])
    expected[0, 1, 0, 0] = math.exp(-3)
    assert relative_error(out, expected) < 1e-6


def test_edge_affinity_by_hand(impl: Implementation) -> None:
    """An edge between the ends counts, one beside the path does not."""
    edge = torch.tensor([[0.1, 0.75, 0.2], [0.0, 0.0, 0.5]], device=impl.device).reshape(1, 1, 2, 3)
    out = ops.edge_affinity(edge, 3, impl=impl.name)[0]
    offsets = ops.affinity_offsets(3).tolist()
    expected = {((0, 1), 0, 0): 0.25, ((0, 2), 0, 0): 0.25, ((0, 1), 1, 0): 1.0, ((1, 0), 0, 0): 0.9, ((1, 2), 0, 0): 0.25}
    expected |= {((1, -2), 0, 2): 0.25, ((1, -1), 0, 1): 0.25, ((0, 1), 0, 2): 0.0, ((1, 0), 1, 0): 0.0, ((0, 2), 1, 0): 0.5}
    for (offset, y, x), value in expected.items():
        assert out[offsets.index(list(offset)), y, x].item() == pytest.approx(value), (offset, y, x)


@pytest.mark.parametrize("radius", [2, 5, 7])
def test_pairs_stand_where_the_offsets_say(case: Case, impl: Implementation, radius: int) -> None:
    """Each plane holds the pairs p, p + offset and zeros elsewhere, written as plain loops over pixels."""
    x = case.input((1, 3, 5, 8), device=impl.device)
    out = case.call(x, radius, impl=impl.name).cpu()[0]
    expected = torch.zeros_like(out)
    x = x.cpu()[0]
    for (e, y, col), (to_y, to_x) in pairs(radius, 5, 8).items():
        if case is AFFINITY:
            expected[e, y, col] = torch.exp(-(x[:, y, col] - x[:, to_y, to_x]).abs().mean())
        else:
            dy, dx = to_y - y, to_x - col
            near = [
                x[0, y + i, col + j]
                for i in range(dy + 1)
                for j in range(min(dx, 0), max(dx, 0) + 1)
                if abs(dy * j - dx * i) / math.hypot(dy, dx) < 1
            ]
            expected[e, y, col] = 1 - max(near)
    assert relative_error(out, expected) < 1e-6


@cache
def expected_of(case: Case, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """A gradient that every type holds exactly, and what the definition gives: the same for all types and implementations."""
    *size, radius = shape
    grad = torch.randint(-8, 9, (size[0], len(half_disc(radius)), *size[2:]), generator=torch.Generator().manual_seed(1))
    return grad.double(), *case.exact(case.input(size), radius, grad.double())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_gradients(case: Case, impl: Implementation, shape) -> None:
    *size, radius = shape
    grad, expected, expected_gradient = expected_of(case, shape)
    for dtype in types_of(impl, BOUND):
        x = case.input(size, dtype, impl.device)
        out, gradient = case.run(x, radius, grad.to(x), impl.name)
        assert out.dtype == gradient.dtype == dtype and out.is_contiguous() and out.device == x.device
        assert relative_error(out, expected) < BOUND[dtype], dtype
        assert relative_error(gradient, expected_gradient) < 2 * BOUND[dtype], dtype


@pytest.mark.parametrize("shape", LARGE_SHAPES, ids=str)
def test_many_tiles(case: Case, kernel: Implementation, shape) -> None:
    if kernel.name == "simt":  # the emulator runs a thousand times slower
        shape = (shape[0], min(shape[1], 9), *shape[2:])
    grad, *expected = expected_of(case, shape)
    x = case.input(shape[:4], device=kernel.device)
    for got, wanted in zip(case.run(x, shape[4], grad.to(x), kernel.name), expected, strict=True):
        assert relative_error(got, wanted) < 1e-5


def test_largest_radius(kernel: Implementation) -> None:
    """Each of the 1602 offsets has a pair. For edges the CPU kernel is the judge: the definition would take a minute."""
    x = AFFINITY.input((1, 2, 32, 33), device=kernel.device)
    grad, *expected = expected_of(AFFINITY, (1, 2, 32, 33, 32))
    for got, wanted in zip(AFFINITY.run(x, 32, grad.to(x), kernel.name), expected, strict=True):
        assert relative_error(got, wanted) < 1e-5
    edge = EDGE.input((1, 1, 32, 33))
    grad = grad.float()
    for got, wanted in zip(EDGE.run(edge.to(x), 32, grad.to(x), kernel.name), EDGE.run(edge, 32, grad, "cpu"), strict=True):
        assert relative_error(got, wanted) < 1e-6


def test_affinitynet_channels(kernel: Implementation) -> None:
    """448 channels, as AffinityNet has: sums long enough for the channels to be split on CUDA."""
    x = torch.randn(1, 448, 9, 12).to(kernel.device)
    grad = torch.randn(1, 34, 9, 12).to(kernel.device)
    for got, expected in zip(AFFINITY.run(x, 5, grad, kernel.name), AFFINITY.exact(x, 5, grad), strict=True):
        assert relative_error(got, expected) < 1e-5


def test_without_channels_nothing_differs(impl: Implementation) -> None:
    out = ops.affinity(torch.rand((2, 0, 4, 5), device=impl.device), 5, impl=impl.name)
    assert out[:, 0, :, :-1].eq(1).all() and out[:, 0, :, -1].eq(0).all()


def test_radius_beyond_the_image(case: Case, impl: Implementation) -> None:
    x = case.input((1, 3, 3, 4), device=impl.device)
    out = case.call(x, 32, impl=impl.name)
    offsets = ops.affinity_offsets(32)
    outside = (offsets[:, 0] >= 3) | (offsets[:, 1].abs() >= 4)
    assert outside.sum() > 1500 and not out[:, outside.to(out.device)].count_nonzero()
    assert relative_error(out, case.exact(x, 32)[0]) < 1e-6


def test_gradient_of_equal_features_is_zero(impl: Implementation) -> None:
    x = torch.full((1, 4, 5, 9), 0.3, device=impl.device)
    out, gradient = AFFINITY.run(x, 5, torch.ones(1, 34, 5, 9, device=impl.device), impl.name)
    assert out[:, :, :1, 4:5].eq(1).all() and not gradient.count_nonzero()


def test_the_first_of_equal_edges_takes_the_gradient(impl: Implementation) -> None:
    """On a constant image: p itself where the path goes to the right, the left end of its first row where it goes to the left."""
    edge = torch.full((1, 1, 3, 5), 0.5, device=impl.device)
    grad = torch.zeros(1, 34, 3, 5, device=impl.device)
    offsets = ops.affinity_offsets(5).tolist()
    grad[0, offsets.index([1, 2]), 1, 1] = 1
    grad[0, offsets.index([1, -2]), 0, 4] = 10
    _, gradient = EDGE.run(edge, 5, grad, impl.name)
    expected = torch.zeros(3, 5)
    expected[1, 1], expected[0, 2] = -1, -10
    assert torch.equal(gradient[0, 0].cpu(), expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(case: Case, impl: Implementation, value: float) -> None:
    x = case.input((1, 3, 9, 14), device=impl.device)
    x[0, -1, 4, 6] = value
    grad = torch.randn(1, 34, 9, 14).to(x)
    out, gradient = case.run(x, 5, grad, impl.name)
    expected, expected_gradient = case.exact(x, 5, grad)
    assert torch.equal(out.isnan().cpu(), expected.isnan()) and torch.equal(out.isinf().cpu(), expected.isinf())
    assert relative_error(out.nan_to_num(0, 0, 0), expected.nan_to_num(0, 0, 0)) < 1e-5
    if math.isnan(value):
        assert torch.equal(gradient.isnan().cpu(), expected_gradient.isnan())
        assert out.isnan().any() and not out.isnan().all()
    assert relative_error(gradient.nan_to_num(0), expected_gradient.nan_to_num(0)) < 1e-5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradients_that_are_not_finite(case: Case, kernel: Implementation, value: float) -> None:
    """They arrive: mixed precision training looks for them."""
    x = case.input((1, 3, 6, 9), device=kernel.device)
    grad = torch.ones(1, 34, 6, 9, device=kernel.device)
    grad[0, 20, 1, 4] = value
    _, gradient = case.run(x, 5, grad, kernel.name)
    assert not gradient.isfinite().all() and gradient.isfinite().any()


def test_oracle_order_of_offsets() -> None:
    """The published pairs, found in the published dense matrix by our order of offsets and sources."""
    if not ORACLE.is_file():
        pytest.skip("the oracle files are not beside the repository")
    oracle = np.load(ORACLE)
    h, w = 9, 12
    dense = torch.from_numpy(oracle["affinity_dense"]).reshape(h, w, h, w)
    planes = torch.zeros(1, 34, h, w)
    for (e, y, x), (to_y, to_x) in pairs(5, h, w).items():
        planes[0, e, y, x] = dense[y, x, to_y, to_x]
    assert torch.equal(ops.affinity_pairs(planes, 5), torch.from_numpy(oracle["affinity_pairs"]))


# ---- the pair loss's index sets ---------------------------------------------------------------------------------------------


def test_pairs_of_the_published_systems() -> None:
    planes = torch.arange(2 * 34 * 56 * 56).reshape(2, 34, 56, 56)
    got = ops.affinity_pairs(planes)
    assert got.shape == (2, 34, 2496)  # 84,864 pairs of a crop of 448
    assert torch.equal(got[1, 7], planes[1, 7, :52, 4:52].flatten())
    assert ops.affinity_pairs(torch.zeros(1, 152, 128, 128), 10).numel() == 1_989_680
    assert ops.affinity_pairs(torch.zeros(1, 34, 3, 20)).numel() == 0


@pytest.mark.parametrize("border", ["full", "published"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=str)
def test_labels(border: str, dtype: torch.dtype) -> None:
    h, w, radius = 9, 11, 4
    labels = torch.tensor([0, 0, 1, 2, 254, 255])[torch.randint(0, 6, (2, h, w))].to(dtype)
    sets = ops.affinity_labels(labels, radius, border=border)
    there = pairs(radius, h, w)
    expected = torch.zeros(3, *sets.background.shape, dtype=torch.bool)
    for n in range(2):
        for (e, y, x), (to_y, to_x) in there.items():
            a, b = labels[n, y, x].item(), labels[n, to_y, to_x].item()
            inside = border == "full" or (y < h - radius + 1 and radius - 1 <= x < w - radius + 1)
            if inside and a < 255 and b < 255:
                expected[(0 if a == 0 else 1) if a == b else 2, n, e, y, x] = True
    assert all(torch.equal(got, wanted) for got, wanted in zip(sets, expected, strict=True))
    assert sets.background.any() and sets.foreground.any() and sets.different.any()


def test_labels_that_are_ignored() -> None:
    labels = torch.tensor([[[-1, 3, 255, 300, 3]]])
    sets = ops.affinity_labels(labels, 5)
    assert [int(part.sum()) for part in sets] == [0, 1, 0] and sets.foreground[0, 2, 0, 1]


def test_small_and_empty_label_maps() -> None:
    for shape in ((0, 4, 5), (1, 0, 5), (1, 1, 1), (1, 3, 3)):
        for border in ("full", "published"):
            sets = ops.affinity_labels(torch.zeros(shape, dtype=torch.uint8), 5, border=border)
            assert sets.background.shape == (shape[0], 34, *shape[1:])
            assert border == "full" or not sets.background.any()
    assert ops.affinity_labels(torch.zeros((1, 3, 3), dtype=torch.uint8), 1).background.shape == (1, 0, 3, 3)
