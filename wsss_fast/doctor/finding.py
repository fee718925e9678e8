"""What a probe answers, and what the probes share: a process of their own, versions, sizes for people."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OK, WARN, MISSING, FAILED = "ok", "warn", "missing", "failed"

CHILD_SECONDS = 120.0


@dataclass(frozen=True)
class Finding:
    name: str
    status: str
    detail: str
    hint: str = ""
    data: dict[str, Any] = field(default_factory=dict)


Probe = Callable[[], Finding]


class ChildError(RuntimeError):
    """The probing process ended with an error, a signal or too late."""


def in_child(program: str) -> dict[str, Any]:
    # The child must find the package that runs here, also when that is a source folder put on the path by hand.
    path = os.pathsep.join(entry for entry in [*sys.path] if entry)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    try:
        answer = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise ChildError(f"no answer within {CHILD_SECONDS:g} s") from None
    if answer.returncode < 0:
        raise ChildError(f"the process was ended by signal {-answer.returncode}")
    if answer.returncode > 0:
        lines = answer.stderr.strip().splitlines() or [f"exit status {answer.returncode}"]
        raise ChildError(lines[-1])
    return json.loads(answer.stdout.strip().splitlines()[-1])


def version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")


def gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
