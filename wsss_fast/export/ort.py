"""ONNX Runtime, on CPU or CUDA. Images and maps stay where they are: tensors are bound, not copied."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_fast import _machine
from wsss_fast._extras import require
from wsss_fast.export import foreign
from wsss_fast.export.engine import BaseEngine
from wsss_fast.files.names import printable
from wsss_fast.files.whole import file_sha256

_LARGEST_ELEMENT = 8  # bytes
_SHAPES_KEPT = 10_000
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OrtEngine(BaseEngine):
    def __init__(self, path: Path, device: torch.device, threads: int | None = None) -> None:
        meta, self._sizes = foreign.checked_sizes(path)
        self._checked: set[tuple[int, ...]] = set()
        self._path = path
        identity = {"file_sha256": file_sha256(path), "onnxruntime": require("onnxruntime").__version__}
        if device.type == "cpu":
            threads = threads or torch.get_num_threads()
            identity["threads"] = threads
        super().__init__(meta, "ort", device, **identity)
        self._session = session(path, device, threads)

    def _run(self, image: Tensor) -> tuple[Tensor, ...]:
        self._check_size(tuple(image.shape))
        image = image.contiguous()
        binding = self._session.io_binding()
        place = self.device.type, self.device.index or 0
        binding.bind_input("image", *place, element_type=1, shape=tuple(image.shape), buffer_ptr=image.data_ptr())
        for name in self.meta.outputs:
            binding.bind_output(name, *place)
        self._session.run_with_iobinding(binding)
        # the tensors share the memory that the session allocated, and keep it alive
        return tuple(torch.from_dlpack(value._get_c_value()) for value in binding.get_outputs())

    def _check_size(self, shape: tuple[int, ...]) -> None:
        """Sizes may follow from the image in any way: they are worked out before the first image of each size."""
        if shape in self._checked:
            return
        found = self._sizes.complaint(shape, _machine.memory_bytes() // _LARGEST_ELEMENT, sys.maxsize)
        if found:
            hint = "smaller images, by --max-side"
            raise ValueError(
                f"load_engine: '{self._path}' is too large for images of {list(shape)}: {printable(found)}. Hint: {hint}"
            )
        if len(self._checked) < _SHAPES_KEPT:
            self._checked.add(shape)


def session(path: Path, device: torch.device, threads: int | None = None, **options: Any) -> Any:
    """A session on exactly this device: a provider that cannot be had is an error."""
    ort = require("onnxruntime")
    provider = PROVIDERS[device.type]
    if provider not in ort.get_available_providers():
        hint = "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        raise RuntimeError(f"load_engine: this onnxruntime has no {provider}. Hint: {hint}")
    settings = ort.SessionOptions()
    settings.log_severity_level = 4  # it would write to the terminal itself; what fails is raised
    settings.intra_op_num_threads = threads or torch.get_num_threads()
    settings.inter_op_num_threads = 1
    # threads wait for each other within a run by spinning; after it they would hold the cores that torch needs next
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    for name, value in options.items():
        setattr(settings, name, value)
    chosen: dict[str, Any] = {}
    if device.type == "cuda":
        # the stream of torch: what comes before and after needs no waiting
        stream = torch.cuda.current_stream(device).cuda_stream
        # fp32 is float32: without a word ONNX Runtime would round to TF32
        chosen = {"device_id": str(device.index or 0), "user_compute_stream": str(stream), "use_tf32": "0"}
    try:
        made = ort.InferenceSession(str(path), settings, providers=[(provider, chosen)])
    except Exception as error:  # onnxruntime has a class for each kind of failure, and no common one
        reason = " ".join(str(error).split())[:300]
        raise RuntimeError(f"load_engine: ONNX Runtime cannot run '{path}' on {device.type}: {reason}") from None
    if made.get_providers()[0] != provider:
        raise RuntimeError(f"load_engine: ONNX Runtime runs '{path}' on {made.get_providers()[0]}, asked for {provider}")
    return made


def load(path: Path, device: torch.device, threads: int | None) -> OrtEngine:
    return OrtEngine(path, device, threads)
