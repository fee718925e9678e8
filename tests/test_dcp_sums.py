"""The sums behind class patterns: against one-shot float64, their error, order, limits, eigenvectors and memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dcp_cases import learned, planted
from helpers import relative_error
from torch import Tensor

from wsss_fast.bench._memory import peak_growth
from wsss_fast.methods import _covariance
from wsss_fast.methods.dcp import ClassPatterns


def one_shot(features: Tensor, labels: Tensor, c: int) -> tuple[np.ndarray, np.ndarray]:
    chosen = features[labels[:, c] > 0.5].double().numpy()
    rows = chosen.transpose(0, 2, 3, 1).reshape(-1, chosen.shape[1])
    return rows.mean(0), np.cov(rows, rowvar=False, bias=True)


def check_against_one_shot(patterns: ClassPatterns, features: Tensor, labels: Tensor, bound: float) -> None:
    for c in range(labels.shape[1]):
        mean, covariance = one_shot(features, labels, c)
        values, vectors = np.linalg.eigh(covariance)
        assert np.abs(patterns.mean[c].numpy() - mean).max() <= bound * np.abs(mean).max()
        assert float(patterns.variance[c]) == pytest.approx(values[-1], rel=bound)
        assert float(patterns.second[c]) == pytest.approx(values[-2], abs=max(bound, 1e-4) * values[-1])
        assert float(patterns.total[c]) == pytest.approx(np.trace(covariance), rel=bound)
        direction = patterns.direction[c].numpy()
        sign = np.sign(direction @ vectors[:, -1])
        assert np.abs(direction * sign - vectors[:, -1]).max() <= 10 * bound


def sums(patterns: ClassPatterns, c: int) -> Tensor:
    """The covariance from what is kept."""
    kept = patterns._sums[c]
    mean = kept.features / kept.places
    lower = (kept.products / kept.places - torch.outer(mean, mean)).tril()
    return lower + lower.tril(-1).T


@pytest.mark.parametrize("channels", [1, 7, 24, _covariance.BLOCK + 9])
def test_streaming_is_one_shot(channels: int) -> None:
    """float64 features far from 0, batches of all sizes: 1e-9 (the mean is 1e4 times the spread)."""
    features = 1e4 + torch.randn(7, channels, 4, 5, dtype=torch.float64) * torch.linspace(3, 1, channels).double()[:, None, None]
    labels = torch.ones(7, 2)
    labels[::3, 1] = 0
    for batch in (1, 3, 7):
        patterns = ClassPatterns(2, channels)
        for start in range(0, 7, batch):
            patterns.update(features[start : start + batch], labels[start : start + batch])
        for c in range(2):
            _, covariance = one_shot(features, labels, c)
            assert relative_error(sums(patterns, c), torch.from_numpy(covariance).view(channels, channels)) < 1e-9
    patterns.finish()
    if channels > 1:
        check_against_one_shot(patterns, features, labels, 1e-8)
    else:
        assert patterns.direction.abs().tolist() == [[1.0], [1.0]] and patterns.second.tolist() == [0.0, 0.0]


def test_float32_keeps_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What float32 products cost: far below the bound of 2**-24 * rows, also when tiles and blocks are cut unevenly."""
    features = 4 + torch.rand(9, 40, 11, 13)
    labels = torch.ones(9, 1)
    exact = torch.from_numpy(one_shot(features, labels, 0)[1])
    for rows, block in ((4096, 512), (100, 16), (143, 40), (7, 3)):
        monkeypatch.setattr("wsss_fast.methods.dcp.ROWS", rows)
        monkeypatch.setattr(_covariance, "BLOCK", block)
        patterns = ClassPatterns(1, 40)
        patterns.update(features, labels)
        scale = exact.diagonal().max() * 2  # shifted by the mean of one image: moments are about the covariance
        assert (sums(patterns, 0) - exact).abs().max() <= 2**-24 * max(rows, 16) * scale
        assert (sums(patterns, 0) - exact).abs().max() <= 1e-6 * scale


