"""Built engines and the records of how they were built.

Running an engine is running its code, so an engine is loaded only if this cache built it: its SHA-256 must stand in a record
here. The folder belongs to the user alone. A changed byte, another GPU, driver or library make it a different engine, which is
built anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsss_fast.export.trt.spec import key_of
from wsss_fast.files.whole import file_sha256, whole_file

SUFFIX = ".engine"


class EngineCache:
    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder() if folder is None else folder
        make_private(self.folder)

    def engine_path(self, facts: dict[str, Any]) -> Path:
        return self.folder / f"{key_of(facts)}{SUFFIX}"

    def find(self, facts: dict[str, Any]) -> dict[str, Any] | None:
        """The record of an engine with these facts whose file is as it was written."""
        path = self.engine_path(facts)
        record = read_record(record_path(path))
        if record is None or record.get("facts") != facts:
            return None
        return record if sha256_of(path) == record["engine_sha256"] else None

    def known(self, digest: str) -> dict[str, Any] | None:
        """The record of an engine by the SHA-256 of its bytes: None for engines that were not built here."""
        for path in self.folder.glob("*.json"):
            record = read_record(path)
            if record is not None and record.get("engine_sha256") == digest:
                return record
        return None

    def keep(self, facts: dict[str, Any], built: Path, layers: dict[str, Any]) -> dict[str, Any]:
        """Takes a freshly built engine in; gives its record."""
        path = self.engine_path(facts)
        record = {"facts": facts, "engine_sha256": sha256_of(built), "bytes": built.stat().st_size, **layers}
        built.replace(path)
        write_record(record_path(path), record)
        return record

    @contextlib.contextmanager
    def lock(self, facts: dict[str, Any]) -> Iterator[None]:
        """One process builds an engine, others wait for it."""
        import fcntl

        with (self.folder / f"{key_of(facts)}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def cache_folder() -> Path:
    own = os.environ.get("WSSS_CACHE")
    if own:
        return Path(own) / "engines"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "wsss_fast" / "engines"


def record_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json")


def write_record(path: Path, record: dict[str, Any]) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str | None:
    """None for a file that cannot be read."""
    try:
        return file_sha256(path)
    except OSError:
        return None


def read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(folder):
        hint = f"chmod go-w '{folder}', or set WSSS_CACHE to a folder of your own"
        raise PermissionError(
            f"export: the engine cache '{folder}' can be written by others, who could put code there. Hint: {hint}"
        )


def is_private(folder: Path) -> bool:
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
