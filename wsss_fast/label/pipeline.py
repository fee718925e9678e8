"""``wsss_fast.label``: checks what is asked, puts a job together, and tells what became of it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsss_fast import _openmp
from wsss_fast._settings import SettingsError
from wsss_fast.files.folder import OutputFolder
from wsss_fast.files.names import printable
from wsss_fast.files.png import MAX_CLASSES
from wsss_fast.label import claims, collect, formats, manifest
from wsss_fast.label.decode import Decoders
from wsss_fast.label.done import DoneTable
from wsss_fast.label.job import Job, Labels
from wsss_fast.label.labels import read_table
from wsss_fast.label.lock import Lock
from wsss_fast.label.predict import BUILT_IN, Model, load_model, resolved
from wsss_fast.label.refine import Mask
from wsss_fast.label.settings import LabelSettings
from wsss_fast.label.walk import Walk, load_walk
from wsss_fast.listing.plan import Plan, PlannedImage
from wsss_fast.listing.sources import Images, make_plan

if TYPE_CHECKING:
    from wsss_fast.data.labels import ImageLabels
    from wsss_fast.label.ray_cluster import Cluster

logger = logging.getLogger("wsss_fast.label")

_FAILURES_KEPT = 1000
_MOST_CLASSES = {"index": 65534}


@dataclass(frozen=True)
class ImageResult:
    image: str
    status: str  # "ok" or "failed"
    reason: str = ""
    classes: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    output: Path | None = None
    mask: np.ndarray | None = field(default=None, repr=False)  # only when nothing is written


@dataclass
class LabelSummary:
    """What became of a job. Without ``out``, ``results`` holds every image; with it, ``rows()`` reads the manifest."""

    total: int = 0
    labelled: int = 0
    skipped: int = 0
    failed: int = 0
    empty: int = 0
    stopped: bool = False  # more failed than max_failures: the rest is not done
    out: Path | None = None
    report: Path | None = None  # its page
    report_failure: Exception | None = None  # why there is none; masks and manifest are whole
    pictured: tuple[int, int] | None = None  # while the report is made: images done, of how many
    results: list[ImageResult] = field(default_factory=list)
    failures: list[ImageResult] = field(default_factory=list)

    def rows(self) -> dict[str, dict[str, Any]]:
        if self.out is None:
            raise ValueError("label: a job without 'out' has no manifest. Hint: its images are in .results")
        return manifest.read_rows(self.out)


Progress = Callable[[LabelSummary, ImageResult | None], None]


def label(
    images: Images,
    model: Any = BUILT_IN,
    out: str | os.PathLike[str] | None = None,
    *,
    restart: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> LabelSummary:
    """Labels images: a folder, a file, a list of files, a text file of names, a VOC folder, a COCO file, tar files.

    Args:
        images: see above.
        model: the name "efficientnet-lite0", a checkpoint, an exported file, a network of `methods.create`, or any object
            with ``class_names``, ``identity`` and ``predict`` (`label.predict.Model`).
        out: folder for masks and manifest; an earlier job in it is resumed. Without it the masks are in ``.results``.
        restart: label everything again.
        progress: called with the summary and each result, from one thread at a time.
        **settings: those of `LabelSettings`.

    An image that cannot be read is a failed result, not an exception.
    """
    chosen = LabelSettings.create(**settings)
    folder_path = Path(out) if out is not None else None
    files_only = {"ray": chosen.ray is not None, "shard": chosen.shard is not None, "report": chosen.report}
    files_only["format"] = chosen.format not in ("palette", "index")
    if folder_path is None and any(files_only.values()):
        name = next(name for name, asked in files_only.items() if asked)
        raise SettingsError(f"label: '{name}' is for files, and without 'out' none are written")
    plan = make_plan(
        images,
        folder_path,
        operation="label",
        split=chosen.split,
        root=chosen.root,
        batch=chosen.batch,
        shard=chosen.place,
    )
    if folder_path is not None:
        claims.check_names(plan, chosen)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_openmp.threads(chosen.threads))
        cluster = None if chosen.ray is None else stack.enter_context(contextlib.closing(_cluster(model, chosen, plan)))
        loaded = load_model(model, chosen) if cluster is None else cluster.model
        chosen = resolved(loaded, chosen)
        _check_classes(loaded, chosen)
        collect.check(chosen.format)
        walk = load_walk(chosen) if cluster is None else cluster.model.walk
        table = None if chosen.labels is None else read_table(loaded, chosen, model)
        labels = None if table is None else _joined(plan, table)
        summary = LabelSummary(total=len(plan), out=folder_path)
        counter = _Counter(summary, progress, chosen.max_failures)
        job = _job(cluster, plan, chosen, loaded, walk, labels, counter, counter.too_many)
        decoders = stack.enter_context(contextlib.closing(job.decoders()))
        if folder_path is None:
            job.in_memory(decoders)
        else:
            header = _header(loaded, walk, chosen, table)
            _run(job, header, folder_path, decoders, restart, summary, progress)
        summary.stopped = counter.too_many()
    return summary


def _job(cluster: Cluster | None, *parts: Any) -> Job:
    if cluster is None:
        return Job(*parts)
    from wsss_fast.label.ray_job import ClusterJob

    return ClusterJob(*parts, cluster=cluster)


def _cluster(model: Any, settings: LabelSettings, plan: Plan) -> Cluster:
    from wsss_fast.label.ray_cluster import Cluster

    return Cluster(model, settings, plan)


def _run(
    job: Job,
    header: dict[str, Any],
    path: Path,
    decoders: Decoders,
    restart: bool,
    summary: LabelSummary,
    progress: Progress | None,
) -> None:
    folder = OutputFolder(path, "label")
    try:
        shard = job.plan.shard
        lock = Lock(folder, claims.lock_name(shard))
        try:
            if restart:
                claims.retire_others(folder, shard)
            claim = claims.Claims(job.plan, folder, job.settings)
            record = manifest.Manifest(folder, shard, DoneTable(job.plan))
            plan = {"images": len(job.plan.names), "batch": job.plan.batch, "sha256": job.plan.digest()}
            try:
                record.open(header, plan, restart, claim.check_all)
                claim.claim_overlays(record, restart)
                _remove_renamed(job.plan, record.done, folder, job.settings.format)
                computed = job.to_folder(decoders, folder, record)
                if not job.too_many_failed():
                    job.collected(folder, record, computed)
                _write_failures(job.plan, record, folder, claims.failures_name(shard))
            finally:
                record.close()
            if job.settings.report:
                _write_report(job, folder, decoders, summary, progress)
        finally:
            lock.release()
    finally:
        folder.close()


def _write_report(job: Job, folder: OutputFolder, decoders: Decoders, summary: LabelSummary, progress: Progress | None) -> None:
    """A report that cannot be written never costs the labels: what went wrong is in the summary."""
    from wsss_fast.label.report import INDEX, report

    def tell(done: int, of: int) -> None:
        summary.pictured = (done, of)
        if progress is not None:
            progress(summary, None)

    try:
        if report(job, folder, decoders, tell):
            summary.report = folder.path / INDEX
    except Exception as error:
        logger.debug("the report failed", exc_info=True)
        summary.report_failure = error


class _Counter:
    """Rows to counts, results and calls of ``progress``. Images are finished by several threads."""

    def __init__(self, summary: LabelSummary, progress: Progress | None, max_failures: int | None) -> None:
        self._summary = summary
        self._max_failures = max_failures
        self._progress = progress
        self._lock = threading.Lock()

    def __call__(self, image: PlannedImage, row: dict[str, Any] | None, mask: Mask | None) -> None:
        summary = self._summary
        with self._lock:
            result = None
            if row is None:
                summary.skipped += 1
            else:
                result = self._result(row, mask)
                if summary.out is None:
                    summary.results.append(result)
                if result.status == "ok":
                    summary.labelled += 1
                    summary.empty += not result.classes
                else:
                    summary.failed += 1
                    if len(summary.failures) < _FAILURES_KEPT:
                        summary.failures.append(result)
                    logger.info("%s: %s", printable(result.image), result.reason)
            if self._progress is not None:
                self._progress(summary, result)

    def too_many(self) -> bool:
        return self._max_failures is not None and self._summary.failed > self._max_failures

    def _result(self, row: dict[str, Any], mask: Mask | None) -> ImageResult:
        if row["status"] != "ok":
            return ImageResult(row["image"], "failed", row["reason"])
        out = self._summary.out
        output = None if out is None else out / row["output"]
        values = mask.values if out is None and mask is not None else None
        return ImageResult(row["image"], "ok", "", tuple(row["classes"]), tuple(row["scores"]), output, values)


def _check_classes(model: Model, settings: LabelSettings) -> None:
    most = _MOST_CLASSES.get(settings.format, MAX_CLASSES)
    if not 1 <= len(model.class_names) <= most:
        must = "'classes' must hold 1 to {} groups" if settings.grouped else "'model' must have 1 to {} classes"
        hint = "--format index writes 16-bit masks, --classes FILE.yaml gathers classes into groups"
        if most != MAX_CLASSES:
            hint = "no mask can tell so many apart"
        raise SettingsError(f"label: {must.format(most)}, got {len(model.class_names)}. Hint: {hint}")


def _joined(plan: Plan, table: ImageLabels) -> Labels:
    """The classes of every image of the plan that the labels name, as places in the model's classes."""
    joined, missing = table.join([name for name in plan.names if name not in plan.tars])
    if missing:
        logger.warning("%d of %d images have no labels and will fail", len(missing), len(plan.names))
    return joined


