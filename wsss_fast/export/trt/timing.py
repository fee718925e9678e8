"""Times that TensorRT measured in earlier builds: the next build is faster, and more often gives the same engine.

A file of them is written whole. One that is not as it was written never reaches TensorRT, and one that TensorRT refuses (it may
be of another version or GPU) is begun anew: no build fails for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from wsss_fast.export.trt import flavour
from wsss_fast.files.whole import whole_file

_HEAD = b"wsss_fast timing cache 1\n"
Warn = Callable[[str], None]


def use(trt: ModuleType, config: Any, path: Path, warn: Warn) -> bool:
    """Gives the builder the times in `path`; False where the library keeps none."""
    # who builds for a GPU that is not there measures nothing; TensorRT-RTX has the functions, and cannot read its own caches
    if flavour.builds_without_gpu(trt) or not hasattr(config, "create_timing_cache"):
        return False
    if kept := read(path, warn):
        if _accepted(config, kept):
            return True
        warn(f"{trt.__name__} refuses the timing cache '{path.name}', which is begun anew")
    return _accepted(config, b"")


def _accepted(config: Any, times: bytes) -> bool:
    try:
        cache = config.create_timing_cache(times)
        return cache is not None and bool(config.set_timing_cache(cache, False))
    except (RuntimeError, TypeError, ValueError):  # all that the bindings raise
        return False


def read(path: Path, warn: Warn) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        warn(f"the timing cache '{path.name}' cannot be read ({error.strerror}), and is begun anew")
        return b""
    head, digest, times = data[: len(_HEAD)], data[len(_HEAD) : len(_HEAD) + 32], data[len(_HEAD) + 32 :]
    if head != _HEAD or hashlib.sha256(times).digest() != digest:
        warn(f"the timing cache '{path.name}' is damaged, and is begun anew")
        return b""
    return times


def write(path: Path, times: bytes) -> None:
    with whole_file(path) as part:
        part.write_bytes(_HEAD + hashlib.sha256(times).digest() + times)
