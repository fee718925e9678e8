"""TensorRT's headers for tests that compile against them: those of TENSORRT_ROOT, or of a wheel that carries TensorRT 10.14's."""

from __future__ import annotations

import os
from pathlib import Path

from pinned_wheels import unpacked

SHA256 = "07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0"


def headers() -> Path:
    """The folder that holds NvInferRuntime.h. Skips where there is none to be had."""
    root = os.environ.get("TENSORRT_ROOT")
    if root:
        folders = [folder for folder in (Path(root) / "include", Path(root)) if (folder / "NvInferRuntime.h").is_file()]
        assert folders, f"TENSORRT_ROOT={root} holds no NvInferRuntime.h"
        return folders[0]
    return unpacked("kernel-lens==2.0.1", SHA256) / "kernel_lens" / "include" / "tensorrt"
