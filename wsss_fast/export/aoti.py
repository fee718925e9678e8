"""AOTInductor: the network compiled by torch into one ``.pt2`` package, for CPU or CUDA; needs torch alone to build and to run.

A package holds machine code. Loading one runs it: open only packages that you or people you trust have made. `load_engine` warns
of those that this user's own export did not write (`made_here`).
"""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_fast.export import made_here
from wsss_fast.export.engine import BaseEngine, EngineMeta
from wsss_fast.export.onnx import ForwardCam, dynamic_shapes, example, exportable
from wsss_fast.files.whole import file_sha256, whole_file

META = "wsss_fast"
DEVICE = "wsss_fast_device"


class AotiEngine(BaseEngine):
    def __init__(self, path: Path, device: torch.device, threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._package, metadata = _opened(path, device)
        if META not in metadata:
            raise ValueError(f"load_engine: '{path}' was not written by `wsss export`")
        if metadata[DEVICE] != device.type:
            hint = "export it again with --device"
            raise ValueError(f"load_engine: '{path}' was compiled for {metadata[DEVICE]}, asked for {device.type}. Hint: {hint}")
        meta = EngineMeta.from_json(metadata[META], f"'{path}'")
        super().__init__(meta, "aoti", device, file_sha256=file_sha256(path), torch=torch.__version__)

    def _run(self, image: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            outputs = self._package(image.contiguous())
        return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def write_aoti(
    model: nn.Module,
    path: str | os.PathLike[str],
    precision: str = "fp32",
    classes: tuple[str, ...] = (),
    device: str | torch.device = "cpu",
    remember: bool = True,
) -> EngineMeta:
    """Compiles the network `model` of `methods.create` for a kind of device; any batch, height and width.

    On a CPU it needs a C++ compiler (``CXX``, else g++). An existing file is replaced once the new one is whole.

    Args:
        remember: note in the user's cache that this user made the file, so that it is loaded without a warning.
    """
    path, device = Path(path), torch.device(device)
    if path.suffix.lower() != ".pt2":
        raise ValueError(f"export: 'path' must end in .pt2, got '{path.name}'")
    meta = EngineMeta.of(model, classes, precision)
    with whole_file(path) as part, tempfile.TemporaryDirectory(prefix=".wsss-", dir=path.parent) as folder:
        # the archive inside bears the name that it is written under
        made = Path(folder) / path.name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            _compile(exportable(model, precision).to(device), device, made, meta)
        made.replace(part)
    if remember:
        made_here.remember(path)
    return meta


def _compile(module: ForwardCam, device: torch.device, path: Path, meta: EngineMeta) -> None:
    from torch._inductor import aoti_compile_and_package

    with torch.no_grad():
        metadata = {META: meta.to_json(), DEVICE: device.type}
        try:
            program = torch.export.export(module, (example(device),), dynamic_shapes=dynamic_shapes())
            aoti_compile_and_package(program, package_path=str(path), inductor_configs={"aot_inductor.metadata": metadata})
        except Exception as error:  # of the tracer, or of whatever compiler was asked
            reason = " ".join(str(error).split())[:300]
            hint = "a CPU needs a C++ compiler (CXX), CUDA needs Triton"
            raise RuntimeError(f"export: AOTInductor cannot compile '{meta.method}': {reason}. Hint: {hint}") from error


def _opened(path: Path, device: torch.device) -> tuple[Any, dict[str, str]]:
    from torch._inductor import aoti_load_package

    try:
        package = aoti_load_package(str(path), device_index=device.index if device.type == "cuda" and device.index else -1)
        return package, package.get_metadata()
    except Exception as error:  # of the archive or of the code in it
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"load_engine: '{path}' cannot be opened as an AOTInductor package ({reason})") from None


def load(path: Path, device: torch.device, threads: int | None) -> AotiEngine:
    return AotiEngine(path, device, threads)
