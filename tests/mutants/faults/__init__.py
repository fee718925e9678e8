"""The seeded faults: mistakes somebody could make, one file an operation. Add a file, or add to one: all are found by name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from faults._fault import Fault

__all__ = ["FAULTS", "Fault"]

_FILES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
FAULTS: tuple[Fault, ...] = tuple(fault for name in _FILES for fault in import_module(f"faults.{name}").FAULTS)
