"""The losses of the published systems as pure functions; how a method joins them is told by ``losses`` in its own file.

Maps in float16 and bfloat16 are taken as float32. Labels are [N, C], without the background: above one half a class is in the
image. Every loss is a scalar. A NaN that a loss looks at makes it NaN; classes not in the image are not looked at.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from wsss_fast import ops
from wsss_fast.methods import _maps
from wsss_fast.ops import _check


def soft_margin(scores: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Multi-label classification, every class on its own::

        loss = mean over images and classes of -[y log sigmoid(s) + (1 - y) log sigmoid(-s)]

    Args:
        scores: [N, C], before any sigmoid; of a CAM the mean over places, of positive and negative values alike.
        labels: [N, C], from 0 to 1.
        weight: [N], of each image; None for 1. The sum is divided by N all the same.
    """
    _maps.check_maps("soft_margin", "scores", scores, "[N, C]")
    _maps.check_labels("soft_margin", labels, *scores.shape)
    scores = _maps.exact(scores)
    each = functional.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype), reduction="none").mean(dim=1)
    return each.mean() if weight is None else (each * weight).mean()


def hardest_mean(error: Tensor, labels: Tensor, share: float = 0.2) -> Tensor:
    """The mean over the hardest part of an image, then over images::

        loss = mean over images of (sum of the k largest of error) / k,   k = floor(share * (1 + C) * H * W)

    Args:
        error: [N, 1 + C, H, W], 0 or more, and exactly 0 in the channels of classes that are not in the image.
        labels: [N, C].
        share: 0.2 in SEAM and CPN.

    Where the 1 + K channels that can differ from 0 have no more than k places, their sum over k is the same number and no
    search is needed: with 20 classes and share 0.2, for images of up to 3 classes. Reads `labels` on the host.
    """
    _maps.check_maps("hardest_mean", "error", error)
    n, channels, h, w = error.shape
    _maps.check_labels("hardest_mean", labels, n, channels - 1)
    if not 0 < share <= 1:
        raise ValueError(_check.complaint("hardest_mean", "share", "be above 0, at most 1", repr(share)))
    error = _maps.exact(error)
    k = max(1, int(channels * h * w * share))
    crowded = [image for image, count in enumerate((labels > 0.5).sum(dim=1).tolist()) if (1 + count) * h * w > k]
    if not crowded:
        return error.sum() / (n * k)
    present = _maps.with_background(labels)[:, :, 0, 0]
    total = error.new_zeros(())
    for image in range(n):
        if image in crowded:
            total = total + error[image, present[image]].flatten().topk(k, sorted=False).values.sum()
        else:
            total = total + error[image].sum()
    return total / (n * k)