def test_half_and_autocast_are_computed_in_float32() -> None:
    features, labels, where, _ = planted()
    expected = learned(features.half().float(), labels, where)
    with torch.autocast("cpu", torch.bfloat16):
        found = learned(features.half(), labels, where)
    assert torch.equal(found.direction, expected.direction) and torch.equal(found.mean, expected.mean)


def test_reduced_matmul_precision_is_not_taken() -> None:
    features, labels, _, _ = planted()
    torch.set_float32_matmul_precision("medium")
    try:
        check_against_one_shot(learned(features, labels), features, labels, 1e-6)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_order_does_not_matter() -> None:
    features, labels, where, _ = planted()
    order = torch.randperm(len(features))
    one, other = learned(features, labels, where), learned(features[order], labels[order], where[order], batch=5)
    assert torch.equal(one.images, other.images) and torch.equal(one.places, other.places)
    assert relative_error(one.direction, other.direction) < 1e-5 and relative_error(one.mean, other.mean) < 1e-6
    assert relative_error(one.margin, other.margin) < 1e-5


def test_inference_mode() -> None:
    features, labels, where, _ = planted()
    patterns = ClassPatterns(2, 24)
    with torch.inference_mode():
        patterns.update(features, labels, where)
    patterns.update(features, labels, where)
    patterns.finish()
    assert patterns.images.tolist() == (2 * labels.sum(0)).tolist()


def test_most_images() -> None:
    """The first that come, also where a batch has more than there is room for; other classes go on."""
    features, labels, _, _ = planted(images=12)
    patterns = learned(features, labels, images=5, batch=7)
    assert patterns.images.tolist() == [5, 5] and patterns.places.tolist() == [5 * 81] * 2
    kept = torch.stack([column * (column.cumsum(0) <= 5) for column in labels.T], dim=1)
    check_against_one_shot(patterns, features, kept, 1e-5)


@pytest.mark.parametrize("gap", [0.5, 0.999, 1.0])
def test_eigenvectors_of_large_matrices(gap: float) -> None:
    """Subspace iteration, and what it falls back to where the largest eigenvalues are (nearly) equal."""
    size = _covariance.SMALL + 20
    turn = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q
    values = torch.full((size,), gap, dtype=torch.float64)
    values[0] = 1
    matrix = (turn * values) @ turn.T
    found, vectors = _covariance.first_eigenvectors(matrix.tril())  # the upper triangle is not read
    assert float(found[0]) == pytest.approx(1, abs=1e-12) and float(found[1]) == pytest.approx(gap, abs=1e-4)
    assert (matrix @ vectors[:, 0] - vectors[:, 0]).norm() < 1e-9
    if gap < 1:
        assert abs(float(vectors[:, 0] @ turn[:, 0])) > 1 - 1e-9


def peak_mib(channels: int, classes: int, images: int, side: int) -> float:
    """What learning adds at its highest, batches included; two classes an image."""

    def learn(count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        patterns = ClassPatterns(classes, channels, count)
        for index in range(count):
            labels = torch.zeros(1, classes)
            labels[0, [index % classes, (7 * index + 1) % classes]] = 1
            features = torch.rand(1, channels, side, side, generator=generator)
            patterns.update(features + features[:, :1], labels)  # the first channel's direction is the main one
        patterns.finish()
        assert patterns.images.sum() == labels.sum() * count

    learn(classes)
    growth, exact = peak_growth(lambda: learn(images))
    if exact != "exact":
        pytest.skip("the peak of the memory cannot be reset")
    return growth


def test_memory() -> None:
    """640 channels and 20 classes: 62.5 MiB of sums; 100 images more, of 0.6 MiB each, at about the same peak."""
    few, many = peak_mib(640, 20, 20, 16), peak_mib(640, 20, 120, 16)
    assert 50 < few < 62.5 + 70 and many < few + 40


@pytest.mark.soak
def test_memory_in_full() -> None:
    """2048 channels, 20 classes, 800 images of 41 x 41 places: under 1 GiB."""
    assert peak_mib(2048, 20, 800, 41) < 1024
