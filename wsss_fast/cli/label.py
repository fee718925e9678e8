"""`wsss label IMAGES --model MODEL --out DIR`."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsss_fast import _openmp
from wsss_fast._settings import SettingsError
from wsss_fast.cli import _parser, _running, exit_codes
from wsss_fast.cli._progress import ProgressLine
from wsss_fast.files.names import printable
from wsss_fast.label.settings import LabelSettings

PROG = "wsss label"
_EPILOG = (
    "Masks: 8-bit palette PNG, value 0 background, class number of the model + 1 for a class, 255 ignore. "
    "OUT/manifest.jsonl records every image. Run the same command again to resume an interrupted job or to retry. "
    "A .pt2 file is machine code, and so is an engine: loading it runs it with all your rights, so take it only from people you "
    "trust. A .pt2 that your own `wsss export` did not write is loaded with a warning, such an engine not at all. "
    + exit_codes.sentence()
)


def run(argv: Sequence[str]) -> int:
    parser = _parser.new_parser(PROG, "Label a folder of images: one palette PNG an image.", _EPILOG)
    parser.add_argument(
        "images",
        type=str,
        metavar="IMAGES",
        nargs="?",
        help="folder (sub-folders included), image, list (.txt), VOC folder, COCO file (.json), tar file or folder of them",
    )
    parser.add_argument(
        "--model",
        type=str,
        default=None,
        metavar="MODEL",
        help="checkpoint, .onnx, .pt2 or engine file, or efficientnet-lite0 (the default)",
    )
    parser.add_argument("--out", type=str, default=None, metavar="DIR", help="folder for masks and manifest; created if missing")
    parser.add_argument("--verify", type=str, default=None, metavar="DIR", help="only check the files of DIR by its manifest")
    parser.add_argument("--restart", action="store_true", help="label everything again instead of resuming")
    parser.add_argument("--json", action="store_true", help="print a summary for machines")
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary; failed images are still named")
    _parser.add_settings(parser, LabelSettings)
    try:
        given = _parser.parse(parser, argv)
        if given.verify is not None:
            return verify_folder(given.verify, given.json)
        _require(given)
        names = [item.name for item in dataclasses.fields(LabelSettings)]
        settings = LabelSettings.create(**{name: given[name] for name in names})
    except (_parser.UsageError, SettingsError) as error:
        return _parser.usage_failure(PROG, str(error))
    model = given.model or "efficientnet-lite0"
    return label_folder(given.images, model, given.out, settings, given.restart, given.json, given.quiet)


def _require(given: Any) -> None:
    missing = [name for name, value in (("IMAGES", given.images), ("--out", given.out)) if value is None]
    if missing:
        raise _parser.UsageError("required: " + ", ".join(missing))
    if given.model is not None and given.random_weights is not None:
        raise _parser.UsageError("--model and --random-weights are two models. Hint: give one of them")


def verify_folder(out: str, as_json: bool) -> int:
    from wsss_fast.label.verify import verify

    verdict = verify(out)
    if as_json:
        problems = [{"file": name, "problem": problem} for name, problem in verdict.problems]
        counts = {"files": verdict.files, "bad": verdict.bad, "failed_images": verdict.failed_images}
        sys.stdout.write(json.dumps({**counts, "problems": problems}) + "\n")
    else:
        for name, problem in verdict.problems:
            sys.stderr.write(f"{printable(name)}: {problem}\n")
        good = verdict.files - verdict.bad
        hint = "\nHint: remove the bad files and run the job again: it makes them anew" if verdict.bad else ""
        sys.stdout.write(f"{good} of {verdict.files} files are as written; {verdict.failed_images} images had failed{hint}\n")
    return exit_codes.ERROR if verdict.bad else exit_codes.DONE


def label_folder(
    images: str,
    model: str,
    out: str,
    settings: LabelSettings,
    restart: bool = False,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    _openmp.wait_without_spinning()
    from wsss_fast.label import pipeline

    started = time.monotonic()
    picturing = False
    values = {item.name: getattr(settings, item.name) for item in dataclasses.fields(settings)}
    with ProgressLine("labelling", hidden=quiet or as_json) as progress:

        def report(summary: Any, result: Any) -> None:
            nonlocal picturing
            if summary.pictured is not None:
                if not picturing:
                    picturing = True
                    progress.begin("making the report")
                progress.update(*summary.pictured)
                return
            progress.update(summary.labelled + summary.skipped + summary.failed, summary.total)
            if result is not None and result.status == "failed":
                progress.complain(f"{printable(result.image)}: {result.reason}")

        try:
            summary = pipeline.label(images, model, out, restart=restart, progress=report, **values)
        except SettingsError as error:
            return _parser.usage_failure(PROG, str(error))
        except KeyboardInterrupt:
            sys.stderr.write(f"{PROG}: {_running.GO_ON}\n")
            raise
    seconds = time.monotonic() - started
    if as_json:
        sys.stdout.write(json.dumps(_for_machines(summary, seconds)) + "\n")
    elif not quiet:
        sys.stdout.write(_for_people(summary, seconds))
    if summary.stopped:
        hint = "failures.jsonl tells why; a larger --max-failures goes on"
        sys.stderr.write(f"{PROG}: stopped: {summary.failed} images failed, more than --max-failures allows. Hint: {hint}\n")
        return exit_codes.STOPPED
    if summary.report_failure is not None:
        return _report_failure(summary.report_failure)
    return exit_codes.SOME_FAILED if summary.failed else exit_codes.DONE


def _report_failure(error: Exception) -> int:
    from wsss_fast.files.folder import OutputStoppedError

    sys.stderr.write(f"{PROG}: the masks are complete, the report is not: {printable(str(error) or type(error).__name__)}\n")
    return exit_codes.STOPPED if isinstance(error, OutputStoppedError) else exit_codes.ERROR


def _for_machines(summary: Any, seconds: float) -> dict[str, Any]:
    counts = {name: getattr(summary, name) for name in ("total", "labelled", "skipped", "failed", "empty", "stopped")}
    failures = [{"image": item.image, "reason": item.reason} for item in summary.failures]
    return {
        **counts,
        "seconds": round(seconds, 3),
        "out": str(summary.out),
        "manifest": str(summary.out / "manifest.jsonl"),
        "report": None if summary.report is None else str(summary.report),
        "failures": failures,
    }


def _for_people(summary: Any, seconds: float) -> str:
    parts = [f"{summary.labelled} labelled"]
    if summary.skipped:
        parts.append(f"{summary.skipped} were there already")
    if summary.failed:
        parts.append(f"{summary.failed} failed")
    place = printable(str(Path(summary.out)))
    text = f"{summary.total} images in {seconds:.1f} s: {', '.join(parts)}. Masks and manifest.jsonl: {place}\n"
    if summary.report is not None:
        text += f"Report: {printable(str(summary.report))}\n"
    if summary.empty:
        text += f"{summary.empty} without any class (all background). Hint: --present lowers the bar for a class\n"
    return text
