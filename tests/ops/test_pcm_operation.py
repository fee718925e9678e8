"""pcm as a torch operation: the GIL, large sizes, and what it alone refuses."""

from __future__ import annotations

import threading

import pytest
import torch
from helpers import threads
from pcm_cases import inputs

from wsss_fast import ops


def test_releases_the_gil() -> None:
    cam, feature = inputs((1, 21, 192, 64, 64), away_from_zero=False)
    running = threading.Event()
    running.set()
    turns = 0

    def count() -> None:
        nonlocal turns
        while running.is_set():
            turns += 1

    counter = threading.Thread(target=count)
    with threads(1):
        counter.start()
        before = turns
        torch.ops.wsss_fast.pcm(cam, feature, 1e-5, "cpu")
        during = turns - before
    running.clear()
    counter.join()
    assert during > 10_000  # with the GIL held the other thread gets a few turns at most


# ---- bad input ------------------------------------------------------------------------------------------------------------

CAM, FEATURE = torch.rand(2, 3, 4, 5), torch.rand(2, 6, 4, 5)
BAD = {
    "other batch": (
        lambda: (CAM, FEATURE[:1]),
        ValueError,
        r"pcm: 'feature' must have shape \[N, D, H, W\] = \[2, any, 4, 5\] \(N, H, W of 'cam'\), got",
    ),
    "other height": (lambda: (CAM, FEATURE[:, :, :3]), ValueError, r"'feature' .* got \[2, 6, 3, 5\]"),
    "same pixels": (lambda: (CAM, FEATURE.reshape(2, 6, 5, 4)), ValueError, r"'feature' .* got \[2, 6, 5, 4\]"),
    "negative eps": (
        lambda: (CAM, FEATURE, -1.0),
        ValueError,
        "pcm: 'eps' must be a finite number, 0 or more, got -1.0",
    ),
    "nan eps": (lambda: (CAM, FEATURE, float("nan")), ValueError, "pcm: 'eps' must"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    make, error, message = BAD[case]
    arguments = make()
    before = CAM.clone(), FEATURE.clone()
    with pytest.raises(error, match=message):
        ops.pcm(*arguments)
    assert torch.equal(CAM, before[0]) and torch.equal(FEATURE, before[1])


@pytest.mark.soak
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_more_than_2_to_31_elements(device: str) -> None:
    n, h, w = 2**21 + 1, 32, 32
    cam = torch.rand(1, 1, h, w, device=device).expand(n, 1, h, w)
    feature = torch.randn(1, 1, h, w, device=device).expand(n, 1, h, w)
    out = ops.pcm(cam, feature)
    assert out.numel() > 2**31
    expected = ops.pcm(cam[:1], feature[:1])
    for image in (0, n // 2, n - 1):
        assert torch.equal(out[image], expected[0])
