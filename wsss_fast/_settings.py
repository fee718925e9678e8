"""What every settings dataclass uses: fields with a line of help, checks that say what was expected, and what has changed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from typing import Any, TypeVar

from wsss_fast._nearest import did_you_mean

Settings = TypeVar("Settings")

# words that several commands take
DATASETS = ("voc", "coco")  # whose published schedules
PUBLISHED = (None, "paper", "code")
UNREADABLE = ("stop", "skip")


class SettingsError(ValueError):
    """A setting that does not exist, or has a value that cannot work."""


def setting(default: Any, help: str, **metadata: Any) -> Any:
    """A field of a settings dataclass; `help` is what the command line says about it."""
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


def create(owner: str, kind: type[Settings], values: dict[str, Any]) -> Settings:
    """Like the constructor of `kind`, but an unknown name is answered with the closest one."""
    check_names(owner, [item.name for item in dataclasses.fields(kind)], values)
    return kind(**values)


def changed(owner: str, settings: Settings, values: dict[str, Any]) -> Settings:
    """`settings` with some `values` replaced; unknown names as in `create`."""
    check_names(owner, [item.name for item in dataclasses.fields(settings)], values)
    return dataclasses.replace(settings, **values)


def check_names(owner: str, known: Iterable[str], given: Iterable[str]) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known, "known are " + ", ".join(known))
            raise SettingsError(f"{owner}: unknown setting '{name}'. Hint: {hint}")


def fail(owner: str, name: str, expected: str, value: Any, hint: str = "") -> None:
    raise SettingsError(f"{owner}: '{name}' must {expected}, got {value!r}" + (f". Hint: {hint}" if hint else ""))


def number(owner: str, name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
        fail(owner, name, f"be a number from {low:g} to {high:g}", value)


def whole(owner: str, name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        fail(owner, name, f"be a whole number from {low} to {high}", value)


def boolean(owner: str, name: str, value: Any) -> None:
    if not isinstance(value, bool):
        fail(owner, name, "be True or False", value)


def choice(owner: str, name: str, value: Any, allowed: Iterable[str]) -> None:
    allowed = list(allowed)
    if value not in allowed:
        fail(owner, name, "be one of " + ", ".join(allowed), value, did_you_mean(str(value), allowed))


def plain(values: Any) -> Any:
    """As JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(values))


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """A line for each setting that is not what it was; ``name``: what they are part of."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        within = f"{name}." if name else ""
        return [line for key in keys for line in differences(old.get(key), new.get(key), f"{within}{key}")]
    if old == new:
        return []
    if isinstance(old, list) and isinstance(new, list) and len(old) + len(new) > 40:
        return [f"{name}: {len(old)} entries before, {len(new)} now, not the same"]
    return [f"{name}: {json.dumps(old)} before, {json.dumps(new)} now"]
