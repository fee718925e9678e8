"""Libraries that not everybody has: imported where they are needed, and named where they are missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

_INSTALL = {
    "onnx": 'pip install "wsss_fast[export]"',
    "onnxscript": 'pip install "wsss_fast[export]"',
    "onnxruntime": 'pip install "wsss_fast[export]", or onnxruntime-gpu for CUDA (one of the two, not both)',
}


def require(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(f"export: {name} is not installed. Hint: {_INSTALL[name]}", name=name) from None
