"""What `wsss bench` runs: one small file an operation says what is measured, the files with an underscore say how.

To add an operation, add a file that names it, with an `OPERATION` (see _definition.py; pcm.py is the model).
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsss_fast.bench._definition import Operation


def names() -> list[str]:
    """The operations that have a benchmark. Imports nothing."""
    return sorted(entry.name for entry in pkgutil.iter_modules(__path__) if not entry.name.startswith("_"))


def load(name: str) -> Operation:
    if name not in names():
        raise ValueError(f"bench: no operation '{name}'. Hint: one of {', '.join(names())}")
    return import_module(f"wsss_fast.bench.{name}").OPERATION
