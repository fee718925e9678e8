"""Groups of classes: which classes of a model one mask value stands for. Those of the built-in model, and people's own files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from wsss_fast._nearest import did_you_mean
from wsss_fast._settings import SettingsError
from wsss_fast.files import yaml_text
from wsss_fast.files.names import printable, short
from wsss_fast.files.text import TextError, read_text

IMAGENET_CLASSES = 1000
_LARGEST_FILE = 1 << 20
_RANGES = re.compile(r"[0-9]{1,9}(-[0-9]{1,9})?( +[0-9]{1,9}(-[0-9]{1,9})?)*")


@dataclass(frozen=True)
class ClassGroup:
    name: str
    classes: tuple[int, ...]


@lru_cache(maxsize=1)
def imagenet_groups() -> tuple[ClassGroup, ...]:
    """The committed groups in mask order: the group at place i has mask value i + 1."""
    text = resources.files(__package__).joinpath("class_groups.yaml").read_text(encoding="utf-8")
    return _groups(yaml_text.load(text), {}, IMAGENET_CLASSES, "class_groups.yaml")


def numbers_of(names: Iterable[str]) -> dict[str, list[int]]:
    """name → the places that have it."""
    numbers: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        numbers.setdefault(name, []).append(index)
    return numbers


def read_groups(path: str, known: Mapping[str, Sequence[int]], count: int) -> tuple[ClassGroup, ...]:
    """The groups of somebody's file, in mask order. ``known``: what a name stands for; ``count``: how many classes there are."""
    shown = printable(str(path))
    try:
        entries = yaml_text.load(read_text(Path(path), _LARGEST_FILE))
    except TextError as error:
        raise SettingsError(f"label: 'classes': {error}") from None
    except yaml_text.YamlError as error:
        raise SettingsError(f"label: {shown} is no YAML: {error}") from None
    return _groups(entries, known, count, shown)


def _groups(entries: Any, known: Mapping[str, Sequence[int]], count: int, shown: str) -> tuple[ClassGroup, ...]:
    if not isinstance(entries, list) or not entries:
        hint = "a line a group: - {name: pet, classes: [cat, dog]}"
        raise SettingsError(f"label: {shown} must hold a list of groups. Hint: {hint}")
    groups: list[ClassGroup] = []
    names: set[str] = set()
    where: dict[int, str] = {}
    for place, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or set(entry) != {"name", "classes"}:
            raise SettingsError(f"label: group {place} of {shown} must have a 'name' and 'classes', and nothing else")
        name = entry["name"]
        if not isinstance(name, str) or not name.strip():
            hint = "quotes make text of numbers, yes, no, on and off"
            raise SettingsError(f"label: the name of group {place} of {shown} must be text, got {name!r:.80}. Hint: {hint}")
        if name in names:
            raise SettingsError(f"label: two groups of {shown} have the name '{short(name)}'")
        group = ClassGroup(name, _members(entry["classes"], known, count, f"group '{short(name)}' of {shown}"))
        for number in group.classes:
            if number in where:
                called = next((f"'{short(text)}'" for text, numbers in known.items() if number in numbers), "")
                told = " ".join(filter(None, ("class", str(number), called)))
                again = "twice in it" if where[number] == name else f"in '{short(where[number])}' too"
                raise SettingsError(f"label: {told} of group '{short(name)}' of {shown} is {again}")
            where[number] = name
        names.add(name)
        groups.append(group)
    return tuple(groups)


def _members(given: Any, known: Mapping[str, Sequence[int]], count: int, owner: str) -> tuple[int, ...]:
    """``[cat, 7, "9-12 15"]`` → 7, 9, 10, 11, 12, 15 and the cat's number, ascending: equal groups are one however written."""
    numbers: list[int] = []
    for item in given if isinstance(given, list) else [given]:
        text = str(item) if isinstance(item, int) and not isinstance(item, bool) else item
        if not isinstance(text, str):
            if item is None:
                continue
            hint = "quotes make text of yes, no, on and off"
            raise SettingsError(f"label: classes of {owner} must be names or numbers, got {item!r:.80}. Hint: {hint}")
        if text in known:
            numbers.extend(known[text])
        elif _RANGES.fullmatch(text.strip()):
            for part in text.split():
                first, _, last = part.partition("-")
                if not int(first) <= int(last or first) < count:
                    raise SettingsError(f"label: classes of {owner} must be numbers from 0 to {count - 1}, got {part}")
                numbers.extend(range(int(first), int(last or first) + 1))
        elif text.strip():
            hint = did_you_mean(text, known, "several names stand in a list, as [cat, dog]")
            hint = hint if known else f"the model's classes have no names; their numbers are 0 to {count - 1}"
            raise SettingsError(f"label: {owner} has the unknown class '{short(text)}'. Hint: {hint}")
    if not numbers:
        raise SettingsError(f"label: {owner} is empty")
    return tuple(sorted(numbers))
