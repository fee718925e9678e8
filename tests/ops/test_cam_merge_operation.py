"""cam_merge as a torch operation: dynamic sizes, whole images, what it alone refuses, and what the compiled function refuses."""

from __future__ import annotations

import pytest
import torch
from cam_merge_cases import definition, flips, maps_of
from helpers import Implementation, relative_error
from torch import Tensor

from wsss_fast import ops

GRIDS = [(3, 4), (3, 4), (5, 6), (5, 6)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compile_with_dynamic_sizes(kernel: Implementation) -> None:
    maps = maps_of(kernel, GRIDS)

    def run(*maps: Tensor) -> Tensor:
        size = [3 * side for side in maps[-1].shape[2:]]
        return ops.cam_merge([value.relu() for value in maps], flips(4), size, background=4, impl=kernel.name).square()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    assert relative_error(compiled(*maps), run(*maps)) < 1e-6


@pytest.mark.parametrize("size", [(375, 500), (1031, 517)], ids=str)
def test_image_sizes(size: tuple[int, int]) -> None:
    """Whole images on the CPU; planes that do not fit in a cache."""
    maps = maps_of(Implementation("cpu"), [(24, 32), (47, 63), (47, 63), (94, 125)], n=1, c=2)
    got = ops.cam_merge(maps, flips(4), size, background=4)
    assert relative_error(got, definition(maps, flips(4), size, background=4)) < 1e-5


@pytest.mark.soak
def test_more_than_2_to_31_elements() -> None:
    n = 2**21 + 1
    value = torch.rand(1, 1, 4, 4)
    out = ops.cam_merge([value.expand(n, 1, 4, 4)], [False], (32, 32), dtype=torch.uint8)
    assert out.numel() > 2**31
    expected = ops.cam_merge([value], [False], (32, 32), dtype=torch.uint8)[0]
    for image in (0, n // 2, n - 1):
        assert torch.equal(out[image], expected)


# ---- bad input ------------------------------------------------------------------------------------------------------------

A, B = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 6, 7)
GOOD = {"maps": [A, B], "flipped": [False, True], "size": (8, 9)}

BAD = {
    "one tensor": ({"maps": A}, TypeError, "cam_merge: 'maps' must be a list or tuple of tensors, .* Hint: a list of one map"),
    "no maps": ({"maps": [], "flipped": []}, ValueError, "'maps' must hold 1 to 32 maps, got 0"),
    "too many": ({"maps": [A] * 33, "flipped": [False] * 33}, ValueError, "'maps' must hold 1 to 32 maps, got 33"),
    "other classes": (
        {"maps": [A, B[:, :2]]},
        ValueError,
        r"'maps\[1\]' must have .* \(N, C of 'maps\[0\]'\), got \[2, 2, 6, 7\]",
    ),
    "empty map": ({"maps": [A, B[:, :, :0]]}, ValueError, r"'maps\[1\]' must have at least one row and column"),
    "flips": ({"flipped": [False]}, ValueError, r"'flipped' must have one entry a map \(2\), got 1"),
    "flip numbers": ({"flipped": [0, 1]}, TypeError, r"'flipped' must be a list or tuple of bools, got \[0, 1\]"),
    "size of one": ({"size": (8,)}, ValueError, r"'size' must be \(H, W\), whole numbers, 1 or more, got \(8,\)"),
    "size of nothing": ({"size": (0, 9)}, ValueError, r"'size' must be \(H, W\)"),
    "fractions": ({"size": (8.5, 9)}, ValueError, r"'size' must be \(H, W\)"),
    "present of numbers": (
        {"present": torch.ones(2, 3)},
        TypeError,
        "'present' must be of type bool, got float32. Hint: labels > 0",
    ),
    "present shape": (
        {"present": torch.ones(3, dtype=torch.bool)},
        ValueError,
        r"'present' must have shape \[N, C\], got \[3\]. Hint: add the batch",
    ),
    "present classes": ({"present": torch.ones(2, 4) > 0}, ValueError, r"'present' must have shape \[N, C\] = \[2, 3\]"),
    "reduce": ({"reduce": "max"}, ValueError, "'reduce' must be 'sum' or 'mean', got 'max'"),
    "normalise": ({"normalise": None}, ValueError, "'normalise' must be 'max' or 'minmax', got None"),
    "clamp": ({"clamp": "never"}, ValueError, "'clamp' must be 'before' or 'after', got 'never'"),
    "interpolation": ({"interpolation": "nearest"}, ValueError, "'interpolation' must be 'bilinear' or 'bicubic', got 'nearest'"),
    "background": ({"background": -1}, ValueError, "'background' must be a finite number, 0 or more, got -1"),
    "background nan": ({"background": float("nan")}, ValueError, "'background' must be a finite"),
    "dtype": ({"dtype": torch.int32}, TypeError, "'dtype' must be None or one of float32, .* uint8, got torch.int32"),
    "eps": ({"eps": 0}, ValueError, "'eps' must be a finite number above 0, got 0"),
    "scale": ({"scale": float("inf")}, ValueError, "'scale' must be a finite number above 0, got inf"),
    "multiple": ({"multiple": 0}, ValueError, "'multiple' must be a whole number, 1 or more, got 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    changes, error, message = BAD[case]
    before = A.clone(), B.clone()
    with pytest.raises(error, match=message):
        ops.cam_merge(**{**GOOD, **changes})
    assert torch.equal(A, before[0]) and torch.equal(B, before[1])


OPERATOR = ("sum", "max", "before", "bilinear", False, None, "float32", 1e-5, 1.0, 1, "cpu")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({0: [A, B.double()]}, TypeError, r"'maps' must have the type of 'maps\[0\]'"),
        ({0: [A, B[:1]]}, ValueError, r"'maps' must have shape \[N, C, h, w\]"),
        ({0: [A, B[:, :, :0]]}, ValueError, "'maps' must have 1 to 2\\^30 rows and columns"),
        ({0: [A] * 33, 1: [False] * 33}, ValueError, "'maps' must hold 1 to 32 maps, got 33"),
        ({1: [False]}, ValueError, r"'flipped' must have one entry a map \(2\), got 1"),
        ({3: torch.ones(2, 3)}, TypeError, "'present' must be of type bool, got float32"),
        ({3: torch.ones(2, 2) > 0}, ValueError, r"'present' must have shape \[N, C\]"),
        ({9: -1.0}, ValueError, "'background' must be a finite number, 0 or more"),
        ({11: 0.0}, ValueError, "'eps' must be a finite number above 0"),
        ({12: float("nan")}, ValueError, "'scale' must be a finite number above 0"),
        ({13: 0}, ValueError, "'multiple' must be a whole number from 1 to 1073741824, got 0"),
        ({10: "int32"}, TypeError, "'out' must be of type"),
    ],
    ids=range(12),
)
def test_the_compiled_function_checks_too(change: dict, error: type, message: str) -> None:
    arguments = [[A, B], [False, True], [8, 9], None, *OPERATOR]
    for position, value in change.items():
        arguments[position] = value
    with pytest.raises(error, match=f"cam_merge: {message}"):
        torch.ops.wsss_fast.cam_merge(*arguments)
