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
from helpers import tool

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "fuzz"


def run(*command: str | Path, seconds: float = 900, folder: Path = BUILD) -> None:
    environment = {**os.environ, "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        timeout=seconds,
        check=False,
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-8000:]


def test_the_target_compiles(tmp_path: Path) -> None:
    """Where there is no clang nothing else would look at it."""
    target = ROOT / "tests" / "fuzz" / "kernels_fuzz.cpp"
    flags = ("-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-Wno-ignored-attributes")
    run(tool("g++"), *flags, f"-I{ROOT / 'csrc'}", f"-I{target.parent}", target, folder=tmp_path)


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
