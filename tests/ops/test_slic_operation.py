"""slic as a torch operation: what it alone refuses, and what the compiled function refuses."""

from __future__ import annotations

import pytest
import torch
from slic_cases import noise

from wsss_fast import _native, ops

# ---- bad input ------------------------------------------------------------------------------------------------------------

IMAGE = noise(8, 9)[None]
MASK = torch.ones((1, 8, 9), dtype=torch.bool)
BAD = {
    "channels last": (
        {"image": IMAGE.permute(0, 2, 3, 1)},
        ValueError,
        r"slic: 'image' must have shape \[N, 3, H, W\], got \[1, 8, 9, 3\]. Hint: channels come first",
    ),
    "grey": ({"image": IMAGE[:, :1]}, ValueError, r"slic: 'image' must have shape \[N, 3, H, W\], got \[1, 1, 8, 9\]$"),
    "float": ({"image": IMAGE / 255}, TypeError, "slic: 'image' must be of type uint8, got float32. Hint: colours are 0 to 255"),
    "no segments": ({"segments": 0}, ValueError, "slic: 'segments' must be a whole number, 1 or more, got 0"),
    "half a segment": ({"segments": 1.5}, ValueError, "slic: 'segments' must be a whole number"),
    "true segments": ({"segments": True}, ValueError, "slic: 'segments' must be a whole number"),
    "compactness 0": ({"compactness": 0}, ValueError, r"slic: 'compactness' must be above 0 and at most 1e\+06, got 0"),
    "negative compactness": ({"compactness": -1.0}, ValueError, "slic: 'compactness' must"),
    "huge compactness": ({"compactness": 1e7}, ValueError, "slic: 'compactness' must"),
    "nan compactness": ({"compactness": float("nan")}, ValueError, "slic: 'compactness' must .* got nan"),
    "text compactness": ({"compactness": "10"}, ValueError, "slic: 'compactness' must .* got '10'"),
    "negative iterations": ({"iterations": -1}, ValueError, "slic: 'iterations' must be a whole number, 0 or more, got -1"),
    "mask type": ({"mask": MASK.int()}, TypeError, "slic: 'mask' must be of type bool, got int32. Hint"),
    "mask shape": ({"mask": MASK[:, :4]}, ValueError, r"slic: 'mask' must have shape \[N, H, W\] or \[N, 1, H, W\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        ops.slic(**{"image": IMAGE, **arguments})


def test_the_compiled_function_checks_for_itself() -> None:
    module, context = _native.load(), (0, 0, 1, 0)
    image = (IMAGE.data_ptr(), 4, 0, 0, (1, 3, 8, 9), (216, 72, 9, 1))
    out, scratch = torch.empty((1, 8, 9), dtype=torch.int32), torch.empty(1 << 20, dtype=torch.uint8)
    labels, space = (out.data_ptr(), 5, 0, 0, (1, 8, 9), (72, 9, 1)), (scratch.data_ptr(), 4, 0, 0, (1 << 20,), (1,))
    small = (*space[:4], (16,), (1,))
    for arguments, message in (
        ((image, None, 0, 10.0, 1, labels, space), "'segments' must be 1 or more"),
        ((image, None, 5, float("nan"), 1, labels, space), "'compactness' must be above 0"),
        ((image, None, 5, 10.0, -1, labels, space), "'iterations' must be 0 or more"),
        ((image, labels, 5, 10.0, 1, labels, space), "'mask' must be of type bool"),
        ((image, None, 5, 10.0, 1, image, space), r"'out' must have shape \[N, H, W\]"),
        ((image, None, 5, 10.0, 1, labels, small), "'workspace' must hold at least"),
        (((*image[:4], (1, 3, 1 << 20, 1 << 20), image[5]), None, 5, 10.0, 1, labels, space), "fewer than 2.31 pixels"),
    ):
        with pytest.raises((ValueError, TypeError), match=f"slic: .*{message}"):
            module.slic(*arguments, context)