def min_pooling(refined: Tensor, labels: Tensor) -> Tensor:
    """Adaptive min pooling: a quarter of the image shall hold no object::

        m = max over the objects of the image of refined                (0 where it has none)
        loss = mean over images of (sum of max(m, 0) over the k places where m is least) / k,   k = floor(H * W / 4)

    In none of the papers, but in the released code of SEAM and CPN. `refined` is taken as the network gives it: [N, 1 + C, H, W].
    A NaN counts as large.
    """
    _maps.check_maps("min_pooling", "refined", refined)
    n, channels, h, w = refined.shape
    _maps.check_labels("min_pooling", labels, n, channels - 1)
    objects = _maps.keep(_maps.exact(refined)[:, 1:], labels[:, :, None, None] > 0.5)
    strongest = objects.max(dim=1).values.flatten(1)
    return strongest.topk(max(1, h * w // 4), dim=1, largest=False, sorted=False).values.relu().mean()


def seam_er(first: Tensor, second: Tensor) -> Tensor:
    """SEAM's equivariance: the maps of an image and of its smaller copy shall be the same::

        loss = mean over images, objects and places of |first - second|

    Both [N, 1 + C, h, w], normalised, at one size; the background takes no part. Gradients go to both.
    """
    _maps.check_maps("seam_er", "first", first)
    _maps.check_like("seam_er", "second", second, "first", first)
    return (_maps.exact(first) - _maps.exact(second))[:, 1:].abs().mean()


def seam_ecr(target: Tensor, refined: Tensor, labels: Tensor, strongest: bool = True, share: float = 0.2) -> Tensor:
    """One half of SEAM's equivariant cross refinement: the refined maps of one view shall be the raw maps of the other::

        loss = hardest_mean |keepmax(target) - refined|

    keepmax: of the objects each place keeps the strongest (the background channel stays); not with ``strongest=False``. Both
    [N, 1 + C, h, w], normalised, 0 in classes that are not in the image. No gradient goes to `target`.
    """
    _maps.check_maps("seam_ecr", "target", target)
    _maps.check_like("seam_ecr", "refined", refined, "target", target)
    target = _maps.exact(target.detach())
    if strongest:
        target = torch.cat([target[:, :1], _maps.keep_strongest(target[:, 1:])], dim=1)
    return hardest_mean((target - _maps.exact(refined)).abs(), labels, share)


def cpn_tcp(whole: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """CPN's triplet consistency: the maps of two complementary images, each times its share, shall add up to the whole's::

        loss = mean over images, objects and places of |first + second - whole|

    All [N, 1 + C, H, W], normalised and already times their share; the background takes no part. Gradients go to all three:
    detach the pair where only the whole is to move (as for raw maps).
    """
    _maps.check_maps("cpn_tcp", "whole", whole)
    for name, value in (("first", first), ("second", second)):
        _maps.check_like("cpn_tcp", name, value, "whole", whole)
    return (_maps.exact(first) + _maps.exact(second) - _maps.exact(whole))[:, 1:].abs().mean()


def cpn_cpcr(whole: Tensor, part: Tensor, refined: Tensor, labels: Tensor, strongest: bool = True, share: float = 0.2) -> Tensor:
    """One half of CPN's cross regularisation: what one part leaves of the whole is what the other part shall show::

        loss = hardest_mean |keepmax(whole - part) - refined|

    keepmax: each place keeps its strongest channel, the background among them; not with ``strongest=False``. `whole` and `part`
    are raw maps, `refined` the refined ones of the other part; all [N, 1 + C, H, W], normalised, times their share, 0 in classes
    that are not in the image. No gradient goes to `whole` and `part`.
    """
    _maps.check_maps("cpn_cpcr", "whole", whole)
    for name, value in (("part", part), ("refined", refined)):
        _maps.check_like("cpn_cpcr", name, value, "whole", whole)
    target = _maps.exact(whole.detach()) - _maps.exact(part.detach())
    if strongest:
        target = _maps.keep_strongest(target)
    return hardest_mean((target - _maps.exact(refined)).abs(), labels, share)


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
    _maps.check_maps("eps_saliency", "logits", logits, "[N, C + 1, h, w]")
    check_saliency("eps_saliency", saliency, len(logits))
    _maps.check_labels("eps_saliency", labels, logits.shape[0], logits.shape[1] - 1)
    probability = _maps.exact(logits).softmax(dim=1)
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


def check_saliency(op: str, saliency: Tensor, images: int) -> None:
    layout = f"[N, 1, H, W] with N = {images}"
    if not isinstance(saliency, torch.Tensor):
        raise TypeError(_check.complaint(op, "saliency", "be a torch.Tensor", type(saliency).__name__))
    if saliency.ndim != 4 or saliency.shape[:2] != (images, 1) or saliency.numel() == 0:
        hint = "add the channel with saliency[:, None]" if saliency.ndim == 3 else ""
        raise ValueError(_check.complaint(op, "saliency", f"have shape {layout}", list(saliency.shape), hint))
    if not saliency.is_floating_point():
        kind = _check.short(saliency.dtype)
        raise TypeError(_check.complaint(op, "saliency", "be of a float type, from 0 to 1", kind, "divide bytes by 255"))


def l2g_transfer(maps: Tensor, target: Tensor, weight: float = 10.0) -> Tensor:
    """L2G's transfer: what the local network sees in a patch, the global network shall see there::

        loss = weight * mean over patches, channels and places of (softmax(maps) - target)^2

    Args:
        maps: [R, C + 1, h, w], the maps of the global network cut to the patches (`roi_align`).
        target: the same shape, of ``l2g.target``; gets no gradient.
        weight: 10 on VOC, 30 on COCO.
    """
    _maps.check_maps("l2g_transfer", "maps", maps, "[R, C + 1, h, w]")
    _maps.check_like("l2g_transfer", "target", target, "maps", maps)
    probability = _maps.exact(maps).softmax(dim=1)
    return weight * (probability - target.detach().to(probability.dtype)).square().mean()


def affinitynet_pairs(planes: Tensor, labels: Tensor, radius: int = 5, border: str = "full", eps: float = 1e-5) -> Tensor:
    """The pair loss of AffinityNet: affinity 1 within the background and within a class, 0 across::

        loss = 1/4 M_background(-log(a + eps)) + 1/4 M_foreground(-log(a + eps)) + 1/2 M_different(-log(1 + eps - a))

    M is the mean over the pairs of that kind in the whole batch, their number plus eps: 0 where there are none.

    Args:
        planes: [N, E, h, w], of ``ops.affinity``, from 0 to 1.
        labels: integers [N, h, w]; 0 is the background, 255 is ignored.
        radius: of the planes.
        border: "full", or "published" for the pairs of the released code (see ``ops.affinity_labels``).
    """
    _maps.check_maps("affinitynet_pairs", "planes", planes, "[N, E, h, w]")
    pairs = ops.affinity_labels(labels, radius, border=border)
    if pairs.different.shape != planes.shape:
        expected = f"have shape [N, E, h, w] = {list(pairs.different.shape)} for these labels and radius {radius}"
        raise ValueError(_check.complaint("affinitynet_pairs", "planes", expected, list(planes.shape)))
    a = _maps.exact(planes)
    near, far = -(a + eps).log(), -(1 + eps - a).log()
    kinds = ((0.25, near, pairs.background), (0.25, near, pairs.foreground), (0.5, far, pairs.different))
    return sum(part * torch.where(kind, cost, 0.0).sum() / (kind.sum().to(a.dtype) + eps) for part, cost, kind in kinds)


def irn_displacement(displacement: Tensor, labels: Tensor, radius: int = 10, border: str = "full") -> Tensor:
    """IRN's loss of displacements d, the vectors (dy, dx) that lead from a place to the centre of its object::

        loss = 1/2 M_foreground(|d_p - d_q - (q - p)|) + 1/2 M_background(|d_p - d_q|)

    over the pairs p, q = p + offset: two places of an object point at the same centre, and in the background all vectors are
    equal. |.| is the mean over dy and dx; M as in `affinitynet_pairs`.

    Args:
        displacement: [N, 2, h, w], in cells of the grid.
        labels, radius, border: of `affinitynet_pairs`.

    Memory is that of a few maps whatever the radius: pairs are looked at one offset after the other, and the gradient is gathered
    along with the loss.
    """
    _maps.check_maps("irn_displacement", "displacement", displacement, "[N, 2, h, w]")
    _check.tensor("irn_displacement", "labels", labels, "[N, h, w]")
    _check.dtype("irn_displacement", "labels", labels, _check.INTEGERS)
    n, two, h, w = displacement.shape
    if two != 2 or list(labels.shape) != [n, h, w]:
        expected = f"have shape [N, 2, h, w] and N, h, w of 'labels', {list(labels.shape)}"
        raise ValueError(_check.complaint("irn_displacement", "displacement", expected, list(displacement.shape)))
    _check.choice("irn_displacement", "border", border, ("full", "published"))
    return _Displacement.apply(_maps.exact(displacement), labels.long(), radius, border == "published")


class _Displacement(torch.autograd.Function):
    """|x| has the gradient sign(x), known as soon as x is: nothing of a pair need be kept for the way back."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, labels: Tensor, radius: int, published: bool) -> Tensor:
        sums, counts = d.new_zeros(2), d.new_zeros(2)
        gradients = [torch.zeros_like(d) for _ in sums]
        for dy, dx in ops.affinity_offsets(radius).tolist():
            here, there = _ends(dy, dx, *labels.shape[1:], radius - 1 if published else None)
            p, q = labels[here], labels[there]
            same = (p == q) & (p >= 0) & (p < 255)
            offset = d.new_tensor([dy, dx])[:, None, None]
            for kind, (of_kind, lead) in enumerate(((same & (p > 0), offset), (same & (p == 0), torch.zeros_like(offset)))):
                difference = torch.where(of_kind[:, None], d[here] - d[there] - lead, 0.0)
                sums[kind] += difference.abs().sum()
                counts[kind] += of_kind.sum()
                gradients[kind][here] += difference.sign()
                gradients[kind][there] -= difference.sign()
        weights = 1 / (4 * (counts + 1e-5))  # one half of each kind, the mean over two coordinates
        ctx.save_for_backward(sum(weight * gradient for weight, gradient in zip(weights, gradients, strict=True)))
        return (weights * sums).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None, None


def _ends(dy: int, dx: int, h: int, w: int, margin: int | None) -> tuple[tuple, tuple]:
    """The places p that have a partner p + (dy, dx), and these partners; with a margin those of ``ops.affinity_pairs``."""
    bottom, left, right = (h - dy, max(-dx, 0), w - max(dx, 0)) if margin is None else (h - margin, margin, w - margin)
    bottom, right = max(bottom, 0), max(right, left)
    return (..., slice(0, bottom), slice(left, right)), (..., slice(dy, bottom + dy), slice(left + dx, right + dx))
