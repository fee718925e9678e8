"""Trained networks as files that other programs run, and engines that run them here.

    export.write_onnx(model, "seam.onnx")                   # one file for ONNX Runtime, TensorRT and every other reader
    engine = export.load_engine("seam.onnx")                # or a checkpoint, or a .pt2 package
    maps = methods.infer_cam(engine, pixels)                # an engine stands where the network stood

What is exported is ``forward_cam`` at one scale. Scales, mirror images and everything behind them stay outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsss_fast.export.aoti import write_aoti
    from wsss_fast.export.engine import Engine, EngineMeta, load_engine
    from wsss_fast.export.onnx import write_onnx

__all__ = ["Engine", "EngineMeta", "load_engine", "write_aoti", "write_onnx"]

_HOMES = {"Engine": "engine", "EngineMeta": "engine", "load_engine": "engine", "write_aoti": "aoti", "write_onnx": "onnx"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
