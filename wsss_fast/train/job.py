"""A training from data set to model: everything is looked at first, then the loop runs."""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import PIL
import safetensors
import torch
import yaml
from PIL import Image

import wsss_fast
from wsss_fast import _machine, methods
from wsss_fast._settings import SettingsError, plain
from wsss_fast.data import Dataset, loader, open_dataset
from wsss_fast.data.fingerprint import fingerprint
from wsss_fast.data.verify import Report, verify
from wsss_fast.files.folder import OutputFolder
from wsss_fast.files.images import ImageError, read_image
from wsss_fast.files.limits import MAX_BYTES, MAX_PIXELS
from wsss_fast.methods._training import Training, TrainSettings
from wsss_fast.train import checkpoint, events, initial, logs, loop, pictures, processes
from wsss_fast.train.settings import DataSettings, NetworkSettings, RunSettings

SETTINGS = "settings.yaml"
RUN = "run.json"
EXAMPLES = 4  # images whose class maps are drawn
_LARGEST_EXAMPLE = 512

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """All that a training is told."""

    method: str
    data: DataSettings
    network: NetworkSettings = dataclasses.field(default_factory=NetworkSettings)
    settings: TrainSettings | None = None  # of `methods.settings`; by default what the network settings say
    run: RunSettings = dataclasses.field(default_factory=RunSettings)

    def train_settings(self) -> TrainSettings:
        return self.settings or self.network.train_settings(self.method)

    def training(self, classes: int) -> Training:
        network, settings = self.network, self.train_settings()
        options = network.network_options()
        return methods.training(self.method, classes, network.backbone, network.published, settings, **options)

    def as_yaml(self) -> str:
        """One flat mapping, which `wsss train METHOD --config` reads."""
        parts = (self.data, self.network, self.train_settings(), self.run)
        values = {name: value for part in parts for name, value in dataclasses.asdict(part).items()}
        return f"# wsss train {self.method} --config {SETTINGS} --out RUN\n" + yaml.safe_dump(plain(values), sort_keys=False)


@dataclass(frozen=True)
class Finished:
    """How a training ended; `skipped` says which images could not be read, and why."""

    outcome: loop.Outcome | None  # None: nothing was trained, only verified
    images: int
    classes: list[str]
    skipped: dict[str, str]