def _remove_renamed(plan: Plan, done: DoneTable, folder: OutputFolder, kind: str) -> None:
    """A new neighbour can turn ``a.png`` into ``a.jpg.png``; the old mask must not stay and pass for another's."""
    moved = set(done.moved())
    taken = {image.output for image in plan.images() if image.output in moved} if moved else set()
    for old in sorted(moved - taken):
        folder.remove(formats.main_file(old, kind))


def _write_failures(plan: Plan, record: manifest.Manifest, folder: OutputFolder, name: str) -> None:
    """``failures.jsonl``: image and reason, in the order of the plan; there is none when nothing failed."""
    lines = []
    for image in plan.images():
        done = record.done.get(image.number)
        if done is not None and not done.ok:
            lines.append(json.dumps({"image": image.name, "reason": done.reason, "lasting": done.lasting}) + "\n")
    data = "".join(lines).encode("ascii")
    if data:
        folder.write(name, data)
    else:
        folder.remove(name)


def _header(model: Model, walk: Walk | None, settings: LabelSettings, table: ImageLabels | None) -> dict[str, Any]:
    decided = {**settings.for_manifest(), "labels": "predicted" if settings.labels is None else "given"}
    return {
        "schema": manifest.SCHEMA,
        "settings": {**decided, "walk": None if walk is None else walk.identity},
        "model": model.identity,
        "classes": list(model.class_names),
        **({"dropped_labels": {name: len(images) for name, images in table.unknown.items()}} if table and table.unknown else {}),
        **manifest.tool(),
    }
