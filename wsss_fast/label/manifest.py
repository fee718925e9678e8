"""``manifest.jsonl``: what a job is, and what became of each image. Append-only; the last line for an image counts.

    {"kind": "header", "schema": 2, "settings": {...}, "model": {...}, "classes": [...]}   always the first line
    {"kind": "plan", "images": 3, "batch": 8, "sha256": "..."}   members and their order; again when they changed
    {"kind": "image", "image": "a.jpg", "status": "ok", "output": "a.png", "sha256": "...", ...}
    {"kind": "image", "image": "b.jpg", "status": "failed", "reason": "...", ...}
    {"kind": "folder", "output": "overlays"}   before the first of them is written: the job may replace what is in it
    {"kind": "file", "output": "coco.json", "sha256": "...", ...}   of all images, at the end

A shard has its own: ``manifest-i-of-n.jsonl``. The lines of a batch are appended in one write after its masks are on disk: a
line never speaks of a mask that is not there. A torn last line (power cut) is dropped when the job is resumed. Lines hold no
times of day: the same job gives the same manifest.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast._settings import differences
from wsss_fast._version import __version__
from wsss_fast.files.folder import OutputFolder, write_all
from wsss_fast.files.names import printable, short
from wsss_fast.files.regular import open_regular
from wsss_fast.label.done import DoneTable

logger = logging.getLogger("wsss_fast.label")

NAME = "manifest.jsonl"
SCHEMA = 2
# What must be equal for a job to be resumed.
COMPARED = ("schema", "settings", "model", "classes")
# What may differ, with a warning: a repaired machine or a new release must be able to finish a job.
MADE_BY = ("tool", "made_with")
_SHARD = re.compile(r"manifest-([0-9]+)-of-([0-9]+)\.jsonl")
_NEEDED = {"image": ("image", "status"), "file": ("output",)}
_FIELDS: dict[str, type] = {
    **dict.fromkeys(("kind", "image", "status", "reason", "output", "sha256", "format"), str),
    **dict.fromkeys(("output_bytes", "size", "mtime_ns", "width", "height"), int),
    **dict.fromkeys(("classes", "scores", "share", "further", "labels"), list),
    **dict.fromkeys(("settings", "model"), dict),
}
_LONGEST_LINE = 1 << 26
_SHOWN = 30  # differences
_RESTART = "Hint: --restart labels everything again"


class ManifestError(ValueError):
    """The output folder belongs to another job, or its manifest cannot be read."""


def suffix(shard: tuple[int, int]) -> str:
    """What the files of a shard have in their names: nothing where one job does all."""
    return "" if shard[1] == 1 else f"-{shard[0]}-of-{shard[1]}"


def name_of(shard: tuple[int, int]) -> str:
    return f"manifest{suffix(shard)}.jsonl"


def tool() -> dict[str, Any]:
    """For the header: what made the masks, besides settings and model."""
    import PIL
    import torch

    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pillow": PIL.__version__,
        "numpy": np.__version__,
    }
    processor = torch.backends.cpu.get_cpu_capability()
    return {"tool": f"wsss_fast {__version__}", "made_with": {**versions, "processor": processor}}


class Manifest:
    """The open manifest of a running job."""

    def __init__(self, folder: OutputFolder, shard: tuple[int, int], done: DoneTable) -> None:
        self._folder = folder
        self._shard = shard
        self._name = name_of(shard)
        self._handle: int | None = None
        self.done = done
        self.files: dict[str, dict[str, Any]] = {}
        self.folders: set[str] = set()
        self._plan: dict[str, Any] | None = None
        self._made_by_others: list[str] = []

    def open(self, header: dict[str, Any], plan: dict[str, Any], restart: bool, before_first: Callable[[], None]) -> None:
        """``before_first`` is called before the first header of a folder is written, unless somebody asks for a restart."""
        if restart:
            self._start(header)
        else:
            self._check_neighbours(header, plan)
            if not self._resumed(header):
                before_first()
                self._start(header)
        self._handle = self._folder.open_append(self._name)
        if self._plan != plan:
            self.append([{"kind": "plan", **plan}])
        if self._made_by_others:
            logger.warning(
                "a part of this job is made by other versions or another processor, so a few pixels may differ from those "
                "of one machine: %s",
                "; ".join(self._made_by_others),
            )

    def _check_neighbours(self, header: dict[str, Any], plan: dict[str, Any]) -> None:
        for path in manifests(self._folder.path):
            shard = shard_of(path)
            if shard == self._shard:
                continue
            if shard[1] != self._shard[1]:
                mine, theirs = (f"{n} shards" if n > 1 else "one job" for n in (self._shard[1], shard[1]))
                raise ManifestError(
                    f"label: {printable(str(path.parent))} is labelled by {theirs}, not by {mine}. Hint: give the same --shard "
                    "i/n, or another --out, or --restart to label everything again"
                )
            first = list(itertools.islice(_records(path), 2))
            if first:
                self._compare(first[0][0], header, path)
            if len(first) == 2 and {**first[1][0], "kind": 0} != {**plan, "kind": 0}:
                raise ManifestError(
                    f"label: {printable(path.name)} was planned from other images or batches. Hint: all shards need the same "
                    "images; --restart, for every shard, labels everything again"
                )

    def _compare(self, found: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
        if found.get("kind") != "header":
            raise ManifestError(f"label: {printable(str(path))} does not begin with a header. {_RESTART}")
        changes = [change for key in COMPARED for change in differences(found.get(key), wanted[key], key)]
        if changes:
            raise ManifestError(
                f"label: {printable(str(path.parent))} holds masks made differently:\n  "
                + "\n  ".join(map(short, changes[:_SHOWN]))
                + (f"\n  and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else "")
                + "\nHint: use the earlier settings, or another --out, or --restart to label everything again"
            )
        if not self._made_by_others:  # of many shards the first that differs stands for all
            self._made_by_others = [change for key in MADE_BY for change in differences(found.get(key), wanted[key], key)]

    def _start(self, header: dict[str, Any]) -> None:
        self._folder.write(self._name, _line({"kind": "header", **header}))

    def _resumed(self, header: dict[str, Any]) -> bool:
        """False without a manifest of this shard; one that is empty says nothing."""
        path = self._folder.path / self._name
        if path not in manifests(self._folder.path):
            return False
        found: dict[str, Any] | None = None
        whole = 0
        for number, (record, end) in enumerate(_records(path), 1):
            whole = end
            if number == 1:
                found = record
                self._compare(record, header, path)
            elif record.get("kind") == "plan":
                self._plan = {key: value for key, value in record.items() if key != "kind"}
            elif record.get("kind") == "file":
                self.files[str(record.get("output"))] = record
            elif record.get("kind") == "folder":
                self.folders.add(str(record.get("output")))
            elif record.get("kind") == "image":
                try:
                    self.done.note(record)
                except (KeyError, TypeError, ValueError, OverflowError):
                    raise ManifestError(f"label: line {number} of {printable(str(path))} is damaged. {_RESTART}") from None
        if found is not None and whole < path.stat().st_size:
            handle = self._folder.open_append(self._name)
            try:
                os.ftruncate(handle, whole)
            finally:
                os.close(handle)
        return found is not None

    def append(self, rows: list[dict[str, Any]]) -> None:
        assert self._handle is not None
        with self._folder.errors(self._name):
            write_all(self._handle, b"".join(_line(row) for row in rows))
            os.fsync(self._handle)
        for row in rows:
            if row["kind"] == "image":
                self.done.note(row)
            elif row["kind"] == "file":
                self.files[row["output"]] = row
            elif row["kind"] == "folder":
                self.folders.add(row["output"])

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every image row, some of them overtaken by later ones."""
        return (record for record, _ in _records(self._folder.path / self._name) if record.get("kind") == "image")

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def manifests(out: Path) -> list[Path]:
    """Those of a folder: one, or one a shard."""
    if not out.is_dir():
        return []
    names = [entry.name for entry in os.scandir(out) if entry.name == NAME or _SHARD.fullmatch(entry.name)]
    return sorted((out / name for name in names), key=lambda path: shard_of(path)[0])


