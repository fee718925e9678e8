"""The labelling pipeline: plan → read → predict → refine → write, one planned batch after the other."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast._version import __version__
from wsss_fast.label import manifest as manifests
from wsss_fast.label.names import printable
from wsss_fast.label.plan import Plan, PlanError, PlannedImage, make_plan, short_output
from wsss_fast.label.predict import Engine, load_engine, resize_to_side
from wsss_fast.label.read import ImageError, Picture, read_image, stamp_of
from wsss_fast.label.refine import Mask, make_mask
from wsss_fast.label.settings import LabelSettings
from wsss_fast.label.write import OutputFolder, OutputRefusedError, mask_png

logger = logging.getLogger("wsss_fast.label")

OVERLAYS = "overlays"
_FAILURES_KEPT = 1000


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
    out: Path | None = None
    results: list[ImageResult] = field(default_factory=list)
    failures: list[ImageResult] = field(default_factory=list)

    def rows(self) -> dict[str, dict[str, Any]]:
        if self.out is None:
            raise ValueError("label: a job without 'out' has no manifest. Hint: its images are in .results")
        return manifests.read_rows(self.out)


Progress = Callable[[LabelSummary, ImageResult | None], None]


def label(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    model: str | Engine = "efficientnet-lite0",
    out: str | os.PathLike[str] | None = None,
    *,
    restart: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> LabelSummary:
    """Labels a folder (or a file, or a list of files). ``settings`` are those of ``LabelSettings``.

    With ``out``: one palette PNG an image and ``manifest.jsonl``; an earlier job in the folder is resumed. Without: the
    masks are in ``.results``. An image that cannot be read is a failed result, not an exception.
    """
    chosen = LabelSettings.create(**settings)
    folder_path = Path(out) if out is not None else None
    plan = make_plan(images, folder_path, chosen.batch)
    job = _Job(plan, chosen, LabelSummary(total=len(plan.images), out=folder_path), progress)
    if folder_path is None:
        return job.run_in_memory(load_engine(model, chosen))
    _refuse_foreign_files(plan, folder_path, restart)
    engine = load_engine(model, chosen)
    folder = OutputFolder(folder_path)
    try:
        return job.run(engine, folder, restart)
    finally:
        folder.close()


class _Job:
    def __init__(self, plan: Plan, settings: LabelSettings, summary: LabelSummary, progress: Progress | None) -> None:
        self.plan = plan
        self.settings = settings
        self.summary = summary
        self.progress = progress

    def run_in_memory(self, engine: Engine) -> LabelSummary:
        for image in self.plan.images:
            try:
                _, mask = self._compute(engine, image)
            except ImageError as error:
                result = ImageResult(image.name, "failed", printable(str(error)))
            else:
                names = tuple(engine.class_names[index] for index in mask.classes)
                result = ImageResult(image.name, "ok", "", names, mask.scores, None, mask.values)
            self.summary.results.append(result)
            self._count(result)
        return self.summary

    def run(self, engine: Engine, folder: OutputFolder, restart: bool) -> LabelSummary:
        manifest = manifests.Manifest(folder)
        header = _header(engine, self.settings)
        plan = {"images": len(self.plan.images), "batch": self.plan.batch, "sha256": self.plan.digest()}
        try:
            manifest.open(header, plan, restart)
            self._remove_renamed(manifest, folder)
            for members in self.plan.batches():
                if self._finished(members, manifest, folder):
                    self._skip(members, manifest)
                    continue
                # One write for the whole batch: after an interruption it is either there or computed again.
                rows = [row for image in members for row in self._one(engine, image, folder)]
                manifest.append(rows)
        finally:
            manifest.close()
        return self.summary

    def _remove_renamed(self, manifest: manifests.Manifest, folder: OutputFolder) -> None:
        """A new neighbour can turn ``a.png`` into ``a.jpg.png``; the old mask must not stay and pass for another's."""
        moved = [
            old
            for image in self.plan.images
            if (done := manifest.done.get(image.name)) is not None and done.ok
            if (old := done.output or short_output(image.name)) != image.output
        ]
        taken = {image.output for image in self.plan.images} if moved else set()
        for old in moved:
            if old not in taken:
                folder.remove(old)

    def _one(self, engine: Engine, image: PlannedImage, folder: OutputFolder) -> Iterator[dict[str, Any]]:
        row: dict[str, Any] = {"kind": "image", "image": image.name}
        try:
            stamp = stamp_of(self.plan.path(image))
            row.update(size=stamp.size, mtime_ns=stamp.mtime_ns)
            picture, mask = self._compute(engine, image)
            names = [engine.class_names[index] for index in mask.classes]
            data = mask_png(mask.values)
            folder.write(image.output, data)
            if self.settings.overlay:
                self._write_overlay(folder, image, picture, mask, names)
        except (ImageError, OutputRefusedError) as error:
            reason = printable(str(error))
            row.setdefault("size", -1)
            row.setdefault("mtime_ns", -1)
            lasting = error.lasting if isinstance(error, ImageError) else False
            row.update(status="failed", reason=reason, lasting=lasting)
            self._count(ImageResult(image.name, "failed", reason))
        else:
            row.update(size=picture.stamp.size, mtime_ns=picture.stamp.mtime_ns)
            row.update(status="ok", output=image.output, output_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            height, width = mask.values.shape
            row.update(width=width, height=height, format=picture.kind, classes=names, scores=list(mask.scores))
            row["share"] = _shares(mask)
            path = folder.path / image.output
            self._count(ImageResult(image.name, "ok", "", tuple(names), mask.scores, path))
        yield row

    def _compute(self, engine: Engine, image: PlannedImage) -> tuple[Picture, Mask]:
        settings = self.settings
        picture = read_image(self.plan.path(image), settings.max_pixels, settings.max_bytes, settings.exif)
        pixels = picture.pixels
        height, width = pixels.shape[:2]
        bounded = resize_to_side(pixels, settings.max_side) if max(height, width) > settings.max_side else pixels
        return picture, make_mask(engine.predict(bounded), height, width, settings)

    def _write_overlay(self, folder: OutputFolder, image: PlannedImage, picture: Picture, mask: Mask, names: list[str]) -> None:
        from wsss_fast.label.overlay import overlay_jpeg

        legend = [
            (index + 1, f"{name}  {score:.0%}") for index, name, score in zip(mask.classes, names, mask.scores, strict=True)
        ]
        folder.write(overlay_name(image.output), overlay_jpeg(picture.pixels, mask.values, legend))

    def _finished(self, members: tuple[PlannedImage, ...], manifest: manifests.Manifest, folder: OutputFolder) -> bool:
        return all(self._finished_image(image, manifest.done.get(image.name), folder) for image in members)

    def _finished_image(self, image: PlannedImage, done: manifests.Done | None, folder: OutputFolder) -> bool:
        if done is None:
            return False
        try:
            stamp = stamp_of(self.plan.path(image))
        except ImageError:
            return False
        if (stamp.size, stamp.mtime_ns) != (done.size, done.mtime_ns):
            logger.info("%s changed since it was labelled", printable(image.name))
            return False
        if not done.ok:
            return done.lasting
        if self.settings.overlay and folder.size(overlay_name(image.output)) is None:
            return False
        return folder.size(image.output) == done.output_bytes

    def _skip(self, members: tuple[PlannedImage, ...], manifest: manifests.Manifest) -> None:
        for image in members:
            done = manifest.done[image.name]
            if done.ok:
                self.summary.skipped += 1
            else:
                self._count(ImageResult(image.name, "failed", f"as before: {printable(done.reason)}"))
        self._report(None)

    def _count(self, result: ImageResult) -> None:
        if result.status == "ok":
            self.summary.labelled += 1
            self.summary.empty += not result.classes
        else:
            self._fail(result)
        self._report(result)

    def _fail(self, result: ImageResult) -> None:
        self.summary.failed += 1
        if len(self.summary.failures) < _FAILURES_KEPT:
            self.summary.failures.append(result)
        logger.info("%s: %s", printable(result.image), result.reason)

    def _report(self, result: ImageResult | None) -> None:
        if self.progress is not None:
            self.progress(self.summary, result)


def overlay_name(output: str) -> str:
    """Overlays are JPEG and masks PNG: no mask can have an overlay's name."""
    return f"{OVERLAYS}/{output[: -len('.png')]}.jpg"


def _shares(mask: Mask) -> list[float]:
    counts = np.bincount(mask.values.ravel(), minlength=256)
    return [round(float(counts[index + 1]) / mask.values.size, 4) for index in mask.classes]


def _header(engine: Engine, settings: LabelSettings) -> dict[str, Any]:
    import PIL
    import torch

    return {
        "schema": manifests.SCHEMA,
        "settings": settings.for_manifest(),
        "model": engine.identity,
        "classes": list(engine.class_names),
        "tool": f"wsss_fast {__version__}",
        "made_with": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pillow": PIL.__version__,
            "numpy": np.__version__,
            "threads": torch.get_num_threads(),
        },
    }


def _refuse_foreign_files(plan: Plan, out: Path, restart: bool) -> None:
    """A folder without our manifest keeps its files: a mask must not replace somebody's picture of the same name."""
    if not out.is_dir() or restart or (out / manifests.NAME).exists():
        return
    for image in plan.images:
        if os.path.lexists(out / image.output):
            raise PlanError(
                f"label: {printable(str(out / image.output))} is there, and no job to resume wrote it. "
                "Hint: give an empty folder with --out, or --restart to replace it"
            )
