"""All inputs looked at before training starts: an hour in is too late for a missing file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wsss_fast._settings import UNREADABLE
from wsss_fast.data._problems import DataError, doubles, hinted, some
from wsss_fast.data.dataset import NO_SALIENCY, Dataset
from wsss_fast.files.images import ImageError, read_indices, read_size
from wsss_fast.files.limits import MAX_BYTES, MAX_PIXELS
from wsss_fast.files.names import shown
from wsss_fast.files.png import IGNORE

_THREADS = 8

log = logging.getLogger(__name__)


@dataclass
class Report:
    """What was found: `problems` stop a training, `notes` do not."""

    images: int
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)  # image → reason

    def problem(self, what: str, items: Sequence[object], hint: str = "") -> None:
        if items:
            self.problems.append(hinted(f"{what} ({some(items)})", hint))

    def __str__(self) -> str:
        lines = [
            f"{self.images} images, {len(self.problems)} problems",
            *self.problems,
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n  ".join(lines)


def verify(
    dataset: Dataset,
    wants: Iterable[str] = (),
    unreadable: str = "stop",
    mask_values: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Dataset, Report]:
    """Look at every file that a training opens: images, and with `wants` also saliency maps and masks.

    Sizes come from headers alone; the values of masks (unless `mask_values` is False) from the whole file.

    Returns:
        The data set without the images that cannot be opened (`unreadable="skip"`), and the report.

    Raises:
        DataError: with every problem found, the first five cases of each, and hints.
    """
    if unreadable not in UNREADABLE:
        raise DataError(f"data: 'unreadable' must be stop or skip, got {unreadable!r}")
    report = Report(len(dataset))
    wants = set(wants)
    report.problem("ids that come twice", doubles(dataset.ids), "keep one row an image in the list")
    _check_labels(dataset, report)
    if "saliency" in wants and dataset.saliency is None:
        report.problems.append(NO_SALIENCY.removeprefix("data: "))
        wants.discard("saliency")
    with ThreadPoolExecutor(_THREADS) as pool:
        looks = pool.map(lambda name: _look(dataset, name, wants, mask_values), dataset.ids)
        found = []
        for done, look in enumerate(looks, 1):
            found.append(look)
            if progress is not None:
                progress(done, len(dataset))
    _gather(dataset, found, report, unreadable)
    for note in report.notes:
        log.warning("data: %s", note)
    if report.problems:
        raise DataError("data: " + "\n  ".join(report.problems))
    return dataset.only([name for name in dataset.ids if name not in report.unreadable]), report


@dataclass
class _Look:
    missing: list[str] = field(default_factory=list)  # paths
    bad_image: str = ""
    bad_map: str = ""
    sizes: str = ""  # of image and mask, or image and saliency map, where they differ
    too_large: int = 0  # the largest value of a mask above the number of classes


def _look(dataset: Dataset, name: str, wants: set[str], mask_values: bool) -> _Look:
    look = _Look()
    path = dataset.image_path(name)
    size = None
    if not path.is_file():
        look.missing.append(shown(path))
    else:
        try:
            size = read_size(path, MAX_PIXELS, MAX_BYTES)
        except ImageError as error:
            look.bad_image = str(error)
    for kind, other in (("saliency", dataset.saliency_path(name)), ("mask", dataset.mask_path(name))):
        if kind in wants:
            _look_at_map(kind, other, size, look, len(dataset.classes) if mask_values else None)
    return look


def _look_at_map(kind: str, path: Path | None, size: tuple[int, int] | None, look: _Look, classes: int | None) -> None:
    if path is None or not path.is_file():
        look.missing.append(shown(path) if path else f"a {kind}")
        return
    try:
        own = read_size(path, MAX_PIXELS, MAX_BYTES)
        if size is not None and own != size and not (kind == "saliency" and _same_shape(own, size)):
            look.sizes = f"image {size[0]} x {size[1]}, {kind} {own[0]} x {own[1]}"
        if kind == "mask" and classes is not None:
            values = read_indices(path, MAX_PIXELS, MAX_BYTES)
            look.too_large = int(np.max(values, where=values != IGNORE, initial=0)) if values.size else 0
            look.too_large *= look.too_large > classes
    except ImageError as error:
        look.bad_map = f"{shown(path)}: {error}"


def _same_shape(own: tuple[int, int], size: tuple[int, int]) -> bool:
    """A map made at another scale is resized with its image; half a pixel may be lost on either side."""
    return abs(own[0] * size[1] - own[1] * size[0]) <= max(*own, *size)


def _check_labels(dataset: Dataset, report: Report) -> None:
    """The data set may have been made by hand."""
    count = len(dataset.classes)
    if not dataset.indices:
        report.problems.append("there are no labels. Hint: labels= names them")
        return
    known = [name for name in dataset.ids if name in dataset.indices]
    report.problem("images without labels", [name for name in dataset.ids if name not in dataset.indices])
    bad = [f"{name}: {place}" for name in known for place in dataset.indices[name] if not 0 <= place < count]
    report.problem(f"labels out of range of the {count} classes", bad)
    if empty := [name for name in known if not dataset.indices[name]]:
        report.notes.append(f"images of no class are trained on ({some(empty)})")
    used = {place for name in known for place in dataset.indices[name]}
    if unused := [name for place, name in enumerate(dataset.classes) if place not in used]:
        report.notes.append(f"classes without an image ({some(unused)})")


def _gather(dataset: Dataset, found: list[_Look], report: Report, unreadable: str) -> None:
    report.problem("files that are missing", [path for look in found for path in look.missing], "check the list and the folders")
    report.unreadable = {name: look.bad_image for name, look in zip(dataset.ids, found, strict=True) if look.bad_image}
    bad = [f"{name}: {reason}" for name, reason in report.unreadable.items()]
    if bad and unreadable == "skip":
        report.notes.append(f"images that cannot be read are left out ({some(bad)})")
        if len(bad) == len(dataset):
            report.problems.append("no image can be read")
    else:
        report.problem("images that cannot be read", bad, "unreadable='skip' leaves them out")
    bad_maps = [look.bad_map for look in found if look.bad_map]
    report.problem("maps that cannot be read", bad_maps, "masks are 8-bit palette or grey PNG")
    sizes = [f"{name}: {look.sizes}" for name, look in zip(dataset.ids, found, strict=True) if look.sizes]
    report.problem("images and maps of different sizes", sizes, "were they made from these images?")
    large = [f"{name}: {look.too_large}" for name, look in zip(dataset.ids, found, strict=True) if look.too_large]
    above = f"masks with values above {len(dataset.classes)}, the number of classes"
    report.problem(above, large, "0 is background, class c is c + 1, 255 is ignored")
