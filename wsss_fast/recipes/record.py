"""What is known of a stage's folder: what it was asked to make, whether it is done, and whether that is still what lies there.

``stage.json`` is written last and says all: settings and hashes of inputs (the identity), outcome, and a hash of what was
made. Until then ``.wsss-begun.json`` holds the identity, so that a stage that was stopped is not gone on with otherwise.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsss_fast._settings import differences, plain
from wsss_fast._version import __version__
from wsss_fast.files.folder import OutputFolder
from wsss_fast.files.names import printable
from wsss_fast.files.whole import file_sha256
from wsss_fast.recipes.schema import RecipeError

STAGE = "stage.json"
BEGUN = ".wsss-begun.json"
SCHEMA = 1


@dataclass(frozen=True)
class Contents:
    """What a stage made. The stamp (names, sizes, times) is quick to look at; only where it differs the bytes are read again."""

    files: int
    size: int
    stamp: str
    sha256: str


@dataclass(frozen=True)
class Done:
    identity: dict[str, Any]
    outcome: dict[str, Any]
    seconds: float
    contents: Contents


def contents(folder: Path, only: str | None = None) -> Contents:
    """Of all files that the stage made, or of one of them."""
    files = _files(folder, only)
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape"))
        digest.update(bytes.fromhex(file_sha256(path)))
    return Contents(len(files), sum(path.stat().st_size for path in files), _stamp(folder, files), digest.hexdigest())


def read(folder: Path) -> Done | None:
    """What is said about a finished stage; None if it is not finished."""
    told = _read_json(folder / STAGE)
    if told is None:
        return None
    try:
        if told["schema"] != SCHEMA:
            raise ValueError
        return Done(dict(told["identity"]), dict(told["outcome"]), float(told["seconds"]), Contents(**told["contents"]))
    except (KeyError, TypeError, ValueError):
        raise RecipeError(f"run: {printable(str(folder / STAGE))} is damaged. Hint: --from {stage_of(folder)}") from None


def begun(folder: Path) -> dict[str, Any] | None:
    """Identity and seconds of a stage that was begun."""
    return _read_json(folder / BEGUN)


def refuse_link(folder: Path) -> None:
    if folder.is_symlink():
        raise RecipeError(f"run: {printable(str(folder))} is a link, which a run does not write through. Hint: remove the link")


def refuse_foreign(folder: Path) -> None:
    refuse_link(folder)
    ours = (folder / STAGE).is_file() or (folder / BEGUN).is_file()
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(f"run: {printable(str(folder))} holds files that no recipe wrote. Hint: give another --out")


def begin(folder: Path, identity: dict[str, Any], seconds: float) -> None:
    refuse_foreign(folder)
    _write(folder, BEGUN, {"identity": identity, "seconds": round(seconds, 3)})


def finish(folder: Path, stage: str, identity: dict[str, Any], outcome: dict[str, Any], seconds: float, made: Contents) -> Done:
    told = {"schema": SCHEMA, "stage": stage, "outcome": outcome, "seconds": round(seconds, 3), "identity": identity}
    _write(folder, STAGE, {**told, "contents": asdict(made), "wsss_fast": __version__})
    return Done(identity, outcome, seconds, made)


def check(folder: Path, stage: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses what was made, or half made, otherwise than it is asked for now."""
    changes = differences(found, plain(wanted))
    if changes:
        raise RecipeError(
            f"run: {printable(folder.name)} was made otherwise:\n  "
            + "\n  ".join(changes)
            + f"\nHint: --from {stage} makes it and what follows again; another --out keeps both"
        )


def check_contents(folder: Path, stage: str, done: Done, only: str | None) -> None:
    """Refuses files that were changed after the stage was done."""
    files = _files(folder, only)
    if _stamp(folder, files) == done.contents.stamp:
        return
    now = contents(folder, only)
    if now.sha256 != done.contents.sha256:
        raise RecipeError(
            f"run: the files of {printable(folder.name)} are not those that the stage made: {done.contents.files} files and "
            f"{done.contents.size} bytes before, {now.files} files and {now.size} bytes now, not the same. "
            f"Hint: --from {stage} makes them and what follows again"
        )


def clear(folder: Path) -> None:
    """Removes a stage, if a stage is what lies there."""
    refuse_link(folder)
    if (folder / STAGE).is_file() or (folder / BEGUN).is_file():
        shutil.rmtree(folder)


def stage_of(folder: Path) -> str:
    return folder.name.partition("-")[2]


def digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _files(folder: Path, only: str | None) -> list[Path]:
    if only is not None:
        return [folder / only] if (folder / only).is_file() else []
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if path.name != STAGE and not path.name.startswith(".wsss-"))


def _stamp(folder: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        info = path.stat()
        line = f"{path.relative_to(folder).as_posix()}\0{info.st_size}\0{info.st_mtime_ns}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise RecipeError(f"run: {printable(str(path))} is damaged. Hint: --from {stage_of(path.parent)}")
    return told


def _write(folder: Path, name: str, told: dict[str, Any]) -> None:
    out = OutputFolder(folder, "run")
    try:
        out.write(name, json.dumps(told, indent=1).encode() + b"\n")
    finally:
        out.close()
