"""Tensors as the compiled modules take them. This is the one place where pointers are made."""

from __future__ import annotations

import math
from types import ModuleType

import torch

from wsss_fast import _native

# the order of wsss::DType in csrc/common/view.h
_DTYPES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.uint8: 4,
    torch.int32: 5,
    torch.int64: 6,
    torch.bool: 7,
}

View = tuple[int, int, int, int, tuple[int, ...], tuple[int, ...]] | None
Context = tuple[int, int, int, int]


class Call:
    """One kernel call: the module that implements it, and how tensors and the place to run are passed to it.

    simt runs CUDA code on host memory: its tensors are on the CPU and are passed as if they were on CUDA device 0.
    """

    __slots__ = ("context", "device", "module", "op", "scratch")

    def __init__(self, op: str, impl: str, model: torch.Tensor) -> None:
        self.op = op
        self.device = model.device
        self.module: ModuleType = _native.load("_simt" if impl == "simt" else "_kernels")
        if impl == "cuda":
            stream = torch.cuda.current_stream(self.device).cuda_stream
            self.context: Context = (1, self.device.index, 1, stream)
        else:
            self.context = (int(impl == "simt"), 0, torch.get_num_threads(), 0)

    def view(self, tensor: torch.Tensor | None) -> View:
        if tensor is None:
            return None
        kind, index = self.context[:2]
        return (tensor.data_ptr(), _DTYPES[tensor.dtype], kind, index, tuple(tensor.shape), tensor.stride())

    def workspace(self, size: int) -> View:
        # Kept until the call object goes: CPU kernels have finished by then, and torch's CUDA allocator hands memory that is
        # freed behind an enqueued kernel only to later work of the same stream.
        self.scratch = empty(self.op, "workspace", (size,), torch.uint8, self.device)
        return self.view(self.scratch)


def empty(op: str, what: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """torch.empty whose failure says which operation wanted how much for what."""
    try:
        return torch.empty(shape, dtype=dtype, device=device)
    except RuntimeError as error:  # torch.OutOfMemoryError is one, and stays one
        size = math.prod(shape) * dtype.itemsize / 2**30
        message = f"{op}: no memory for '{what}' of shape {list(shape)}, {size:,.1f} GiB on {device} ({error})"
        raise type(error)(message) from error
