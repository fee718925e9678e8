"""`wsss doctor`: the findings of wsss_fast.doctor for people or machines. It always reports, and always exits 0."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict

from wsss_fast.cli import _parser, _terminal, exit_codes
from wsss_fast.files.names import printable

PROG = "wsss doctor"


def run(argv: Sequence[str]) -> int:
    parser = _parser.new_parser(PROG, "Show what this installation has, lacks and can use. Every probe is guarded.")
    parser.add_argument("--json", action="store_true", help="print the findings for machines")
    try:
        given = _parser.parse(parser, argv)
    except _parser.UsageError as error:
        return _parser.usage_failure(PROG, str(error))
    from wsss_fast import doctor

    findings = doctor.examine()
    if given.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
        return exit_codes.DONE
    colours = {doctor.OK: "32", doctor.WARN: "33", doctor.MISSING: "36", doctor.FAILED: "31"}
    width = max(len(finding.name) for finding in findings)
    columns = max(60, shutil.get_terminal_size((110, 24)).columns)
    for finding in findings:
        mark = f"{finding.status:<7}"
        if sys.stdout.isatty():
            mark = f"\033[{colours.get(finding.status, '0')}m{mark}\033[0m"
        indent = " " * (width + 10)
        text = printable(finding.detail) + (f"\nHint: {printable(finding.hint)}" if finding.hint else "")
        lines = [line for part in text.split("\n") for line in textwrap.wrap(part, columns - len(indent)) or [""]]
        _terminal.own(sys.stdout).write(
            f"{finding.name:<{width}}  {mark} {lines[0]}\n" + "".join(f"{indent}{line}\n" for line in lines[1:])
        )
    bad = [finding.name for finding in findings if finding.status == doctor.FAILED]
    sys.stdout.write(
        "\n" + (f"failed: {', '.join(bad)}\n" if bad else "nothing is broken; 'missing' is only needed for what its hint says\n")
    )
    return exit_codes.DONE
