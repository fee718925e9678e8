"""Registration of the operations with torch.library, so that autograd, torch.compile, opcheck and export know them.

`Library.define` and `impl` cost about half the call overhead of `torch.library.custom_op`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("wsss_fast", "DEF")


def define(schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Defines wsss_fast::NAME; `run` serves both devices, `fake` tells shapes and types."""
    name = schema[: schema.index("(")]
    _LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
    for device in ("CPU", "CUDA"):
        _LIBRARY.impl(name, run, device)
    torch.library.register_fake(f"wsss_fast::{name}", fake, lib=_LIBRARY)


def differentiable(name: str, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
    torch.library.register_autograd(f"wsss_fast::{name}", backward, setup_context=setup_context, lib=_LIBRARY)


def differentiable_once(name: str, op: str) -> None:
    """`name` computes the gradient of `op`; differentiating it again is an error, not a silent zero."""

    def refuse(ctx: Any, *grads: Tensor | None) -> None:
        raise RuntimeError(f"{op}: it can be differentiated once. Hint: impl='reference' has higher derivatives")

    torch.library.register_autograd(f"wsss_fast::{name}", refuse, lib=_LIBRARY)


def autocast(*tensors: Tensor, to: torch.dtype | None = None) -> tuple[Tensor, ...]:
    """Under autocast the tensors in the autocast type, or in type `to` (float64 excepted, as torch does); else as they are."""
    device = tensors[0].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return tensors
    wanted = to or torch.get_autocast_dtype(device)
    return tuple(
        tensor.to(wanted) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor for tensor in tensors
    )
