"""Writes versions that satisfy pyproject.toml: the newest for all supported Pythons, or the oldest for one.

    python tools/resolve.py newest build/fresh/constraints.txt
    python tools/resolve.py oldest build/oldest/constraints.txt

Needs the package `uv`, which resolves for several Pythons at once. Names and versions only: no address of any index is written.
Torch's CUDA libraries are left out; they follow from the build of torch that is chosen.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from install import ROOT, requirements

# Everything that the make targets install; not `gpu`, whose versions follow the driver.
EXTRAS = ["demo", "train", "export", "ray", "dev", "release"]
GUESTS = ["rtx", "peers"]
UNIVERSAL = ["--universal", "--python-version", "3.10"]
TOOLS = ["pip", "setuptools", "wheel", "cython"]
FOLLOWS_TORCH = re.compile(r"nvidia-|cuda-|triton==")
HEADER = """\
# The versions that this revision was tested with, for Python 3.10 to 3.13: what `make demo`, `make test` and CI install, and what
# `wsss doctor` compares with. `make lock` writes this file. It constrains, it requires nothing: `pip install .` does not use it.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=["newest", "oldest"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--torch", default="torch", help="hold torch to this requirement, such as torch==2.13.0")
    parser.add_argument("--python", default="3.10", help="the oldest versions are those of this Python")
    asked = parser.parse_args()
    wanted = requirements(EXTRAS, bare=False)
    if asked.which == "newest":
        lines = versions([*wanted, *TOOLS, asked.torch], *UNIVERSAL, "--only-binary", ":all:")
    else:
        lines = versions(wanted, "--resolution", "lowest-direct", "--only-binary", ":all:", "--python-version", asked.python)
    # Guests may have no wheel, and none of them may stand in the way of another.
    found = {line.partition("==")[0] for line in lines}
    for guest in requirements(GUESTS, bare=True):
        if re.match(r"[\w-]+", guest)[0] not in found:
            lines += versions([guest], *UNIVERSAL, "--no-deps")
    lines = sorted(line for line in lines if not FOLLOWS_TORCH.match(line))
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text((HEADER if asked.which == "newest" else "") + "\n".join(lines) + "\n", encoding="utf-8")
    return 0


def versions(wanted: list[str], *options: str) -> list[str]:
    command = [sys.executable, "-m", "uv", "pip", "compile", "-"]
    quiet = ["--no-header", "--no-annotate", "--quiet"]
    done = subprocess.run(
        [*command, *quiet, *options], cwd=ROOT, input="\n".join(wanted), stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"resolve: uv finds no versions for {', '.join(wanted)[:200]}. Hint: its message is above")
    return done.stdout.splitlines()


if __name__ == "__main__":
    sys.exit(main())
