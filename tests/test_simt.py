"""The emulator finds planted faults, is quiet on correct kernels, and every operation's kernels are clean under it.

The C++ programs come from tests/simt/CMakeLists.txt, one build folder for each kind (plain, asan, tsan) under build/.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import ROOT, tool

SOURCES = ROOT / "tests" / "simt"
FAILED, FAULT, TSAN_REPORT = (
    1,
    86,
    66,
)
PLAIN = [*itertools.product(("fwd", "grev", "pct:1", "pct:2"), ("lazy", "eager"), ("0xFF", "0x7F"))]


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WSSS_SIMT_")} | variables
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, errors="replace"
    )


@functools.cache
def build(kind: str, target: str) -> Path:
    folder = ROOT / "build" / f"simt-{kind}"
    steps = [[tool("cmake"), "--build", folder, "--target", target, "--parallel", "2"]]
    if not (folder / "build.ninja").exists():
        configure = [
            "-S",
            SOURCES,
            "-B",
            folder,
            "-G",
            "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DWSSS_SIMT_KIND={kind}",
        ]
        steps.insert(0, [tool("cmake"), *configure])
    for step in steps:
        result = run(*step)
        assert result.returncode == 0, result.stdout
    return folder / target


def execute(kind: str, target: str, *cases: str, schedule: str = "grev", cp_async: str = "lazy", poison: str = "0xFF"):
    program = build(kind, target)
    variables = {
        "WSSS_SIMT_SCHEDULE": schedule,
        "WSSS_SIMT_CP_ASYNC": cp_async,
        "WSSS_SIMT_POISON": poison,
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    result = run(program, *cases, **variables)
    if "unexpected memory mapping" in result.stdout:  # ThreadSanitizer and a kernel that spreads addresses wider than it knows
        result = run("setarch", "-R", program, *cases, **variables)
    return result


def expect_clean(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout
    return result.stdout


# ---- no false alarm ----------------------------------------------------------------------------------------------------------


@functools.cache
def plain_results(target: str) -> str:
    return expect_clean(execute("plain", target))


@pytest.mark.parametrize("schedule, cp_async, poison", PLAIN)
def test_correct_kernels_give_the_same_results(schedule, cp_async, poison):
    result = execute("plain", "simt_good", schedule=schedule, cp_async=cp_async, poison=poison)
    assert expect_clean(result) == plain_results("simt_good")


@pytest.mark.parametrize(
    "kind, schedule, cp_async", [("asan", "grev", "lazy"), ("asan", "pct:1", "eager"), ("tsan", "fwd", "lazy")]
)
def test_correct_kernels_are_clean_under_sanitizers(kind, schedule, cp_async):
    expect_clean(execute(kind, "simt_good", schedule=schedule, cp_async=cp_async))


def test_correct_kernels_run_without_the_assembly():
    assert expect_clean(execute("ucontext", "simt_good")) == plain_results("simt_good")


# ---- every operation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule, cp_async, poison", [one for one in PLAIN if one[0] != "fwd"])
def test_operations_give_the_same_results(schedule, cp_async, poison):
    result = execute("plain", "simt_check", schedule=schedule, cp_async=cp_async, poison=poison)
    assert expect_clean(result) == plain_results("simt_check")


@pytest.mark.parametrize("kind, schedule", [("asan", "pct:1"), ("tsan", "fwd")])
def test_operations_are_clean_under_sanitizers(kind, schedule):
    expect_clean(execute(kind, "simt_check", schedule=schedule))


# ---- planted faults ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A way a fault shows: in which build, with which exit code and words. Schedule and cp.async as in execute()."""

    kind: str
    code: int
    words: str = ""
    schedule: str = "grev"
    cp_async: str = "lazy"


def reported(words: str) -> list[Found]:
    return [Found(kind, FAULT, words) for kind in ("plain", "asan", "tsan")]


RACE = Found("tsan", TSAN_REPORT, "data race", schedule="fwd")
WRONG_VALUES = [Found("plain", FAILED, "wrong value", schedule) for schedule in ("grev", "pct:1", "pct:2")]
OVERFLOW = [Found("asan", FAILED, "heap-buffer-overflow"), Found("plain", FAULT, "shared-overflow")]

