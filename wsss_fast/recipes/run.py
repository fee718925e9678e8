"""A recipe from its data set to its table: everything is looked at first, then stage after stage runs.

A stage that is done is skipped, one that was stopped goes on, and one whose inputs or settings are no longer those it was made
with is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wsss_fast import methods
from wsss_fast._settings import SettingsError, plain
from wsss_fast.data import Dataset
from wsss_fast.data.fingerprint import fingerprint
from wsss_fast.data.verify import verify
from wsss_fast.files.folder import OutputFolder
from wsss_fast.files.names import printable
from wsss_fast.files.png import MAX_CLASSES
from wsss_fast.files.whole import file_sha256
from wsss_fast.nets import efficientnet
from wsss_fast.recipes import record, report, small, stages
from wsss_fast.recipes.schema import Recipe, RecipeError, Stage
from wsss_fast.recipes.settings import BEST
from wsss_fast.recipes.work import Data, Options, StoppedError, Work
from wsss_fast.train import Plan, initial

SCENES = "scenes"
WORLD = "world"
REPORT = "report.md"
RANDOM = "none"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    recipe: Recipe
    rows: list[report.Row]
    stopped: str | None = None  # the stage that was asked to stop; the same call goes on with it


@dataclass(frozen=True)
class Told:
    """What a run says as it goes on. `stop` is asked at every image and step."""

    progress: Callable[..., None] = lambda what, done, total, detail="": None
    stage: Callable[[report.Row], None] = lambda row: None
    stop: Callable[[], bool] = lambda: False


def run(
    recipe: Recipe,
    data: str | Path,
    out: str | Path,
    *,
    init: Mapping[str, str] | str | None = None,
    labels: str | None = None,
    saliency: str | None = None,
    options: Options | None = None,
    only: Sequence[str] = (),
    start_from: str | None = None,
    dry_run: bool = False,
    shared: Path | None = None,
    told: Told | None = None,
) -> Result:
    """Runs the stages of a recipe that are not done yet.

    Args:
        recipe: of `load`.
        data: the data set, or "scenes": the synthetic world, and the recipe made small (`small`).
        out: folder for all stages, each in one of its own, and for the report.
        init: weights to start trainings from, by backbone, or one file for all; "none" for random ones.
        labels, saliency: of `data.open_dataset`.
        only: names of stages; the others must be done or are left alone.
        start_from: a stage; what it and later ones made is removed once all inputs were looked at.
        dry_run: look at everything, run nothing.
        shared: a folder in which runs share stages: one that another recipe made of the same inputs is not made again.

    Raises:
        RecipeError, DataError, SettingsError: what is wrong, and what to do about it; nothing was begun then.
    """
    out, told, options = Path(out), told or Told(), options or Options()
    scenes = str(data) == SCENES
    recipe = small.small(recipe) if scenes else recipe
    for name in (*only, *([start_from] if start_from else [])):
        recipe.place(name)  # complains of a name that is not there
    if scenes:
        data = out / WORLD if shared is None else shared / WORLD
        saliency = saliency or str(data / small.SAVED)
        options = dataclasses.replace(options, pictures="0")
        init = {small.GENERIC: initial.BUILT_IN} if init is None else init
    with contextlib.ExitStack() as stack:
        if not dry_run or out.exists():  # a dry run makes no folder
            folder = OutputFolder(out, "run")
            stack.callback(folder.close)
            if not folder.lock():
                raise RecipeError(
                    f"run: another run is writing to {printable(str(out))}. Hint: wait for it, or give another --out"
                )
        runner = _Runner(recipe, Data(Path(data), labels, saliency), out, init, options, shared, told)
        if scenes and not small.is_written(Path(data)):
            runner.look_at_weights()
            if dry_run:
                log.info("the synthetic world is not there yet: a run writes its %d images first", small.IMAGES)
                return Result(recipe, [])
            small.write_world(Path(data), lambda done, total: told.progress("the synthetic world", done, total))
        anew = recipe.stages[recipe.place(start_from) :] if start_from is not None else ()
        runner.look(only, anew)
        if dry_run:
            return Result(recipe, runner.rows())
        for stage in anew:  # now that all they need is there
            record.clear(runner.folders[stage.name])
        stopped = runner.go(only)
        about = {"data": printable(Path(data).name), "seed": options.seed, "precision": options.precision}
        folder.write(REPORT, report.as_markdown(recipe, runner.rows(), about).encode())
        return Result(recipe, runner.rows(), stopped)


class _Runner:
    def __init__(
        self,
        recipe: Recipe,
        data: Data,
        out: Path,
        init: Mapping[str, str] | str | None,
        options: Options,
        shared: Path | None,
        told: Told,
    ) -> None:
        self.recipe, self.data, self.out, self.options, self.shared, self.told = recipe, data, out, options, shared, told
        self.init = init
        self.done: dict[str, record.Done] = {}
        self._rows: dict[str, report.Row] = {}
        self.folders: dict[str, Path] = {}
        self._prints: dict[Any, dict[str, Any]] = {}
        self._verified: set[Any] = set()
        for number, stage in enumerate(recipe.stages, 1):
            earlier = sorted(out.glob(f"[0-9][0-9]-{stage.name}"))
            self.folders[stage.name] = earlier[0] if earlier else out / f"{number:02d}-{stage.name}"

    def rows(self) -> list[report.Row]:
        return [self._rows[stage.name] for stage in self.recipe.stages if stage.name in self._rows]

    # ---- before anything runs ----

    def look(self, only: Sequence[str], anew: Sequence[Stage]) -> None:
        """What is done must be as it was made and as it is wanted; what is to be done must have all it needs."""
        pending = []
        for stage in self.recipe.stages:
            record.refuse_link(self.folders[stage.name])
            # what depends on a stage that is still to be made cannot be compared before it is
            known = all(source in self.done for source in stage.inputs.values())
            if stage not in anew and known and self._finished(stage):
                continue
            record.refuse_foreign(self.folders[stage.name])
            if stage not in anew and record.read(self.folders[stage.name]) is not None and self.shared is None:
                missing = [source for source in stage.inputs.values() if source not in self.done]
                raise RecipeError(
                    f"run: {self.folders[stage.name].name} is done, and {', '.join(missing)}, which it was made of, is not. "
                    f"Hint: --from {missing[0]} makes both again"
                )
            if not only or stage.name in only:
                pending.append(stage)
        names = {stage.name for stage in pending}
        for stage in pending:
            lacking = [source for source in stage.inputs.values() if source not in self.done and source not in names]
            if lacking:
                raise RecipeError(f"run: stage {stage.name} needs {lacking[0]}, which is not done. Hint: --only {lacking[0]} ...")
        for number, stage in enumerate(pending, 1):
            self.told.progress("looking at the inputs", number, len(pending), stage.name)
            try:
                self._look_at(stage)
            except SettingsError as error:
                raise RecipeError(f"run: stage {stage.name}: {error}") from None

    def look_at_weights(self) -> None:
        """All that can be looked at before there are data."""
        for stage in self.recipe.stages:
            self._init(stage)

    def _finished(self, stage: Stage) -> bool:
        work = self._work(stage)
        folder = work.folder
        found, begun = record.read(folder), record.begun(folder)
        if found is None and begun is None:
            return False
        wanted = self._identity(work)
        record.check(folder, stage.name, found.identity if found else begun["identity"], wanted)
        if found is None:
            return False
        record.check_contents(folder, stage.name, found, stages.only_output(stage))
        self._note(stage, found, skipped=True)
        return True

    def _look_at(self, stage: Stage) -> None:
        work = self._work(stage)
        if stage.kind == "train":
            self._look_at_training(work)
            return
        dataset = work.dataset() if stage.kind != "eval" else None
        if dataset is not None and (key := (stage.split, "images")) not in self._verified:
            verify(dataset, progress=self._looked)
            self._verified.add(key)
        if dataset is not None and len(dataset.classes) > MAX_CLASSES:
            raise RecipeError(f"run: masks have room for {MAX_CLASSES} classes, got {len(dataset.classes)}")
        judge = work.judge()
        if judge is None and self._needs_truth(stage):
            split = self.recipe.split(stage.judge) or "the data set"
            hint = "a threshold that is a number needs none" if stage.kind == "maps" else "leave the stage out"
            raise RecipeError(f"run: stage {stage.name}: no image of {split} has a mask to measure by. Hint: {hint}")
        if judge is not None and (key := (stage.judge, "masks")) not in self._verified:
            verify(judge[0].only(judge[1]), ["mask"], progress=self._looked)
            self._verified.add(key)

    def _needs_truth(self, stage: Stage) -> bool:
        if stage.kind == "eval":
            return True
        takers = (taker.chosen() for taker, role in self.recipe.consumers(stage.name) if role == "maps")
        return any(getattr(taker, "threshold", None) == BEST and getattr(taker, "alpha", None) is None for taker in takers)

    def _look_at_training(self, work: Work) -> None:
        stage, plan = work.stage, _plan_without_inputs(work)
        dataset = self.data.opened(plan.data)
        if "init" not in stage.inputs and work.init is not None:
            initial.initialise(plan.training(len(dataset.classes)), work.init)
        wants = ["saliency"] if _wants_saliency(plan) else []
        if (key := (stage.data, stage.split, *wants)) not in self._verified:
            verify(dataset, wants, progress=self._looked)
            self._verified.add(key)

    def _looked(self, done: int, total: int) -> None:
        self.told.progress("looking at the data", done, total)

    # ---- stage after stage ----

    def go(self, only: Sequence[str]) -> str | None:
        for stage in self.recipe.stages:
            if stage.name in self.done or (only and stage.name not in only):
                continue
            if self.shared is not None and self._finished(stage):
                continue
            if not self._run(stage):
                return stage.name
        return None

    def _run(self, stage: Stage) -> bool:
        """False: it was asked to stop."""
        work = self._work(stage)
        begun = record.begun(work.folder)
        earlier = float(begun["seconds"]) if begun else 0.0
        identity = self._identity(work)
        if begun is not None:
            record.check(work.folder, stage.name, begun["identity"], identity)
        record.begin(work.folder, identity, earlier)
        log.info("%s (%s)", work.folder.name, stage.kind)
        started = time.monotonic()
        try:
            outcome = stages.FUNCTIONS[stage.kind](work)
        except BaseException as error:
            record.begin(work.folder, identity, earlier + time.monotonic() - started)
            if isinstance(error, StoppedError):
                return False
            raise
        seconds = earlier + time.monotonic() - started
        made = record.contents(work.folder, stages.only_output(stage))
        self._note(stage, record.finish(work.folder, stage.name, identity, outcome, seconds, made), skipped=False)
        return True

    def _note(self, stage: Stage, done: record.Done, skipped: bool) -> None:
        self.done[stage.name] = done
        row = report.row(self.recipe, stage, self.folders[stage.name].name, done.outcome, done.seconds, skipped)
        self._rows[stage.name] = row
        self.told.stage(row)

    def _work(self, stage: Stage) -> Work:
        work = Work(
            recipe=self.recipe,
            stage=stage,
            folder=self.folders[stage.name],
            inputs={role: self.folders[source] for role, source in stage.inputs.items()},
            outcomes={role: self.done[source].outcome for role, source in stage.inputs.items() if source in self.done},
            data=self.data,
            options=self.options,
            init=self._init(stage),
            report=lambda done, total, detail="": self.told.progress(stage.name, done, total, detail),
            stop=self.told.stop,
        )
        if self.shared is None or any(source not in self.done for source in stage.inputs.values()):
            return work
        # the same inputs and settings have the same folder, whichever recipe asks
        key = record.digest({"kind": stage.kind, **self._identity(work)})
        self.folders[stage.name] = self.shared / f"{stage.kind}-{key[:20]}"
        return dataclasses.replace(work, folder=self.folders[stage.name])

    def _init(self, stage: Stage) -> str | None:
        if stage.kind != "train":
            return None
        if "init" in stage.inputs:
            return str(self.folders[stage.inputs["init"]] / stages.MODEL)
        if stage.data is not None:
            return None  # a starting point itself
        backbone = stage.backbone or methods.backbones(stage.method)[0]
        given = self.init if isinstance(self.init, str | None) else self.init.get(backbone)
        if given is None:
            hint = f"--init {backbone}=FILE; --init none starts from random weights, which no paper does"
            raise RecipeError(
                f"run: stage {stage.name} starts from pretrained weights of {backbone}, and none are given. Hint: {hint}"
            )
        if given != RANDOM and not Path(given).is_file():
            if given != initial.BUILT_IN:
                raise RecipeError(f"run: 'init' must be a file, got {printable(given)}")
            efficientnet.weights_path()  # says what to install
        return None if given == RANDOM else given

    def _identity(self, work: Work) -> dict[str, Any]:
        """What decides what a stage makes."""
        stage = work.stage
        inputs = {role: self.done[source].contents.sha256 for role, source in stage.inputs.items()}
        told: dict[str, Any] = {"kind": stage.kind, "inputs": inputs}
        if stage.kind == "train":
            plan = _plan_without_inputs(work)
            saliency = _wants_saliency(plan)
            wants = ("saliency",) if saliency else ()
            told["data"] = self._print((stage.data, stage.split, *wants), lambda: self.data.opened(plan.data), wants)
            network = {"method": stage.method, "backbone": stage.backbone, "published": stage.published, "options": stage.options}
            settings = dataclasses.asdict(stages.train_settings(self.recipe, stage))
            told |= {"network": network, "settings": settings, "seed": work.seed, "precision": self.options.precision}
            if "init" not in stage.inputs:
                told["init"] = None if work.init is None else self._file(work.init)
            return plain(told)
        if stage.kind != "eval":
            told["data"] = self._print((stage.split, stage.kind == "segment"), work.dataset)
        told["settings"] = dataclasses.asdict(work.settings)
        if stage.kind in ("masks", "crf") and "maps" in stage.inputs and getattr(work.settings, "alpha", None) is None:
            told["settings"]["threshold"] = stages.threshold_of(work)
        if stage.kind == "walk":
            told["scores"] = any(role == "scores" for _, role in self.recipe.consumers(stage.name))
        if stage.kind == "patterns":
            told["seed"] = work.seed
        judge = work.judge()
        told["judge"] = None if judge is None else fingerprint(judge[0].only(judge[1]), ("mask",))
        return plain(told)

    def _print(self, key: Any, dataset: Callable[[], Dataset], wants: Sequence[str] = ()) -> dict[str, Any]:
        if key not in self._prints:
            self._prints[key] = fingerprint(dataset(), wants)
        return self._prints[key]

    def _file(self, path: str) -> str:
        if not Path(path).exists():
            return path  # the name of built-in weights
        if ("file", path) not in self._prints:
            self._prints["file", path] = {"sha256": file_sha256(Path(path))}
        return self._prints["file", path]["sha256"]


def _plan_without_inputs(work: Work) -> Plan:
    """Labels and masks that earlier stages are yet to make are left out: they are made for the images of the stage."""
    return stages.train_plan(dataclasses.replace(work, inputs={}))


def _wants_saliency(plan: Plan) -> bool:
    with torch.device("meta"):  # its shape alone
        return "saliency" in plan.training(1).wants
