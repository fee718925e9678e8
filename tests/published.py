"""The published networks' outputs and parameter names that stand beside the repository, and the weights they were made with."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsss_fast import methods

ORACLE = Path(__file__).parents[2] / "shared" / "oracle"


def file(name: str) -> Path:
    path = ORACLE / name
    if not path.exists():
        pytest.skip("the oracle files are not beside the repository")
    return path


def arrays(name: str) -> dict[str, Tensor]:
    with np.load(file(f"{name}.npz")) as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


def shapes(name: str) -> dict[str, list[int]]:
    """Parameter names and shapes of a published checkpoint."""
    return json.loads(file(f"{name}.keys.json").read_text())


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A state dict by the rule of the oracle: every array comes from its name alone."""
    return {key: torch.from_numpy(_array(key, tuple(value.shape))) for key, value in model.state_dict().items()}


def _array(key: str, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    drawn = generator.standard_normal(shape)
    if len(shape) == 4:
        gain = 6 if key in ("f9.weight", "f10.weight") else 1
        drawn *= gain * np.sqrt(1 / np.prod(shape[1:]))
    elif key.endswith("running_var"):
        drawn = 1 + 0.1 * np.abs(drawn)
    elif key.endswith("weight"):
        drawn = 1 + 0.1 * drawn
    else:
        drawn = 0.1 * drawn
    return drawn.astype(np.float32)


def create(name: str, *arguments: object, **options: object) -> nn.Module:
    """A method in eval mode with the oracle's weights; nothing is drawn first that they would replace."""
    with torch.device("meta"):
        model = methods.create(name, *arguments, **options)
    model.load_state_dict(weights(model), strict=True, assign=True)
    return model.eval()
