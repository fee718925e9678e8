"""The network behind a name: a checkpoint, the built-in model, a network with random weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsss_fast import methods
from wsss_fast.files.names import printable, state_of
from wsss_fast.methods import checkpoint
from wsss_fast.nets import weights

BUILT_IN = "efficientnet-lite0"


def network(model: str | os.PathLike[str] | nn.Module, **source: Any) -> tuple[nn.Module, tuple[str, ...]]:
    """The network in eval mode, and the names of its classes where they are known.

    `source`: what `methods.checkpoint.load` takes besides the file.
    """
    if isinstance(model, nn.Module):
        if not isinstance(model, methods._method.Method):
            raise TypeError(f"export: 'model' must be a network of methods.create, got {type(model).__name__}")
        return model.eval(), ()
    if os.fspath(model) == BUILT_IN:
        if any(value is not None for value in source.values()):
            given = next(name for name, value in source.items() if value is not None)
            raise ValueError(
                f"export: '{given}' is decided in the built-in model '{BUILT_IN}'. Hint: a checkpoint, or --random-weights"
            )
        from wsss_fast.export.built_in import built_in

        return built_in(), ()
    if not Path(model).is_file():
        hint = f"a checkpoint, an exported file, or the name {BUILT_IN}"
        got = f"'{printable(os.fspath(model))}', which {state_of(model)}"
        raise FileNotFoundError(f"export: 'model' must be a file or a known name, got {got}. Hint: {hint}")
    return checkpoint.load(model, **source), tuple(weights.describe(model).get("classes", ()))


def random(method: str, seed: int, num_classes: int = 20, **options: Any) -> nn.Module:
    """A network without a checkpoint, the same for the same seed; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return methods.create(method, num_classes, **options).eval()
