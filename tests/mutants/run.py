#!/usr/bin/env python3
"""Seeds one fault after another and sees that the named tests fail: `make mutants`, or `python tests/mutants/run.py [NAME …]`.

The faults go into a copy of the repository under build/mutants, never into the working tree. The copy and its build folder are
kept, so that each fault costs the compilation of one file and a few quick tests. Exit status 1 if a fault is not caught, if its
text no longer stands exactly once in its file, or if a test fails without any fault.
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pybind11
from faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutants"
TREE, BUILD, MODULES = WORK / "tree", WORK / "cmake", WORK / "modules"
TEST_SECONDS, BUILD_SECONDS = 120, 600


class NotBuiltError(Exception):
    pass


def copy_repository() -> None:
    """Makes the copy equal to the working tree; files that are equal keep their time, so that nothing is compiled for nothing."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    ).stdout.decode()
    wanted = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    for path in list(TREE.rglob("*")):
        if path.is_file() and str(path.relative_to(TREE)) not in wanted:
            path.unlink()
    for name in wanted:
        write(TREE / name, (ROOT / name).read_bytes())


def write(path: Path, content: bytes) -> None:
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def configure() -> None:
    version = runpy.run_path(str(TREE / "wsss_fast" / "_version.py"))["__version__"]
    run_build(
        *("cmake", "-S", str(TREE), "-B", str(BUILD), "-G", "Ninja", "-DWSSS_CUDA=OFF", f"-DWSSS_VERSION={version}"),
        # -O1: compilers spend most of their time on what these tests do not need
        *("-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG -ffp-contract=fast"),
        *(f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"),
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={MODULES}",
    )


def build(*modules: str) -> None:
    jobs = os.environ.get("WSSS_BUILD_JOBS", str(os.cpu_count() or 1))
    if modules:
        run_build("cmake", "--build", str(BUILD), "--parallel", jobs, "--target", *modules)
    for module in MODULES.glob("*.so"):
        write(TREE / "wsss_fast" / module.name, module.read_bytes())


def run_build(*command: str) -> None:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False, env={**os.environ, "PATH": path}
    )
    if done.returncode:
        raise NotBuiltError("\n".join((done.stdout + done.stderr).strip().splitlines()[-15:]))


def test(tests: tuple[str, ...], impl: tuple[str, ...]) -> tuple[str, str]:
    """("passed" | "failed" | "broken", what pytest said)."""
    options = [part for name in impl for part in ("--impl", name)]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *options, *tests]
    environment = {**os.environ, "PYTHONPATH": str(TREE), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=TREE, env=environment, start_new_session=True
    ) as child:
        try:
            said, _ = child.communicate(timeout=TEST_SECONDS)
        except subprocess.TimeoutExpired:
            # pytest and what it forked: they have a process group of their own
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            return "failed", f"stopped after {TEST_SECONDS} s"
    if child.returncode < 0:
        return "failed", f"ended by signal {-child.returncode}"
    if child.returncode == 0:
        return "passed", said
    if child.returncode == 1:
        found = re.search(r"^FAILED (.+?)(?: - |$)", said, re.MULTILINE)
        # A run that fails for a skip alone has proved nothing.
        return ("failed", found.group(1).split("::", 1)[-1]) if found else ("broken", said)
    return "broken", said


def seed(fault: Fault) -> bytes:
    """Puts the fault into the copy; gives the file's content before."""
    path = TREE / fault.file
    before = path.read_bytes()
    text = before.decode()
    if (count := text.count(fault.old)) != 1:
        raise LookupError(f"its text stands {count} times in {fault.file}, must stand once: the list in faults/ needs care")
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return before


def check(fault: Fault) -> tuple[bool, str]:
    try:
        before = seed(fault)
    except LookupError as error:
        return False, str(error)
    try:
        build(*filter(None, [fault.module]))
        verdict, said = test(fault.tests, fault.impl)
    except NotBuiltError as error:
        return False, f"does not compile: {error}"
    finally:
        (TREE / fault.file).write_bytes(before)
    if verdict == "failed":
        return True, said
    return False, "SURVIVED: its tests pass" if verdict == "passed" else f"its tests could not run:\n{said[-2000:]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults to seed (default: all)")
    parser.add_argument("--list", action="store_true", help="list the faults")
    given = parser.parse_args()
    known = {fault.name: fault for fault in FAULTS}
    if unknown := [name for name in given.names if name not in known]:
        parser.error(f"no fault named {', '.join(unknown)}; --list names them")
    chosen = [known[name] for name in given.names] or list(FAULTS)
    if given.list:
        for fault in chosen:
            say(f"{fault.name:24} {fault.what} ({fault.file})")
        return 0

    started = time.monotonic()
    copy_repository()
    modules = sorted({fault.module for fault in chosen} - {""} | {"_kernels"})
    try:
        configure()
        build(*modules)
    except NotBuiltError as error:
        say(f"the copy does not compile without any fault:\n{error}")
        return 1
    for impl in sorted({fault.impl for fault in chosen}):
        tests = tuple(dict.fromkeys(test for fault in chosen if fault.impl == impl for test in fault.tests))
        verdict, said = test(tests, impl)
        if verdict != "passed":
            say(f"the tests do not pass without any fault ({verdict}):\n{said[-3000:]}")
            return 1
    say(f"without a fault all tests pass; copied, built and tested in {time.monotonic() - started:.0f} s")

    missed = 0
    rebuild: set[str] = set()
    for fault in chosen:
        begun = time.monotonic()
        if rebuild - {fault.module}:  # the module of the fault before must be sound again
            build(*(rebuild - {fault.module}))
        rebuild = {fault.module} - {""}
        caught, said = check(fault)
        missed += not caught
        say(f"{'caught' if caught else 'MISSED':7} {fault.name:24} {time.monotonic() - begun:4.0f} s  {fault.what}: {said}")
    say(f"{len(chosen) - missed} of {len(chosen)} faults caught in {time.monotonic() - started:.0f} s")
    return 1 if missed else 0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
