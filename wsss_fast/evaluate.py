"""How good masks are: intersection over union against a truth, and for soft maps the best background threshold.

    confusion = Confusion(21)                  # values 0..20 of a mask, background included
    confusion.add(prediction, truth)           # uint8 [H, W] each, any number of images
    confusion.iou(), confusion.miou()

    result = folder("MASKS", "VOC2012/SegmentationClass", ids=["2007_000032"], classes=20)

The counts are of all images together (as VOC counts), in int64. A pixel whose truth is 255 counts nowhere. A pixel predicted
as 255 is a miss for its true class and a false alarm for none. The mean is over the classes with a pixel in prediction or truth.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from wsss_fast.files.names import printable, state_of
from wsss_fast.files.png import IGNORE, IGNORE_16
from wsss_fast.files.regular import open_to_read
from wsss_fast.truth_classes import BACKGROUND_NAME, join

THRESHOLDS = (np.arange(100) / 100).astype(np.float32)
_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")
_SHOWN = 5
_READ_AHEAD = 32


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


# ---- folders ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What ``folder`` found. For soft maps ``iou`` and ``miou`` are at ``threshold``, the best one."""

    names: list[str]
    images: int
    missing: list[str]
    iou: np.ndarray
    miou: float
    threshold: float | None = None
    curve: np.ndarray | None = None  # mIoU at each of THRESHOLDS
    notes: tuple[str, ...] = ()  # what a reader must know of the figures


def folder(
    predictions: str | Path,
    truth: str | Path,
    ids: Iterable[str] | None = None,
    classes: int | Sequence[str] | None = None,
    allow_missing: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Masks ``<id>.png`` or soft maps ``<id>.npz`` against truth masks ``<id>.png``.

    ``ids``: which images, default all of the truth. ``classes``: the object classes of the truth, without background; default: as
    in ``classes.txt`` beside its folder, else VOC's where it is laid out as VOC. Where `wsss label` recorded the classes of the
    masks, the two are joined by name; without a record, and with a number as ``classes``, the values are those of the truth."""
    predictions, truth = Path(predictions), Path(truth)
    for role, path in (("predictions", predictions), ("truth", truth)):
        if not path.is_dir():
            raise ValueError(f"evaluate: '{role}' must be a folder, got '{printable(str(path))}', which {state_of(path)}")
    wanted = list(dict.fromkeys(_masks_in(truth) if ids is None else ids))
    if not wanted:
        raise ValueError(f"evaluate: no image to compare: {printable(str(truth))} has no .png file, or the list is empty")
    joined = join(predictions, truth, classes)
    suffix = _kind(predictions, wanted)
    missing = [name for name in wanted if not (predictions / f"{name}{suffix}").is_file()]
    if missing and (not allow_missing or len(missing) == len(wanted)):
        _complain(
            missing, len(wanted), "prediction", predictions, suffix, "--allow-missing leaves them out; --list names the images"
        )
    gone = set(missing)
    present = [name for name in wanted if name not in gone]
    without_truth = [name for name in present if not (truth / f"{name}.png").is_file()]
    if without_truth:
        _complain(without_truth, len(present), "truth", truth, ".png", "--list names the images that have one")
    soft = suffix == ".npz"
    counts: Confusion | Curve = (Curve if soft else Confusion)(joined.names, joined.values)
    read = read_maps if soft else read_mask
    pairs = _read_ahead(present, lambda name: (read(predictions / f"{name}{suffix}"), read_mask(truth / f"{name}.png")))
    for done, (name, (prediction, expected)) in enumerate(pairs, 1):
        if isinstance(counts, Curve):
            counts.add(*prediction, expected, name)
        else:
            counts.add(prediction, expected, name)
        if progress is not None:
            progress(done, len(present))
    joined.refuse_other_numbers(counts.predicted, counts.expected)
    notes = tuple(joined.notes(counts.predicted, counts.expected))
    found = (counts.names, len(present), missing)
    if isinstance(counts, Confusion):
        return Result(*found, counts.iou(), counts.miou(), notes=notes)
    best, curve = counts.best(), counts.miou()
    return Result(*found, counts.iou()[best], float(curve[best]), float(best) / 100, curve, notes)


def read_mask(path: Path) -> np.ndarray:
    """The indices of a mask: palette, grey or 16-bit PNG."""
    try:
        with open_to_read(path) as file, Image.open(file, formats=("PNG",)) as image:
            mode = image.mode
            if mode in _INDEX_MODES:
                values = np.asarray(image)
                return values.astype(np.uint8) if values.dtype == bool else values
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"evaluate: {printable(str(path))} must be a PNG mask: {printable(str(error))}") from None
    raise ValueError(
        f"evaluate: {printable(str(path))} must be an index mask (palette or grey PNG, pixel = class number), got a picture "
        f"with {len(mode)} channels ({mode}). Hint: turn its colours into class numbers first"
    )


def read_maps(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """``classes`` [K] and ``maps`` [K, H, W] of an .npz file; pickled data is refused."""
    try:
        with open_to_read(path) as stream:
            file = np.load(stream, allow_pickle=False)
            return file["classes"], file["maps"]
    except (OSError, IndexError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = printable(str(error).strip("'\""))
        raise ValueError(f"evaluate: {printable(str(path))} must be an .npz file with 'classes' and 'maps': {reason}") from None


def read_ids(path: str | Path) -> list[str]:
    """The images of a list file, one a line: an id, or as in VOC's lists with paths, "/JPEGImages/ID.jpg /..."."""
    from wsss_fast.data.dataset import read_list
    from wsss_fast.files.images import EXTENSIONS

    ids = []
    for row in read_list(Path(path)):
        name = PurePosixPath(row.image)
        name = name.with_suffix("") if name.suffix.lower() in EXTENSIONS else name
        ids.append(str(name.relative_to("JPEGImages") if name.parts[0] == "JPEGImages" else name))
    return ids


def _masks_in(truth: Path) -> list[str]:
    return sorted(path.relative_to(truth).with_suffix("").as_posix() for path in truth.rglob("*.png"))


def _kind(predictions: Path, wanted: Sequence[str]) -> str:
    """By the files of the images in question; where there is none, by any other."""
    kinds = (".png", ".npz")
    found = {suffix for suffix in kinds if any((predictions / f"{name}{suffix}").is_file() for name in wanted)}
    found = found or {suffix for suffix in kinds if next(predictions.rglob(f"*{suffix}"), None) is not None}
    if len(found) != 1:
        what = "has both masks (.png) and soft maps (.npz)" if found else "has neither masks (.png) nor soft maps (.npz)"
        raise ValueError(f"evaluate: 'predictions' must be of one kind, and {printable(str(predictions))} {what}")
    return found.pop()


def _complain(missing: list[str], of: int, what: str, where: Path, suffix: str, hint: str) -> None:
    first = ", ".join(printable(f"{name}{suffix}") for name in missing[:_SHOWN])
    more = ", ..." if len(missing) > _SHOWN else ""
    raise ValueError(
        f"evaluate: {len(missing)} of {of} images have no {what} in {printable(str(where))}: {first}{more}. Hint: {hint}"
    )


def _read_ahead(names: Sequence[str], read: Callable[[str], tuple]) -> Iterator[tuple[str, tuple]]:
    """Decoding leaves Python's lock: two threads read a little ahead of the counting."""
    with ThreadPoolExecutor(2) as pool:
        waiting = iter(names)
        while chunk := list(islice(waiting, _READ_AHEAD)):
            yield from zip(chunk, pool.map(read, chunk), strict=True)
