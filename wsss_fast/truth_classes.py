"""Which class of the truth each value of a mask means: sides that name their classes are joined by name, whatever the numbers.

What no name explains is not guessed: values that the truth does not know are its background, since there they are none of its
classes; a truth class that the masks cannot hold is missed. Both are said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsss_fast.counts import BACKGROUND_NAME
from wsss_fast.data.class_names import ClassNames, made_up
from wsss_fast.files.names import printable

_SHOWN = 10
_NAMES_HINT = "--classes FILE, or --classes voc, names the classes of the truth"


@dataclass(frozen=True)
class Joined:
    """The classes that are compared, and what each value of a mask is among them."""

    names: tuple[str, ...]  # background first
    values: np.ndarray  # int64: value of a mask → place in names
    mask_names: tuple[str, ...]  # background first
    missing: tuple[int, ...] = ()  # classes of the truth that masks cannot hold
    assumed: bool = False  # the truth has no names: its values are taken for those of the masks

    def notes(self, predicted: np.ndarray, expected: np.ndarray) -> list[str]:
        """What a reader must know. ``predicted``: pixels of each value of the masks; ``expected``: of each class."""
        notes = []
        total = max(int(predicted.sum()), 1)
        unknown = [i for i in np.flatnonzero(predicted).tolist() if i and not self.values[i]]
        if unknown:
            unknown.sort(key=lambda i: -predicted[i])
            share = predicted[unknown].sum() / total
            listed = _some([self.mask_names[i] for i in unknown])
            notes.append(f"classes that the truth does not have count as its background ({share:.1%} of the pixels): {listed}")
        absent = [i for i in self.missing if expected[i]]
        if absent:
            known = ClassNames(self.mask_names[1:])
            near = [self.names[i] + (f" ({hint})" if (hint := known.hint(self.names[i])) else "") for i in absent]
            notes.append(f"classes of the truth that the model of the masks does not have count as missed: {_some(near)}")
        if self.assumed:
            notes.append(f"the truth names no classes: its values were taken for those of the masks. Hint: {_NAMES_HINT}")
        return notes

    def refuse_other_numbers(self, predicted: np.ndarray, expected: np.ndarray) -> None:
        """Without names, a truth and masks that share no class are sure to count in different ways."""
        masks = {i for i in np.flatnonzero(predicted).tolist() if i}
        truth = {i for i in np.flatnonzero(expected).tolist() if i}
        if self.assumed and masks and truth and not masks & truth:
            theirs = _some([str(i) for i in sorted(truth)])
            ours = _some([f"{i} ({self.mask_names[i]})" for i in sorted(masks)])
            raise ValueError(
                f"evaluate: the truth does not name its classes, and its values ({theirs}) do not occur in the masks ({ours}). "
                f"Hint: {_NAMES_HINT}; --classes {len(self.mask_names) - 1} compares the numbers as they are"
            )


def join(predictions: Path, truth: Path, classes: int | Sequence[str] | None = None) -> Joined:
    """``classes``: names of the truth's classes in place of those found beside it; a number compares values as they are."""
    from wsss_fast.label.manifest import classes_of_job

    if isinstance(classes, int):
        return _same(made_up(classes))
    ours = tuple(classes_of_job(predictions))
    theirs = _beside(truth.absolute()) if classes is None else tuple(classes)
    if not ours and not theirs:
        raise ValueError(
            "evaluate: the classes are unknown: no manifest beside the masks, no classes.txt beside the truth folder. "
            "Hint: --classes FILE with a name a line, or --classes N for N object classes"
        )
    if not theirs:
        return _same(ours, assumed=not _nameless(ours))
    if not ours or _nameless(ours) or _nameless(theirs):
        return _same(theirs)
    return _by_name(ours, theirs)


def _nameless(names: tuple[str, ...]) -> bool:
    return names == made_up(len(names))


def _beside(truth: Path) -> tuple[str, ...]:
    """The names that are found with the truth, which may be masks of `wsss label` itself."""
    from wsss_fast.data import voc
    from wsss_fast.data.labels import read_classes
    from wsss_fast.label.manifest import classes_of_job

    if recorded := classes_of_job(truth):
        return tuple(recorded)
    file = truth.parent / "classes.txt"
    if file.is_file():
        return read_classes(file)
    return voc.CLASSES if voc.is_masks_of_voc(truth) else ()


def _same(names: tuple[str, ...], assumed: bool = False) -> Joined:
    whole = (BACKGROUND_NAME, *names)
    return Joined(whole, np.arange(len(whole)), whole, assumed=assumed)


def _by_name(ours: tuple[str, ...], theirs: tuple[str, ...]) -> Joined:
    known, values = ClassNames(ours), np.zeros(len(ours) + 1, np.int64)
    exact = set(ours) & set(theirs)
    missing = []
    for i, name in enumerate(theirs, 1):
        place = known.find(name)
        # a class that another name fits exactly is that one's
        if place is None or (name not in exact and (ours[place] in exact or values[place + 1])):
            missing.append(i)
        else:
            values[place + 1] = i
    if len(missing) == len(theirs):
        raise ValueError(
            f"evaluate: masks and truth have no class in common: the masks have {_some(ours)}; the truth has {_some(theirs)}. "
            f"Hint: {_NAMES_HINT}; with --classes N the numbers are compared as they are"
        )
    return Joined((BACKGROUND_NAME, *theirs), values, (BACKGROUND_NAME, *ours), tuple(missing))


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(printable(name) for name in names[:_SHOWN]) + rest
