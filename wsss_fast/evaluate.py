"""How good masks are: intersection over union against a truth, and for soft maps the best background threshold.

    confusion = Confusion(21)                  # values 0..20 of a mask, background included
    confusion.add(prediction, truth)           # uint8 [H, W] each, any number of images
    confusion.iou(), confusion.miou()

    result = folder("MASKS", "VOC2012/SegmentationClass", ids=["2007_000032"], classes=20)

What counts how stands in `wsss_fast.counts`.
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

from wsss_fast.counts import THRESHOLDS, Confusion, Curve, ignore_value
from wsss_fast.files.names import printable, state_of
from wsss_fast.files.regular import open_to_read
from wsss_fast.truth_classes import join

__all__ = ["THRESHOLDS", "Confusion", "Curve", "Result", "folder", "ignore_value", "read_ids", "read_maps", "read_mask"]

_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")
_SHOWN = 5
_READ_AHEAD = 32


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
