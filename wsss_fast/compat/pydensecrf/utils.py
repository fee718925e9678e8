"""The helpers of pydensecrf.utils: unary energies from probabilities or labels, features of images of any dimension."""

# ruff: noqa: N803 (the names are pydensecrf's)
from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from wsss_fast.compat.pydensecrf import _arrays
from wsss_fast.ops._check import complaint

__all__ = [
    "compute_unary",
    "create_pairwise_bilateral",
    "create_pairwise_gaussian",
    "softmax_to_unary",
    "unary_from_labels",
    "unary_from_softmax",
]

_logger = logging.getLogger(__name__)


def unary_from_softmax(sm: Any, scale: float | None = None, clip: float | None = 1e-5) -> np.ndarray:
    """-log p as float32 [L, N] of probabilities [L, ...]; they need not sum to 1.

    Args:
        sm: probabilities, the label first.
        scale: trust in them, in (0, 1]: p = scale * sm + (1 - scale) / L.
        clip: the least probability; None or 0 lets a probability of 0 become an infinite energy.
    """
    p = np.asarray(sm)
    if p.ndim < 1 or p.dtype.kind not in "fiu":
        raise TypeError(complaint("unary_from_softmax", "sm", "be an array [L, ...] of numbers", f"{p.dtype}, {p.ndim} axes"))
    labels = p.shape[0]
    if scale is not None:
        scale = _arrays.probability("unary_from_softmax", "scale", scale, one=True)
        p = scale * p + np.full(1, (1 - scale) / labels)  # an array: the sum is of type float64 then, as theirs
    if clip is not None:
        p = np.clip(p, clip, 1.0)
    with np.errstate(divide="ignore"):
        return np.ascontiguousarray(-np.log(p), dtype=np.float32).reshape(labels, -1)


def unary_from_labels(labels: Any, n_labels: int, gt_prob: float, zero_unsure: bool = True) -> np.ndarray:
    """float32 [n_labels, N] of label numbers: -log gt_prob for a point's label, the rest shared among the others.

    Args:
        labels: integers. With `zero_unsure` 0 means "not known" (all labels alike) and label k counts as k - 1.
        n_labels: without the "not known" one.
        gt_prob: how sure the labels are, in (0, 1).
    """
    op = "unary_from_labels"
    sure = _arrays.probability(op, "gt_prob", gt_prob, one=False)
    n = _arrays.count(op, "n_labels", n_labels, 1)
    index = np.asarray(labels).ravel()
    if index.dtype.kind not in "iub":
        raise TypeError(complaint(op, "labels", "be integers", index.dtype, "labels.astype(int)"))
    last = n if zero_unsure else n - 1
    index = index.astype(np.int64)
    if index.size and not 0 <= index.min() <= index.max() <= last:
        other = "0 means 'not known'" if zero_unsure else "zero_unsure=True takes 0 as 'not known'"
        raise ValueError(complaint(op, "labels", f"lie in 0..{last}", f"{index.min()}..{index.max()}", other))
    energy = np.full((n, index.size), -np.log((1 - sure) / max(n - 1, 1)), dtype=np.float32)
    unsure = (index == 0) & bool(zero_unsure)
    known = np.flatnonzero(~unsure)
    energy[index[known] - bool(zero_unsure), known] = -np.log(sure)
    energy[:, unsure] = -np.log(1 / n)
    return energy


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> np.ndarray:
    """Features float32 [D, N] of the positions in an array of `shape`, axis i divided by sdims[i]."""
    op = "create_pairwise_gaussian"
    if len(tuple(shape)) < 1:
        raise ValueError(complaint(op, "shape", "have at least one axis", shape))
    return _positions(op, sdims, tuple(shape))


def create_pairwise_bilateral(sdims: Sequence[float], schan: Any, img: Any, chdim: int = -1) -> np.ndarray:
    """The same and the values of an image, channel i divided by schan[i] (a number: by it).

    `chdim` is the axis of the channels; -1, the default, says that there is none (a grey image), not that it is the last.
    """
    op = "create_pairwise_bilateral"
    image = np.asarray(img)
    if image.dtype.kind not in "fiub":
        raise TypeError(complaint(op, "img", "be an array of numbers", image.dtype))
    if chdim != -1 and not 0 <= chdim < image.ndim:
        raise ValueError(complaint(op, "chdim", f"be an axis of 'img' (0..{image.ndim - 1}) or -1 for none", chdim))
    channels = image[None] if chdim == -1 else np.moveaxis(image, chdim, 0)
    scale = _arrays.deviations(op, "schan", schan, len(channels))
    values = channels.reshape(len(channels), -1).astype(np.float32) / scale[:, None]
    return np.concatenate((_positions(op, sdims, channels.shape[1:]), values))


def _positions(op: str, sdims: Any, shape: tuple[int, ...]) -> np.ndarray:
    if np.ndim(sdims) != 1 or len(sdims) != len(shape):
        raise ValueError(complaint(op, "sdims", f"have one number for each of the {len(shape)} axes of {list(shape)}", sdims))
    scale = _arrays.deviations(op, "sdims", sdims, len(shape))
    return np.indices(shape, dtype=np.float32).reshape(len(shape), -1) / scale[:, None]


def compute_unary(labels: Any, M: int, GT_PROB: float = 0.5) -> np.ndarray:
    """`unary_from_labels` under its old name."""
    _logger.warning("compute_unary is deprecated, use unary_from_labels")
    return unary_from_labels(labels, M, GT_PROB)


def softmax_to_unary(sm: Any, GT_PROB: float = 1) -> np.ndarray:
    """`unary_from_softmax` under its old name."""
    _logger.warning("softmax_to_unary is deprecated, use unary_from_softmax")
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB)