def shard_of(path: Path) -> tuple[int, int]:
    found = _SHARD.fullmatch(path.name)
    return (int(found[1]), int(found[2])) if found else (0, 1)


def read_header(out: Path) -> dict[str, Any]:
    """What the job of a folder is: settings, model, classes."""
    for path in manifests(out):
        for record, _ in _records(path):
            return record
    raise ManifestError(f"label: {printable(str(out))} holds no {NAME}")


def read_rows(out: Path) -> dict[str, dict[str, Any]]:
    """The last row of every image of a finished or interrupted job, of all its shards, by image name."""
    return {row["image"]: row for row in image_rows(out)}


def image_rows(out: Path) -> Iterator[dict[str, Any]]:
    """Every image row of all shards, some of them overtaken by later ones."""
    for path in manifests(out) or [out / NAME]:
        yield from (record for record, _ in _records(path) if record.get("kind") == "image")


def read_files(out: Path) -> dict[str, dict[str, Any]]:
    """The rows of files that speak of all images."""
    found = (record for path in manifests(out) for record, _ in _records(path) if record.get("kind") == "file")
    return {str(record.get("output")): record for record in found}


def classes_of_job(out: Path) -> list[str]:
    """The class names a job's masks were made with, in the order of the mask values; empty without a manifest."""
    for path in manifests(out):
        for record, _ in _records(path):
            return [str(name) for name in record.get("classes", [])]
    return []


def _records(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole line with the offset behind it."""
    try:
        handle = open_regular(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise ManifestError(f"label: cannot read {printable(str(path))}: {error.strerror}") from None
    end = 0
    with os.fdopen(handle, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 1):
            if not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
                return
            end += len(line)
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict) or not _is_sound(record):
                raise ManifestError(f"label: line {number} of {printable(str(path))} is damaged. {_RESTART}")
            yield record, end


def _is_sound(record: dict[str, Any]) -> bool:
    """Whether what readers take from it has the type that we write."""
    needed = _NEEDED.get(str(record.get("kind")), ())
    files = record.get("further", [])
    return (
        all(name in record for name in needed)
        and all(type(record[name]) is kind for name, kind in _FIELDS.items() if name in record)
        and all(isinstance(file, dict) and _is_sound({"kind": "file", **file}) for file in files)
    )


def _line(record: dict[str, Any]) -> bytes:
    # ASCII only: a name with a line feed or with bytes that are not UTF-8 survives the round trip.
    return json.dumps(record, ensure_ascii=True, separators=(", ", ": ")).encode("ascii") + b"\n"
