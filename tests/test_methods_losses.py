"""EPS's saliency loss by hand, by loops, and its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsss_fast.methods.losses import eps_saliency


def by_loops(logits: Tensor, saliency: Tensor, labels: Tensor, tau: float, lam: float) -> float:
    n, channels, h, w = logits.shape
    total = 0.0
    for image in range(n):
        p = logits[image].softmax(0)
        # nearest: the source of row y is floor(y * H / h)
        s = torch.stack([saliency[image, 0, y * saliency.shape[2] // h] for y in range(h)])
        s = torch.stack([s[:, x * saliency.shape[3] // w] for x in range(w)], dim=1)
        foreground, background = torch.zeros(h, w), p[-1].clone()
        for c in range(channels - 1):
            area = (p[c] > 0.5).float()
            overlap = (area * (s > 0.5)).sum() / (area.sum() + 1e-4 * h * w)
            if labels[image, c] == 1:
                (foreground if overlap > tau else background).add_(p[c])
        total += (s - lam * foreground - (1 - lam) * (1 - background)).square().sum().item()
    return total / (n * h * w)


def test_by_hand() -> None:
    """Two places, two classes. p at place 0: (.7, .2, .1), at place 1: (.1, .6, .3); salient: place 0.

    Class 0 covers place 0 (O = 1 / 1.0002), class 1 place 1 (O = 0). With both in the image foreground = (.7, .1) and background
    = (.1 + .2, .3 + .6); s_hat = .5 (.7, .1) + .5 (.7, .1) = (.7, .1): the loss is (.09 + .01) / 2.
    """
    p = torch.tensor([[0.7, 0.1], [0.2, 0.6], [0.1, 0.3]]).view(1, 3, 1, 2)
    saliency = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    assert eps_saliency(p.log(), saliency, torch.tensor([[1, 1]])).item() == pytest.approx(0.05, abs=1e-6)
    # without class 1: background = (.1, .3), s_hat = .5 (.7, .1) + .5 (.9, .7) = (.8, .4): (.04 + .16) / 2
    assert eps_saliency(p.log(), saliency, torch.tensor([[1, 0]])).item() == pytest.approx(0.1, abs=1e-6)
    # lambda .9: s_hat = .9 (.7, .1) + .1 (.9, .7) = (.72, .16)
    expected = (0.28**2 + 0.16**2) / 2
    assert eps_saliency(p.log(), saliency, torch.tensor([[1, 0]]), lam=0.9).item() == pytest.approx(expected, abs=1e-6)
    # tau 1: no overlap exceeds it, both classes are background: foreground 0, background (1, 1), s_hat = 0
    assert eps_saliency(p.log(), saliency, torch.tensor([[1, 1]]), tau=1.0).item() == pytest.approx(0.5, abs=1e-6)


def test_ties_are_not_covered() -> None:
    """p = 0.5 and s = 0.5 round to 0: the class has no area and is background."""
    logits = torch.zeros(1, 2, 1, 1)
    assert eps_saliency(logits, torch.full((1, 1, 1, 1), 0.5), torch.ones(1, 1)).item() == pytest.approx(0.25)


@pytest.mark.parametrize(("tau", "lam"), [(0.4, 0.5), (0.1, 0.9)])
@pytest.mark.parametrize("size", [(5, 7), (40, 56), (23, 30), (3, 2)], ids=str)
def test_by_loops(size: tuple[int, int], tau: float, lam: float) -> None:
    logits = 3 * torch.randn(3, 5, 5, 7)
    saliency = torch.rand(3, 1, *size)
    labels = torch.randint(0, 2, (3, 4))
    expected = by_loops(logits, saliency, labels, tau, lam)
    for kind in (torch.int64, torch.bool, torch.float32):
        assert eps_saliency(logits, saliency, labels.to(kind), tau, lam).item() == pytest.approx(expected, rel=1e-5)


def test_gradient() -> None:
    logits = (3 * torch.randn(2, 4, 3, 3, dtype=torch.float64)).requires_grad_()
    saliency, labels = torch.rand(2, 1, 3, 3, dtype=torch.float64), torch.tensor([[1, 0, 1], [0, 1, 1]])
    assert torch.autograd.gradcheck(lambda x: eps_saliency(x, saliency, labels), logits)


@pytest.mark.parametrize(
    ("logits", "saliency", "labels", "message"),
    [
        ((2, 4, 3), (2, 1, 9, 9), (2, 3), r"'logits' must have shape \[N, C \+ 1, h, w\], got \[2, 4, 3\]"),
        (
            (2, 4, 3, 3),
            (2, 9, 9),
            (2, 3),
            r"'saliency' must have shape \[N, 1, H, W\] with N = 2, got \[2, 9, 9\].*saliency\[:, None\]",
        ),
        ((2, 4, 3, 3), (2, 3, 9, 9), (2, 3), r"'saliency' must .*, got \[2, 3, 9, 9\]"),
        ((2, 4, 3, 3), (2, 1, 9, 9), (2, 4), r"'labels' must have shape \[N, C\] = \[2, 3\], got \[2, 4\]"),
    ],
)
def test_bad_input(logits: tuple, saliency: tuple, labels: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"eps_saliency: {message}"):
        eps_saliency(torch.zeros(logits), torch.zeros(saliency), torch.zeros(labels))


def test_bytes_are_refused() -> None:
    with pytest.raises(TypeError, match="'saliency' must be of a float type, from 0 to 1, got uint8"):
        eps_saliency(torch.zeros(1, 2, 3, 3), torch.zeros(1, 1, 3, 3, dtype=torch.uint8), torch.zeros(1, 1))
