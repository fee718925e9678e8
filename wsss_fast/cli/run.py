"""`wsss run NAME|FILE --data DIR --out DIR`. Recipes are listed without torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsss_fast import _openmp
from wsss_fast._settings import SettingsError
from wsss_fast.cli import _parser, exit_codes
from wsss_fast.cli._progress import ProgressLine
from wsss_fast.cli._running import GO_ON, Log, Stop
from wsss_fast.files.names import printable

PROG = "wsss run"
_EPILOG = (
    "OUT gets a folder a stage and report.md. The same command goes on where an earlier one stopped; what was made with other "
    "inputs or settings is refused. --data scenes runs the recipe small on a synthetic data set. `wsss run --list` shows the "
    "recipes; docs/run.md tells how to write one. " + exit_codes.sentence(0, 1, 2, 4, 130, 143)
)


def run(argv: Sequence[str]) -> int:
    try:
        given = _parser.parse(_new_parser(), argv)
        if given.list:
            return _list(given.json)
        _require(given)
        from wsss_fast.recipes import load

        recipe = load(given.recipe)
        init = _init(given.init)
    except (_parser.UsageError, SettingsError) as error:
        return _parser.usage_failure(PROG, str(error))
    _openmp.wait_without_spinning()
    from wsss_fast.recipes.run import Options, Told
    from wsss_fast.recipes.run import run as run_recipe

    quiet = given.quiet or given.json
    with ProgressLine("looking", quiet) as progress, Log(progress, quiet), Stop() as stop:
        told = Told(_Progress(progress), lambda row: None if quiet else _say_stage(progress, row), stop)
        result = run_recipe(
            recipe,
            given.data,
            given.out,
            init=init,
            labels=given.labels,
            saliency=given.saliency,
            options=Options(given.seed, given.precision, given.device, given.workers),
            only=[name for item in given.only for name in _parser.names(item)],
            start_from=given.start_from,
            dry_run=given.dry_run,
            told=told,
        )
    _say(result, given)
    return exit_codes.DONE if result.stopped is None else stop.status


def _new_parser() -> Any:
    parser = _parser.new_parser(PROG, "Run a published row, from image-level labels to a segmentation network.", _EPILOG)
    add = parser.add_argument
    add("recipe", type=str, nargs="?", metavar="NAME|FILE", help="a recipe of `wsss run --list`, or a YAML file")
    add("--data", type=str, default=None, metavar="DIR", help="the data set; scenes: a synthetic one, and everything small")
    add("--out", type=str, default=None, metavar="DIR", help="folder for all stages and the report")
    add(
        "--init",
        type=str,
        default=[],
        nargs="+",
        metavar="BACKBONE=FILE",
        help="pretrained weights for each backbone, or one FILE for all; none: random weights",
    )
    add("--saliency", type=str, default=None, metavar="DIR", help="folder of saliency maps, ID.png (EPS, L2G)")
    add("--labels", type=str, default=None, metavar="FILE", help="image-level labels, if not those of the data set")
    add("--seed", type=int, default=0, metavar="N", help="of weights, order, cuts and dropout (default 0)")
    add("--precision", type=str, default="fp32", metavar="NAME", help="of trainings: fp32, bf16 or fp16 (default fp32)")
    add("--device", type=str, default="auto", metavar="NAME", help="auto, cpu or cuda")
    add("--workers", type=int, default=2, metavar="N", help="processes that read images for a training (default 2)")
    add("--only", type=str, default=[], nargs="+", metavar="STAGE", help="run these stages alone")
    add("--from", dest="start_from", type=str, default=None, metavar="STAGE", help="make this stage and what follows again")
    add("--list", action="store_true", help="show the recipes")
    add("--dry-run", action="store_true", help="look at all inputs and say what would be done")
    add("--json", action="store_true", help="print the result for machines")
    add("--quiet", action="store_true", help="no progress, no table")
    return parser


def _require(given: Any) -> None:
    missing = [name for name, value in (("NAME", given.recipe), ("--data", given.data), ("--out", given.out)) if value is None]
    if missing:
        raise _parser.UsageError("required: " + ", ".join(missing))


def _init(given: Sequence[str]) -> dict[str, str] | str | None:
    """One file for all, or one a backbone."""
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    files = {}
    for item in given:
        backbone, sign, file = item.partition("=")
        if not sign or not file or backbone in files:
            raise _parser.UsageError(f"--init must be FILE, or BACKBONE=FILE with each backbone once, got '{printable(item)}'")
        files[backbone] = file
    return files or None


def _list(as_json: bool) -> int:
    from wsss_fast.recipes import load, names

    recipes = [load(name) for name in names()]
    if as_json:
        rows = []
        for recipe in recipes:
            paper = recipe.final.paper
            figure = None if paper is None else {"miou": paper.miou, "split": paper.split, "verified": paper.verified}
            stages = [{"name": stage.name, "kind": stage.kind} for stage in recipe.stages]
            rows.append(
                {"name": recipe.name, "title": recipe.title, "dataset": recipe.dataset, "stages": stages, "paper": figure}
            )
        sys.stdout.write(json.dumps(rows) + "\n")
        return exit_codes.DONE
    table = [("recipe", "data", "the paper's last figure", "stages")]
    for recipe in recipes:
        paper = recipe.final.paper
        figure = "" if paper is None else f"{paper.miou:.1f} on {paper.split}{'' if paper.verified else ', not verified'}"
        table.append((recipe.name, recipe.dataset, figure, " ".join(stage.name for stage in recipe.stages)))
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    sys.stdout.write("".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() + "\n" for row in table))
    return exit_codes.DONE


class _Progress:
    """What is going on, counted anew for each thing."""

    def __init__(self, progress: ProgressLine) -> None:
        self._progress, self._what = progress, ""

    def __call__(self, what: str, done: int, total: int, detail: str = "") -> None:
        if what != self._what:
            self._what = what
            self._progress.begin(what)
        self._progress.update(done, total, detail)


def _say_stage(progress: ProgressLine, row: Any) -> None:
    reached = "" if row.miou is None else f", mIoU {row.miou:.1f} on {row.on}"
    paper = "" if row.paper is None else f" (paper: {row.paper:.1f} on {row.paper_on})"
    done = "was done already" if row.skipped else f"done in {row.seconds:.0f} s"
    progress.complain(f"{row.folder}: {done}{reached}{paper}")


def _say(result: Any, given: Any) -> None:
    from wsss_fast.recipes import report

    if given.json:
        told = {"recipe": result.recipe.name, "stages": report.as_json(result.rows), "stopped": result.stopped}
        sys.stdout.write(json.dumps({**told, "out": str(given.out), "dry_run": given.dry_run}) + "\n")
        return
    place = printable(str(Path(given.out)))
    if result.stopped is not None:
        sys.stderr.write(f"{PROG}: stopped in stage {result.stopped}: {GO_ON}\n")
    elif given.dry_run:
        done = {row.stage for row in result.rows}
        for stage in result.recipe.stages:
            sys.stdout.write(f"{stage.name}: {stage.kind}, {'done' if stage.name in done else 'to do'}\n")
    elif not given.quiet:
        sys.stdout.write(report.as_text(result.rows) + f"\n{place}/report.md has this table with its sources\n")
