"""Which class of a model or a data set somebody's name for it means.

A name that is written exactly like a class is that class. Else case does not count, and spaces, underscores and hyphens are
alike; where several classes differ in nothing else, only the exact name will do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from wsss_fast._nearest import did_you_mean
from wsss_fast.data._problems import DataError
from wsss_fast.files.names import printable

_MOST_SHOWN = 50


class ClassNames:
    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._places = {name: place for place, name in enumerate(self.names)}
        self._alike: dict[str, list[int]] = {}
        for place, name in enumerate(self.names):
            self._alike.setdefault(folded(name), []).append(place)

    def find(self, name: str) -> int | None:
        """The place of the class, counted from 0."""
        if name in self._places:
            return self._places[name]
        alike = self._alike.get(folded(name), ())
        return alike[0] if len(alike) == 1 else None

    def hint(self, name: str) -> str:
        """The classes that an unknown name may have meant; empty where none is near."""
        alike = self._alike.get(folded(name), ())
        if alike:
            return "could be " + " or ".join(f"'{printable(self.names[place])}'" for place in alike)
        return did_you_mean(name, self.names)


def folded(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


def made_up(count: int) -> tuple[str, ...]:
    """The names of classes that nobody named."""
    return tuple(f"class {value}" for value in range(1, count + 1))


def unknown_classes(unknown: Mapping[str, Sequence[str]], classes: Sequence[str], source: str, hint: str) -> DataError:
    """One error for all of them. ``unknown``: name → the images that have it."""
    known = ClassNames(classes)
    lines = [f"labels: unknown classes in {source}:"]
    for name, images in list(unknown.items())[:_MOST_SHOWN]:
        where = printable(images[0]) if len(images) == 1 else f"{len(images)} images"
        near = known.hint(name)
        lines.append(f"  {quoted(name)} of {where}" + (f": {near}" if near else ""))
    if len(unknown) > _MOST_SHOWN:
        lines.append(f"  and {len(unknown) - _MOST_SHOWN} more")
    return DataError("\n".join([*lines, f"Hint: {hint}"]))


def quoted(name: str) -> str:
    return f"'{printable(name)}'" if name else "an empty name"
