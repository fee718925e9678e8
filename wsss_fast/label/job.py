"""One labelling job: reading, predicting and what follows overlap; the rows of a batch are written when all of it is on disk.

Decoders run ahead in processes, the network runs in the thread of the caller, walk, CRF and files in threads behind it. What is
computed for an image depends on nothing but the image, so results do not depend on how many of them there are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from wsss_fast.files.folder import OutputFolder, OutputRefusedError, OutputStoppedError
from wsss_fast.files.images import ImageError, Limits, Picture, stamp_of
from wsss_fast.files.names import printable
from wsss_fast.label import collect, formats, manifest
from wsss_fast.label.decode import Decoders, Outcome
from wsss_fast.label.device import CPU, Device
from wsss_fast.label.done import Done, labels_mark
from wsss_fast.label.predict import Model, Prediction
from wsss_fast.label.refine import Mask, make_mask, pixels_of
from wsss_fast.label.settings import LabelSettings
from wsss_fast.label.walk import Walk
from wsss_fast.listing.plan import Plan, PlannedImage

logger = logging.getLogger("wsss_fast.label")

OVERLAYS = "overlays"
_MOST_WORKERS = 4

Row = dict[str, Any]
Labels = dict[str, tuple[int, ...]]  # classes of the images by name
Report = Callable[[PlannedImage, Row | None, Mask | None], None]  # a row; None where it was there already


class NumbersError(ValueError):
    """The network computes no numbers: nothing that it gives is worth writing."""


@dataclass
class _Batch:
    size: int
    rows: list[Future[Row]] = field(default_factory=list)


@dataclass(frozen=True)
class Again:
    """An image read and predicted once more."""

    picture: Picture
    prediction: Prediction
    labels: tuple[int, ...] | None


@dataclass(frozen=True)
class Job:
    plan: Plan
    settings: LabelSettings  # of `predict.resolved`
    model: Model
    walk: Walk | None
    labels: Labels | None
    report: Report
    too_many_failed: Callable[[], bool] = lambda: False  # whether to begin no other batch
    computes: threading.Event = field(default_factory=threading.Event)  # the network has given numbers

    def decoders(self) -> Decoders:
        settings = self.settings
        limits = Limits(settings.max_pixels, settings.max_bytes, settings.exif, settings.max_side)
        return Decoders(limits, self.workers, settings.timeout)

    @property
    def workers(self) -> int:
        if self.settings.workers is not None:
            return self.settings.workers
        return max(1, min(_MOST_WORKERS, (os.cpu_count() or 1) // 2))

    def in_memory(self, decoders: Decoders) -> None:
        for image, outcome in decoders.ahead((image, self.plan.location(image)) for image in self.plan.images()):
            row: Row = {"image": image.name}
            mask = None
            try:
                labels = self._labels(image)
                picture, prediction = self._predict(image, outcome, labels)
                mask = self._mask(picture, prediction, labels)
                row.update(status="ok", **self._described(mask))
            except ImageError as error:
                row.update(_failed(error))
            self.report(image, row, mask)
            if self.too_many_failed():
                return

    def to_folder(self, decoders: Decoders, folder: OutputFolder, job: manifest.Manifest) -> bool:
        """Whether anything was computed."""
        writers = Writers(self.workers)
        batches: deque[_Batch] = deque()
        items = self._unfinished(folder, job, batches)
        computed = False
        try:
            for (image, batch), outcome in decoders.ahead(items):
                if not batch.rows and self.too_many_failed():
                    break
                computed = True
                batch.rows.append(self.start(image, outcome, folder, writers))
                self._append(batches, job, wait=False)
            self._append(batches, job, wait=True)
        except BaseException as error:
            writers.close()
            if not isinstance(error, OutputStoppedError):
                # whole batches that are on disk are kept, whatever stopped the job
                with contextlib.suppress(Exception):
                    self._append(batches, job, wait=False)
            raise
        writers.close()
        return computed

    def again(self, numbers: Iterable[int], decoders: Decoders) -> Iterator[Again | ImageError]:
        """Images of the plan once more, for the report."""
        for image, outcome in decoders.ahead((image, self.plan.location(image)) for image in map(self.plan.__getitem__, numbers)):
            try:
                labels = self._labels(image)
                yield Again(*self._predict(image, outcome, labels), labels)
            except ImageError as error:
                yield error

    def _unfinished(
        self, folder: OutputFolder, job: manifest.Manifest, batches: deque[_Batch]
    ) -> Iterator[tuple[tuple[PlannedImage, _Batch], Any]]:
        for members in self.plan.batches():
            if all(self._finished(image, job.done.get(image.number), folder) for image in members):
                for image in members:
                    done = job.done.get(image.number)
                    failed = {"image": image.name, "status": "failed", "reason": f"as before: {done.reason}"} if done else None
                    self.report(image, None if done is None or done.ok else failed, None)
                continue
            batch = _Batch(len(members))
            batches.append(batch)
            yield from (((image, batch), self.plan.location(image)) for image in members)

    def _finished(self, image: PlannedImage, done: Done | None, folder: OutputFolder) -> bool:
        if done is None:
            return False
        try:
            stamp = stamp_of(self.plan.location(image))
        except ImageError:
            return False
        if (stamp.size, stamp.mtime_ns) != (done.size, done.mtime_ns):
            logger.info("%s changed since it was labelled", printable(image.name))
            return False
        if done.labels != labels_mark(None if self.labels is None else self.labels.get(image.name)):
            return False
        if not done.ok:
            return done.lasting
        if done.output != image.output:
            return False
        further = formats.further_files(image.output, self.settings.format)
        further += [overlay_name(image.output)] if self.settings.overlay else []
        if any(folder.size(name) is None for name in further):
            return False
        return folder.size(formats.main_file(image.output, self.settings.format)) == done.output_bytes

    def start(self, image: PlannedImage, outcome: Outcome, folder: OutputFolder, writers: Writers) -> Future[Row]:
        row: Row = {"kind": "image", "image": image.name}
        try:
            labels = self._labels(image)
            if labels is not None:
                row["labels"] = list(labels)
            picture, prediction = self._predict(image, outcome, labels)
        except ImageError as error:
            return _finished_future(self._failure(image, row, error))
        return writers.submit(lambda: self._write(image, row, picture, prediction, labels, folder))

    def _labels(self, image: PlannedImage) -> tuple[int, ...] | None:
        if self.labels is None:
            return None
        found = self.labels.get(image.name)
        if found is None and not self.plan.location(image).damage:
            raise ImageError("the labels do not name it", lasting=False)
        return found

    @property
    def device(self) -> Device:
        device = getattr(self.model, "device", None)
        return device if isinstance(device, Device) else CPU

    def _predict(self, image: PlannedImage, outcome: Outcome, labels: tuple[int, ...] | None) -> tuple[Picture, Prediction]:
        picture = outcome()
        with _enough_memory():
            prediction = self.model.predict(picture.pixels)
            self._check_numbers(prediction, image, picture)
            if self.walk is not None and (labels is None or labels):
                with torch.inference_mode():
                    guide = self.walk.guide(pixels_of(prediction, picture))
                    prediction = dataclasses.replace(prediction, guide=guide)
            return picture, dataclasses.replace(prediction, mark=self.device.mark())

    def _check_numbers(self, prediction: Prediction, image: PlannedImage, picture: Picture) -> None:
        """Comparisons with NaN are false: every pixel would be background."""
        scores = () if prediction.scores is None else (prediction.scores,)
        if all(bool(values.isfinite().all()) for values in (*prediction.maps, *scores)):
            self.computes.set()
        elif self.computes.is_set():
            raise ImageError("the network gives values that are no numbers for it", stamp=picture.stamp)
        else:
            which = printable(f"{image.name}, the first image that it sees: {json.dumps(self.model.identity)}")
            hint = "its weights are broken, or half precision is too narrow for it"
            raise NumbersError(f"label: the network gives values that are no numbers for {which}. Hint: {hint}")

    def _mask(self, picture: Picture, prediction: Prediction, labels: tuple[int, ...] | None) -> Mask:
        with _enough_memory(), self.device.after(prediction.mark):
            return make_mask(prediction, picture, self.settings, self.walk, labels, self.device)

    def _write(
        self,
        image: PlannedImage,
        row: Row,
        picture: Picture,
        prediction: Prediction,
        labels: tuple[int, ...] | None,
        folder: OutputFolder,
    ) -> Row:
        settings = self.settings
        mask = self._mask(picture, prediction, labels)
        described = self._described(mask)
        files = formats.encode(mask, image.output, settings.format)
        try:
            for name, data in files.items():
                folder.write(name, data)
            if settings.overlay:
                folder.write(overlay_name(image.output), self._overlay(picture, mask))
        except OutputRefusedError as error:
            return self._failure(image, row, error)
        (first, data), *further = files.items()
        row.update(size=picture.stamp.size, mtime_ns=picture.stamp.mtime_ns, status="ok", **_file(first, data))
        if further:
            row["further"] = [_file(name, data) for name, data in further]
        row.update(width=picture.width, height=picture.height, format=picture.kind, **described)
        self.report(image, row, mask)
        return row

    def _failure(self, image: PlannedImage, row: Row, error: Exception) -> Row:
        """The stamp is that of the bytes which failed. Whoever looked at the file now could find others."""
        if (stamp := getattr(error, "stamp", None)) is not None:
            row.update(size=stamp.size, mtime_ns=stamp.mtime_ns)
        row.setdefault("size", -1)
        row.setdefault("mtime_ns", -1)
        row.update(_failed(error))
        self.report(image, row, None)
        return row

    def _described(self, mask: Mask) -> Row:
        names = [self.model.class_names[index] for index in mask.classes]
        counts = np.bincount(mask.values.ravel(), minlength=len(self.model.class_names) + 1)
        share = [round(float(counts[index + 1]) / mask.values.size, 4) for index in mask.classes]
        return {"classes": names, "scores": list(mask.scores), "share": share}

    def _overlay(self, picture: Picture, mask: Mask) -> bytes:
        from wsss_fast.label.overlay import overlay_jpeg

        scores = mask.scores or (None,) * len(mask.classes)
        legend = [
            (index + 1, self.model.class_names[index] + ("" if score is None else f"  {score:.0%}"))
            for index, score in zip(mask.classes, scores, strict=True)
        ]
        return overlay_jpeg(picture.pixels, mask.values, legend)

    @staticmethod
    def _append(batches: deque[_Batch], job: manifest.Manifest, wait: bool) -> None:
        """One write for a whole batch: after an interruption it is either there or computed again."""
        for batch in batches:
            for row in batch.rows:
                if row.done():
                    row.result()  # a job that cannot write stops here, not at the end of its batch
        while batches and len(batches[0].rows) == batches[0].size:
            if not wait and not all(row.done() for row in batches[0].rows):
                return
            job.append([row.result() for row in batches[0].rows])
            batches.popleft()

    def collected(self, folder: OutputFolder, job: manifest.Manifest, computed: bool) -> None:
        """The file of all images, if the format has one and anything changed."""
        kind = self.settings.format
        if kind not in formats.COLLECTED:
            return
        suffix = manifest.suffix(self.plan.shard)
        name = collect.collected_file(kind, suffix)
        known = job.files.get(name)
        if not computed and known is not None and folder.size(name) == known["output_bytes"]:
            return

        def labelled() -> Iterator[PlannedImage]:
            return (image for image in self.plan.images() if (done := job.done.get(image.number)) is not None and done.ok)

        row = collect.collect(kind, collect.Labelled(folder, labelled, self.model.class_names, suffix))
        if row != known:
            job.append([row])


class Writers:
    """Threads that finish images; a bounded number of them wait. Without threads, in the thread of the caller."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "write") if threads else None
        self._room = threading.BoundedSemaphore(2 * threads + 1)

    def submit(self, work: Callable[[], Row]) -> Future[Row]:
        if self._pool is None:
            return _finished_future(work())
        self._room.acquire()
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._room.release())
        return future

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _finished_future(row: Row) -> Future[Row]:
    future: Future[Row] = Future()
    future.set_result(row)
    return future


@contextlib.contextmanager
def _enough_memory() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        reason = str(error).split("\n")[0] or "no more"
        hint = "a smaller --max-side or fewer --scales, or another device; then the same command goes on"
        raise OutputStoppedError(f"label: the device has not enough memory: {reason}. Hint: {hint}") from None


def overlay_name(output: str) -> str:
    """Overlays are JPEG and masks PNG: no mask can have an overlay's name."""
    return f"{OVERLAYS}/{output[: -len('.png')]}.jpg"


def _file(name: str, data: bytes) -> Row:
    return {"output": name, "output_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _failed(error: Exception) -> Row:
    lasting = error.lasting if isinstance(error, ImageError) else False
    return {"status": "failed", "reason": printable(str(error)), "lasting": lasting}
