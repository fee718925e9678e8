"""The state of a training in one safetensors file: every weight, the optimiser's memory, and where it stands.

Random numbers need no room in it: each step draws from a seed of its own. The file holds tensors and JSON alone; it is written
beside its place and renamed, so that there is always a whole one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_fast._settings import differences
from wsss_fast.files.folder import OutputFolder
from wsss_fast.nets import weights

NAME = "checkpoint.safetensors"
HEADER = "wsss_fast_training"
FORMAT = 1
_TRAINING, _OPTIMISER = "training.", "optimiser."


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from."""


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: `told` is its JSON, with at least "step" and "identity"."""

    tensors: dict[str, Tensor]
    told: dict[str, Any]


def save(
    folder: OutputFolder,
    training: nn.Module,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    told: dict[str, Any],
) -> None:
    """Replaces the folder's checkpoint. `told`: JSON values, "step" and "identity" among them."""
    tensors = {_TRAINING + name: value for name, value in training.state_dict().items()}
    numbers: dict[str, Any] = {}
    for index, memory in optimiser.state_dict()["state"].items():
        for name, value in memory.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMISER}{index}.{name}"] = value
            elif value is not None:
                numbers[f"{index}.{name}"] = value
    header = {**told, "format": FORMAT, "optimiser": numbers, "scaler": scaler.state_dict()}
    folder.write(NAME, packed(tensors, {HEADER: json.dumps(header, sort_keys=True)}))


def save_model(folder: OutputFolder, name: str, model: nn.Module, description: dict[str, Any]) -> None:
    """The network alone, in a file that `methods.checkpoint.load` reads."""
    folder.write(name, packed(model.state_dict(), {weights.HEADER: json.dumps(description, sort_keys=True)}))


def packed(tensors: dict[str, Tensor], header: dict[str, str]) -> bytes:
    from safetensors.torch import save as to_bytes

    return to_bytes({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, header)


def read(path: Path) -> Saved | None:
    """The checkpoint at `path`; None if there is none."""
    from safetensors import SafetensorError, safe_open

    told = read_header(path)
    if told is None:
        return None
    try:
        with safe_open(path, "pt") as file:
            return Saved({name: file.get_tensor(name) for name in file.keys()}, told)  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError) as error:
        raise _unusable(path, str(error)) from None


def read_header(path: Path) -> dict[str, Any] | None:
    """What the checkpoint tells about itself."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {}).get(HEADER, "{}"))
    except (SafetensorError, ValueError, OSError) as error:
        raise _unusable(path, str(error)) from None
    if not isinstance(told, dict) or told.get("format") != FORMAT or not isinstance(told.get("step"), int):
        raise _unusable(path, "it is not one of this version")
    return told


def check_identity(path: Path, told: dict[str, Any], identity: dict[str, Any]) -> None:
    """Refuses to go on with other settings than those that led to the checkpoint."""
    changes = differences(told.get("identity"), identity)
    if changes:
        hint = "the earlier settings, another --out, or --restart to begin again"
        raise CheckpointError(f"train: {path.parent} was trained otherwise:\n  " + "\n  ".join(changes) + f"\nHint: {hint}")


def restore(
    path: Path, saved: Saved, training: nn.Module, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> None:
    """Puts the saved state into modules that were made by the same settings."""
    state: dict[int, dict[str, Any]] = {}
    try:
        for name, value in {**_under(_OPTIMISER, saved.tensors), **saved.told["optimiser"]}.items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        training.load_state_dict(_under(_TRAINING, saved.tensors))
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        if scaler.is_enabled():
            scaler.load_state_dict(saved.told["scaler"])
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise _unusable(path, str(error)) from None


def _under(prefix: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _unusable(path: Path, reason: str) -> CheckpointError:
    reason = " ".join(reason.split())[:200]
    return CheckpointError(f"train: '{path}' cannot be gone on from ({reason}). Hint: --restart begins again")