def train(
    plan: Plan,
    out: str | Path,
    restart: bool = False,
    dry_run: bool = False,
    looked: Callable[[int, int], None] | None = None,
    report: Callable[[loop.Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Finished:
    """Trains a method on a data set, or goes on with what `out` holds.

    Args:
        out: folder for checkpoint, model and logs (docs/train.md).
        restart: begin again; what an earlier training left in `out` is removed.
        dry_run: look at the data and say what would be trained.
        looked: called as the data are looked at, with how many images are done of how many.
        report, stop: of `loop.fit`.
    """
    if plan.run.threads:
        torch.set_num_threads(plan.run.threads)
    with processes.joined(plan.run.device) as joined:
        settings = plan.train_settings()
        joined.share(settings.batch)
        torch.manual_seed(plan.run.seed)
        plan = dataclasses.replace(plan, data=with_split(plan.data), settings=settings)
        dataset = opened(plan.data)
        training = plan.training(len(dataset.classes))
        if joined.first and not plan.network.init and (restart or not (Path(out) / checkpoint.NAME).is_file()):
            initial.warn_of_random_weights(plan, training, joined.device, Path(out))
        plan = dataclasses.replace(plan, network=dataclasses.replace(plan.network, backbone=training.model.backbone_name))
        wants = _wants(training)
        dataset, found = verify(dataset, wants, plan.run.unreadable, progress=looked)
        feed = LoaderFeed(dataset, settings, wants, plan.run, joined)
        log.info("%s", _summary(plan, dataset, found, training, feed, joined))
        if dry_run:
            if plan.run.tensorboard:
                events.available()
            log.info("images of each class: %s", _counts(dataset))
            return Finished(None, len(dataset), dataset.classes, found.unreadable)
        folder = OutputFolder(Path(out), "train")
        try:
            outcome = _fit(plan, folder, restart, dataset, training, feed, joined, report, stop)
        finally:
            folder.close()
        return Finished(outcome, len(dataset), dataset.classes, {**found.unreadable, **feed.failures})


class LoaderFeed:
    """The batches of `data.loader`, epoch after epoch."""

    def __init__(
        self, dataset: Dataset, settings: TrainSettings, wants: tuple[str, ...], run: RunSettings, joined: processes.Processes
    ) -> None:
        self._dataset, self._settings = dataset, settings
        self._options = {
            "wants": wants,
            "seed": run.seed,
            "workers": run.workers,
            "rank": joined.rank,
            "world": joined.size,
            "unreadable": run.unreadable,
            "pin": joined.device.type == "cuda",
        }
        self.failures: dict[str, str] = {}
        self.steps = len(self._loader(0, 0))

    def batches(self, epoch: int, first: int) -> Iterable[dict[str, Any]]:
        batches = self._loader(epoch, first)
        batches.failures = self.failures  # said once a training, not once an epoch
        return batches

    def _loader(self, epoch: int, first: int) -> loader.Loader:
        return loader.make_loader(self._dataset, self._settings, epoch=epoch, start=first, **self._options)


def opened(data: DataSettings) -> Dataset:
    return open_dataset(
        data.data,
        data.kind,
        data.split,
        data.labels,
        data.saliency,
        data.masks,
        classes=data.class_names,
        empty=data.empty,
        affinity=data.affinity,
    )


def with_split(data: DataSettings) -> DataSettings:
    """VOC's `train` unless a split is named: never the images of validation by default."""
    if data.split is None and (Path(data.data) / "ImageSets" / "Segmentation" / "train.txt").is_file():
        return dataclasses.replace(data, split="train")
    return data


def _wants(training: Training) -> tuple[str, ...]:
    wants = (*training.wants, *training.takes)
    if unknown := [want for want in wants if want not in loader.WANTS]:
        raise SettingsError(f"train: {training.model.name} learns from {unknown[0]}, which this data set cannot give")
    return wants


def _fit(
    plan: Plan,
    folder: OutputFolder,
    restart: bool,
    dataset: Dataset,
    training: Training,
    feed: LoaderFeed,
    joined: processes.Processes,
    report: Callable[[loop.Progress], None],
    stop: Callable[[], bool],
) -> loop.Outcome:
    identity = _identity(plan, dataset, training)
    if joined.first:
        _prepare(folder, restart)
    joined.wait()
    path = folder.path / checkpoint.NAME
    told = checkpoint.read_header(path)
    if told is None:
        if plan.network.init:
            found = initial.initialise(training, plan.network.init, dataset.classes)
            if joined.first:
                log.info("starting from %s", found)
    else:
        checkpoint.check_identity(path, told, identity)
    if joined.first:
        about = {**versions(joined), "data": dict(dataset.provenance), **identity}
        folder.write(RUN, json.dumps(about, indent=1).encode() + b"\n")
        folder.write(SETTINGS, plan.as_yaml().encode())
    training.to(joined.device)
    drawn = examples(dataset) if joined.first else []
    return loop.fit(training, feed, plan.run, folder, joined, identity, dataset.classes, drawn, report, stop)


def _prepare(folder: OutputFolder, restart: bool) -> None:
    """Takes the folder for this process alone, and removes what no checkpoint speaks of."""
    if not folder.lock():
        raise SettingsError(f"train: another job is writing to {folder.path}. Hint: wait for it, or give another --out")
    if any(not path.name.startswith(".wsss-") for path in folder.path.iterdir()) and folder.size(RUN) is None:
        raise SettingsError(f"train: {folder.path} holds files that no training wrote. Hint: give another --out")
    if restart or folder.size(checkpoint.NAME) is None:
        for pattern in (checkpoint.NAME, loop.MODEL, f"{loop.MODELS}/*", f"{logs.PICTURES}/*", f"{events.TENSORBOARD}/events.*"):
            for path in folder.path.glob(pattern):
                folder.remove(str(path.relative_to(folder.path)))


def examples(dataset: Dataset) -> list[pictures.Example]:
    """Images for the pictures, spread over the data set: the same ones whenever it is the same."""
    places = numpy.linspace(0, len(dataset) - 1, min(EXAMPLES, len(dataset))).round().astype(int)
    chosen = []
    for name in (dataset.ids[place] for place in places):
        try:
            image = Image.fromarray(read_image(dataset.image_path(name), MAX_PIXELS, MAX_BYTES).pixels)
        except ImageError:
            continue  # the training itself stops at it or counts it
        image.thumbnail((_LARGEST_EXAMPLE, _LARGEST_EXAMPLE))
        chosen.append(pictures.Example(numpy.array(image), tuple(dataset.indices[name])))
    return chosen


def versions(joined: processes.Processes) -> dict[str, Any]:
    """What ran, without what names the machine."""
    device = torch.cuda.get_device_name(joined.device) if joined.device.type == "cuda" else "cpu"
    return {
        "wsss_fast": wsss_fast.__version__,
        "revision": _machine.revision(Path(wsss_fast.__file__).parent),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "pillow": PIL.__version__,
        "safetensors": safetensors.__version__,
        "device": device,
        "processes": joined.size,
        "threads": torch.get_num_threads(),
    }


def _identity(plan: Plan, dataset: Dataset, training: Training) -> dict[str, Any]:
    """What decides the weights that come out: a checkpoint belongs to one of these."""
    return plain(
        {
            "network": training.model.description(),
            "init": plan.network.init,
            "settings": dataclasses.asdict(training.settings),
            "run": plan.run.decides(),
            "classes": dataset.classes,
            "images": fingerprint(dataset, training.wants),
        }
    )


def _summary(
    plan: Plan, dataset: Dataset, found: Report, training: Training, feed: LoaderFeed, joined: processes.Processes
) -> str:
    model, settings = training.model, training.settings
    weights = sum(parameter.numel() for parameter in training.parameters())
    parts = (
        f"{len(dataset)} images of {len(dataset.classes)} classes ({dataset.kind})",
        f"{model.name} on {model.backbone_name}, {weights / 1e6:.1f} million weights",
        f"{settings.epochs} epochs of {feed.steps} steps, {settings.batch} images a step",
        f"{joined.size} x {joined.device.type}, {plan.run.precision}",
    )
    return "; ".join(parts) + (f"; {len(found.unreadable)} images left out" if found.unreadable else "")


def _counts(dataset: Dataset) -> str:
    numbers = sum(dataset.labels(name) for name in dataset.ids)
    return ", ".join(f"{name} {int(number)}" for name, number in zip(dataset.classes, numbers, strict=True))
