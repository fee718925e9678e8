"""Counting the pixels of masks and soft maps against a truth. The names of the classes come from the caller.

The counts are of all images together (as VOC counts), in int64. A pixel whose truth is 255 counts nowhere. A pixel predicted
as 255 is a miss for its true class and a false alarm for none. The mean is over the classes with a pixel in prediction or truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsss_fast.files.names import printable
from wsss_fast.files.png import IGNORE, IGNORE_16

BACKGROUND_NAME = "background"
THRESHOLDS = (np.arange(100) / 100).astype(np.float32)


def ignore_value(values: int) -> int:
    """255 marks ignored pixels; 65535 does where 255 is a class, which takes masks of 16 bits."""
    return IGNORE if values <= IGNORE else IGNORE_16


class _Counts:
    """What both ways of counting share: the classes, background first, and the checks of one pair of arrays."""

    def __init__(self, classes: int | Sequence[str], values: np.ndarray | None = None) -> None:
        if isinstance(classes, int):
            names = [BACKGROUND_NAME, *(f"class {value}" for value in range(1, classes))]
        else:
            names = list(classes)
        if not 1 <= len(names) <= 65535:
            raise ValueError(f"evaluate: 'classes' must be 1 to 65535 values, background included, got {len(names)}")
        self.names: list[str] = names
        self.values = np.arange(len(names)) if values is None else values
        self.predicted = np.zeros(len(self.values), np.int64)  # pixels of each value of the predictions

    @property
    def expected(self) -> np.ndarray:
        """Pixels of each class in the truth."""
        raise TypeError(f"{type(self).__name__} must define expected")

    def _codes(self, mask: np.ndarray, role: str, name: str, count: int) -> np.ndarray:
        """The mask as indices, ignored pixels as the index behind the last of ``count`` classes."""
        mask = np.asarray(mask)
        if mask.ndim != 2 or mask.dtype.kind not in "bui":
            raise ValueError(f"evaluate: {role}{_of(name)} must be whole numbers [H, W], got {mask.dtype} {list(mask.shape)}")
        codes = mask.astype(np.intp)
        # masks of 16 bits mark ignored pixels so even where there are few classes
        ignore = ignore_value(count)
        ignored = (codes == ignore) | (codes == IGNORE_16)
        wrong = codes[~ignored & ((codes < 0) | (codes >= count))]
        codes[ignored] = count
        if wrong.size:
            raise ValueError(
                f"evaluate: the {role}{_of(name)} must hold 0..{count - 1} or {ignore}, got {int(wrong.flat[0])}. "
                "Hint: name all classes of model and truth; a mask holds class numbers, 0 for background, not grey values"
            )
        return codes


class Confusion(_Counts):
    """Counts of pixels, ``counts[truth, prediction]``; the last column counts predictions of 255.

    ``classes``: how many values a mask can have, background included, or their names. ``values``: for each value of a prediction
    the class of the truth that it means; default: the same."""

    def __init__(self, classes: int | Sequence[str], values: np.ndarray | None = None) -> None:
        super().__init__(classes, values)
        self.counts = np.zeros((len(self.names), len(self.names) + 1), np.int64)

    def add(self, prediction: np.ndarray, truth: np.ndarray, name: str = "") -> None:
        _same_size(np.shape(prediction), np.shape(truth), name)
        width = len(self.names) + 1
        index = self._codes(truth, "truth", name, len(self.names))
        codes = self._codes(prediction, "prediction", name, len(self.values))
        self.predicted += np.bincount(codes[index < len(self.names)], minlength=len(self.values) + 1)[:-1]
        index *= width
        index += np.append(self.values, len(self.names))[codes]
        self.counts += np.bincount(index.ravel(), minlength=width * width).reshape(width, width)[:-1]

    @property
    def expected(self) -> np.ndarray:
        return self.counts.sum(1)

    def iou(self) -> np.ndarray:
        """float64 [K]; NaN for a class with no pixel in prediction and truth."""
        hits = self.counts.diagonal()
        return _ratio(hits, self.counts.sum(1) + self.counts[:, :-1].sum(0) - hits)

    def miou(self) -> float:
        return float(_mean(self.iou()))


class Curve(_Counts):
    """IoU of soft class maps at every threshold of ``THRESHOLDS``, counted in one pass.

    At threshold t a pixel is background if no map exceeds t, else the class of the largest map (the first of equal ones): the
    argmax with a constant background score of t. The winner and its score decide for all thresholds at once. A winner that means
    background (``values``, as for `Confusion`) is background at all of them."""

    def __init__(self, classes: int | Sequence[str], values: np.ndarray | None = None) -> None:
        super().__init__(classes, values)
        shape = (len(self.names), len(THRESHOLDS) + 1)
        # [class, how many thresholds lie below the winner's score]
        self._predicted = np.zeros(shape, np.int64)
        self._hits = np.zeros(shape, np.int64)
        self._true_background = np.zeros(shape[1], np.int64)
        self._truth = np.zeros(shape[0], np.int64)

    def add(self, classes: np.ndarray, maps: np.ndarray, truth: np.ndarray, name: str = "") -> None:
        """``maps`` [K, H, W], float in 0..1 or uint8 in 0..255, of the object classes ``classes`` (0-based, as in a network)."""
        classes, scores = self._checked(np.asarray(classes), np.asarray(maps), name)
        _same_size(scores.shape[1:], np.shape(truth), name)
        truth = self._codes(truth, "truth", name, len(self.names)).ravel()
        if len(classes):
            best = scores.argmax(0)
            score = np.take_along_axis(scores, best[None], 0).ravel()
            winner = classes[best].ravel() + 1
        else:
            score, winner = np.zeros(truth.size, np.float32), np.zeros(truth.size, np.intp)
        kept = truth != len(self.names)
        truth, winner, score = truth[kept], winner[kept], score[kept]
        self.predicted += np.bincount(np.where(score > 0, winner, 0), minlength=len(self.values))
        winner = self.values[winner]
        below = np.searchsorted(THRESHOLDS, np.where(winner > 0, score, 0), side="left")
        self._predicted += self._histogram(winner, below)
        hit = truth == winner
        self._hits += self._histogram(winner[hit], below[hit])
        self._true_background += np.bincount(below[truth == 0], minlength=len(THRESHOLDS) + 1)
        self._truth += np.bincount(truth, minlength=len(self.names))

    def _checked(self, classes: np.ndarray, maps: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        objects = len(self.values) - 1
        if classes.ndim != 1 or maps.ndim != 3 or len(classes) != len(maps) or classes.dtype.kind not in "ui":
            raise ValueError(
                f"evaluate: soft maps{_of(name)} must be 'classes', whole numbers [K], and 'maps' [K, H, W], "
                f"got {classes.dtype} {list(classes.shape)} and {list(maps.shape)}"
            )
        if len(classes) and (classes.min() < 0 or classes.max() >= objects):
            raise ValueError(f"evaluate: 'classes'{_of(name)} must be from 0 to {objects - 1}, got {classes.tolist()}")
        if len(set(classes.tolist())) != len(classes):
            raise ValueError(f"evaluate: 'classes'{_of(name)} must differ, got {classes.tolist()}")
        if maps.dtype == np.uint8:
            scores = maps / np.float32(255)
        elif maps.dtype.kind == "f":
            scores = maps.astype(np.float32)
            if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
                raise ValueError(
                    f"evaluate: 'maps'{_of(name)} must be from 0 to 1, got {scores.min()} to {scores.max()}. "
                    "Hint: divide each map by its maximum"
                )
        else:
            raise ValueError(f"evaluate: 'maps'{_of(name)} must be float or uint8, got {maps.dtype}")
        order = np.argsort(classes)
        return classes[order].astype(np.intp), scores[order]

    @property
    def expected(self) -> np.ndarray:
        return self._truth

    def _histogram(self, classes: np.ndarray, below: np.ndarray) -> np.ndarray:
        width = len(THRESHOLDS) + 1
        return np.bincount(classes * width + below, minlength=len(self.names) * width).reshape(-1, width)

    def iou(self) -> np.ndarray:
        """float64 [thresholds, K]; NaN where a class has no pixel in prediction and truth."""
        hits, predicted = (_sum_above(counts) for counts in (self._hits, self._predicted))
        total = self._truth.sum()
        hits[:, 0] = self._true_background.cumsum()[:-1]
        predicted[:, 0] = total - predicted[:, 1:].sum(1)
        return _ratio(hits, predicted + self._truth - hits)

    def miou(self) -> np.ndarray:
        """float64 [thresholds]."""
        return _mean(self.iou())

    def best(self) -> int:
        """The place in THRESHOLDS of the largest mIoU, the first of equal ones; 0 when nothing was counted."""
        miou = self.miou()
        return 0 if np.isnan(miou).all() else int(np.nanargmax(miou))


def _sum_above(counts: np.ndarray) -> np.ndarray:
    """[thresholds, K]: pixels whose score exceeds each threshold. Column 0, background, is for the caller to fill."""
    return counts[:, ::-1].cumsum(1)[:, ::-1][:, 1:].T.copy()


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean(iou: np.ndarray) -> np.ndarray:
    """Over the last axis, without NaN; NaN where there is nothing else."""
    known = ~np.isnan(iou)
    return _ratio(np.where(known, iou, 0).sum(-1), known.sum(-1))


def _same_size(prediction: tuple[int, ...], truth: tuple[int, ...], name: str) -> None:
    if prediction != truth:
        raise ValueError(
            f"evaluate: prediction and truth{_of(name)} must have the same size [H, W], "
            f"got {list(prediction)} and {list(truth)}. "
            "Hint: resize maps before the argmax, masks by nearest neighbour"
        )


def _of(name: str) -> str:
    return f" of {printable(name)}" if name else ""
