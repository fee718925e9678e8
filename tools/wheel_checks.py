"""What a wheel of a release must keep, looked up in the file itself: its tags, and what its compiled module asks of a system."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import zipfile
from pathlib import Path

GLIBC = "2.28"  # of 2018: Debian 10, Ubuntu 20.04, RHEL 8 and all that came later
# Of the system, on every Linux with this glibc. The C++ library is not among them: it is linked statically.
ALLOWED = r"lib(c|m|pthread|dl|rt|gcc_s)\.so\.\d+|ld-linux[\w.-]*\.so\.\d+"


def problems(wheel: Path) -> list[str]:
    """One line for each rule that the wheel breaks."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        modules = [name for name in archive.namelist() if re.search(r"\.so(\.\d+)*$", name)]
        if len(modules) != 1:
            return [f"it must hold one compiled module, got {len(modules)}: {', '.join(modules)}"]
        information = next((name for name in archive.namelist() if name.endswith(".dist-info/WHEEL")), None)
        tags = re.findall(r"^Tag: (.+)$", archive.read(information).decode(), re.MULTILINE) if information else []
        return wrong_tags(wheel.name, tags, modules[0]) + wrong_symbols(Path(archive.extract(modules[0], folder)))


def wrong_tags(file_name: str, tags: list[str], module: str) -> list[str]:
    found = re.fullmatch(r"\w+-[\w.+]+-((cp3\d+)-cp3\d+-(\w+))\.whl", file_name)
    if not found:
        return [f"its name must end with Python, ABI and platform, got {file_name}"]
    tag, python, platform = found.groups()
    wrong = []
    if not re.fullmatch(f"manylinux_{GLIBC.replace('.', '_')}_(x86_64|aarch64)", platform):
        wrong.append(f"its platform must be manylinux for glibc {GLIBC}, got {platform}")
    if tag != f"{python}-{python}-{platform}" or tags != [tag]:
        wrong.append(f"its name and its file WHEEL must state the same tag, got {tag} and {', '.join(tags)}")
    if f".cpython-{python.removeprefix('cp')}-" not in module:
        wrong.append(f"its compiled module must be for {python}, got {module}")
    return wrong


def wrong_symbols(module: Path) -> list[str]:
    listed = readelf(module)
    wrong = []
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", listed)
    if strange := [name for name in needed if not re.fullmatch(ALLOWED, name)]:
        wrong.append(f"it must need system libraries alone, got {', '.join(strange)}")
    if path := re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.+)\]", listed):
        wrong.append(f"it must search no folder for libraries, got {', '.join(path)}")
    versions = {version for version in re.findall(r"Name: GLIBC_([\d.]+)", listed) if number(version) > number(GLIBC)}
    # number, value, size, type, binding, visibility, section, name
    rows = [line.split() for line in listed.splitlines() if re.match(r"\s*\d+: [0-9a-f]{16}\s", line)]
    symbols = [(row[4], row[6], row[7]) for row in rows if len(row) > 7]
    if versions:
        newer = [name for _, _, name in symbols if re.sub(r".*@GLIBC_", "", name) in versions]
        wrong.append(f"it must run with glibc {GLIBC}, got symbols of up to {max(versions, key=number)}: {', '.join(newer[:8])}")
    # The system's symbols have versions, Python's have none. What is left is in a newer glibc or nowhere.
    unbound = [name for binding, section, name in symbols if (binding, section) == ("GLOBAL", "UND") and "@" not in name]
    if absent := [name for name in unbound if not re.match("_?Py", name)]:
        wrong.append(f"it must define all that is not Python's or the system's, got undefined: {', '.join(absent[:8])}")
    shown = [name for binding, section, name in symbols if binding != "LOCAL" and section != "UND"]
    if more := [name for name in shown if not name.startswith("PyInit_")]:
        wrong.append(f"it must show PyInit_* alone, got {len(more)} more: {', '.join(more[:4])}")
    return wrong


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def readelf(module: Path) -> str:
    command = ["readelf", "--wide", "--dynamic", "--version-info", "--dyn-syms", str(module)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"}).stdout
