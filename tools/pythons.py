"""Finds a Python of a version on this machine: python tools/pythons.py 3.10 prints its path."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

PROBE = """
import pathlib, sys, sysconfig
has_headers = pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file()
print(sys.executable if has_headers and sys.version.startswith(sys.argv[1] + ".") else "")
"""


def find_python(version: str) -> Path:
    """A Python with its headers: the command python3.N, or one that pyenv keeps."""
    candidates = [f"python{version}"]
    if pyenv := shutil.which("pyenv"):
        kept = subprocess.run([pyenv, "versions", "--bare"], capture_output=True, text=True, check=True).stdout.split()
        releases = [name for name in kept if re.fullmatch(re.escape(version) + r"\.\d+", name)]
        for release in sorted(releases, key=lambda name: int(name.rpartition(".")[2]), reverse=True):
            prefix = subprocess.run([pyenv, "prefix", release], capture_output=True, text=True, check=True).stdout.strip()
            candidates.append(f"{prefix}/bin/python")
    for candidate in filter(shutil.which, candidates):
        answer = subprocess.run([candidate, "-c", PROBE, version], capture_output=True, text=True, check=False)
        if answer.returncode == 0 and answer.stdout.strip():  # pyenv's stand-in for a command fails where none is chosen
            return Path(answer.stdout.strip())
    sys.exit(
        f"pythons: no Python {version} with its headers was found as python{version} or among pyenv's. "
        f"Hint: install it (pyenv install {version}); `make wheel PYTHONS=3.11` builds for that one alone, "
        "`make oldest OLDEST=3.11` tries that one"
    )


if __name__ == "__main__":
    print(find_python(sys.argv[1]))
