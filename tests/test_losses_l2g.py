"""L2G: RoIAlign, the target, and the transfer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wsss_fast.methods import l2g
from wsss_fast.methods.losses import l2g_transfer
from wsss_fast.methods.roi_align import roi_align


def bilinear(plane: Tensor, y: float, x: float) -> float:
    h, w = plane.shape
    if not (-1 <= y <= h and -1 <= x <= w):
        return 0.0
    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    top, left = int(y), int(x)
    below, right = min(top + 1, h - 1), min(left + 1, w - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * plane[top, left] + dx * plane[top, right]
    lower = (1 - dx) * plane[below, left] + dx * plane[below, right]
    return ((1 - dy) * upper + dy * lower).item()


def by_loops(features: Tensor, boxes: Tensor, size: tuple[int, int], scale: float, aligned: bool) -> Tensor:
    out = torch.zeros(len(boxes), features.shape[1], *size, dtype=features.dtype)
    for r, (image, *corners) in enumerate(boxes.tolist()):
        x1, y1, x2, y2 = (corner * scale - (0.5 if aligned else 0) for corner in corners)
        height, width = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))
        rows, columns = math.ceil(height / size[0]), math.ceil(width / size[1])
        for c in range(features.shape[1]):
            for i in range(size[0]):
                for j in range(size[1]):
                    samples = [
                        bilinear(
                            features[int(image), c],
                            y1 + (i + (u + 0.5) / rows) * height / size[0],
                            x1 + (j + (v + 0.5) / columns) * width / size[1],
                        )
                        for u in range(rows)
                        for v in range(columns)
                    ]
                    out[r, c, i, j] = sum(samples) / len(samples)
    return out


def test_roi_align_whole_cells() -> None:
    """Boxes of 3 x 2 cells of 8 pixels. Aligned: these cells. As published: means of 2 x 2, clamped at the border."""
    features = torch.arange(20.0).view(1, 1, 4, 5)
    boxes = torch.tensor([[0, 8, 16, 32, 32], [0, 16, 8, 40, 24]])
    aligned = roi_align(features, boxes, (2, 3), 1 / 8)
    assert torch.equal(aligned[0, 0], features[0, 0, 2:4, 1:4]) and torch.equal(aligned[1, 0], features[0, 0, 1:3, 2:5])
    published = roi_align(features, boxes, (2, 3), 1 / 8, aligned=False)
    # rows 2.5 and 3.5 → 3, columns 1.5, 2.5, 3.5; value = 5 y + x
    assert torch.equal(published[0, 0], torch.tensor([[14.0, 15, 16], [16.5, 17.5, 18.5]]))
    # columns 2.5, 3.5 and 4.5 → 4
    assert torch.equal(published[1, 0], torch.tensor([[10.0, 11, 11.5], [15, 16, 16.5]]))


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_by_loops(aligned: bool) -> None:
    features = torch.randn(3, 2, 6, 9, dtype=torch.float64)
    boxes = [
        [0, 0, 0, 9, 6],
        [2, 1.3, 2.7, 8.9, 3.1],
        [1, 4, 4, 4.2, 4.1],
        [2, -3, -2.5, 3, 4],
        [0, 7, 5, 14, 9],
        [1, -9, 0, 40, 6],
    ]
    boxes = torch.tensor(boxes, dtype=torch.float64)
    for size in ((2, 3), (7, 5), (1, 1)):
        for scale in (1.0, 0.5):
            expected = by_loops(features, boxes, size, scale, aligned)
            assert torch.allclose(roi_align(features, boxes, size, scale, aligned), expected, atol=1e-12)


def test_roi_align_gradient() -> None:
    features = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0, 0.5, 1, 4.2, 3.3], [1, 1, 0, 3, 4]])
    for aligned in (True, False):
        assert torch.autograd.gradcheck(lambda x, a=aligned: roi_align(x, boxes, (3, 2), aligned=a), features)
    assert roi_align(features, boxes[:0], (3, 2)).shape == (0, 2, 3, 2)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 1, 1, 3]], r"'boxes' must have shape \[R, 5\]"),
        ([[0, 3, 1, 3, 2]], "'boxes' must have x1 < x2 and y1 < y2"),
        ([[0, 1, 1, math.nan, 2]], "'boxes' must have x1 < x2"),
        ([[2, 1, 1, 3, 2]], r"'boxes' must name images 0 to 1, got \[2.0\]"),
        ([[-1, 1, 1, 3, 2]], "'boxes' must name images 0 to 1"),
    ],
)
def test_bad_boxes(boxes: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=f"roi_align: {message}"):
        roi_align(torch.zeros(2, 3, 4, 4), torch.tensor(boxes), (2, 2))


# ---- the target -------------------------------------------------------------------------------------------------------------


def row(*channels: tuple[float, ...]) -> Tensor:
    return torch.tensor(channels).view(1, len(channels), 1, -1)


MAPS = row((4.0, 1, -1, 0), (8, 10, 9, -3), (1, 0.5, 0.1, -2))  # two objects, the background
ONE = torch.tensor([[1, 0]])


def test_target_by_hand() -> None:
    """Normalised: (1, .25, 0, 0), (.8, 1, .9, 0), (1, .5, .1, 0). Of equal ones the first; without a positive value nothing."""
    both = row((1.0, 0, 0, 0), (0, 1, 0.9, 0), (0, 0, 0, 0))
    assert torch.allclose(l2g.target(MAPS, torch.tensor([[1, 1]])), both)
    # class 1 is not in the image
    alone = row((1.0, 0, 0, 0), (0, 0, 0, 0), (0, 0.5, 0.1, 0))
    assert torch.allclose(l2g.target(MAPS, ONE), alone)
    # no class at all: the background
    assert torch.allclose(l2g.target(MAPS, torch.tensor([[0, 0]])), row((0.0,) * 4, (0,) * 4, (1, 0.5, 0.1, 0)))


def test_negative_maps_teach_nothing() -> None:
    # a channel without a positive value, and a place without one
    maps = row((-1.0, -2, -4, -1), (3, 6, -1, -5), (-1, 3, -2, -1))
    expected = row((0.0,) * 4, (0.5, 1, 0, 0), (0,) * 4)
    assert torch.allclose(l2g.target(maps, torch.tensor([[1, 1]])), expected)
    assert not l2g.target(-maps.abs(), torch.tensor([[1, 1]])).any()


def test_shape_step_by_hand() -> None:
    s = row((0.75, 0, 0.5, 1))
    expected = row((0.75, 0, 0, 0), (0, 0, 0, 0), (0, 1, 0.5, 0))
    assert torch.allclose(l2g.target(MAPS, ONE, s), expected)
    # .1 is not above a threshold of .2; the background of COCO keeps its value
    assert torch.allclose(l2g.target(MAPS, ONE, s, threshold=0.2), row((0.75, 0, 0, 0), (0,) * 4, (0, 1, 0, 0)))
    graded = row((0.75, 0, 0, 0), (0,) * 4, (0, 0.5, 0.05, 0))
    assert torch.allclose(l2g.target(MAPS, ONE, s, threshold=0.2, binary_background=False), graded)


def test_nothing_salient() -> None:
    """As released an object without saliency teaches 0 everywhere; as in the paper, the attention."""
    maps, labels = MAPS.repeat(2, 1, 1, 1), ONE.repeat(2, 1)
    s = torch.cat([torch.zeros(1, 1, 1, 4), torch.ones(1, 1, 1, 4)])
    for published in (None, "code"):
        assert torch.allclose(l2g.target(maps, labels, s, published=published)[0], row((0.0,) * 4, (0,) * 4, (0, 1, 1, 0))[0])
    paper = l2g.target(maps, labels, s, published="paper")
    assert torch.equal(paper[0], l2g.target(MAPS, ONE)[0]) and torch.equal(paper[1], l2g.target(maps, labels, s)[1])


def test_target_by_loops() -> None:
    maps, labels, s = torch.randn(3, 5, 4, 6, dtype=torch.float64), torch.randint(0, 2, (3, 4)), torch.rand(3, 1, 9, 13)
    got, shaped = l2g.target(maps, labels), l2g.target(maps, labels, s, threshold=0.3)
    for r in range(3):
        channels = [m.clamp(min=0) / (m.clamp(min=0).max() + 1e-8) for m in maps[r]]
        for y in range(4):
            for x in range(6):
                values = [c[y, x].item() * (i == 4 or labels[r, i].item()) for i, c in enumerate(channels)]
                best = max(range(5), key=values.__getitem__)
                for c in range(5):
                    value = values[c] if c == best else 0
                    assert got[r, c, y, x].item() == pytest.approx(value, abs=1e-12)
                    salient = s[r, 0, y * 9 // 4, x * 13 // 6].item()
                    weight = (1 - salient) if c == 4 else salient
                    assert shaped[r, c, y, x].item() == pytest.approx((value > 0.3) * weight, abs=1e-6)


def test_target_has_no_gradient_and_keeps_nan() -> None:
    assert not l2g.target(MAPS.clone().requires_grad_(), ONE).requires_grad
    maps = MAPS.clone()
    maps[0, 0, 0, 3] = math.nan
    assert l2g.target(maps, ONE).isnan().any() and l2g.target(maps, ONE, torch.rand(1, 1, 2, 2)).isnan().any()


def test_transfer_by_hand() -> None:
    maps = row((0.0, math.log(3)), (0, 0)).requires_grad_()
    target = row((1.0, 0.5), (0, 0)).requires_grad_()
    loss = l2g_transfer(maps, target)
    # softmax: (.5, .5) and (.75, .25)
    assert loss.item() == pytest.approx(10 * (0.25 + 0.25 + 0.0625 + 0.0625) / 4)
    loss.backward()
    assert target.grad is None and maps.grad.any()
    double = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: l2g_transfer(x, torch.rand(2, 3, 2, 2, generator=torch.manual_seed(1)), 30.0), double
    )


@pytest.mark.parametrize(
    ("saliency", "error", "message"),
    [
        (torch.zeros(1, 4, 4), ValueError, r"'saliency' must have shape \[N, 1, H, W\] with N = 1, got \[1, 4, 4\].*\[:, None\]"),
        (torch.zeros(2, 1, 4, 4), ValueError, "with N = 1"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), TypeError, "divide bytes by 255"),
    ],
)
def test_bad_saliency(saliency: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"l2g.target: .*{message}"):
        l2g.target(MAPS, ONE, saliency)
    with pytest.raises(ValueError, match=r"l2g.target: 'labels' must have shape \[N, C\] = \[1, 2\], got \[1, 3\]"):
        l2g.target(MAPS, torch.ones(1, 3))
