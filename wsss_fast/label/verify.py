"""Whether the files of a finished job are those that its manifest speaks of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsss_fast.files.folder import OutputFolder, OutputRefusedError
from wsss_fast.label import manifest

_SHOWN = 1000


@dataclass
class Verdict:
    files: int = 0
    failed_images: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)  # the first thousand: file, what is wrong
    bad: int = 0

    def add(self, name: str, problem: str) -> None:
        self.bad += 1
        if len(self.problems) < _SHOWN:
            self.problems.append((name, problem))


def verify(out: str | Path) -> Verdict:
    """Reads every file of the job and compares it with size and SHA-256 in the manifest."""
    path = Path(out)
    if not manifest.manifests(path):
        raise manifest.ManifestError(f"label: {path} holds no {manifest.NAME}. Hint: --verify takes the folder given as --out")
    verdict = Verdict()
    folder = OutputFolder(path, "label")
    try:
        for name, row in _files(path, verdict):
            verdict.files += 1
            try:
                data = folder.read(name)
            except (OSError, OutputRefusedError) as error:
                verdict.add(name, f"cannot be read: {getattr(error, 'strerror', None) or error}")
                continue
            if len(data) != row.get("output_bytes"):
                verdict.add(name, f"{len(data)} bytes, and {row.get('output_bytes')} were written")
            elif hashlib.sha256(data).hexdigest() != row.get("sha256"):
                verdict.add(name, "its content changed")
    finally:
        folder.close()
    return verdict


def _files(path: Path, verdict: Verdict) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in manifest.read_rows(path).values():
        if row.get("status") != "ok":
            verdict.failed_images += 1
            continue
        for entry in (row, *row.get("further", ())):
            yield str(entry.get("output")), entry
    for name, row in manifest.read_files(path).items():
        yield name, row
