"""The losses of the published systems as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def eps_saliency(logits: Tensor, saliency: Tensor, labels: Tensor, tau: float = 0.4, lam: float = 0.5) -> Tensor:
    """The saliency loss of EPS: the foreground that the maps make up shall equal the saliency map.

    With p = softmax(logits) over channels, s the saliency on the grid of the logits (nearest), and for a class its overlap O, the
    share of its area (p > 0.5) that is salient (s > 0.5): classes of the image with O > tau make up the foreground; the others
    of the image belong, with the background channel, to the background; classes not in the image belong to neither::

        loss = mean (s - lam * foreground - (1 - lam) * (1 - background))^2

    Args:
        logits: [N, C + 1, h, w], background last.
        saliency: [N, 1, H, W], from 0 to 1.
        labels: [N, C], 1 for a class in the image, else 0.
        tau: the smallest overlap of a foreground class.
        lam: the share of the foreground against the complement of the background; 0.9 for COCO.

    The gradient goes to `logits` through p alone: which class belongs where is a constant.
    """
    _check(logits, saliency, labels)
    probability = logits.softmax(dim=1)
    s = functional.interpolate(saliency.to(probability.dtype), logits.shape[2:], mode="nearest")
    area = probability[:, :-1].detach().round()
    # 1e-4 a place: a class without area has no overlap
    overlap = (area * s.round()).sum(dim=(2, 3)) / (area + 1e-4).sum(dim=(2, 3))
    present = labels > 0.5
    salient = (present & (overlap > tau)).to(probability.dtype)[:, :, None, None]
    hidden = (present & (overlap <= tau)).to(probability.dtype)[:, :, None, None]
    foreground = (probability[:, :-1] * salient).sum(dim=1, keepdim=True)
    background = probability[:, -1:] + (probability[:, :-1] * hidden).sum(dim=1, keepdim=True)
    return (s - lam * foreground - (1 - lam) * (1 - background)).square().mean()


def _check(logits: Tensor, saliency: Tensor, labels: Tensor) -> None:
    for name, value in (("logits", logits), ("saliency", saliency), ("labels", labels)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"eps_saliency: '{name}' must be a torch.Tensor, got {type(value).__name__}")
    if logits.ndim != 4 or logits.shape[1] < 2:
        raise ValueError(f"eps_saliency: 'logits' must have shape [N, C + 1, h, w], got {list(logits.shape)}")
    if saliency.ndim != 4 or saliency.shape[:2] != (logits.shape[0], 1):
        expected = f"have shape [N, 1, H, W] with N = {logits.shape[0]}"
        hint = ". Hint: add the channel with saliency[:, None]" if saliency.ndim == 3 else ""
        raise ValueError(f"eps_saliency: 'saliency' must {expected}, got {list(saliency.shape)}{hint}")
    if not saliency.is_floating_point():
        kind = str(saliency.dtype).removeprefix("torch.")
        raise TypeError(f"eps_saliency: 'saliency' must be of a float type, from 0 to 1, got {kind}. Hint: divide bytes by 255")
    if labels.shape != (logits.shape[0], logits.shape[1] - 1):
        expected = f"have shape [N, C] = {[logits.shape[0], logits.shape[1] - 1]}"
        raise ValueError(f"eps_saliency: 'labels' must {expected}, got {list(labels.shape)}")
