"""Programs that tests and benchmarks compare with; none of them is needed for anything else."""

from __future__ import annotations

from types import ModuleType

import pytest


def peer(name: str) -> ModuleType:
    """The module ``name``; where it is not installed, the test or the whole test file that asks for it is skipped."""
    return pytest.importorskip(name, reason=f"the peer {name.partition('.')[0]} is not installed (make peers)")
