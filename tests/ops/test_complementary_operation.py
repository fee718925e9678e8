"""complementary_pair as a torch operation: autograd, compilation, autocast, threads, workers, and bad input."""

from __future__ import annotations

import pytest
import torch
from complementary_cases import call, inputs
from helpers import Implementation, same_from_many_threads, threads, true_in_forked_child
from torch import Tensor

from wsss_fast import ops


def test_gradcheck() -> None:
    leaf = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    pair = lambda x: call(1, Implementation("cpu"), x, grid=2)[:2]  # noqa: E731
    assert torch.autograd.gradcheck(pair, leaf) and torch.autograd.gradgradcheck(pair, leaf)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_opcheck(kernel: Implementation) -> None:
    image, segments = inputs((2, 3, 8, 6), device=kernel.device)
    seed = torch.tensor(17)
    for leaf in (image, image.clone().requires_grad_()):
        for source in ((segments, seed, []), (None, seed, [2, 3])):
            torch.library.opcheck(torch.ops.wsss_fast.complementary_pair.default, (leaf, *source, 0.5, "", kernel.name))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compile_fullgraph(kernel: Implementation) -> None:
    image, segments = inputs((2, 3, 8, 6), device=kernel.device)

    def both(image: Tensor) -> tuple[Tensor, Tensor]:
        first, second, share = ops.complementary_pair(image * 2, segments, impl=kernel.name)
        return first + second, share

    whole, share = torch.compile(both, fullgraph=True, backend="aot_eager")(image)
    assert torch.equal(whole, torch.where((segments >= 0)[:, None], image * 2, 0.0)) and share.shape == (2,)


def test_autocast(kernel: Implementation) -> None:
    """The type of the image counts, whatever the type around."""
    image, segments = inputs((2, 3, 8, 6), device=kernel.device)
    with torch.autocast(kernel.device, torch.bfloat16):
        first = call(1, kernel, image, segments)[0]
    assert torch.equal(first, call(1, kernel, image, segments)[0])


def test_meta() -> None:
    image, segments = (x.to("meta") for x in inputs((2, 3, 8, 6)))
    first, second, share = ops.complementary_pair(image, segments)
    assert first.shape == second.shape == image.shape and share.shape == (2,) and first.device.type == "meta"


def test_same_bits_every_time() -> None:
    image, segments = inputs((3, 3, 150, 170))
    results = []
    for count in (1, 2, 5):
        with threads(count):
            results.append(call(2, Implementation("cpu"), image, segments))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    assert same_from_many_threads(lambda: call(2, Implementation("cpu"), image, segments)[0], times=40)


def test_data_loader_worker() -> None:
    image, segments = inputs((2, 3, 60, 70))  # so small that torch compares them without its threads, lost in the child
    with threads(2):
        expected = call(2, Implementation("cpu"), image, segments)[0]
        assert true_in_forked_child(lambda: torch.equal(call(2, Implementation("cpu"), image, segments)[0], expected))


# ---- bad input ------------------------------------------------------------------------------------------------------------

IMAGE, SEGMENTS = inputs((2, 3, 8, 9))
BAD = {
    "array": ((IMAGE.numpy(), SEGMENTS), {}, TypeError, "'image' must be a torch.Tensor, got numpy.ndarray"),
    "three dimensions": ((IMAGE[0], SEGMENTS), {}, ValueError, r"'image' must have shape \[N, C, H, W\], got \[3, 8, 9\]"),
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
    "other device": (
        (IMAGE, SEGMENTS.to("meta")),
        {},
        ValueError,
        r"'segments' must be on the device of 'image' \(cpu\), got meta",
    ),
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
    "impl": ((IMAGE, SEGMENTS), {"impl": "gpu"}, ValueError, "'impl' must be None or one of"),
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
