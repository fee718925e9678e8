"""dense_crf as a torch operation: types, what it alone refuses, and what the compiled function refuses."""

from __future__ import annotations

import pytest
import torch
from dense_crf_cases import BOUND, furthest, inputs, wide
from helpers import Implementation

from wsss_fast import ops


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_types(impl: Implementation, dtype: torch.dtype) -> None:
    probability, image = inputs(impl, (1, 3, 7, 8))
    probability = probability.to(dtype)
    q = ops.dense_crf(probability, image, impl=impl.name)
    assert q.dtype == dtype
    assert furthest(q, wide(probability, image)) < {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(dtype, BOUND)


# ---- bad input ------------------------------------------------------------------------------------------------------------

P, IMAGE = torch.full((2, 3, 4, 5), 0.5), torch.zeros(2, 3, 4, 5, dtype=torch.uint8)

BAD = {
    "neither": ({}, ValueError, "dense_crf: 'probability' must be given, or 'unary', and not both, got neither"),
    "both": ({"probability": P, "unary": P}, ValueError, "'probability' must be given.* got both"),
    "float image": ({"probability": P, "image": P}, TypeError, "'image' must be of type uint8, got float32. Hint"),
    "other size": (
        {"probability": P, "image": IMAGE[:, :, :3]},
        ValueError,
        r"'image' must .* \[2, 3, 4, 5\].* got \[2, 3, 3, 5\]",
    ),
    "grey image": ({"probability": P, "image": IMAGE[:, :1]}, ValueError, r"'image' must have shape .* got \[2, 1, 4, 5\]"),
    "channels last": (
        {"probability": P, "image": IMAGE.permute(0, 2, 3, 1)},
        ValueError,
        r"'image' must .* got \[2, 4, 5, 3\]. Hint: channels come first",
    ),
    "negative iterations": ({"probability": P, "iterations": -1}, ValueError, "'iterations' must be a whole number, 0 or more"),
    "half an iteration": ({"probability": P, "iterations": 1.5}, ValueError, "'iterations' must be a whole number"),
    "kernel": ({"probability": P, "kernel": "fast"}, ValueError, "'kernel' must be 'lattice' or 'exact', got 'fast'"),
    "gaussian form": ({"probability": P, "gaussian": 3}, ValueError, r"'gaussian' must be None or \(sxy, compat\), got 3"),
    "bilateral form": (
        {"probability": P, "bilateral": (80, 13)},
        ValueError,
        r"'bilateral' must be None or \(sxy, srgb, compat\)",
    ),
    "sigma 0": ({"probability": P, "gaussian": (0, 3)}, ValueError, "'gaussian' must .* above 0"),
    "sigma negative": ({"probability": P, "bilateral": (80, -13, 3)}, ValueError, "'bilateral' must .* above 0"),
    "sigma NaN": ({"probability": P, "bilateral": (float("nan"), 13, 3)}, ValueError, "'bilateral' must .* above 0"),
    "sigma tiny": ({"probability": P, "gaussian": (1e-7, 3)}, ValueError, "'gaussian' must have sigmas above a millionth"),
    "srgb tiny": ({"probability": P, "bilateral": (3, 1e-7, 3)}, ValueError, "'bilateral' must have sigmas above"),
    "compat NaN": ({"probability": P, "gaussian": (3, float("nan"))}, ValueError, "'gaussian' must hold a finite compat"),
    "three sigmas": ({"probability": P, "gaussian": ((1, 2, 3), 3)}, ValueError, "'gaussian' must"),
    "compat length": (
        {"probability": P, "gaussian": (3, [1, 2])},
        ValueError,
        r"'gaussian' must hold a compat .* got shape \[2\]",
    ),
    "compat not square": ({"probability": P, "bilateral": (3, 3, torch.ones(3, 2))}, ValueError, r"'bilateral' must .* \[3, 2\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    arguments, error, message = BAD[case]
    for impl in (None, "reference"):
        with pytest.raises(error, match=message):
            ops.dense_crf(**{"image": IMAGE, **arguments}, impl=impl)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("argument", ["unary", "probability"])
def test_not_finite(impl: Implementation, argument: str, value: float) -> None:
    """Refused where looking is free; a CUDA kernel does not wait to be asked, and must not hang or write elsewhere."""
    tensor = P.clone().to(impl.device)
    tensor[1, 2, 3, 4] = value
    if argument == "probability" and value == float("-inf"):
        value = 0.0  # clamped like any number below 1e-5
    given = {argument: tensor, "image": IMAGE.to(impl.device)}
    if impl.device == "cuda" or impl.name == "simt" or value == 0:
        q = ops.dense_crf(**given, impl=impl.name)
        assert q[0].isfinite().all()
        return
    for kind in ("lattice", "exact"):
        with pytest.raises(ValueError, match=f"dense_crf: '({argument}|unary)' must be finite"):
            ops.dense_crf(**given, kernel=kind, impl=impl.name)


def test_the_compiled_function_checks_too() -> None:
    """The compiled function checks for itself: TensorRT and C++ callers come that way."""
    feature, compat = torch.zeros(1, 2, 4, 5), torch.ones(1)
    cases = [
        ((P, [torch.zeros(1, 2, 4, 6)], [compat], [3], 1), "'feature' must"),
        ((P, [torch.zeros(3, 2, 4, 5)], [compat], [3], 1), "'feature' must have a batch size of 1 or 2"),
        ((P, [torch.zeros(1, 7, 4, 5)], [compat], [3], 1), "'feature' must have at most 6 dimensions"),
        ((P, [feature], [torch.ones(2)], [3], 1), "'compat' must"),
        ((P, [feature] * 5, [compat] * 5, [3] * 5, 1), "'terms' must have at most 4"),
        ((P, [feature], [compat], [3], -1), "'iterations' must"),
        ((P.double(), [feature], [compat], [3], 1), "'unary' must"),
    ]
    for arguments, message in cases:
        with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
            torch.ops.wsss_fast.dense_crf(*arguments, None, False, "cpu")
    with pytest.raises((ValueError, RuntimeError), match="'initial' must"):
        torch.ops.wsss_fast.dense_crf(P, [feature], [compat], [3], 1, P[:, :2].contiguous(), False, "cpu")
