"""What a seeded fault is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A text that stands exactly once in a file and what it becomes; the tests that must fail with it, under which `--impl`."""

    name: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    impl: tuple[str, ...] = ("plain",)
    module: str = "_kernels"  # what has to be built again: _kernels, _simt, or "" for a fault in Python
