"""sdist and wheel hold what they should, and the installed wheel works, with the repository as working directory and elsewhere.

Nothing is downloaded: builds use this environment's build tools, and the fresh environment sees this one's packages (but not
this one's wsss_fast, which an editable install would bring in).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600

TRY = """
import sys
import wsss_fast, wsss_fast.ops
import torch
from wsss_fast import _native, ops
cam, feature = torch.rand(2, 3, 5, 7), torch.randn(2, 8, 5, 7, requires_grad=True)
out = ops.pcm(cam, feature)
out.sum().backward()
expected = ops.pcm(cam, feature, impl="reference")
assert (out - expected).abs().max() < 1e-5 and feature.grad is not None
print(wsss_fast.__file__, _native.load().__file__, wsss_fast.build_info()["cuda"], sep="\\n")
"""


@dataclass(frozen=True)
class Built:
    sdist: Path
    wheel: Path
    python: Path  # of a fresh environment with the wheel


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "WSSS_", "CMAKE_", "PIP_"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**keep, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{command}:\n{(done.stdout + done.stderr)[-4000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """sdist from a clean copy of the files git knows or would take, the wheel from the sdist, an environment with the wheel."""
    place = tmp_path_factory.mktemp("packaging")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (place / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (place / "tree" / name).write_bytes((ROOT / name).read_bytes())
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", place / "dist")
    run(*build, "--sdist", place / "tree", cwd=place, PATH=path)
    (sdist,) = (place / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "from-sdist", filter="data")
    (source,) = (place / "from-sdist").iterdir()
    # -O0: what is in the files is tested here, not how fast it runs
    fast = {"WSSS_CUDA": "OFF", "CMAKE_ARGS": "-DCMAKE_CXX_FLAGS_RELEASE=-O0", "WSSS_BUILD_JOBS": "2"}
    run(*build, "--wheel", source, cwd=place, PATH=path, **fast)
    (wheel,) = (place / "dist").glob("*.whl")

    venv.create(place / "fresh", with_pip=False, symlinks=True)
    python = place / "fresh" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip())
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel, cwd=place)
    # After the fresh environment's own folder. Path files inside a folder added this way are not read: the editable install of
    # the package that may stand there does not come along.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return Built(sdist, wheel, python)


def names_in(archive: Path) -> list[str]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            return file.namelist()
    with tarfile.open(archive) as file:
        return [member.name.split("/", 1)[1] for member in file if member.isfile()]


def sources(*patterns: str) -> set[str]:
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns, cwd=ROOT)
    return {name for name in listed.splitlines() if (ROOT / name).is_file()}


def test_sdist_holds_what_a_build_needs(built: Built) -> None:
    names = set(names_in(built.sdist))
    wanted = sources("csrc", "wsss_fast") | {
        "CMakeLists.txt",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "setup.py",
        "CHANGELOG.md",
    }
    assert not wanted - names
    assert {Path(name).suffix for name in names if name.startswith("csrc/")} >= {".h", ".cpp", ".cu", ".cuh", ".cmake"}
    assert not [name for name in names if name.endswith((".so", ".pyc", ".o")) or name.startswith(("build/", ".venv/", "dist/"))]


def test_wheel_holds_the_package_alone(built: Built) -> None:
    names = names_in(built.wheel)
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2 and "wsss_fast" in tops
    (information,) = tops - {"wsss_fast"}
    assert re.fullmatch(r"wsss_fast-[^/]+\.dist-info", information)
    assert not [name for name in names if re.search(r"simt|csrc|tests|\.(cu|cuh|h|cpp|cmake|o|pyc)$", name)]
    assert f"{information}/licenses/LICENSE" in names
    modules = [name for name in names if name.endswith(".so")]
    assert len(modules) == 1 and modules[0].startswith("wsss_fast/_kernels.")
    assert built.wheel.name.endswith(("x86_64.whl", "aarch64.whl"))  # compiled code: no wheel for any machine
    suffixes = ("py", "pyi", "yaml", "json", "txt", "html", "css", "js")
    data = sources("wsss_fast/py.typed", *(f"wsss_fast/*.{suffix}" for suffix in suffixes))
    assert not data - set(names)


def test_wheel_declares_commands_and_needs(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        read = {name.rsplit("/", 1)[1]: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name}
    commands = dict(re.findall(r"^([\w-]+) = ([\w.:]+)$", read["entry_points.txt"], re.MULTILINE))
    assert {"wsss", "wsss-label"} <= set(commands)
    assert re.search(r"^License-Expression: Apache-2.0$", read["METADATA"], re.MULTILINE)
    needs = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", read["METADATA"], re.MULTILINE)
    assert set(needs) == {"torch", "numpy", "pillow", "jsonargparse", "rich", "safetensors", "pyyaml"}


@pytest.mark.parametrize(("label", "ending"), [("cu13", "+cu13"), ("", "")])
def test_version_takes_a_label(built: Built, tmp_path: Path, label: str, ending: str) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    call = "from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_wheel('.'))"
    printed = run(sys.executable, "-c", call, cwd=source, WSSS_VERSION_LABEL=label)
    assert printed.splitlines()[-1] == f"{source.name}{ending}.dist-info"


@pytest.mark.parametrize("place", ["repository", "elsewhere"])
def test_installed_wheel_works(built: Built, tmp_path: Path, place: str) -> None:
    """In the repository the sources come first on Python's path, as `python -c` puts the working directory there."""
    folder = ROOT if place == "repository" else tmp_path
    package, module, cuda = run(built.python, "-c", TRY, cwd=folder).splitlines()
    assert Path(package).is_relative_to(ROOT if place == "repository" else built.python.parents[1])
    if place == "elsewhere" or not list((ROOT / "wsss_fast").glob("_kernels.*.so")):
        assert Path(module).is_relative_to(built.python.parents[1])
    assert cuda in ("True", "False")


def test_installed_without_the_sources_build(built: Built, tmp_path: Path) -> None:
    """Sources first on the path and no module compiled beside them, as in a fresh clone: the installed module is found."""
    (tmp_path / "wsss_fast").mkdir()
    for name in sources("wsss_fast"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    package, module, _ = run(built.python, "-c", TRY, cwd=tmp_path).splitlines()
    assert Path(package).is_relative_to(tmp_path)
    assert Path(module).is_relative_to(built.python.parents[1])


def test_installed_command_answers(built: Built, tmp_path: Path) -> None:
    call = "import sys; from wsss_fast.cli import main; sys.exit(main(['--version']))"
    assert run(built.python, "-c", call, cwd=tmp_path).startswith("wsss_fast ")


def test_module_needs_no_driver_and_no_torch(built: Built, tmp_path: Path) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".so")]
        module = Path(wheel.extract(name, tmp_path))
    needed = re.findall(r"NEEDED.*\[(.+)\]", run("readelf", "-d", module, cwd=tmp_path))
    assert needed
    assert all(re.match(r"lib(stdc\+\+|gcc_s|m|c|pthread|dl|rt)\.so|ld-linux", library) for library in needed), needed
