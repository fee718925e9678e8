"""Batches of a job labelled by the workers of a Ray cluster. The job writes files and manifest, in the order of the plan.

A worker that dies costs nothing: what it had not finished goes to another. Of the call that it was at, each image is then sent
alone, so that an image that kills its worker fails alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from wsss_fast.files.folder import OutputFolder, OutputRefusedError, OutputStoppedError
from wsss_fast.files.images import ImageError, Location
from wsss_fast.label.job import Job, Labels, Row, Writers
from wsss_fast.label.ray_cluster import Call, Cluster, Event, whole_location
from wsss_fast.label.ray_worker import Made
from wsss_fast.listing.plan import PlannedImage

_DEATHS = 3  # after which an image has failed
_FAILED_IN_A_ROW = 10  # after which the workers are at fault, not the images
_CALLS_OF_A_WORKER = 2  # one that it is at, and one that waits
_BATCHES_AHEAD = 4  # of a worker: the slowest of them must not make the others wait

Outcome = Callable[[], Made]  # or raises ImageError


@dataclass(frozen=True)
class ClusterJob(Job):
    """A job whose images come back finished."""

    cluster: Cluster = field(kw_only=True)

    def decoders(self) -> Remote:  # type: ignore[override]
        return Remote(self.cluster, self.labels)

    def start(self, image: PlannedImage, outcome: Outcome, folder: OutputFolder, writers: Writers) -> Any:  # type: ignore[override]
        return writers.submit(lambda: self._keep(image, outcome, folder))

    def _keep(self, image: PlannedImage, outcome: Outcome, folder: OutputFolder) -> Row:
        known: Row = {"kind": "image", "image": image.name}
        try:
            row, files = outcome()
            known.update((name, row[name]) for name in ("size", "mtime_ns", "labels") if name in row)
            for name, data in files.items():
                folder.write(name, data)
        except (ImageError, OutputRefusedError) as error:
            return self._failure(image, known, error)
        self.report(image, row, None)
        return row


@dataclass(eq=False)
class _Batch:
    items: list[tuple[tuple[PlannedImage, Any], Location]]
    outcomes: dict[PlannedImage, Outcome] = field(default_factory=dict)


class Remote:
    """In place of `decode.Decoders`: what comes ahead is not only read, but labelled."""

    def __init__(self, cluster: Cluster, labels: Labels | None) -> None:
        self._cluster = cluster
        self._labels = labels
        self._queue: deque[Call] = deque()
        self._failed_in_a_row = 0

    def ahead(self, items: Iterable[tuple[tuple[PlannedImage, Any], Location]]) -> Iterator[tuple[Any, Outcome]]:
        """Each item (an image and its batch) with its outcome, in order; some batches are labelled ahead."""
        waiting: deque[_Batch] = deque()
        for _, members in groupby(items, key=lambda item: id(item[0][1])):
            batch = _Batch(list(members))
            waiting.append(batch)
            self._queue.append(Call(batch, [(image, whole_location(location)) for (image, _), location in batch.items]))
            self._hand_out()
            while len(waiting) > _BATCHES_AHEAD * len(self._cluster.hands):
                yield from self._finished(waiting.popleft())
        while waiting:
            yield from self._finished(waiting.popleft())

    def _finished(self, batch: _Batch) -> Iterator[tuple[Any, Outcome]]:
        self._look(0.0)  # no worker is to idle while finished batches are written
        while len(batch.outcomes) < len(batch.items):
            self._look(1.0)
        yield from ((item, batch.outcomes[item[0]]) for item, _ in batch.items)

    def _look(self, seconds: float) -> None:
        for event in self._cluster.wait(seconds):
            self._take(event)
        self._hand_out()

    def _hand_out(self) -> None:
        """The least busy worker first."""
        while self._queue:
            free = [hand for hand in self._cluster.hands if hand.preparing is None and len(hand.calls) < _CALLS_OF_A_WORKER]
            if not free:
                return
            call = self._queue.popleft()
            labels = self._labels
            if labels is not None:
                labels = {image.name: labels[image.name] for image, _ in call.images if image.name in labels}
            self._cluster.submit(min(free, key=lambda hand: len(hand.calls)), call, labels)

    def _take(self, event: Event) -> None:
        call = event.call
        if event.made is not None:
            self._failed_in_a_row = 0
            for (image, _), made in zip(call.images, event.made, strict=True):
                call.batch.outcomes[image] = lambda made=made: made
            return
        if not event.blamed:
            self._queue.appendleft(call)
        elif call.deaths < _DEATHS:
            alone = [Call(call.batch, [image], call.deaths) for image in call.images]
            self._queue.extendleft(reversed(alone))
        else:
            self._fail(call)

    def _fail(self, call: Call) -> None:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= _FAILED_IN_A_ROW:
            raise OutputStoppedError(
                f"label: {_FAILED_IN_A_ROW} images in a row killed their workers. Hint: it may not be the images: `ray logs` "
                "tells why the workers die; the same command goes on where it stopped"
            )

        def failed() -> Made:
            raise ImageError(f"its worker died, {_DEATHS} times", lasting=False)

        for image, _ in call.images:
            call.batch.outcomes[image] = failed

    def close(self) -> None:
        """The cluster is closed by whoever opened it."""
