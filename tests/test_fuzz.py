"""The C++ functions under coverage-guided fuzzing (tests/fuzz), with AddressSanitizer and UBSan: part of `make soak`.

WSSS_FUZZ_SECONDS (600) sets the time. What has been found useful is kept in build/fuzz/corpus and built upon by the next run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "fuzz"


def run(*command: str | Path, seconds: float = 900) -> None:
    environment = {**os.environ, "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))}
    done = subprocess.run(
        command,
        cwd=BUILD,
        env=environment,
        timeout=seconds,
        check=False,
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-8000:]


@pytest.mark.soak
def test_no_input_breaks_a_kernel() -> None:
    assert shutil.which("clang++"), "fuzzing needs clang++ with its libFuzzer (Debian: apt-get install clang)"
    (BUILD / "corpus").mkdir(parents=True, exist_ok=True)
    run(
        "cmake",
        "-S",
        ROOT / "tests" / "fuzz",
        "-B",
        BUILD,
        "-G",
        "Ninja",
        "-DCMAKE_CXX_COMPILER=clang++",
        "-DCMAKE_BUILD_TYPE=None",
    )
    run("cmake", "--build", BUILD)
    fuzz = float(os.environ.get("WSSS_FUZZ_SECONDS", "600"))
    run(BUILD / "kernels_fuzz", f"-max_total_time={fuzz:.0f}", "-max_len=4096", "-timeout=30", "corpus", seconds=fuzz + 120)
