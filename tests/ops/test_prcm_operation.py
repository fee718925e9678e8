"""prcm and pcm_prcm as torch operations: what they alone refuse, and what the compiled functions refuse."""

from __future__ import annotations

import pytest
import torch

from wsss_fast import ops

# ---- bad input ------------------------------------------------------------------------------------------------------------

CAM, X, QUERY, PHI = torch.rand(2, 3, 4, 5), torch.rand(2, 6, 4, 5), torch.rand(2, 7, 4, 5), torch.rand(7, 6)
BAD = {
    "convolution weight": (
        lambda: (CAM, X, QUERY, PHI[:, :, None, None]),
        ValueError,
        r"prcm: 'phi' must have shape \[C2, C1\], got \[7, 6, 1, 1\]. Hint: .*flatten",
    ),
    "other batch": (
        lambda: (CAM, X[:1], QUERY, PHI),
        ValueError,
        r"prcm: 'x' must have shape \[N, C1, H, W\] = \[2, any, 4, 5\] \(N, H, W of 'cam'\), got \[1, 6, 4, 5\]",
    ),
    "other width": (lambda: (CAM, X, QUERY[..., :4], PHI), ValueError, r"'query' must .* got \[2, 7, 4, 4\]"),
    "turned phi": (
        lambda: (CAM, X, QUERY, PHI.T),
        ValueError,
        r"prcm: 'phi' must have shape \[C2, C1\] = \[7, 6\].*, got \[6, 7\]. Hint: phi.T",
    ),
    "nan scale": (lambda: (CAM, X, QUERY, PHI, float("nan")), ValueError, "prcm: 'scale' must be a finite number, got nan"),
    "axis": (
        lambda: (CAM, X, QUERY, PHI, None, "pixels"),
        ValueError,
        "prcm: 'axis' must be 'positions' or 'classes', got 'pixels'",
    ),
    "layout": (
        lambda: (CAM, X, QUERY, PHI, None, "classes", "reshape"),
        ValueError,
        "prcm: 'layout' must be 'transpose' or 'view', got 'reshape'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    make, error, message = BAD[case]
    with pytest.raises(error, match=message):
        ops.prcm(*make())


def test_bad_input_of_pcm_prcm() -> None:
    with pytest.raises(ValueError, match=r"prcm: 'feature' must have shape \[N, C2, H, W\] = .*N, H, W of 'cam'"):
        ops.pcm_prcm(CAM, X, QUERY[..., :4], PHI)
    with pytest.raises(ValueError, match="pcm: 'eps' must be a finite number, 0 or more, got -1"):
        ops.pcm_prcm(CAM, X, QUERY, PHI, eps=-1.0)
    with pytest.raises(TypeError, match=r"prcm: 'cam' must be a torch.Tensor, got builtins.NoneType"):
        ops.pcm_prcm(None, X, QUERY, PHI)


def test_the_compiled_function_checks_too() -> None:
    """Whoever comes without the Python checks gets the messages of the C++ ones."""
    from wsss_fast import _native

    module, context = _native.load(), (0, 0, 1, 0)

    def view(*shape: int, dtype: int = 0) -> tuple:
        return (64, dtype, 0, 0, shape, torch.empty(shape, device="meta").stride())

    good = view(2, 3, 4, 5), view(2, 6, 4, 5), view(2, 7, 4, 5), view(7, 6)
    assert module.prcm_forward_workspace(*good, context) > 0
    with pytest.raises(ValueError, match=r"prcm: 'phi' must have shape \[C2, C1\] = \[7, 6\], got \[6, 7\]"):
        module.prcm_forward_workspace(*good[:3], view(6, 7), context)
    with pytest.raises(ValueError, match=r"prcm: 'x' must have shape .* got \[2, 6, 4, 4\]"):
        module.prcm_forward_workspace(good[0], view(2, 6, 4, 4), *good[2:], context)
    with pytest.raises(TypeError, match="prcm: 'cam' must be of type float32, float16, bfloat16, float64, got int32"):
        module.prcm_forward_workspace(*(view(*x[4], dtype=5) for x in good), context)
    kept = view(2, 3, 4, 5), view(2, 3, 6), view(2, 7, 3)
    with pytest.raises(ValueError, match=r"prcm: 'workspace' must hold at least \d+ bytes, got 0"):
        options = 1.0, False, False, False
        module.prcm_backward(good[0], good[0], good[2], *kept, *options, good[2], None, view(0, dtype=4), context)
    with pytest.raises(ValueError, match="prcm: 'scale' must be a finite number, got inf"):
        options = float("inf"), False, False, False
        module.prcm_forward(*good, *options, good[0], *kept, view(0, dtype=4), context)
