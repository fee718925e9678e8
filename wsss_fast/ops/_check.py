"""Argument checks shared by the operations. Messages: operation, argument, what was expected, what came, a hint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

IMPLEMENTATIONS = ("reference", "cpu", "simt", "cuda")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def complaint(op: str, argument: str, expected: str, got: Any, hint: str = "") -> str:
    return f"{op}: '{argument}' must {expected}, got {got}" + (f". Hint: {hint}" if hint else "")


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def tensor(op: str, argument: str, value: Any, layout: str) -> None:
    """A dense tensor with as many dimensions as `layout` ("[N, C, H, W]") names."""
    if not isinstance(value, torch.Tensor):
        hint = "torch.from_numpy(array) shares its memory" if kind(value).startswith("numpy.") else ""
        raise TypeError(complaint(op, argument, "be a torch.Tensor", kind(value), hint))
    if value.layout != torch.strided:
        raise TypeError(complaint(op, argument, "be a dense tensor", str(value.layout), "call .to_dense()"))
    if value.dim() != layout.count(",") + 1:
        hint = "add the batch dimension with tensor[None]" if value.dim() == layout.count(",") else ""
        raise ValueError(complaint(op, argument, f"have shape {layout}", list(value.shape), hint))


def shape(
    op: str, argument: str, value: torch.Tensor, layout: str, wanted: Sequence[int | None], why: str, hint: str = ""
) -> None:
    """Sizes `wanted`, where None is any; `why` tells what they come from."""
    if len(value.shape) != len(wanted) or any(w is not None and w != s for w, s in zip(wanted, value.shape, strict=True)):
        sizes = ", ".join("any" if size is None else str(size) for size in wanted)
        raise ValueError(complaint(op, argument, f"have shape {layout} = [{sizes}] ({why})", list(value.shape), hint))


def dtype(op: str, argument: str, value: torch.Tensor, allowed: Sequence[torch.dtype], hint: str = "") -> None:
    if value.dtype not in allowed:
        hint = hint or ("convert it with .float()" if torch.float32 in allowed else "")
        raise TypeError(complaint(op, argument, f"be of type {', '.join(map(short, allowed))}", short(value.dtype), hint))


def floating(op: str, argument: str, value: torch.Tensor) -> None:
    """A type that kernels compute with: float64 on the CPU alone."""
    dtype(op, argument, value, FLOATS if value.is_cuda else (*FLOATS, torch.float64))


def photo(op: str, argument: str, value: Any) -> None:
    """[N, 3, H, W] uint8."""
    tensor(op, argument, value, "[N, 3, H, W]")
    hint = "colours are 0 to 255; (image * 255).round().to(torch.uint8) turns an image in [0, 1] into them"
    dtype(op, argument, value, (torch.uint8,), hint)
    if value.shape[1] != 3:
        hint = "channels come first: image.permute(0, 3, 1, 2)" if value.shape[-1] == 3 else ""
        raise ValueError(complaint(op, argument, "have shape [N, 3, H, W]", list(value.shape), hint))


def device(op: str, argument: str, value: torch.Tensor, other: str, model: torch.Tensor) -> None:
    if value.device != model.device:
        hint = f"move one of them, as in {argument}.to({other}.device)"
        raise ValueError(complaint(op, argument, f"be on the device of '{other}' ({model.device})", value.device, hint))


def same(op: str, argument: str, value: torch.Tensor, other: str, model: torch.Tensor) -> None:
    """Same type and device as `model`, the argument named `other`."""
    if value.dtype != model.dtype:
        hint = f"convert one of them, as in {argument}.to({other}.dtype)"
        raise TypeError(complaint(op, argument, f"have the type of '{other}' ({short(model.dtype)})", short(value.dtype), hint))
    device(op, argument, value, other, model)


def one_given(op: str, argument: str, value: Any, other: str, alternative: Any) -> None:
    if (value is None) == (alternative is None):
        given = "neither" if value is None else "both"
        raise ValueError(complaint(op, argument, f"be given, or '{other}', and not both", given))


def choice(op: str, argument: str, value: Any, known: Sequence[str | None]) -> None:
    if value not in known:
        *most, last = ("None" if name is None else repr(name) for name in known)
        raise ValueError(complaint(op, argument, f"be {', '.join(most)} or {last}", repr(value)))


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float, torch.SymInt, torch.SymFloat)) and not isinstance(value, bool)


def number(op: str, argument: str, value: Any, least: float = -math.inf, most: float = math.inf) -> None:
    """A finite number."""
    if not (is_number(value) and least <= value <= most and -math.inf < value < math.inf):
        expected = f"a number from {least} to {most}" if most < math.inf else "a finite number"
        expected += f", {least} or more" if -math.inf < least and most == math.inf else ""
        raise ValueError(complaint(op, argument, f"be {expected}", repr(value)))


def positive(op: str, argument: str, value: Any) -> None:
    if not (is_number(value) and 0 < value < math.inf):
        raise ValueError(complaint(op, argument, "be a finite number above 0", repr(value)))


def is_whole(value: Any, least: int) -> bool:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool) and value >= least


def whole(op: str, argument: str, value: Any, least: int, most: int | None = None) -> None:
    if not is_whole(value, least) or (most is not None and value > most):
        limits = f", {least} or more" if most is None else f" from {least} to {most}"
        raise ValueError(complaint(op, argument, f"be a whole number{limits}", repr(value)))


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
