"""complementary_pair as a torch operation: what it alone refuses."""

from __future__ import annotations

import pytest
import torch
from complementary_cases import call, inputs
from helpers import Implementation

from wsss_fast import ops

# ---- bad input ------------------------------------------------------------------------------------------------------------

IMAGE, SEGMENTS = inputs((2, 3, 8, 9))
BAD = {
    "integers": ((IMAGE.long(), SEGMENTS), {}, TypeError, "'image' must be of type float32, .*uint8, got int64"),
    "neither": ((IMAGE,), {}, ValueError, "'segments' must be given, or 'grid', and not both, got neither"),
    "both": ((IMAGE, SEGMENTS, 4), {}, ValueError, "'segments' must be given, or 'grid', and not both, got both"),
    "wide labels": ((IMAGE, SEGMENTS.long()), {}, TypeError, r"'segments' must be of type int32, got int64. Hint: .*\.int\(\)"),
    "other height": (
        (IMAGE, SEGMENTS[:, 1:]),
        {},
        ValueError,
        r"'segments' must have shape \[N, H, W\] = \[2, 8, 9\] \(N, H, W of 'image'\), got \[2, 7, 9\]",
    ),
    "a channel": ((IMAGE, SEGMENTS[:, None]), {}, ValueError, r"'segments' must have shape \[N, H, W\], got"),
    "low label": (
        (IMAGE, SEGMENTS - 1),
        {},
        ValueError,
        r"'segments' must hold labels from -1 to H\*W - 1 = 71, got labels from -2",
    ),
    "high label": ((IMAGE, SEGMENTS + 72), {}, ValueError, r"'segments' must hold labels from -1 to .* to \d+. Hint: number"),
    "large grid": ((IMAGE,), {"grid": 10}, ValueError, r"'grid' must be no larger than the image \(8 x 9\), got 10"),
    "grid 0": ((IMAGE,), {"grid": 0}, ValueError, "'grid' must be a whole number, 1 or more"),
    "broken grid": ((IMAGE,), {"grid": (4, 2.5)}, ValueError, r"'grid' must be a whole number, .* got \(4, 2.5\)"),
    "no grid": ((IMAGE,), {"grid": ()}, ValueError, "'grid' must name 1 to 16 sizes, got 0"),
    "many grids": ((IMAGE,), {"grid": [2] * 17}, ValueError, "'grid' must name 1 to 16 sizes, got 17"),
    "hide": ((IMAGE, SEGMENTS), {"hide": 1.5}, ValueError, "'hide' must be a number from 0 to 1, got 1.5"),
    "nan hide": ((IMAGE, SEGMENTS), {"hide": float("nan")}, ValueError, "'hide' must be a number from 0 to 1, got nan"),
    "rule": ((IMAGE, SEGMENTS), {"published": "cpn"}, ValueError, "'published' must be None, 'paper' or 'code', got 'cpn'"),
    "generator": ((IMAGE, SEGMENTS), {"generator": 5}, ValueError, "'generator' must be None or a torch.Generator of the CPU"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    arguments, settings, error, message = BAD[case]
    with pytest.raises(error, match="complementary_pair: " + message):
        ops.complementary_pair(*arguments, **settings)
    if "label" in case:
        with pytest.raises(error, match="complementary_pair: " + message):
            ops.complementary_pair(*arguments, **settings, impl="reference")


def test_labels_nobody_looks_at_count_as_masked(kernel: Implementation) -> None:
    """A device is never waited for: there a label outside the range hides its pixel in both images."""
    if kernel.name == "cpu":
        return
    image, segments = inputs((1, 2, 8, 9), device=kernel.device, masked=False)
    segments[0, 0, :3], segments[0, 7, 8] = 2**31 - 1, -(2**31)
    outside = (segments < 0) | (segments > 100)
    first, second, _ = call(1, kernel, image, segments)
    assert torch.equal(first + second, torch.where(outside[:, None], 0.0, image))
