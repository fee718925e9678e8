"""Batches for training: decoded and augmented in worker processes, the same whatever their number."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from wsss_fast import ops
from wsss_fast._settings import UNREADABLE
from wsss_fast.data import transforms
from wsss_fast.data._problems import DataError, refuse
from wsss_fast.data.dataset import NO_AFFINITY, NO_SALIENCY, Dataset
from wsss_fast.files.images import ImageError, read_grey, read_image, read_indices
from wsss_fast.files.limits import MAX_BYTES, MAX_PIXELS
from wsss_fast.files.names import shown
from wsss_fast.files.png import IGNORE
from wsss_fast.methods import pair_labels
from wsss_fast.ops import _check

if TYPE_CHECKING:
    from wsss_fast.methods._training import TrainSettings

WANTS = ("saliency", "mask", "segments", "affinity")
MOST_SUBSTITUTES = 32

log = logging.getLogger(__name__)


class Loader:
    """The batches of one epoch, once. `failures` says which images could not be read so far, and why."""

    def __init__(self, batches: DataLoader, unreadable: str) -> None:
        self._batches = batches
        self._unreadable = unreadable
        self.failures: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with _deaf():
            batches = iter(self._batches)
        for batch, failures in batches:
            for name, reason in failures:
                if self._unreadable == "stop" or batch is None:
                    stop = self._unreadable == "stop"
                    hint = "unreadable='skip' puts another image in its place" if stop else "too many images cannot be read"
                    raise DataError(f"data: {shown(name)}: {reason}. Hint: {hint}")
                if name not in self.failures:
                    log.warning("data: %s is skipped: %s", shown(name), reason)
                    self.failures[name] = reason
            yield batch


def make_loader(
    dataset: Dataset,
    settings: TrainSettings,
    wants: Sequence[str] = (),
    seed: int = 0,
    epoch: int = 0,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    drop_last: bool = True,
    start: int = 0,
    unreadable: str = "stop",
    pin: bool = False,
) -> Loader:
    """The batches of one epoch for one of `world` processes.

    Args:
        settings: batch (over all processes), shuffle, and what `transforms.Augment` takes; `segments` for superpixels: how many,
            or several numbers of which each image draws one; `affinity_stride` for labels of pairs.
        wants: of saliency, mask, segments and affinity, what a batch holds besides pixels, inside, labels and names.
        seed, epoch: decide the order, and with an image's place in the data set its augmentation.
        workers: processes that decode; 0 decodes here. Batches do not depend on it.
        drop_last: leave out the last batch if it is short. Otherwise, where it does not divide by `world`, images from the front
            of the epoch fill it up.
        start: batches to skip, without decoding them.
        unreadable: "stop" raises at the first image that cannot be read; "skip" puts the next one that can in its place.
        pin: page-locked memory, for copies to a GPU.
    """
    order = epoch_order(len(dataset), settings, seed, epoch, rank, world, drop_last)
    _check.whole("data", "start", start, 0, len(order))
    _check.whole("data", "workers", workers, 0)
    _check.choice("data", "unreadable", unreadable, UNREADABLE)
    for want in wants:
        _check.choice("data", "wants", want, WANTS)
    if not dataset.indices:
        raise DataError("data: batches need labels, and the data set was opened without. Hint: labels= names them")
    if "saliency" in wants and dataset.saliency is None:
        raise DataError(NO_SALIENCY)
    if "mask" in wants:
        refuse("data: masks are wanted, and images have none", [name for name in dataset.ids if dataset.mask_path(name) is None])
    if "segments" in wants and not getattr(settings, "segments", None):
        raise DataError("data: segments are wanted, and the settings do not say how many")
    if "affinity" in wants:
        if dataset.affinity is None:
            raise DataError(NO_AFFINITY)
        missing = [name for name in dataset.ids if not dataset.affinity_path(name).is_file()]
        refuse("data: images without labels of pairs (ID.npz or ID.png)", missing)
        if not getattr(settings, "affinity_stride", None):
            raise DataError("data: labels of pairs are wanted, and the settings do not say on which stride")
    samples = _Samples(dataset, settings, tuple(wants), seed, epoch, unreadable)
    batches = DataLoader(
        samples,
        batch_sampler=order[start:],
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_one_thread if workers else None,
        pin_memory=pin,
        # Of its own: otherwise each epoch would move torch's global generator, from which the training draws.
        generator=torch.Generator(),
    )
    return Loader(batches, unreadable)


def epoch_order(
    images: int, settings: TrainSettings, seed: int, epoch: int, rank: int, world: int, drop_last: bool
) -> list[list[int]]:
    """The images of each batch of one process. A batch of all processes together does not depend on how many they are."""
    _check.whole("data", "world", world, 1)
    _check.whole("data", "rank", rank, 0, world - 1)
    _check.whole("data", "seed", seed, 0)
    _check.whole("data", "epoch", epoch, 0)
    if settings.batch % world:
        hint = "choose --batch accordingly"
        raise DataError(f"data: 'batch' must divide by the {world} processes, got {settings.batch}. Hint: {hint}")
    order = np.arange(images)
    if settings.shuffle:
        order = transforms.generator(seed, epoch, images).permutation(images)
    whole = [order[i : i + settings.batch] for i in range(0, images, settings.batch)]
    if drop_last and whole and len(whole[-1]) < settings.batch:
        whole.pop()
    if not whole:
        hint = "a smaller batch, or drop_last=False" if images else ""
        raise DataError(f"data: {images} images do not fill one batch of {settings.batch}. Hint: {hint}")
    if missing := -len(whole[-1]) % world:
        whole[-1] = np.concatenate([whole[-1], np.resize(order, missing)])
    return [batch[rank::world].tolist() for batch in whole]


class _Samples(TorchDataset):
    def __init__(
        self, dataset: Dataset, settings: TrainSettings, wants: tuple[str, ...], seed: int, epoch: int, unreadable: str
    ) -> None:
        self.dataset, self.settings, self.wants = dataset, settings, wants
        self.seed, self.epoch = seed, epoch
        self.tries = min(MOST_SUBSTITUTES, len(dataset)) if unreadable == "skip" else 1
        self.augment = transforms.Augment(settings)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[dict[str, Any] | None, list[tuple[str, str]]]:
        """The sample, or the next one that can be read; and which could not."""
        failures = []
        for place in range(index, index + self.tries):
            place %= len(self.dataset)
            name = self.dataset.ids[place]
            try:
                return self.sample(place, name), failures
            except ImageError as error:
                failures.append((name, str(error)))
        return None, failures

    def sample(self, index: int, name: str) -> dict[str, Any]:
        random = transforms.generator(self.seed, self.epoch, index)
        pixels = read_image(self.dataset.image_path(name), MAX_PIXELS, MAX_BYTES).pixels
        saliency = mask = pairs = None
        if "saliency" in self.wants:
            saliency = _read("saliency map", read_grey, self.dataset.saliency_path(name))
        if "mask" in self.wants:
            mask = _read("mask", read_indices, self.dataset.mask_path(name))
        if "affinity" in self.wants:
            pairs = _read_pairs(self.dataset.affinity_path(name), pixels.shape[:2], len(self.dataset.classes))
        made = self.augment(pixels, random, saliency, mask, None if pairs is None else pairs.layer)
        sample = {"name": name, "labels": torch.from_numpy(self.dataset.labels(name))}
        arrays = {"pixels": made.pixels, "inside": made.inside, "saliency": made.saliency, "mask": made.mask}
        sample |= {key: torch.from_numpy(array) for key, array in arrays.items() if array is not None}
        if pairs is not None:
            sample["affinity"] = torch.from_numpy(pairs.target(made.affinity, self.settings.affinity_stride))
        if "segments" in self.wants:
            counts = np.atleast_1d(self.settings.segments)
            count = int(counts[random.integers(len(counts))])
            sample["segments"] = ops.slic(sample["pixels"][None], count, mask=sample["inside"][None])[0]
        return sample


def _read(what: str, reader: Any, path: Any) -> np.ndarray:
    try:
        return reader(path, MAX_PIXELS, MAX_BYTES)
    except ImageError as error:
        raise ImageError(f"its {what}: {error}", error.lasting) from None


@dataclass(frozen=True)
class _Pairs:
    """What labels of pairs are made of: two sets of maps of `classes`, one behind the other, or an index image."""

    layer: np.ndarray
    classes: np.ndarray | None

    def target(self, crop: np.ndarray, stride: int) -> np.ndarray:
        if self.classes is None:
            return pair_labels.index_target(crop, stride)
        return pair_labels.affinity_target(*np.split(crop, 2), self.classes, stride)


def _read_pairs(path: Path, size: tuple[int, int], classes: int) -> _Pairs:
    if path.suffix == ".png":
        indices = _read("labels of pairs", read_indices, path)
        pairs, highest = _Pairs(indices, None), int(np.where(indices == IGNORE, 0, indices).max())
    else:
        try:
            maps = pair_labels.read(path)
        except pair_labels.PairLabelsError as error:
            raise ImageError(str(error)) from None
        pairs, highest = _Pairs(np.concatenate([maps.low, maps.high]), maps.classes), 1 + int(maps.classes.max(initial=-1))
    if pairs.layer.shape[-2:] != size:
        got = " x ".join(map(str, pairs.layer.shape[:-3:-1]))
        raise ImageError(f"its labels of pairs have {got} pixels, not {size[1]} x {size[0]}")
    if highest > classes:
        raise ImageError(f"its labels of pairs name class {highest}, counted from 1, of {classes}")
    return pairs


def _collate(samples: list[tuple[dict[str, Any] | None, list[tuple[str, str]]]]) -> tuple[dict[str, Any] | None, list[Any]]:
    failures = [failure for _, several in samples for failure in several]
    made = [sample for sample, _ in samples if sample is not None]
    if len(made) < len(samples):
        return None, failures
    batch: dict[str, Any] = {"names": [sample.pop("name") for sample in made]}
    return batch | {key: torch.stack([sample[key] for sample in made]) for key in made[0]}, failures


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Processes started within inherit that signals to end are blocked. A terminal and torchrun send them to every process, but
    the training ends its workers itself, after its checkpoint."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
