"""The class groups of the built-in model: which ImageNet classes one mask value stands for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import yaml

MAX_CLASSES = 254
BACKGROUND = 0
IGNORE = 255
IGNORE_16 = 65535  # of masks with 16 bits


@dataclass(frozen=True)
class ClassGroup:
    name: str
    classes: tuple[int, ...]


@lru_cache(maxsize=1)
def imagenet_groups() -> tuple[ClassGroup, ...]:
    """The committed groups in mask order: the group at place i has mask value i + 1."""
    text = resources.files(__package__).joinpath("class_groups.yaml").read_text(encoding="utf-8")
    groups = tuple(ClassGroup(entry["name"], _numbers(entry["classes"])) for entry in yaml.safe_load(text))
    if len(groups) > MAX_CLASSES:
        raise ValueError(f"class groups: at most {MAX_CLASSES} fit in an 8-bit mask, got {len(groups)}")
    return groups


def _numbers(text: str) -> tuple[int, ...]:
    """``"7-9 12"`` → (7, 8, 9, 12)."""
    numbers: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return tuple(numbers)
