"""The two libraries that build and run TensorRT engines: ``tensorrt`` (servers) and ``tensorrt_rtx``.

What they can do is asked of them, never concluded from a version number.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"}
_INSTALL = {
    "trt": 'pip install tensorrt, or pip install "wsss_fast[gpu]"',
    "trt-rtx": "pip install tensorrt-rtx",
}


def require(flavour: str) -> ModuleType:
    """The library of a flavour, "trt" or "trt-rtx"; never the other one in its place."""
    name = MODULES[flavour]
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("tensorrt"):
            raise
        hint = _INSTALL[flavour]
        raise ModuleNotFoundError(f"export: {name} is not installed, which '{flavour}' needs. Hint: {hint}", name=name) from None
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ImportError(f"export: {name} is installed but cannot be loaded ({reason}). Hint: {_INSTALL[flavour]}") from None


def builds_without_gpu(trt: ModuleType) -> bool:
    """Whether an engine can be built for a GPU that is not there."""
    return hasattr(trt.IBuilderConfig, "set_compute_capability")


def library_folder(trt: ModuleType) -> Path | None:
    """Where TensorRT-RTX keeps its shared libraries; None for TensorRT, which finds its own."""
    try:
        return Path(import_module(f"{trt.__name__}_libs").__file__ or "").parent
    except ModuleNotFoundError:
        return None


def logger(trt: ModuleType, lines: list[str]) -> Any:
    """Collects warnings and errors, newest last."""

    class Collector(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.WARNING:
                lines.append(text)
                del lines[:-200]

    return Collector()


@cache  # a library that is loaded a second time is refused
def load_plugins(trt: ModuleType, library: Path) -> None:
    """Makes the nodes Pcm and Prcm known to parser and runtime."""
    registry = trt.get_plugin_registry()
    if registry.load_library(str(library.resolve())) is None:
        hint = "it must be built with headers that fit, and a process can load one plugin library only"
        raise RuntimeError(f"export: {trt.__name__} cannot load the plugin library '{library}'. Hint: {hint}")
