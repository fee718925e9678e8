"""Installs what a make target needs into the environment whose Python runs this, in the versions of the constraints file.

    python tools/install.py --extras demo          the build tools, the core dependencies and the extra `demo`
    python tools/install.py --extras docs --bare   that extra alone
    python tools/install.py --guests peers         the packages of that extra one by one; one that fails costs one line

Only wheels are taken, so that no package runs its own build script here: a build script breaks when the tools around it change.
Guests may be built from source, because nothing depends on them. The package itself is not installed by this program.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10: pip brings a copy
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "wsss_fast" / "doctor" / "constraints.txt"
# Without pip's build isolation a guest finds what its build script imports. Cython and setuptools are what such scripts want.
GUEST_BUILD_TOOLS = ("cython", "setuptools", "wheel", "numpy")


def requirements(extras: list[str], bare: bool) -> list[str]:
    """What pyproject.toml asks for; an extra that names another extra of this project brings it."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    known = project["optional-dependencies"]
    found = [] if bare else [*pyproject["build-system"]["requires"], *project["dependencies"]]
    for extra in extras:
        if extra not in known:
            sys.exit(f"install: '--extras' must be among {', '.join(known)}, got {extra!r}")
        for requirement in known[extra]:
            if inner := re.fullmatch(re.escape(project["name"]) + r"\[([\w, -]+)\]", requirement):
                found += requirements([name.strip() for name in inner[1].split(",")], bare=True)
            else:
                found.append(requirement)
    return list(dict.fromkeys(found))


def constraints(torch: str | None) -> Path:
    """The file to hold pip to; a torch that the user chose replaces the pinned one."""
    chosen = Path(os.environ.get("WSSS_CONSTRAINTS") or CONSTRAINTS)
    if not chosen.is_file():
        sys.exit(f"install: WSSS_CONSTRAINTS must name a file, got {chosen}")
    if not torch:
        return chosen
    lines = chosen.read_text(encoding="utf-8").splitlines(keepends=True)
    with tempfile.NamedTemporaryFile("w", prefix="constraints-", suffix=".txt", delete=False) as other:
        other.writelines(line for line in lines if not line.startswith("torch=="))
    return Path(other.name)


def pip(*arguments: str) -> str:
    """Runs pip with its progress on the screen; gives what it says of its errors, nothing when all went well."""
    # Python compiles what it imports; pip would compile all that torch and the others hold, which takes longer than the demo.
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", *arguments]
    errors = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as running:
        for line in running.stderr:
            if re.match(r"\s*(ERROR|error|×|╰|note|hint)", line):
                errors.append(line.strip())
            elif not line.startswith("WARNING: Location"):  # pip's word on local folders that lack a package
                sys.stderr.write(line)
    if not running.returncode:
        return ""
    if "ResolutionImpossible" in " ".join(errors):  # the packages stand in what pip prints beside its errors
        asked = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, errors="replace", check=False)
        errors = asked.stdout.split()
    return " ".join(errors) or f"pip ended with status {running.returncode}"


ABSENT = (
    r"No matching distribution found for ([\w.-]+)(\S*)",
    r"that satisfies the requirement ([\w.-]+)(\S*)",
    r"no matching distributions available for your environment: ([\w.-]+)()",
)


def explained(errors: str) -> str:
    """One line that says which package failed and what to do."""
    file = os.path.relpath(constraints(None), ROOT)
    if re.search(r"Max retries|NewConnectionError|name resolution|timed out|Connection refused", errors):
        return "no package index answers. Hint: look at the network and at `pip config list`, then call the same command again"
    for absent in filter(None, (re.search(pattern, errors) for pattern in ABSENT)):
        lines = constraints(None).read_text(encoding="utf-8").splitlines()
        pinned = next((line.partition(" ")[0] for line in lines if line.startswith(f"{absent[1]}==")), absent[1] + absent[2])
        return (
            f"the package index that pip uses has no {pinned} (from {file}) as a wheel for this Python and machine. "
            "Hint: another Python (3.10 to 3.13), or `make fresh`, which takes the newest versions"
        )
    if "onflict" in errors:
        return f"the requirements of pyproject.toml and {file} contradict each other: {errors}. Hint: `make lock` renews the file"
    return f"{errors} (versions: {file})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extras", nargs="*", default=[], help="extras of pyproject.toml")
    parser.add_argument("--bare", action="store_true", help="the extras alone, without build tools and core dependencies")
    parser.add_argument("--guests", metavar="EXTRA", help="install the packages of this extra one by one; none is demanded")
    parser.add_argument("--torch", help="take this torch in place of the pinned one: a requirement, or the path of a wheel")
    asked = parser.parse_args()

    held = ["--constraint", str(constraints(asked.torch))]
    if asked.guests:
        pip(*held, "--quiet", "--only-binary", ":all:", *GUEST_BUILD_TOOLS)
        for guest in requirements([asked.guests], bare=True):
            if errors := pip(*held, "--quiet", "--prefer-binary", "--no-build-isolation", guest):
                print(f"install: {guest} cannot be had here, what needs it will say so ({errors[:150]})", file=sys.stderr)
        return 0
    # torch first: no other requirement may choose a build of it.
    wanted = requirements(asked.extras, asked.bare)
    steps = [["pip"], [asked.torch or "torch"], wanted] if any(name.startswith("torch") for name in wanted) else [["pip"], wanted]
    for step in steps:
        if errors := pip(*held, "--only-binary", ":all:", *step):
            print(f"install: {explained(errors)}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
