"""Whether the installed versions are those that this revision was tested with (`constraints.txt`, which `make lock` writes)."""

from __future__ import annotations

from pathlib import Path

from wsss_fast.doctor import finding, installed
from wsss_fast.doctor.finding import OK, WARN, Finding

CONSTRAINTS = Path(__file__).with_name("constraints.txt")


def tested_versions() -> dict[str, list[str]]:
    """Of each package; several where they differ between Pythons."""
    versions: dict[str, list[str]] = {}
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        name, pinned, version = line.partition(";")[0].strip().partition("==")
        if pinned:
            versions.setdefault(name, []).append(version)
    return versions


def versions() -> Finding:
    """Of the packages that the package itself asks for. A local part, such as torch's `+cpu`, says how it was built."""
    tested = tested_versions()
    named = dict.fromkeys([*installed.CORE, *(name for _, packages in installed.EXTRAS.values() for name in packages)])
    here = {name: version for name in named if name in tested and (version := finding.version(name)) is not None}
    others = {name: version for name, version in here.items() if version.partition("+")[0] not in tested[name]}
    data = {name: {"installed": version, "tested": tested[name]} for name, version in here.items()}
    if not others:
        return Finding("versions", OK, f"{len(here)} packages as tested", data=data)
    detail = ", ".join(f"{name} {version} (tested with {' and '.join(tested[name])})" for name, version in others.items())
    hint = "other versions may well work; if something fails, try the tested ones: pip install " + " ".join(
        f"{name}=={tested[name][-1]}" for name in others
    )
    return Finding("versions", WARN, detail, hint, data)
