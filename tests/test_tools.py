"""What the make targets install: pinned versions of all that pyproject.toml names, and one line where something cannot be had."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from toml import read_toml

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "wsss_fast" / "doctor" / "constraints.txt"
PINS = [line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def install(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """With a package index that has nothing."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "install.py", *arguments],
        env={**keep, "PIP_NO_INDEX": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_pins_are_names_and_versions_alone() -> None:
    assert len(PINS) > 50
    assert not [line for line in PINS if not re.fullmatch(r"[\w.-]+==[\w.+]+( ; [\w\s.'<>=!*]+)?", line)]


def test_all_that_the_targets_install_is_pinned() -> None:
    pyproject = read_toml(ROOT / "pyproject.toml")
    extras = pyproject["project"]["optional-dependencies"]
    wanted = [*pyproject["build-system"]["requires"], *pyproject["project"]["dependencies"], "pip", "wheel"]
    wanted += [requirement for extra in set(extras) - {"gpu", "release"} for requirement in extras[extra]]
    missing = {name_of(requirement) for requirement in wanted} - {name_of(pin) for pin in PINS} - {"wsss-fast"}
    assert not missing, "make lock"


def test_requirements_of_users_are_free_upwards() -> None:
    pyproject = read_toml(ROOT / "pyproject.toml")["project"]
    extras = pyproject["optional-dependencies"]
    asked = [*pyproject["dependencies"], *(requirement for extra in extras.values() for requirement in extra)]
    assert not [requirement for requirement in asked if re.search(r"==|<|~=", requirement)]
    assert all(">=" in requirement for requirement in pyproject["dependencies"])


@pytest.mark.parametrize("version", ["99.9", "99.9.post1"])
def test_a_version_that_the_index_lacks_is_one_line(version: str, tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text(f"mkdocs=={version} ; python_version >= '3.8'\n", encoding="utf-8")
    done = install("--extras", "docs", "--bare", WSSS_CONSTRAINTS=str(file))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line]
    assert line.startswith(f"install: the package index that pip uses has no mkdocs=={version} (from ")
    assert "constraints.txt" in line and "Hint: " in line


def test_a_guest_that_cannot_be_had_costs_one_line(tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text("pydensecrf2==99\nfast-slic==99\n", encoding="utf-8")
    done = install("--guests", "peers", WSSS_CONSTRAINTS=str(file))
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if line]
    assert [line.split()[1] for line in lines] == ["pydensecrf2", "fast-slic"]
    assert all(line.startswith("install: ") and "cannot be had here" in line for line in lines)


def test_an_unknown_extra_is_named() -> None:
    done = install("--extras", "demos")
    assert done.returncode == 1 and "'--extras' must be among demo, " in done.stderr and "got 'demos'" in done.stderr


def test_no_machine_asks_the_demo_for_more_than_it_needs() -> None:
    """make -n: what the demo's target would do in an empty checkout."""
    done = subprocess.run(
        ["make", "-n", "demo", "VENV=none"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "--extras demo\n" in done and "WSSS_CUDA=OFF" in done
    assert not re.search(r"ray|peers|rtx|train|pytest", done)
