"""`wsss demo`: real photos, labelled offline."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from wsss_fast.cli import _openmp, _parser, exit_codes
from wsss_fast.cli._progress import ProgressLine
from wsss_fast.label.names import printable

PROG = "wsss demo"


def run(argv: Sequence[str]) -> int:
    parser = _parser.new_parser(PROG, "Label three photos that scikit-image carries with the built-in model, offline.")
    parser.add_argument(
        "--out", type=str, default="wsss-demo", metavar="DIR", help="folder for photos and masks (default wsss-demo)"
    )
    parser.add_argument("--json", action="store_true", help="print the results for machines")
    try:
        given = _parser.parse(parser, argv)
    except _parser.UsageError as error:
        return _parser.usage_failure(PROG, str(error))
    _openmp.wait_without_spinning()
    from wsss_fast.label import pipeline
    from wsss_fast.label.demo import write_photos
    from wsss_fast.label.write import OutputStoppedError

    started = time.monotonic()
    out = Path(given.out)
    images, masks = out / "images", out / "masks"
    try:
        photos = write_photos(images)
        with ProgressLine("labelling", hidden=given.json) as progress:
            summary = pipeline.label(
                photos,
                out=masks,
                overlay=True,
                restart=True,
                progress=lambda now, _: progress.update(now.labelled + now.failed, now.total),
            )
    except OutputStoppedError as error:
        sys.stderr.write(f"{PROG}: stopped: {error}\n")
        return exit_codes.STOPPED
    seconds = time.monotonic() - started
    rows = list(summary.rows().values())
    if given.json:
        sys.stdout.write(json.dumps({"seconds": round(seconds, 2), "out": str(out), "images": rows}) + "\n")
    else:
        sys.stdout.write(_report(rows, images, masks, seconds))
    return exit_codes.SOME_FAILED if summary.failed else exit_codes.DONE


def _report(rows: list[dict], images: Path, masks: Path, seconds: float) -> str:
    lines = [
        f"{len(rows)} photos labelled in {seconds:.1f} s with efficientnet-lite0 (ImageNet weights, no training).",
        "",
    ]
    for row in rows:
        found = zip(row.get("classes", []), row.get("scores", []), row.get("share", []), strict=True)
        what = "; ".join(f"{name} ({score:.0%} sure, {share:.0%} of the picture)" for name, score, share in found)
        lines.append(f"  {printable(row['image']):<12} {what or row.get('reason') or 'no class: all background'}")
    stems = [Path(row["output"]).stem for row in rows if row["status"] == "ok"]
    lines += [
        "",
        "Look at these first: the photo beside its mask, with the names of the classes",
        *(f"  {printable(str(masks / 'overlays' / stem))}.jpg" for stem in stems),
        "",
        f"photos    {printable(str(images))}",
        f"masks     {printable(str(masks))}   palette PNG: 0 background, else the class number",
        f"manifest  {printable(str(masks / 'manifest.jsonl'))}   one line an image: classes, scores, checksum",
        "",
        "Your own photos:",
        "  wsss label PHOTOS --model efficientnet-lite0 --out MASKS --overlay",
        "In Python, masks of the photos as NumPy arrays:",
        '  numpy.asarray(PIL.Image.open("' + printable(str(masks / f"{stems[0] if stems else 'chelsea'}.png")) + '"))',
    ]
    return "\n".join(lines) + "\n"