FAULTS = {
    "divergent_barrier": reported("barrier-divergence"),
    "exit_before_barrier": reported("exit-before-barrier"),
    "unequal_trips": reported("exit-before-barrier"),
    "missing_barrier_upper": [RACE, *WRONG_VALUES],
    "missing_barrier_lower": [RACE, *WRONG_VALUES],
    "missing_second_barrier": [RACE, *WRONG_VALUES],
    "shuffle_as_fence": [RACE],
    "missing_cluster_barrier": [RACE],
    "shuffle_absent_lane": reported("missing-lane"),
    "shuffle_source": reported("shuffle-source"),
    "partial_warp": reported("missing-lane"),
    "warp_divergence": reported("warp-divergence"),
    "own_lane": reported("warp-mask"),
    "carve_overflow": OVERFLOW,
    "carve_beyond": reported("carve"),
    "static_overflow": OVERFLOW,
    "static_overread": [Found("asan", FAILED, "heap-buffer-overflow")],
    "row_spill": [Found("asan", FAILED, "index 8 out of bounds")],
    "global_overflow": [Found("asan", FAILED, "heap-buffer-overflow")],
    "misaligned_vector": [Found("asan", FAILED, "misaligned address")],
    "misaligned_ldmatrix": reported("misaligned"),
    "cp_async_early": [Found("plain", FAILED, "wrong value")],
    "cp_async_group": [Found("plain", FAILED, "wrong value")],
    "cp_async_refill": [RACE, *WRONG_VALUES, Found("plain", FAILED, "wrong value", cp_async="eager")],
    "cross_block_add": [RACE],
    "missing_fence": [RACE],
    "endless_wait": [Found("plain", FAULT, "livelock")],
}


@pytest.mark.parametrize(
    "name, found",
    [
        pytest.param(name, found, id=f"{name}-{found.kind}-{found.schedule}-{found.cp_async}")
        for name, all_ in FAULTS.items()
        for found in all_
    ],
)
def test_fault_is_found(name, found):
    result = execute(found.kind, "simt_faulty", name, schedule=found.schedule, cp_async=found.cp_async)
    assert (result.returncode, found.words in result.stdout) == (found.code, True), result.stdout


def test_every_faulty_kernel_is_tested():
    assert set(run(build("plain", "simt_faulty"), "--list").stdout.split()) == {*FAULTS, "uninitialised_shared"}


def test_uninitialised_shared_memory_shows_between_two_poisons():
    first, second = (
        expect_clean(execute("plain", "simt_faulty", "uninitialised_shared", poison=poison)) for poison in ("0xFF", "0x7F")
    )
    assert first != second


def test_lazy_and_eager_copies_are_both_needed():
    expect_clean(execute("plain", "simt_faulty", "cp_async_early", cp_async="eager"))


def test_reports_name_the_places():
    text = execute("plain", "simt_faulty", "divergent_barrier").stdout
    source = (SOURCES / "faulty_kernels.cuh").read_text(encoding="utf-8").splitlines()
    lines = [number for number, line in enumerate(source, 1) if "__syncthreads();" in line][:2]
    assert all(f"faulty_kernels.cuh:{line}" in text for line in lines), text
    assert "block (0, 0, 0)" in text and "32 threads wait" in text


@pytest.mark.parametrize(
    "setting, value", [("schedule", "fastest"), ("schedule", "pct:"), ("cp_async", "late"), ("poison", "256"), ("poison", "x")]
)
def test_wrong_settings_are_refused(setting, value):
    result = execute("plain", "simt_good", "block_sum", **{setting: value})
    assert result.returncode == FAILED and f"simt: '{setting}' must be" in result.stdout and f"got '{value}'" in result.stdout


# ---- compilers -----------------------------------------------------------------------------------------------------------------


def test_raw_shared_memory_does_not_compile(tmp_path):
    source = tmp_path / "raw.cpp"
    source.write_text(
        '#include "common/cuda.cuh"\n__global__ void raw_kernel() { __shared__ float x[4]; x[0] = 0; }\n', encoding="utf-8"
    )
    compiler = os.environ.get("CXX", "c++")
    result = run(compiler, "-std=c++17", "-DWSSS_SIMT", "-I", ROOT / "csrc", "-fsyntax-only", source)
    assert result.returncode != 0 and "use WSSS_SHARED" in result.stdout, result.stdout


def test_kernels_compile_with_nvcc(tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no CUDA compiler (nvcc) on PATH")
    options = ["-std=c++17", "-arch=sm_90", "-Xcompiler=-Wall,-Wextra", "--Werror=all-warnings", "-I", ROOT / "csrc"]
    result = run(nvcc, *options, "-c", SOURCES / "compile_only.cu", "-o", tmp_path / "out.o")
    assert result.returncode == 0, result.stdout
