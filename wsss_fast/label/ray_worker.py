"""What a worker of a Ray cluster does: it holds the network and labels the images it is given. It knows nothing of Ray.

The files go back to the job that asked, which alone writes to the output folder. Importing this module is cheap: torch comes when
the worker is prepared, after the settings of its threads.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsss_fast._settings import SettingsError
from wsss_fast.files.images import FileStamp, ImageError, Location, stamp_of
from wsss_fast.label import manifest
from wsss_fast.label.predict import Defaults, load_model, resolved
from wsss_fast.label.settings import LabelSettings
from wsss_fast.listing.plan import PlannedImage

if TYPE_CHECKING:
    from concurrent.futures import Future

    from wsss_fast.label.job import Labels, Row

Made = tuple["Row", dict[str, bytes]]  # the row of the manifest, and the files it speaks of
Sample = tuple[Location, FileStamp]


@dataclass(frozen=True)
class WalkDescription:
    identity: dict[str, Any]


@dataclass(frozen=True)
class Description:
    """What a job knows of its workers' network: enough of a `predict.Model` to check settings and labels against."""

    class_names: tuple[str, ...]
    identity: dict[str, Any]
    defaults: Defaults
    named: bool
    walk: WalkDescription | None
    tool: dict[str, Any]  # `manifest.tool` there
    host: str
    pid: int
    warnings: tuple[str, ...]

    @property
    def compared(self) -> dict[str, Any]:
        """What must be equal on all workers, so that it does not matter which of them labels an image."""
        walk = None if self.walk is None else self.walk.identity
        versions = {name: value for name, value in self.tool["made_with"].items() if name != "processor"}
        return {"model": self.identity, "classes": list(self.class_names), "walk": walk, "made_with": versions}

    @property
    def processor(self) -> str:
        """May differ in a cluster of several generations, with a warning."""
        return self.tool["made_with"]["processor"]


class Worker:
    def prepare(self, model: str, settings: LabelSettings, samples: Sequence[Sample]) -> Description:
        from wsss_fast import _openmp

        _openmp.wait_without_spinning()
        import torch

        from wsss_fast.label.job import Job, Writers
        from wsss_fast.label.walk import load_walk

        _check_sight(samples)
        torch.set_num_threads(settings.threads)
        with _Heard() as heard:
            loaded = load_model(model, settings)
            settings = resolved(loaded, settings)
            walk = load_walk(settings)
        self._plan = _Given()
        self._job = Job(self._plan, settings, loaded, walk, None, lambda image, row, mask: None)  # type: ignore[arg-type]
        self._decoders = self._job.decoders()
        self._writers = Writers(self._job.workers)
        return Description(
            loaded.class_names,
            loaded.identity,
            getattr(loaded, "defaults", Defaults()),
            getattr(loaded, "named", True),
            None if walk is None else WalkDescription(walk.identity),
            manifest.tool(),
            socket.gethostname(),
            os.getpid(),
            tuple(heard.warnings),
        )

    def label(self, images: Sequence[tuple[PlannedImage, Location]], labels: Labels | None) -> list[Made]:
        """`labels`: of these images, by name. In the order given."""
        import dataclasses

        job = dataclasses.replace(self._job, labels=labels)
        self._plan.locations = dict(images)
        made: list[tuple[Future[Row], _Kept]] = []
        for image, outcome in self._decoders.ahead(images):
            kept = _Kept()
            made.append((job.start(image, outcome, kept, self._writers), kept))  # type: ignore[arg-type]
        return [(row.result(), kept.files) for row, kept in made]


class _Given:
    """Of a plan, what labelling needs: where an image is."""

    def __init__(self) -> None:
        self.locations: dict[PlannedImage, Location] = {}

    def location(self, image: PlannedImage) -> Location:
        return self.locations[image]


class _Kept:
    """In place of the output folder."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def write(self, name: str, data: bytes) -> None:
        self.files[name] = data


class _Heard(logging.Handler):
    """Warnings of the package, which nobody would see on a worker."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.warnings.append(record.getMessage())

    def __enter__(self) -> _Heard:
        logging.getLogger("wsss_fast").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("wsss_fast").removeHandler(self)


def _check_sight(samples: Sequence[Sample]) -> None:
    for location, stamp in samples:
        try:
            seen = stamp_of(location)
        except ImageError as error:
            problem = str(error)
        else:
            if seen == stamp:
                continue
            problem = "another size or time"
        hint = "the folder of the images must be shared, at the same path on every machine"
        raise SettingsError(
            f"label: workers must see the images that the job sees, and {location.path} is not the same ({problem}). Hint: {hint}"
        )
