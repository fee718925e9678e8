"""Peak memory of one call above what was there before it, by the kernel's own high-water mark."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def peak_growth(call: Callable[[], object]) -> tuple[float, str]:
    """MiB by which `call` raises the resident size at its highest, outputs included, and how exact that is.

    `call` should have run before: what is loaded or compiled once is then not counted. Freed memory that malloc keeps is given
    back first, so that the call has to fetch again what it needs.
    """
    gc.collect()
    give_back_free_memory()
    exact = _reset_peak()
    before = _kib("VmRSS")
    call()
    growth = (_kib("VmHWM") - before) / 1024
    return growth, "exact" if exact else "upper bound (the high-water mark could not be reset)"


def give_back_free_memory() -> None:
    """What malloc keeps from earlier work goes back to the system, as if the process had just begun."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _reset_peak() -> bool:
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return _kib("VmHWM") <= _kib("VmRSS") + 256


def _kib(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"bench: /proc/self/status has no {field}. Hint: --no-memory")
    return int(found.group(1))
