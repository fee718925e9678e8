"""``manifest.jsonl``: what a job is, and what became of each image. Append-only; the last line for an image counts.

    {"kind": "header", "schema": 1, "settings": {...}, "model": {...}, "classes": [...]}   always the first line
    {"kind": "plan", "images": 3, "batch": 8, "sha256": "..."}   members and their order; again when they changed
    {"kind": "image", "image": "a.jpg", "status": "ok", "output": "a.png", "sha256": "...", ...}
    {"kind": "image", "image": "b.jpg", "status": "failed", "reason": "...", ...}

The lines of a batch are appended in one write after its masks are on disk: a line never speaks of a mask that is not
there. A torn last line (power cut) is dropped when the job is resumed. Lines hold no times of day: the same job gives
the same manifest.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss_fast.label.plan import short_output
from wsss_fast.label.write import OutputFolder, OutputStoppedError, write_all

NAME = "manifest.jsonl"
SCHEMA = 1
# What must be equal for a job to be resumed. The rest of the header (library versions, ...) is for the reader.
COMPARED = ("schema", "settings", "model", "classes")


class ManifestError(ValueError):
    """The output folder belongs to another job, or its manifest cannot be read."""


@dataclass(frozen=True, slots=True)
class Done:
    """What resume needs to know about one finished image; a million of these must stay small."""

    ok: bool
    lasting: bool
    output_bytes: int
    size: int
    mtime_ns: int
    output: str | None  # None: the plain name, as nearly always
    reason: str


class Manifest:
    """The open manifest of a running job."""

    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder
        self._handle: int | None = None
        self.done: dict[str, Done] = {}
        self._plan: dict[str, Any] | None = None

    def open(self, header: dict[str, Any], plan: dict[str, Any], restart: bool) -> None:
        self._lock()
        if restart or self._folder.size(NAME) is None:
            self._start(header)
        else:
            self._resume(header)
        self._handle = self._folder.open_append(NAME)
        if self._plan != plan:
            self.append([{"kind": "plan", **plan}])

    def _lock(self) -> None:
        if not self._folder.lock():
            raise ManifestError(f"label: another job is writing to {self._folder.path}. Hint: wait for it, or give another --out")

    def _start(self, header: dict[str, Any]) -> None:
        self._folder.write(NAME, _line({"kind": "header", **header}))

    def _resume(self, header: dict[str, Any]) -> None:
        path = self._folder.path / NAME
        found: dict[str, Any] | None = None
        whole = 0
        for number, (record, end) in enumerate(_records(path), 1):
            whole = end
            if number == 1:
                found = record
                _compare(record, header, path)
            elif record.get("kind") == "plan":
                self._plan = {key: value for key, value in record.items() if key != "kind"}
            elif record.get("kind") == "image":
                self.done[record["image"]] = _done(record, path, number)
        if found is None:
            self._start(header)
        elif whole < path.stat().st_size:
            handle = self._folder.open_append(NAME)
            try:
                os.ftruncate(handle, whole)
            finally:
                os.close(handle)

    def append(self, rows: list[dict[str, Any]]) -> None:
        assert self._handle is not None
        try:
            write_all(self._handle, b"".join(_line(row) for row in rows))
            os.fsync(self._handle)
        except OSError as error:
            raise OutputStoppedError(
                f"label: cannot write {self._folder.path / NAME}: {error.strerror}. "
                "Hint: make room or rights, then run the same command again: it goes on where it stopped"
            ) from None

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        with contextlib.suppress(OSError):
            fcntl.flock(self._folder.descriptor, fcntl.LOCK_UN)


def read_rows(out: Path) -> dict[str, dict[str, Any]]:
    """The last row of every image of a finished or interrupted job, by image name."""
    rows: dict[str, dict[str, Any]] = {}
    for record, _ in _records(out / NAME):
        if record.get("kind") == "image":
            rows[record["image"]] = record
    return rows


def classes_of_job(out: Path) -> list[str]:
    """The class names a job's masks were made with, in the order of the mask values; empty without a manifest."""
    for path in sorted(out.glob("manifest*.jsonl")):
        for record, _ in _records(path):
            return [str(name) for name in record.get("classes", [])]
    return []


def _records(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole line with the offset behind it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ManifestError(f"label: cannot read {path}: {error.strerror}") from None
    end = 0
    with os.fdopen(handle, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise ManifestError(f"label: line {number} of {path} is damaged. Hint: --restart labels everything again")
            yield record, end


def _done(record: dict[str, Any], path: Path, number: int) -> Done:
    try:
        return Done(
            record["status"] == "ok",
            bool(record.get("lasting", True)),
            int(record.get("output_bytes", 0)),
            int(record["size"]),
            int(record["mtime_ns"]),
            _unusual_output(record),
            str(record.get("reason", "")),
        )
    except (KeyError, TypeError, ValueError):
        raise ManifestError(f"label: line {number} of {path} is damaged. Hint: --restart labels everything again") from None


def _unusual_output(record: dict[str, Any]) -> str | None:
    output = record.get("output")
    return None if output is None or output == short_output(record["image"]) else str(output)


def _compare(found: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    if found.get("kind") != "header":
        raise ManifestError(f"label: {path} does not begin with a header. Hint: --restart labels everything again")
    changes = [change for key in COMPARED for change in differences(key, found.get(key), wanted[key])]
    if changes:
        raise ManifestError(
            f"label: {path.parent} holds masks made differently:\n  "
            + "\n  ".join(changes)
            + "\nHint: use the earlier settings, or another --out, or --restart to label everything again"
        )


def differences(name: str, old: Any, new: Any) -> list[str]:
    """A line for each setting that is not what it was."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [line for key in keys for line in differences(f"{name}.{key}", old.get(key), new.get(key))]
    if old == new:
        return []
    if isinstance(old, list) and isinstance(new, list) and len(old) + len(new) > 40:
        return [f"{name}: {len(old)} entries before, {len(new)} now, not the same"]
    return [f"{name}: {json.dumps(old)} before, {json.dumps(new)} now"]


def _line(record: dict[str, Any]) -> bytes:
    # ASCII only: a name with a line feed or with bytes that are not UTF-8 survives the round trip.
    return json.dumps(record, ensure_ascii=True, separators=(", ", ": ")).encode("ascii") + b"\n"
