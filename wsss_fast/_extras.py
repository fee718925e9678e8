"""Libraries that not everybody has: imported where they are needed, and named where they are missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def install(extra: str) -> str:
    return f'pip install "wsss_fast[{extra}]"'


_INSTALL = {
    "onnx": install("export"),
    "onnxscript": install("export"),
    "onnxruntime": install("export") + ", or onnxruntime-gpu for CUDA (one of the two, not both)",
    "pycocotools.mask": install("train"),
    "ray": install("ray") + ", on every machine",
    "skimage": install("demo"),
    # Peers of benchmarks: sources without a wheel, which need a compiler and their build tools in the environment.
    "fast_slic": "make peers in a checkout, or pip install cython, then pip install --no-build-isolation fast-slic",
    "pydensecrf": "make peers in a checkout, or pip install pydensecrf2",
}


def require(name: str, operation: str = "export") -> ModuleType:
    """``operation`` is named in the message."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if error.name not in (name, package):
            raise
        hint = _INSTALL.get(name) or _INSTALL[package]
        raise ModuleNotFoundError(f"{operation}: {package} is not installed. Hint: {hint}", name=package) from None
