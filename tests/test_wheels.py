"""The wheels of a release: the checks refuse what would not load elsewhere, and `make soak` makes one and tries it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "tools" / "wheels.py"
MODULE = """
void* PyModule_Create2(void*, int);
int of_libc(void);
void* PyInit__kernels(void) { of_libc(); return PyModule_Create2(0, 3); }
"""
HIDDEN = "-fvisibility=hidden"
NAME = "wsss_fast-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"
FILE = "wsss_fast/_kernels.cpython-311-x86_64-linux-gnu.so"


def wheels(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def shared(folder: Path, name: str, source: str, *options: str) -> Path:
    """A shared library of the source alone, without the system's libraries."""
    (folder / "source.c").write_text(source, encoding="utf-8")
    command = ["cc", "-shared", "-fPIC", "-nostdlib", "-fno-stack-protector", "source.c", *options, "-o", name]
    subprocess.run(command, cwd=folder, check=True, timeout=60)
    return folder / name


def wheel(
    folder: Path,
    source: str = MODULE,
    *options: str,
    glibc: str = "2.28",
    needs: str = "libc.so.6",
    name: str = NAME,
    tag: str = "cp311-cp311-manylinux_2_28_x86_64",
    files: tuple[str, ...] = (FILE,),
) -> Path:
    """A wheel of one small module, which calls a function of a library that stands in for glibc."""
    version = f"-Wl,--version-script={folder / 'version'}"
    (folder / "version").write_text(f"GLIBC_{glibc} {{ global: of_libc; local: *; }};\n", encoding="utf-8")
    library = shared(folder, "libstand_in.so", "int of_libc(void) { return 1; }", version, f"-Wl,-soname,{needs}")
    entry = source.replace("void* PyInit", '__attribute__((visibility("default"))) void* PyInit')
    module = shared(folder, "module.so", entry, HIDDEN, str(library), "-Wl,--allow-shlib-undefined", *options)
    with zipfile.ZipFile(folder / name, "w") as archive:
        for file in files:
            archive.write(module, file)
        archive.writestr("wsss_fast-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
    return folder / name


def test_a_sound_wheel_keeps_the_rules(tmp_path: Path) -> None:
    done = wheels("check", wheel(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "keeps the rules" in done.stdout


SHOWN = MODULE + ' __attribute__((visibility("default"))) int operator_new(void) { return 0; }'
ELSEWHERE = NAME.replace("manylinux_2_28", "linux")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"glibc": "2.34"}, "run with glibc 2.28, got symbols of up to 2.34: of_libc@GLIBC_2.34"),
        ({"glibc": "2.100"}, "up to 2.100"),
        ({"source": MODULE.replace("of_libc", "__libc_single_threaded")}, "got undefined: __libc_single_threaded"),
        ({"source": SHOWN}, "show PyInit_* alone, got 1 more: operator_new"),
        ({"needs": "libstdc++.so.6"}, "need system libraries alone, got libstdc++.so.6"),
        ({"options": ("-Wl,-rpath,/opt/here",)}, "search no folder for libraries, got /opt/here"),
        ({"name": ELSEWHERE, "tag": "cp311-cp311-linux_x86_64"}, "manylinux for glibc 2.28, got linux_x86_64"),
        ({"tag": "cp311-cp311-linux_x86_64"}, "state the same tag"),
        ({"name": NAME.replace("2_28", "2_17"), "tag": "cp311-cp311-manylinux_2_17_x86_64"}, "got manylinux_2_17_x86_64"),
        ({"files": (FILE.replace("311", "310"),)}, "must be for cp311, got wsss_fast/_kernels.cpython-310"),
        ({"files": (FILE, "wsss_fast/_simt.cpython-311-x86_64-linux-gnu.so")}, "one compiled module, got 2"),
        ({"files": ()}, "one compiled module, got 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_would_not_load_elsewhere_is_refused(tmp_path: Path, made: dict, message: str) -> None:
    options = made.pop("options", ())
    source = made.pop("source", MODULE)
    done = wheels("check", wheel(tmp_path, source, *options, **made))
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and message in lines[0], done.stderr


def test_the_sound_one_of_several_does_not_hide_the_other(tmp_path: Path) -> None:
    sound = wheel(tmp_path)
    faulty = wheel(tmp_path, name=ELSEWHERE)
    assert wheels("check", faulty, sound).returncode == 1


def test_a_python_that_is_not_there_is_named() -> None:
    done = wheels("build", "--pythons", "3.99")
    assert done.returncode == 1
    assert "no Python 3.99" in done.stderr and "Hint" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.soak
def test_a_wheel_is_made_and_tried(tmp_path: Path) -> None:
    """As `make wheel` does, for this Python alone: needs a package index, for the build tools and for what the demo installs."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=300)
    python = tmp_path / "venv" / "bin" / "python"
    for command in (
        ("tools/install.py", "--extras", "release", "--bare"),
        ("tools/wheels.py", "build", "--pythons", ".".join(map(str, sys.version_info[:2])), "--out", tmp_path / "dist"),
    ):
        done = subprocess.run(
            [str(python), *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=3600, check=False
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    (made,) = (tmp_path / "dist").glob("*.whl")
    assert "-manylinux_2_28_" in made.name
    assert "computed with torch" in done.stdout and "masks:" in done.stdout
