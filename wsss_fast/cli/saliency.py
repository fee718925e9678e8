"""`wsss saliency IMAGES --out DIR`."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from wsss_fast import _openmp
from wsss_fast._settings import SettingsError
from wsss_fast.cli import _parser, exit_codes
from wsss_fast.cli._progress import ProgressLine
from wsss_fast.data.saliency_settings import CLASSICAL, SaliencySettings
from wsss_fast.files.names import printable

PROG = "wsss saliency"
_EPILOG = (
    "One 8-bit grey PNG an image, of its size, and DIR/provenance.json, which says what made them. The same command goes on "
    "where an earlier one stopped. The classical method needs no file: it finds what differs in colour from the picture's "
    "border. The options below --json are for ONNX files."
)


def run(argv: Sequence[str]) -> int:
    parser = _parser.new_parser(PROG, "Make saliency maps for a folder of images.", _EPILOG)
    parser.add_argument("images", type=str, metavar="IMAGES", help="folder (sub-folders included) or one image file")
    parser.add_argument("--out", type=str, required=True, metavar="DIR", help="folder for the maps; created if missing")
    parser.add_argument(
        "--model", type=str, default=CLASSICAL, metavar="MODEL", help="an .onnx file, or classical (default classical)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary; failed images are still named")
    parser.add_argument("--json", action="store_true", help="print a summary for machines")
    _parser.add_settings(parser, SaliencySettings)
    try:
        given = _parser.parse(parser, argv)
        settings = SaliencySettings(**{item.name: given[item.name] for item in dataclasses.fields(SaliencySettings)})
    except (_parser.UsageError, SettingsError) as error:
        return _parser.usage_failure(PROG, str(error))
    _openmp.wait_without_spinning()
    from wsss_fast.data.saliency import make_maps

    started = time.monotonic()
    with ProgressLine("saliency maps", hidden=given.quiet or given.json) as progress:

        def report(summary: Any, image: str, reason: str) -> None:
            progress.update(summary.done, summary.total)
            if reason:
                progress.complain(f"{printable(image)}: {reason}")

        summary = make_maps(given.images, given.out, given.model, settings, report)
    seconds = time.monotonic() - started
    if given.json:
        counts = {"total": summary.total, "made": summary.made, "there": summary.there, "failures": summary.failures}
        sys.stdout.write(json.dumps({**counts, "seconds": round(seconds, 3), "out": given.out}) + "\n")
    elif not given.quiet:
        there = f", {summary.there} were there already" if summary.there else ""
        failed = f", {len(summary.failures)} failed" if summary.failures else ""
        sys.stdout.write(f"{summary.made} maps in {seconds:.1f} s{there}{failed}: {printable(given.out)}\n")
    return exit_codes.SOME_FAILED if summary.failures else exit_codes.DONE
