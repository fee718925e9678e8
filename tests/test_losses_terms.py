"""The single terms: worked by hand, by loops, with their gradients and their errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wsss_fast import ops
from wsss_fast.methods import _maps, losses
from wsss_fast.methods.losses import (
    affinitynet_pairs,
    cpn_cpcr,
    cpn_tcp,
    hardest_mean,
    min_pooling,
    seam_ecr,
    seam_er,
    soft_margin,
)


def column(*values: float) -> Tensor:
    """Channels of one place: [1, C, 1, 1]."""
    return torch.tensor(values).view(1, -1, 1, 1)


def test_soft_margin_by_hand() -> None:
    # sigmoid(ln 3) = 3/4: -log(3/4) for the class in the image, -log(1/4) for the other
    got = soft_margin(torch.full((1, 2), math.log(3)), torch.tensor([[1, 0]]))
    assert got.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [0, 1, 0]], ids=str)
def test_soft_margin_against_torch(labels: list[int]) -> None:
    scores = torch.randn(4, 3, dtype=torch.float64) * 5
    labels = torch.tensor(labels).expand(4, 3)
    expected = torch.nn.functional.multilabel_soft_margin_loss(scores, labels.double())
    for kind in (torch.bool, torch.int64, torch.float32):
        assert soft_margin(scores, labels.to(kind)).item() == pytest.approx(expected.item(), rel=1e-12)
    # every image weighs its part; the sum is divided by all of them
    weighted = soft_margin(scores, labels, torch.tensor([1.0, 0, 1, 1])).item()
    assert weighted == pytest.approx(expected.item() - soft_margin(scores[1:2], labels[1:2]).item() / 4, rel=1e-9)


def test_scores_of_any_size_are_finite() -> None:
    scores = torch.tensor([[1e4, -1e4, 1e30]], requires_grad=True)
    loss = soft_margin(scores, torch.tensor([[0, 1, 1]]))
    loss.backward()
    assert loss.item() == pytest.approx(2e4 / 3) and scores.grad.isfinite().all()


def test_max_norm_by_hand() -> None:
    maps = torch.tensor([[-1.0, 1, 3], [2, 2, 2], [-4, -5, -6]]).view(1, 3, 1, 3)
    top = (3 - 1e-5) / (3 + 1e-5)
    expected = torch.tensor([[0, (1 - 1e-5) / (3 + 1e-5), top], [0, 0, 0], [0, 0, 0]])
    assert torch.allclose(_maps.max_norm(maps)[0, :, 0], expected, atol=1e-6)
    assert torch.autograd.gradcheck(_maps.max_norm, torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True))


def test_keep_strongest_by_hand() -> None:
    maps = torch.tensor([[0.2, 0.5, -1], [0.7, 0.5, -2], [0.1, 0.4, -3]]).view(1, 3, 1, 3)
    expected = torch.tensor([[0, 0.5, -1], [0.7, 0.5, 0], [0, 0, 0]])  # equal ones both stay
    assert torch.equal(_maps.keep_strongest(maps)[0, :, 0], expected)


# ---- the hardest part -------------------------------------------------------------------------------------------------------


def by_search(error: Tensor, share: float) -> Tensor:
    k = int(error[0].numel() * share)
    return error.flatten(1).topk(k, dim=1).values.mean()


def crowd(counts: list[int], classes: int, h: int, w: int) -> tuple[Tensor, Tensor]:
    """Errors of images with so many classes, and their labels."""
    labels = torch.zeros(len(counts), classes)
    for image, count in enumerate(counts):
        labels[image, torch.randperm(classes)[:count]] = 1
    return torch.rand(len(counts), 1 + classes, h, w, dtype=torch.float64) * _maps.with_background(labels), labels


def test_hardest_mean_by_hand() -> None:
    # 1 + 4 channels of two places: k = 2. One class: 4 of 10 places may differ from 0
    error = torch.zeros(1, 5, 1, 2)
    error[0, 0, 0], error[0, 2, 0] = torch.tensor([3.0, 1]), torch.tensor([2.0, 5])
    assert hardest_mean(error, torch.tensor([[0, 1, 0, 0]])).item() == 4  # (5 + 3) / 2
    # no class: the two places of the background are all there is, and their sum is taken
    error[0, 2] = 0
    assert hardest_mean(error, torch.zeros(1, 4)).item() == 2


@pytest.mark.parametrize("counts", [[k] for k in range(21)] + [[1, 2, 3], [3, 4], [0, 20, 2, 7]], ids=str)
def test_hardest_mean_is_the_search(counts: list[int]) -> None:
    """With 20 classes the search is left out up to 3 classes: 4/21 < 1/5 < 5/21. Numbers and gradients are the same."""
    error, labels = crowd(counts, 20, 6, 7)
    one, two = error.clone().requires_grad_(), error.clone().requires_grad_()
    got, expected = hardest_mean(one, labels), by_search(two, 0.2)
    assert got.item() == pytest.approx(expected.item(), rel=1e-13)
    present = _maps.with_background(labels)
    # where all k errors are not 0, they are the same; where the search takes zeros too, which of them is arbitrary
    gradients = (torch.autograd.grad(loss, leaf)[0] * present for loss, leaf in ((got, one), (expected, two)))
    assert torch.allclose(*gradients, rtol=1e-13)


def test_no_search_for_few_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr(Tensor, "topk", refuse)
    hardest_mean(*crowd([0, 1, 2, 3], 20, 5, 4))
    with pytest.raises(AssertionError, match="searched"):
        hardest_mean(*crowd([4], 20, 5, 4))


@pytest.mark.parametrize(("classes", "share"), [(1, 0.2), (3, 0.5), (80, 0.2), (20, 1.0)])
def test_hardest_mean_of_other_counts(classes: int, share: float) -> None:
    for count in {0, 1, classes // 5, classes}:
        error, labels = crowd([count, classes], classes, 5, 5)
        assert hardest_mean(error, labels, share).item() == pytest.approx(by_search(error, share).item(), rel=1e-13)


def test_half_does_not_overflow() -> None:
    # the sum, 147,000, is no float16
    error = torch.ones(1, 21, 100, 70, dtype=torch.float16)
    assert hardest_mean(error, torch.ones(1, 20)).item() == 1
    error[:, 4:] = 0
    labels = torch.zeros(1, 20)
    labels[:, :3] = 1
    assert hardest_mean(error, labels).item() == pytest.approx(4 / 21 / 0.2)


# ---- min pooling ------------------------------------------------------------------------------------------------------------


def test_min_pooling_by_hand() -> None:
    """8 places, two classes of which one is in the image: the two least places hold -3 and 0.5; k = 2."""
    object_map = torch.tensor([4, 0.5, 7, -3, 2, 8, 9, 6])
    refined = torch.stack([torch.full((8,), -9.0), object_map, torch.full((8,), 5.0)]).view(1, 3, 2, 4)
    assert min_pooling(refined, torch.tensor([[1, 0]])).item() == 0.25
    # the absent class counts as 0 beside the negative place, so does the image without classes
    assert min_pooling(refined, torch.tensor([[0, 0]])).item() == 0
    # both: max(map, 5), least are 5 and 5
    assert min_pooling(refined, torch.tensor([[1, 1]])).item() == 5
    assert min_pooling(refined[..., :1, :1], torch.tensor([[1, 1]])).item() == 5  # never fewer than one place


def test_min_pooling_gradient() -> None:
    refined = torch.randn(2, 4, 4, 4, dtype=torch.float64).abs().requires_grad_()
    labels = torch.tensor([[1, 0, 1], [0, 1, 1]])
    assert torch.autograd.gradcheck(lambda x: min_pooling(x, labels), refined)
    (gradient,) = torch.autograd.grad(min_pooling(refined, labels), refined)
    assert not gradient[:, 0].any() and not gradient[0, 2].any() and not gradient[1, 1].any()
    assert gradient.count_nonzero() == 2 * 4


# ---- SEAM and CPN ------------------------------------------------------------------------------------------------------------


def test_seam_er_by_hand() -> None:
    # the background does not count: (0.2 + 0.4) / 2
    assert seam_er(column(9, 0.5, 0.1), column(1, 0.3, 0.5)).item() == pytest.approx(0.3)


def test_seam_ecr_by_hand() -> None:
    """Two classes, one place, all in the image; share 1: the mean of three errors."""
    labels = torch.ones(1, 2)
    target, refined = column(0.4, 0.6, 0.3), column(0.1, 0.2, 0.2)
    assert seam_ecr(target, refined, labels, share=1.0).item() == pytest.approx((0.3 + 0.4 + 0.2) / 3)
    assert seam_ecr(target, refined, labels, strongest=False, share=1.0).item() == pytest.approx((0.3 + 0.4 + 0.1) / 3)
    # share .4: k = 1
    assert seam_ecr(target, refined, labels, share=0.4).item() == pytest.approx(0.4)


def test_cpn_by_hand() -> None:
    whole, first, second = column(0.2, 0.8, 0.5), column(0.1, 0.3, 0.2), column(0.6, 0.4, 0.4)
    assert cpn_tcp(whole, first, second).item() == pytest.approx((0.1 + 0.1) / 2)
    # whole - first = (.1, .5, .3): keepmax leaves (0, .5, 0)
    labels = torch.ones(1, 2)
    assert cpn_cpcr(whole, first, second, labels, share=1.0).item() == pytest.approx((0.6 + 0.1 + 0.4) / 3)
    assert cpn_cpcr(whole, first, second, labels, strongest=False, share=1.0).item() == pytest.approx((0.5 + 0.1 + 0.1) / 3)


def test_targets_get_no_gradient() -> None:
    leaves = [torch.rand(1, 3, 4, 4, requires_grad=True) for _ in range(3)]
    labels = torch.ones(1, 2)
    seam_ecr(leaves[0], leaves[1], labels).backward()
    assert leaves[0].grad is None and leaves[1].grad.any()
    leaves[1].grad = None
    cpn_cpcr(leaves[0], leaves[1], leaves[2], labels).backward()
    assert leaves[0].grad is None and leaves[1].grad is None and leaves[2].grad.any()


# ---- AffinityNet ------------------------------------------------------------------------------------------------------------


def test_pairs_by_hand() -> None:
    """One row of four pixels, radius 2: pairs (0,1) background, (1,2) different, (2,3) a class; below the row nothing."""
    labels = torch.tensor([[[0, 0, 5, 5]]])
    planes = torch.zeros(1, 4, 1, 4)
    planes[0, 0, 0] = torch.tensor([0.5, 0.25, 0.125, 0])
    planes = planes[:, : len(ops.affinity_offsets(2))]
    expected = (math.log(2) + math.log(8)) / 4 - math.log(0.75) / 2
    assert affinitynet_pairs(planes, labels, radius=2).item() == pytest.approx(expected, rel=1e-3)
    # 255 takes its pairs away, and no kind of pair is left: 0
    assert affinitynet_pairs(planes, torch.full((1, 1, 4), 255), radius=2).item() == 0


@pytest.mark.parametrize("border", ["full", "published"])
def test_pairs_by_loops(border: str) -> None:
    h, w, radius = 9, 13, 4
    labels = torch.tensor([0, 1, 2, 255])[torch.randint(0, 4, (2, h, w))]
    planes = ops.affinity(torch.rand(2, 3, h, w, dtype=torch.float64), radius)
    cost, count = {"bg": 0.0, "fg": 0.0, "neg": 0.0}, {"bg": 1e-5, "fg": 1e-5, "neg": 1e-5}
    rows, columns = (range(h), range(w)) if border == "full" else (range(h - radius + 1), range(radius - 1, w - radius + 1))
    for image in range(2):
        for e, (dy, dx) in enumerate(ops.affinity_offsets(radius).tolist()):
            for y in rows:
                for x in columns:
                    if y + dy >= h or not 0 <= x + dx < w:
                        continue
                    one, other = labels[image, y, x].item(), labels[image, y + dy, x + dx].item()
                    if 255 in (one, other):
                        continue
                    kind = ("bg" if one == 0 else "fg") if one == other else "neg"
                    a = planes[image, e, y, x].item()
                    cost[kind] -= math.log(1 + 1e-5 - a if kind == "neg" else a + 1e-5)
                    count[kind] += 1
    expected = sum(part * cost[kind] / count[kind] for kind, part in (("bg", 0.25), ("fg", 0.25), ("neg", 0.5)))
    assert affinitynet_pairs(planes, labels, radius, border).item() == pytest.approx(expected, rel=1e-10)


def test_pairs_gradient() -> None:
    labels = torch.randint(0, 3, (1, 5, 6))
    planes = torch.rand(1, 4, 5, 6, dtype=torch.float64).clamp(0.1, 0.9)[:, : len(ops.affinity_offsets(2))].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: affinitynet_pairs(x, labels, 2), planes)
    # a pair to be ignored gets none
    labels[0, 2, 2] = 255
    (gradient,) = torch.autograd.grad(affinitynet_pairs(planes, labels, 2), planes)
    assert not gradient[0, :, 2, 2].any()


# ---- bad input --------------------------------------------------------------------------------------------------------------

MAPS = torch.rand(2, 4, 5, 5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: soft_margin(torch.zeros(2, 3), torch.zeros(2, 4)), ValueError, r"soft_margin: .labels. .*2, 4.*no label"),
        (lambda: soft_margin(torch.zeros(2, 3), torch.zeros(3, 3)), ValueError, r"'labels' .*, got \[3, 3\]"),
        (lambda: soft_margin(torch.zeros(0, 3), torch.zeros(0, 3)), ValueError, r"none of them empty, got \[0, 3\]"),
        (lambda: soft_margin(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3)), TypeError, "float type, got int64"),
        (lambda: hardest_mean(MAPS, torch.zeros(2, 4)), ValueError, r"hardest_mean: 'labels' .* the background has no label"),
        (lambda: hardest_mean(MAPS, torch.zeros(2, 3), 0.0), ValueError, "'share' must be above 0, at most 1, got 0.0"),
        (lambda: min_pooling(MAPS, torch.zeros(2, 2)), ValueError, r"min_pooling: 'labels' .* \[2, 3\], got \[2, 2\]"),
        (lambda: min_pooling(MAPS[:, :1], torch.zeros(2, 0)), ValueError, r"'refined' must have shape \[N, 1 \+ C, H, W\]"),
        (lambda: seam_er(MAPS, MAPS[..., 1:]), ValueError, r"seam_er: 'second' .* of 'first', .* got \[2, 4, 5, 4\]"),
        (lambda: cpn_tcp(MAPS, MAPS, None), ValueError, "cpn_tcp: 'second' must have the shape of 'whole'.*NoneType"),
        (lambda: affinitynet_pairs(MAPS, torch.zeros(2, 5, 5, dtype=torch.int64)), ValueError, r"'planes' .* \[2, 34, 5, 5\]"),
        (lambda: affinitynet_pairs(MAPS, torch.zeros(2, 5, 5)), TypeError, "affinity_labels: 'labels' must be of type"),
    ],
)  # fmt: skip
def test_bad_input(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_nan_is_told() -> None:
    maps = MAPS.clone()
    maps[1, 2, 3, 3] = math.nan
    labels = torch.ones(2, 3)
    for loss in (
        seam_er(maps, MAPS),
        seam_ecr(maps, MAPS, labels),
        seam_ecr(MAPS, maps, labels),
        seam_ecr(MAPS, maps, labels, share=1.0),
        cpn_tcp(MAPS, maps, MAPS),
        cpn_cpcr(maps, MAPS, MAPS, labels),
        losses.l2g_transfer(maps, MAPS),
        losses.eps_saliency(maps, torch.rand(2, 1, 5, 5), labels),
        soft_margin(maps.mean(dim=(2, 3)), torch.ones(2, 4)),
    ):
        assert loss.isnan()
