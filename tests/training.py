"""What tests of training share: a feed of small random batches, narrow networks, runs that stop where a test wants."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from wsss_fast import methods
from wsss_fast.files.folder import OutputFolder
from wsss_fast.train import loop
from wsss_fast.train.processes import Processes
from wsss_fast.train.settings import RunSettings

CLASSES = ["square", "disc", "cross"]
ALONE = Processes(torch.device("cpu"))
QUIET = {"tensorboard": False, "log_every": 1, "checkpoint_every": "0", "pictures": "0"}


class RandomFeed:
    """Batches that depend on epoch and place alone, and of which each process takes its share."""

    def __init__(self, steps: int = 3, batch: int = 4, side: int = 32, rank: int = 0, size: int = 1) -> None:
        self.steps, self.batch, self.side, self.rank, self.size = steps, batch, side, rank, size
        self.before = lambda epoch, place: None

    def batches(self, epoch: int, first: int):
        torch.rand(3)  # as a loader does, which draws seeds for its workers
        for place in range(first, self.steps):
            self.before(epoch, place)
            generator = torch.Generator().manual_seed(1000 * epoch + place)
            pixels = torch.randint(0, 256, (self.batch, 3, self.side, self.side), generator=generator, dtype=torch.uint8)
            labels = (torch.rand(self.batch, len(CLASSES), generator=generator) < 0.5).float()
            share = slice(self.rank * self.batch // self.size, (self.rank + 1) * self.batch // self.size)
            inside = torch.ones(self.batch, self.side, self.side, dtype=torch.bool)
            names = [f"{epoch}-{place}-{index}" for index in range(self.batch)]
            yield {"pixels": pixels[share], "inside": inside[share], "labels": labels[share], "names": names[share]}


def narrow(method: str = "cam", seed: int = 0, **changes) -> methods.Training:
    """A method on the narrowest ResNet38."""
    settings = methods.settings(method, **{"epochs": 2, "batch": 4, "crop": 32, "momentum": 0.9, "freeze": False, **changes})
    torch.manual_seed(seed)
    return methods.training(method, len(CLASSES), settings=settings, width=1 / 64)


def still(training: methods.Training) -> methods.Training:
    """Without dropout and without statistics of a batch: a loss that is a mean over images."""
    for layer in training.modules():
        if isinstance(layer, nn.Dropout2d):
            layer.p = 0.0
        if hasattr(layer, "frozen"):
            layer.frozen = True
    return training


def fit(folder: Path, training=None, feed=None, processes=ALONE, identity=None, **run):
    """`loop.fit` in a folder, by default alone and quiet."""
    out = OutputFolder(folder, "train")
    given = {name: run.pop(name) for name in ("report", "stop", "examples") if name in run}
    settings = RunSettings(**{**QUIET, **run})
    try:
        training = training or narrow()
        return loop.fit(training, feed or RandomFeed(), settings, out, processes, identity or {"seed": 0}, CLASSES, **given)
    finally:
        out.close()


def losses(folder: Path) -> list[dict]:
    """The rows of losses.jsonl without the speed, which no two runs share."""
    rows = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]


def weights(folder: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(folder / name)


def same_weights(one: Path, other: Path, name: str = "model.safetensors") -> bool:
    a, b = weights(one, name), weights(other, name)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], bound: float) -> bool:
    """Relative to the largest value of each tensor."""
    return all((one[name] - value).abs().max() <= bound * value.abs().max() for name, value in other.items())
