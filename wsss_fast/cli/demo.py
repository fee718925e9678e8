"""`wsss demo`: real photos, labelled offline. `wsss demo scenes`: a synthetic dataset with its truth."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from wsss_fast import _openmp
from wsss_fast.cli import _parser, exit_codes
from wsss_fast.cli._progress import ProgressLine
from wsss_fast.files.names import printable

PROG = "wsss demo"
_EPILOG = "`wsss demo scenes --out DIR` writes a synthetic dataset with its truth instead; `wsss demo scenes --help` explains it."


def run(argv: Sequence[str]) -> int:
    return _scenes(argv[1:]) if argv and argv[0] == "scenes" else _photos(argv)


def _photos(argv: Sequence[str]) -> int:
    parser = _parser.new_parser(PROG, "Label three photos that scikit-image carries with the built-in model, offline.", _EPILOG)
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

    started = time.monotonic()
    out = Path(given.out)
    images, masks = out / "images", out / "masks"
    photos = write_photos(images)
    with ProgressLine("labelling", hidden=given.json) as progress:
        summary = pipeline.label(
            photos,
            out=masks,
            overlay=True,
            report=True,
            restart=True,
            progress=lambda now, _: progress.update(now.labelled + now.failed, now.total),
        )
    seconds = time.monotonic() - started
    rows = list(summary.rows().values())
    if given.json:
        sys.stdout.write(json.dumps({"seconds": round(seconds, 2), "out": str(out), "images": rows}) + "\n")
    else:
        sys.stdout.write(_report(rows, images, masks, seconds))
    return exit_codes.SOME_FAILED if summary.failed else exit_codes.DONE


def _scenes(argv: Sequence[str]) -> int:
    prog = f"{PROG} scenes"
    about = "Write a synthetic dataset in VOC's layout: images, image-level labels, masks, degraded saliency maps."
    parser = _parser.new_parser(prog, about)
    parser.add_argument("--out", type=str, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--train", type=int, default=1000, metavar="N", help="training images (default 1000)")
    parser.add_argument("--test", type=int, default=300, metavar="N", help="test images (default 300)")
    parser.add_argument("--crops", type=int, default=0, metavar="N", help="images of single objects, for pretraining (default 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed gives another world (default 0)")
    parser.add_argument("--json", action="store_true", help="print what world.json says")
    try:
        given = _parser.parse(parser, argv)
    except _parser.UsageError as error:
        return _parser.usage_failure(prog, str(error))
    from wsss_fast.data import scenes

    started = time.monotonic()
    with ProgressLine("painting", hidden=given.json) as progress:
        world = scenes.write(given.out, given.train, given.test, given.seed, given.crops, progress=progress.update)
    if given.json:
        sys.stdout.write(json.dumps(world) + "\n")
        return exit_codes.DONE
    out = printable(given.out)
    counts = ", ".join(f"{world[name]} {name}" for name in ("train", "test", "crops"))
    sys.stdout.write(
        f"{counts} in {time.monotonic() - started:.1f} s; settings {world['sha256'][:12]}, seed {world['seed']}\n\n"
        f"images    {out}/JPEGImages, listed in {out}/ImageSets/Segmentation\n"
        f"labels    {out}/labels.csv, the class names in {out}/classes.txt\n"
        f"truth     {out}/SegmentationClass   0 background, else the class number, 255 along outlines\n"
        f"saliency  {out}/SaliencyMaps   degraded on purpose\n"
        f"settings  {out}/world.json\n"
    )
    return exit_codes.DONE


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
        "All of it as one page, to be opened in a browser",
        f"  {printable(str(masks / 'report' / 'index.html'))}",
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
