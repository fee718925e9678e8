"""random_walk: every implementation against the matrix of its definition in float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Implementation, relative_error, types_of
from random_walk_cases import dense, inputs, planes_of, transition

from wsss_fast import ops
from wsss_fast.ops._reference.half_disc import half_disc
from wsss_fast.ops._reference.random_walk import series

ORACLE = Path(__file__).resolve().parents[3] / "shared" / "oracle" / "affinitynet_resnet38.npz"
BOUND = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
MODES = ("exact", "chebyshev")

# H and W below, at and above the tiles (4 rows, 4 to 16 columns), C below and above a group, and grids that do and do not fit
# the CUDA kernel for small grids
SHAPES = [(1, 1, 1, 1), (2, 3, 1, 7), (1, 2, 5, 1), (2, 4, 4, 16), (1, 5, 9, 17), (1, 1, 2, 165)]
LARGE = (1, 5, 130, 127)  # above the size from which rows of tiles are the tasks


def test_definition_by_hand() -> None:
    """Three pixels in a row, neighbours alike by 0.5: A = [[1, .5, 0], [.5, 1, .5], [0, .5, 1]], column sums 1.5, 2, 1.5."""
    cam = torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64).reshape(1, 1, 1, 3)
    affinity = torch.zeros((1, 4, 1, 3), dtype=torch.float64)  # radius 2: right, and three below
    affinity[0, 0, 0, :2] = 0.25**0.5
    for name in ("reference", "cpu"):
        one = ops.random_walk(cam, affinity, radius=2, beta=1, steps=1, impl=name)
        assert relative_error(one.flatten(), torch.tensor([3 / 1.5, 1.5 / 2, 0], dtype=torch.float64)) < 1e-12
        two = ops.random_walk(cam, affinity, radius=2, beta=2, steps=1, impl=name)
        assert relative_error(two.flatten(), torch.tensor([3 / 1.25, 0.75 / 1.5, 0], dtype=torch.float64)) < 1e-12


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_definition(impl: Implementation, shape, mode: str) -> None:
    for dtype in types_of(impl, BOUND):
        cam, affinity = inputs(shape, 5, dtype, impl.device)
        out = ops.random_walk(cam, affinity, steps=9, mode=mode, tolerance=1e-13, impl=impl.name)
        assert out.dtype == dtype and out.is_contiguous() and out.device == cam.device
        assert relative_error(out, dense(cam, affinity, steps=9)) < BOUND[dtype], dtype


@pytest.mark.parametrize("border", ["full", "published"])
@pytest.mark.parametrize("radius", [1, 2, 3, 4, 5, 6, 10, 32])
def test_radius(impl: Implementation, radius: int, border: str) -> None:
    """Also far larger than the grid."""
    for shape in ((1, 2, 9, 14), (1, 1, 3, 5)):
        cam, affinity = inputs(shape, radius, device=impl.device)
        for mode in MODES:
            out = ops.random_walk(cam, affinity, radius, steps=4, mode=mode, border=border, impl=impl.name)
            assert relative_error(out, dense(cam, affinity, radius, steps=4, border=border)) < 2e-5


@pytest.mark.parametrize("beta", [0, 0.5, 1, 3, 7.25, 10, 64, 65, 1000])
def test_beta(impl: Implementation, beta: float) -> None:
    cam, affinity = inputs((1, 2, 6, 7), 3, device=impl.device)
    affinity = affinity.clamp(max=0.98)
    affinity[0, :, 2, 3] = 1
    out = ops.random_walk(cam, affinity, 3, beta, 5, impl=impl.name)
    assert relative_error(out, dense(cam, affinity, 3, beta, 5)) < 2e-5


@pytest.mark.parametrize("steps", [1, 2, 3, 64, 255, 256])
def test_steps(impl: Implementation, steps: int) -> None:
    if impl.name == "simt" and steps in (64, 255):
        steps //= 8  # the emulator runs a thousand times slower
    cam, affinity = inputs((1, 3, 7, 11), device=impl.device)
    expected = dense(cam, affinity, steps=steps)
    for mode in MODES:
        assert relative_error(ops.random_walk(cam, affinity, steps=steps, mode=mode, impl=impl.name), expected) < 1e-4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beta", [1, 2.5, 8])
def test_rounding_does_not_grow_with_the_steps(kernel: Implementation, mode: str, beta: float) -> None:
    """Edges without any order: pixels of every degree, from nearly isolated ones to those with 68 strong neighbours. A column of
    T that sums to 1 + 1e-6 alone would show as 3e-4 after 256 steps."""
    generator = torch.Generator().manual_seed(0)
    affinity = ops.edge_affinity(torch.rand(1, 1, 16, 18, generator=generator), 5, impl="reference")
    cam = torch.rand(1, 3, 16, 18, generator=generator)
    expected = ops.random_walk(cam.double(), affinity.double(), beta=beta, impl="reference")
    got = ops.random_walk(
        cam.to(kernel.device), affinity.to(kernel.device), beta=beta, mode=mode, tolerance=1e-6, impl=kernel.name
    )
    assert relative_error(got, expected) < 3e-5


def test_zero_steps_are_the_identity(impl: Implementation) -> None:
    for dtype in types_of(impl, BOUND):
        cam, affinity = inputs((2, 3, 5, 9), 5, dtype, impl.device)
        cam[0, 0, 0, :3] = torch.tensor([torch.finfo(dtype).tiny / 4, -torch.finfo(dtype).max, 0.1])  # a denormal too
        for mode in MODES:
            out = ops.random_walk(cam, affinity, steps=0, mode=mode, impl=impl.name)
            assert torch.equal(out, cam) and out.data_ptr() != cam.data_ptr()


@pytest.mark.parametrize("mode", MODES)
def test_what_is_kept(impl: Implementation, mode: str) -> None:
    """Columns of T sum to 1: a constant stays, no value leaves the range of the map, and the sum weighted by the column sums
    of A^beta stays. The plain sum does not."""
    cam, affinity = inputs((2, 3, 9, 10), device=impl.device)
    out = ops.random_walk(cam, affinity, steps=20, mode=mode, impl=impl.name)
    _, degree = transition(affinity)
    mass = (cam.double().cpu().flatten(2) * degree[:, None]).sum(2)
    assert relative_error((out.double().cpu().flatten(2) * degree[:, None]).sum(2), mass) < 1e-5
    assert relative_error(out.sum((2, 3)), cam.sum((2, 3))) > 1e-3
    assert (out.amax((2, 3)) <= cam.amax((2, 3)) * (1 + 1e-5)).all() and (out.amin((2, 3)) >= cam.amin((2, 3)) - 1e-5).all()
    constant = ops.random_walk(torch.full_like(cam, 0.7), affinity, steps=20, mode=mode, impl=impl.name)
    assert (constant - 0.7).abs().max() < 1e-5


@pytest.mark.parametrize("steps", [1, 2, 17, 256, 1001])
@pytest.mark.parametrize("tolerance", [0, 1e-9, 1e-3, 0.3, 0.999])
def test_chebyshev_keeps_its_tolerance(steps: int, tolerance: float) -> None:
    cam, affinity = inputs((1, 3, 12, 13), dtype=torch.float64)
    cam[0, 2] = 0
    cam[0, 2, 6, 6] = 1  # the hardest map for a norm of single pixels
    expected = ops.random_walk(cam, affinity, steps=steps, impl="cpu")
    for name in ("cpu", "reference"):
        out = ops.random_walk(cam, affinity, steps=steps, mode="chebyshev", tolerance=tolerance, impl=name)
        assert (out - expected).abs().max() <= tolerance * cam.abs().max() + 1e-12


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 40, 301])
def test_series(steps: int) -> None:
    """All terms are binomial coefficients; a cut one is within its bound everywhere, and exact at 1."""
    whole = series(steps, 0.0)
    expected = [
        (1 if k == 0 else 2) * math.comb(steps, (steps - k) // 2) / 2**steps if (steps - k) % 2 == 0 else 0.0
        for k in range(len(whole))
    ]
    np.testing.assert_allclose(whole, expected, rtol=1e-12, atol=1e-18)
    angle = np.linspace(0, math.pi, 2001)
    for bound in (1e-9, 1e-3, 0.4):
        cut = series(steps, bound)
        error = sum(c * np.cos(k * angle) for k, c in enumerate(cut)) - np.cos(angle) ** steps
        assert abs(error).max() <= bound + 1e-13 and abs(error[0]) < 1e-13
        assert len(cut) <= len(whole)


def test_a_million_steps_reach_the_stationary_map() -> None:
    cam, affinity = inputs((1, 2, 3, 4), dtype=torch.float64)
    out = ops.random_walk(cam, affinity, beta=1, steps=10**6, mode="chebyshev", tolerance=1e-12, impl="cpu")
    _, degree = transition(affinity, beta=1)
    mean = (cam.flatten(2) * degree[:, None]).sum(2) / degree.sum(1)
    assert relative_error(out, mean[..., None, None].expand(out.shape)) < 1e-9


@pytest.mark.parametrize("mode", MODES)
def test_large_grids(kernel: Implementation, mode: str) -> None:
    n, c, h, w = LARGE
    shape = (n, c, h // 4, w // 4) if kernel.name == "simt" else LARGE
    for radius in (5, 10) if kernel.name != "simt" else (6,):
        cam, affinity = inputs(shape, radius, device=kernel.device)
        expected = ops.random_walk(cam.double().cpu(), affinity.double().cpu(), radius, steps=3, impl="reference")
        out = ops.random_walk(cam, affinity, radius, steps=3, mode=mode, impl=kernel.name)
        assert relative_error(out, expected) < 2e-5


@pytest.mark.skipif(not ORACLE.exists(), reason="the oracle files are not beside the repository")
@pytest.mark.parametrize("mode", MODES)
def test_oracle(impl: Implementation, mode: str) -> None:
    """What the released AffinityNet code gives, which squares the matrix of its pairs; the pairs at the border are missing."""
    data = {name: torch.from_numpy(array) for name, array in np.load(ORACLE).items()}
    affinity = planes_of(data["affinity_dense"], 9, 12).to(impl.device)
    cam = data["cam"][None].to(impl.device)
    for steps, name in ((64, "rw_b8_l6"), (256, "rw_b8_l8")):
        out = ops.random_walk(cam, affinity, beta=8, steps=steps, mode=mode, border="published", impl=impl.name)
        expected = data[name].reshape(out.shape)
        assert relative_error(out, expected) < 1e-4
        assert torch.equal(out.cpu().argmax(1), expected.argmax(1))


def test_published_border_leaves_holes(impl: Implementation) -> None:
    """10 of the pixels of a grid of at least 9x9 lose all their neighbours, those at the lower and upper corners."""
    cam, affinity = inputs((1, 1, 12, 13), device=impl.device)
    affinity = affinity.clamp(min=0.5)
    out = ops.random_walk(cam, affinity, steps=1, border="published", impl=impl.name)
    same = (out == cam)[0, 0]
    h, w = 12, 13
    holes = [(0, x) for x in range(4)] + [(h - 2, 0), (h - 2, w - 1), *((h - 1, x) for x in (0, 1, w - 2, w - 1))]
    assert all(same[y, x] for y, x in holes) and same.sum() == len(holes) == 10


def test_isolated_pixels_keep_their_value(impl: Implementation) -> None:
    cam, affinity = inputs((1, 2, 5, 6), device=impl.device)
    for mode in MODES:
        out = ops.random_walk(cam, torch.zeros_like(affinity), beta=0, steps=12, mode=mode, impl=impl.name)
        assert relative_error(out, cam) < 1e-6
    cam[0, 1] = 0  # a row without mass
    out = ops.random_walk(cam, affinity, steps=12, impl=impl.name)
    assert not out[0, 1].count_nonzero() and out[0, 0].count_nonzero()


def test_values_without_a_pair_are_not_read(impl: Implementation) -> None:
    cam, affinity = inputs((1, 2, 6, 7), device=impl.device)
    expected = ops.random_walk(cam, affinity, steps=3, impl=impl.name)
    for e, (dy, dx) in enumerate(half_disc(5)):
        keep = torch.zeros((6, 7), dtype=torch.bool)
        keep[: max(6 - dy, 0), max(-dx, 0) : max(7 - max(dx, 0), 0)] = True
        affinity[0, e][~keep.to(affinity.device)] = float("nan")
    assert torch.equal(ops.random_walk(cam, affinity, steps=3, impl=impl.name), expected)


def test_nan_stays_in_its_row(impl: Implementation) -> None:
    for radius in (5, 3):
        cam, affinity = inputs((2, 6, 4, 20), radius, device=impl.device)
        clean = ops.random_walk(cam, affinity, radius, steps=2, impl=impl.name)
        for value in (float("nan"), float("inf")):
            bad = cam.clone()
            bad[0, 1, 2, 3] = value
            out = ops.random_walk(bad, affinity, radius, steps=2, impl=impl.name)
            assert not out[0, 1, 2, 3].isfinite()
            reached = 3 + 2 * (radius - 1)
            assert torch.equal(out[0, 1, :, reached + 1 :], clean[0, 1, :, reached + 1 :])
            out[0, 1] = clean[0, 1]
            assert torch.equal(out, clean)


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_affinities_out_of_range(value: float) -> None:
    for name in ("reference", "cpu"):
        for at in ((0, 0, 0, 0), (1, 33, 0, 3), (1, 20, 2, 5)):
            cam, affinity = inputs((2, 2, 5, 10))
            affinity[at] = value
            with pytest.raises(
                ValueError, match=r"random_walk: 'affinity' must hold numbers from 0 to 1, got .* Hint: affinity.clamp"
            ):
                ops.random_walk(cam, affinity, impl=name)


def test_rows_are_walked_apart(kernel: Implementation) -> None:
    for radius in (5, 4):
        cam, affinity = inputs((1, 5, 7, 13), radius, device=kernel.device)
        whole = ops.random_walk(cam, affinity, radius, steps=4, impl=kernel.name)
        assert torch.equal(ops.random_walk(cam[:, 1:3], affinity, radius, steps=4, impl=kernel.name), whole[:, 1:3])
