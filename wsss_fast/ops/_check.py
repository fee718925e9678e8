"""Argument checks shared by the operations. Messages: operation, argument, what was expected, what came, a hint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

IMPLEMENTATIONS = ("reference", "cpu", "simt", "cuda")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def complaint(op: str, argument: str, expected: str, got: Any, hint: str = "") -> str:
    return f"{op}: '{argument}' must {expected}, got {got}" + (f". Hint: {hint}" if hint else "")


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def tensor(op: str, argument: str, value: Any, layout: str) -> None:
    """A dense tensor with as many dimensions as `layout` ("[N, C, H, W]") names."""
    if not isinstance(value, torch.Tensor):
        kind = type(value)
        hint = "torch.from_numpy(array) shares its memory" if kind.__module__ == "numpy" else ""
        raise TypeError(complaint(op, argument, "be a torch.Tensor", f"{kind.__module__}.{kind.__qualname__}", hint))
    if value.layout != torch.strided:
        raise TypeError(complaint(op, argument, "be a dense tensor", str(value.layout), "call .to_dense()"))
    if value.dim() != layout.count(",") + 1:
        hint = "add the batch dimension with tensor[None]" if value.dim() == layout.count(",") else ""
        raise ValueError(complaint(op, argument, f"have shape {layout}", list(value.shape), hint))


def dtype(op: str, argument: str, value: torch.Tensor, allowed: Sequence[torch.dtype]) -> None:
    if value.dtype not in allowed:
        hint = "convert it with .float()" if torch.float32 in allowed else ""
        raise TypeError(complaint(op, argument, f"be of type {', '.join(map(short, allowed))}", short(value.dtype), hint))


def same(op: str, argument: str, value: torch.Tensor, other: str, model: torch.Tensor) -> None:
    """Same type and device as `model`, the argument named `other`."""
    if value.dtype != model.dtype:
        hint = f"convert one of them, as in {argument}.to({other}.dtype)"
        raise TypeError(complaint(op, argument, f"have the type of '{other}' ({short(model.dtype)})", short(value.dtype), hint))
    if value.device != model.device:
        hint = f"move one of them, as in {argument}.to({other}.device)"
        raise ValueError(complaint(op, argument, f"be on the device of '{other}' ({model.device})", value.device, hint))


def implementation(op: str, impl: str | None, model: torch.Tensor) -> str:
    """The implementation to run, by device unless asked for."""
    device = model.device.type
    if impl is None:
        if device not in ("cpu", "cuda", "meta"):
            raise ValueError(complaint(op, "device", "be cpu or cuda", device, "impl='reference' runs on any device"))
        return "cuda" if device == "cuda" else "cpu"
    if impl not in IMPLEMENTATIONS:
        raise ValueError(complaint(op, "impl", f"be None or one of {', '.join(IMPLEMENTATIONS)}", repr(impl)))
    if impl != "reference" and device != "meta" and (device == "cuda") != (impl == "cuda"):
        where = "a CUDA device" if impl == "cuda" else "the CPU"
        raise ValueError(
            complaint(op, "impl", f"fit the device: {impl!r} needs tensors on {where}", f"tensors on {model.device}")
        )
    return impl
