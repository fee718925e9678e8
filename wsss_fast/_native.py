"""Finds the compiled modules: `_kernels` (CPU, and CUDA where it was built) and `_simt` (test builds only)."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from wsss_fast._version import __version__

_HINTS = {
    "_kernels": "Install the package (pip install .) rather than only putting its sources on the path",
    "_simt": "It belongs to the test build: make simt",
}


@cache
def load(name: str = "_kernels") -> ModuleType:
    try:
        module = import_module(f"wsss_fast.{name}")
    except ImportError as error:
        raise RuntimeError(
            f"wsss_fast: the compiled module wsss_fast.{name} was not found ({error}). {_HINTS.get(name, _HINTS['_kernels'])}"
        ) from error
    built = module.build_info()["version"]
    if built != __version__:
        raise RuntimeError(
            f"wsss_fast: the compiled module {module.__file__} is of version {built}, the Python files are of {__version__}. "
            f"{_HINTS[name]}"
        )
    return module


def build_info() -> dict[str, Any]:
    """How the kernels were built: `cuda` (bool), `cuda_archs`, `simd` (the level in use), `simd_detected`, `compiler`, ..."""
    return load().build_info()
