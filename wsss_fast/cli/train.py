"""`wsss train METHOD --data DIR --out RUN`. Torch is imported once the method is known: its settings are options."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from wsss_fast import _openmp
from wsss_fast._nearest import did_you_mean
from wsss_fast._settings import SettingsError
from wsss_fast.cli import _parser, exit_codes
from wsss_fast.cli._progress import ProgressLine
from wsss_fast.cli._running import GO_ON, Log, Stop
from wsss_fast.files.names import printable

PROG = "wsss train"
METHODS = {
    "cam": "a classifier, whose class maps are the baseline",
    "seam": "class maps refined by the likeness of pixels, the same at two scales",
    "cpn": "two complementary halves of an image show more than the image",
    "eps": "class maps that together make the saliency map",
    "l2g": "a network that sees whole images learns from one that sees crops",
    "affinitynet": "which neighbouring pixels belong together, out of class maps or masks",
    "irn": "where classes meet, out of class maps",
    "deeplab": "a segmentation network, out of masks",
}
_HELP = f"""usage: {PROG} METHOD --data DIR --out RUN [OPTIONS]

Train a method on images with image-level labels. `{PROG} METHOD --help` lists its options.

methods:
"""
_EPILOG = (
    "RUN gets model.safetensors (for `wsss label --model`), checkpoint.safetensors, losses.jsonl, settings.yaml, run.json, "
    "pictures and tensorboard. The same command goes on where an earlier one stopped. Several GPUs: torchrun --nproc-per-node N "
    f"--no-python {PROG} METHOD ... " + exit_codes.sentence()
)


def run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        width = max(len(name) for name in METHODS)
        text = _HELP + "".join(f"  {name:<{width}}  {what}\n" for name, what in METHODS.items())
        (sys.stdout if argv else sys.stderr).write(text)
        return exit_codes.DONE if argv else exit_codes.USAGE
    method, *rest = argv
    if method not in METHODS:
        hint = did_you_mean(method, METHODS, "methods are " + ", ".join(METHODS))
        return _parser.usage_failure(PROG, f"METHOD comes first, got '{printable(method)}'. Hint: {hint}")
    _openmp.wait_without_spinning()
    from wsss_fast import train

    prog = f"{PROG} {method}"
    try:
        given = _parser.parse(_new_parser(prog, method, rest), rest)
        plan = _plan(method, given)
    except (_parser.UsageError, SettingsError) as error:
        return _parser.usage_failure(prog, str(error))
    started = time.monotonic()
    speaks = os.environ.get("RANK", "0") == "0"
    quiet = given.quiet or given.json or not speaks
    with ProgressLine("looking at the data", quiet) as progress, Log(progress, quiet, speaks), Stop() as stop:
        try:
            finished = train.train(
                plan,
                given.out,
                given.restart,
                given.dry_run,
                looked=progress.update,
                report=_Report(progress),
                stop=stop,
            )
        except SettingsError as error:
            return _parser.usage_failure(prog, str(error))
    if speaks:
        _say(finished, plan, Path(given.out), time.monotonic() - started, given)
    if stop.signal is not None and finished.outcome is not None and finished.outcome.stopped:
        return stop.status
    return exit_codes.SOME_FAILED if finished.skipped else exit_codes.DONE


def _new_parser(prog: str, method: str, argv: Sequence[str]) -> Any:
    from wsss_fast import train

    parser = _parser.new_parser(prog, METHODS[method][0].upper() + METHODS[method][1:] + ".", _EPILOG)
    parser.add_argument("--out", type=str, required=True, metavar="RUN", help="folder for all that is written")
    parser.add_argument("--restart", action="store_true", help="begin again instead of going on; clears RUN")
    parser.add_argument("--dry-run", action="store_true", help="look at the data, say what would be trained, train nothing")
    parser.add_argument("--json", action="store_true", help="print a summary for machines")
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")
    _parser.add_settings(parser, train.DataSettings)
    _parser.add_settings(parser.add_argument_group("network"), train.NetworkSettings, config=False)
    settings = _network(argv).train_settings(method)
    _parser.add_settings(parser.add_argument_group("training, as published unless given"), settings, config=False)
    _parser.add_settings(parser.add_argument_group("run"), train.RunSettings, config=False)
    return parser


_AHEAD = ("published", "dataset", "backbone", "options")


def _network(argv: Sequence[str]) -> Any:
    """The network's settings, read ahead of all others: the defaults of the rest follow from them."""
    from wsss_fast.files import yaml_text
    from wsss_fast.train import NetworkSettings

    ahead = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("config", *_AHEAD):
        ahead.add_argument(f"--{name}")
    try:
        given = vars(ahead.parse_known_args(list(argv))[0])
    except argparse.ArgumentError:
        return NetworkSettings()  # the real parser says what is wrong
    values: dict[str, Any] = {}
    if given["config"]:
        try:
            loaded = yaml_text.load(Path(given["config"]).read_text(encoding="utf-8"))
            values = {name: loaded[name] for name in _AHEAD if name in loaded}
        except (OSError, TypeError, ValueError):
            pass  # as above
    values |= {name: given[name] for name in _AHEAD if given[name] is not None}
    return NetworkSettings(**{name: value for name, value in values.items() if value not in (None, "none", "null")})


def _plan(method: str, given: Any) -> Any:
    from wsss_fast import train

    def chosen(kind: Any) -> dict[str, Any]:
        return {item.name: given[item.name] for item in dataclasses.fields(kind)}

    network = train.NetworkSettings(**chosen(train.NetworkSettings))
    settings = network.train_settings(method, **chosen(network.train_settings(method)))
    return train.Plan(
        method,
        train.DataSettings(**chosen(train.DataSettings)),
        network,
        settings,
        train.RunSettings(**chosen(train.RunSettings)),
    )


class _Report:
    def __init__(self, progress: ProgressLine) -> None:
        self._progress = progress
        self._begun = False

    def __call__(self, now: Any) -> None:
        if not self._begun:
            self._begun = True
            self._progress.begin("training")
        left = timedelta(seconds=round(now.seconds_left))
        detail = f"epoch {now.epoch}, loss {now.loss:.4g}, {now.images_per_second:.3g} images/s, {left} left"
        self._progress.update(now.step, now.steps, detail)


def _say(finished: Any, plan: Any, out: Path, seconds: float, given: Any) -> None:
    outcome = finished.outcome
    if given.json:
        steps = dataclasses.asdict(outcome) if outcome else None
        answer = {"method": plan.method, "images": finished.images, "classes": finished.classes, "skipped": finished.skipped}
        sys.stdout.write(json.dumps({**answer, "outcome": steps, "seconds": round(seconds, 3), "out": str(out)}) + "\n")
        return
    for image, reason in list(finished.skipped.items())[:5]:
        sys.stderr.write(f"not read: {printable(image)}: {reason}\n")
    if given.quiet or outcome is None:
        return
    place = printable(str(out))
    if outcome.stopped:
        sys.stderr.write(f"stopped after step {outcome.step} of {outcome.steps}, which {place} keeps: {GO_ON}\n")
    elif outcome.started == outcome.step:
        sys.stdout.write(f"{outcome.step} steps were done already: {place}/model.safetensors\n")
    else:
        done = f"{plan.method}: {outcome.step - outcome.started} steps in {timedelta(seconds=round(seconds))}"
        sys.stdout.write(f"{done}. Model: {place}/model.safetensors\n")
