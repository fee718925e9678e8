"""What a job may write and remove in its output folder: files of its own, never those of whoever had the folder before."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from wsss_fast.files.folder import OutputFolder
from wsss_fast.files.names import printable
from wsss_fast.label import collect, formats, manifest
from wsss_fast.label.job import OVERLAYS, overlay_name
from wsss_fast.label.lock import Lock
from wsss_fast.label.report import FOLDER as REPORT
from wsss_fast.label.report import in_the_way as report_in_the_way
from wsss_fast.label.settings import LabelSettings
from wsss_fast.listing.plan import Plan, PlanError

# Files that stand in the output folder itself, those of shards too, and names of our own in every folder.
_OF_THE_JOB = re.compile(r"(manifest|failures)(-\d+-of-\d+)?\.jsonl|(coco|panoptic|cvat|labelstudio)(-\d+-of-\d+)?\.(json|zip)")
_OURS = ".wsss-"
_PATIENCE = 10.0  # seconds; several shards may begin at once, and each looks after what was there before


def lock_name(shard: tuple[int, int]) -> str:
    return f"{_OURS}lock{manifest.suffix(shard)}"


def failures_name(shard: tuple[int, int]) -> str:
    return f"failures{manifest.suffix(shard)}.jsonl"


def check_names(plan: Plan, settings: LabelSettings) -> None:
    """No folder of images may be called like a file or folder of the job: which of them came first would decide."""
    taken = {collect.PANOPTIC: "format panoptic"} if settings.format == "panoptic" else {}
    if settings.report:
        taken[REPORT] = "--report"
    last = ""
    for name in plan.names:
        folder = name.rpartition("/")[0]
        if folder == last:
            continue
        last = folder
        first, *others = folder.split("/")
        if first in taken:
            raise PlanError(f"label: images in a folder named {first} do not go with {taken[first]}, which writes there")
        ours = [part for part in (first, *others) if part.startswith(_OURS)]
        if _OF_THE_JOB.fullmatch(first) or ours:
            raise PlanError(
                f"label: images in a folder named {printable((ours or [first])[0])} cannot be labelled: the job itself has such "
                "names. Hint: rename the folder, or give it alone as IMAGES"
            )


def retire_others(folder: OutputFolder, shard: tuple[int, int]) -> None:
    """Before everything is labelled again: manifests of another number of shards go, and what only they speak of."""
    with contextlib.ExitStack() as locks:
        others = [found for found in map(manifest.shard_of, manifest.manifests(folder.path)) if found[1] != shard[1]]
        for other in others:
            locks.callback(Lock(folder, lock_name(other), _PATIENCE).release)
        for other in others:
            end = manifest.suffix(other)
            for name in (*(collect.collected_file(kind, end) for kind in formats.COLLECTED), failures_name(other)):
                folder.remove(name)
            folder.remove(manifest.name_of(other))


class Claims:
    """The right to the files of one job. A folder with a manifest of the job is its own."""

    def __init__(self, plan: Plan, folder: OutputFolder, settings: LabelSettings) -> None:
        self._plan = plan
        self._folder = folder
        self._settings = settings

    def check_all(self) -> None:
        """No manifest speaks of the folder: whatever is there is somebody else's."""
        kind, shard = self._settings.format, self._plan.shard
        shared = [failures_name(shard)]
        if kind in formats.COLLECTED:
            shared.append(collect.collected_file(kind, manifest.suffix(shard)))

        def files(output: str) -> list[str]:
            panoptic = [f"{collect.PANOPTIC}/{output}"] if kind == collect.PANOPTIC else []
            overlay = [overlay_name(output)] if self._settings.overlay else []
            return [formats.main_file(output, kind), *formats.further_files(output, kind), *panoptic, *overlay]

        self._refuse(shared, files)
        if self._settings.report and (found := report_in_the_way(self._folder.path)) is not None:
            self._refuse_one(found)

    def _refuse(self, shared: list[str], files: Callable[[str], list[str]]) -> None:
        names = (name for image in self._plan.images() for name in files(image.output))
        for name in (*shared, *names) if self._strangers() else ():
            if os.path.lexists(self._folder.path / name):
                self._refuse_one(self._folder.path / name)

    def _strangers(self) -> bool:
        """Whether there is anything to look for: a new folder holds a lock at most."""
        return any(not entry.name.startswith(_OURS) for entry in self._folder.path.iterdir())

    def _refuse_one(self, path: Path) -> None:
        raise PlanError(
            f"label: {printable(str(path))} is there, and no job to resume wrote it. "
            "Hint: give an empty folder with --out, or --restart to replace it"
        )

    def claim_overlays(self, record: manifest.Manifest, restart: bool) -> None:
        """They can be asked for later, and no row of an image speaks of them: one row does for all."""
        if self._settings.overlay and OVERLAYS not in record.folders:
            if not restart:
                self._refuse([], lambda output: [overlay_name(output)])
            record.append([{"kind": "folder", "output": OVERLAYS}])
