"""random_walk as a torch operation: memory, large grids, what it alone refuses, and what the compiled function refuses."""

from __future__ import annotations

import pytest
import torch
from helpers import relative_error, threads
from random_walk_cases import dense, inputs

from wsss_fast import _native, ops

SETTINGS = (5, 8.0, 4, False, 1e-3, False)  # radius, beta, steps, chebyshev, tolerance, published


def test_memory_does_not_grow_with_the_square_of_the_pixels() -> None:
    """The workspace of a 3000x4000 image at stride 4, four rows, two threads: under 1 GiB. A matrix would take 2 TiB."""
    n, c, h, w = 1, 4, 750, 1000
    views = [(16, 0, 0, 0, (n, k, h, w), (k * h * w, h * w, w, 1)) for k in (c, 34)]
    for chebyshev in (False, True):
        settings = (5, 8.0, 256, chebyshev, 1e-3, False)
        assert _native.load().random_walk_workspace(*views, settings, (0, 0, 2, 0)) < 2**29


@pytest.mark.cuda
@pytest.mark.parametrize("size", [47, 56, 64])
def test_sizes_of_photos_on_the_gpu(size: int) -> None:
    """The whole of the on-chip kernel: the emulator is too slow for these."""
    cam, affinity = inputs((2, 3, size, size - 1), device="cuda")
    for mode in ("exact", "chebyshev"):
        expected = ops.random_walk(cam.cpu().double(), affinity.cpu().double(), mode=mode, impl="cpu")
        assert relative_error(ops.random_walk(cam, affinity, mode=mode), expected) < 1e-4


# ---- bad input ------------------------------------------------------------------------------------------------------------

CAM, AFFINITY = inputs((2, 3, 4, 5))
BAD = {
    "other batch": ((CAM, AFFINITY[:1]), {}, ValueError, r"'affinity' must have shape .* \[2, 34, 4, 5\].*, got \[1, 34, 4, 5\]"),
    "other grid": ((CAM, AFFINITY.transpose(2, 3)), {}, ValueError, r"'affinity' must have shape .* got \[2, 34, 5, 4\]"),
    "other radius": ((CAM, AFFINITY, 10), {}, ValueError, r"'affinity' must have shape .* = \[2, 152, 4, 5\].* radius 10\), got"),
    "radius 0": ((CAM, AFFINITY, 0), {}, ValueError, "'radius' must be a whole number from 1 to 32, got 0"),
    "radius 33": ((CAM, AFFINITY, 33), {}, ValueError, "'radius' must be a whole number from 1 to 32, got 33"),
    "radius 5.5": ((CAM, AFFINITY, 5.5), {}, ValueError, "'radius' must be a whole number"),
    "beta": ((CAM, AFFINITY), {"beta": -1}, ValueError, "'beta' must be a finite number, 0 or more, got -1"),
    "nan beta": ((CAM, AFFINITY), {"beta": float("nan")}, ValueError, "'beta' must be"),
    "infinite beta": ((CAM, AFFINITY), {"beta": float("inf")}, ValueError, "'beta' must be"),
    "steps": ((CAM, AFFINITY), {"steps": -1}, ValueError, "'steps' must be a whole number from 0 to 2147483647, got -1"),
    "half steps": ((CAM, AFFINITY), {"steps": 2.5}, ValueError, "'steps' must be a whole number"),
    "too many steps": ((CAM, AFFINITY), {"steps": 2**31}, ValueError, "'steps' must be"),
    "mode": ((CAM, AFFINITY), {"mode": "fast"}, ValueError, "'mode' must be 'exact' or 'chebyshev', got 'fast'"),
    "tolerance": ((CAM, AFFINITY), {"tolerance": 1}, ValueError, "'tolerance' must be a number from 0 to below 1, got 1"),
    "negative tolerance": ((CAM, AFFINITY), {"tolerance": -1e-9}, ValueError, "'tolerance' must be"),
    "border": ((CAM, AFFINITY), {"border": "psa"}, ValueError, "'border' must be 'full' or 'published', got 'psa'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    arguments, options, error, message = BAD[case]
    before = CAM.clone(), AFFINITY.clone()
    with pytest.raises(error, match=message):
        ops.random_walk(*arguments, **options)
    assert torch.equal(CAM, before[0]) and torch.equal(AFFINITY, before[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: 0}, "'radius' must be a whole number from 1 to 32"),
        ({0: 4}, r"'affinity' must have shape \[N, E, H, W\] = \[2, 22, 4, 5\]"),
        ({1: -1.0}, "'beta' must"),
        ({2: -1}, "'steps' must"),
        ({4: 1.0}, "'tolerance' must"),
    ],
)
def test_the_compiled_function_checks_too(change: dict, message: str) -> None:
    settings = [change.get(i, value) for i, value in enumerate(SETTINGS)]
    with pytest.raises(ValueError, match=f"random_walk: {message}"):
        torch.ops.wsss_fast.random_walk(CAM, AFFINITY, *settings, "cpu")


@pytest.mark.soak
def test_a_large_photo() -> None:
    """A 3000x4000 image at stride 4, against a smaller crop far from the edges it has and the crop has not."""
    cam, affinity = inputs((1, 4, 750, 1000))
    with threads(2):
        out = ops.random_walk(cam, affinity, steps=10)
    crop = (..., slice(300, 420), slice(500, 620))
    inner = (..., slice(40, 80), slice(40, 80))
    small = ops.random_walk(cam[crop], affinity[crop], steps=10)
    assert relative_error(small[inner], out[crop][inner]) < 1e-6


def test_dense_definition_agrees_with_itself() -> None:
    """The tests' own definition: a step is one product with the matrix."""
    cam, affinity = inputs((1, 2, 3, 5))
    assert relative_error(dense(cam, affinity, steps=3), dense(dense(cam, affinity, steps=1), affinity, steps=2)) < 1e-12
