"""What a stage works with: its part of the recipe, the data set, and what earlier stages made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wsss_fast import train as training
from wsss_fast.data import Dataset
from wsss_fast.label.predict import chosen_device
from wsss_fast.recipes import judge
from wsss_fast.recipes.schema import Recipe, Stage
from wsss_fast.recipes.settings import KINDS
from wsss_fast.train.job import opened, with_split


class StoppedError(Exception):
    """A stage was asked to stop, and kept what it had."""


@dataclass(frozen=True)
class Data:
    """The data set of a run; stages take parts of it."""

    path: Path
    labels: str | None = None
    saliency: str | None = None
    _opened: dict[training.DataSettings, Dataset] = field(default_factory=dict, compare=False, repr=False)

    def settings(self, split: str | None, **more: Any) -> training.DataSettings:
        given = {"data": str(self.path), "split": split, "labels": self.labels, "saliency": self.saliency, "empty": "drop"}
        return with_split(training.DataSettings(**{**given, **more}))

    def inner(self, folder: str) -> training.DataSettings:
        """Class folders inside the data set."""
        return training.DataSettings(data=str(self.path / folder), kind="folders")

    def open(self, split: str | None, empty: str = "drop") -> Dataset:
        return self.opened(self.settings(split, saliency=None, empty=empty))

    def opened(self, settings: training.DataSettings) -> Dataset:
        """Once a run: to read the labels of thousands of images takes a while."""
        if settings not in self._opened:
            self._opened[settings] = opened(settings)
        return self._opened[settings]


@dataclass(frozen=True)
class Options:
    """How a run is done. Seed and precision decide what comes out."""

    seed: int = 0
    precision: str = "fp32"
    device: str = "auto"
    workers: int = 2
    pictures: str = "1 epoch"


@dataclass(frozen=True)
class Work:
    """What a stage works with."""

    recipe: Recipe
    stage: Stage
    folder: Path
    inputs: dict[str, Path]  # role → folder
    outcomes: dict[str, dict[str, Any]]  # role → outcome
    data: Data
    options: Options
    init: str | None = None  # file of weights to start from
    report: Callable[..., None] = lambda done, total, detail="": None
    stop: Callable[[], bool] = lambda: False

    @property
    def settings(self) -> Any:
        return self.stage.chosen()

    @property
    def device(self) -> torch.device:
        return chosen_device(self.options.device)

    @property
    def seed(self) -> int:
        return self.options.seed if self.stage.seed is None else self.stage.seed

    def dataset(self) -> Dataset:
        """The images of the stage; a segmentation network is also run on images of no class."""
        return self.data.open(self.recipe.split(self.stage.split), "keep" if self.stage.kind == "segment" else "drop")

    def judge(self) -> tuple[Dataset, list[str]] | None:
        """The data set that the stage is measured on, and its images; None if there is no truth."""
        if self.stage.judge == "none" or KINDS[self.stage.kind].gives not in ("maps", "masks", "nothing"):
            return None
        empty = "keep" if self.stage.kind == "segment" else "drop"
        truth = self.data.open(self.recipe.split(self.stage.judge), empty)
        source = self.recipe.stage(self.stage.inputs["of"]) if self.stage.kind == "eval" else self.stage
        made = self.data.open(self.recipe.split(source.split), empty)
        ids = judge.judged(truth, made.ids)
        if self.stage.kind == "eval" and self.settings.images == "single":
            ids = [name for name in ids if len(truth.indices[name]) == 1]
        return (truth, ids) if ids else None
