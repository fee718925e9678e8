"""What a recipe is, and how one is read from YAML: docs/run.md. No torch here: recipes are listed without it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsss_fast import _settings
from wsss_fast._nearest import did_you_mean
from wsss_fast._settings import DATASETS, SettingsError
from wsss_fast.files import yaml_text
from wsss_fast.files.names import printable
from wsss_fast.recipes.settings import KINDS

SPLITS = ("train", "judge", "test")
FOLDER = Path(__file__).parent
# of a stage: the methods whose networks it takes; class maps where nothing is said
_MODELS = {"walk": ("affinitynet", "irn"), "segment": ("deeplab",), "patterns": ("cam",), "masks": ("cam",)}
_LEARN_FROM = {"affinitynet": "pairs", "irn": "pairs", "deeplab": "masks"}  # the others: image-level labels
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


class RecipeError(SettingsError):
    """A recipe that cannot be read, or does not fit together."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A published figure for what a stage gives."""

    miou: float  # per cent
    split: str  # it was measured on, in the paper's words
    source: str
    verified: bool = True  # False: reported somewhere, but not seen in the paper or its code


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    kind: str
    inputs: dict[str, str] = field(default_factory=dict)  # role → name of an earlier stage
    split: str = ""  # what it runs over: train, judge or test of the recipe, or the name of a list
    judge: str = ""  # what it is measured on, likewise; "none": not at all
    method: str | None = None  # of train, as are the next four
    backbone: str | None = None
    published: str | None = None
    options: dict[str, Any] = field(default_factory=dict)  # of the network
    data: str | None = None  # a folder of class folders inside the data set, in place of the data set
    seed: int | None = None  # in place of that of the run
    settings: dict[str, Any] = field(default_factory=dict)  # that differ from the published ones
    paper: Paper | None = None

    def chosen(self) -> Any:
        """The settings of a kind that is not `train`, with their defaults."""
        return _settings.create(f"stage {self.name}", KINDS[self.kind].settings, dict(self.settings))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str
    title: str
    dataset: str  # whose published schedules: voc or coco
    stages: tuple[Stage, ...]
    train: str | None = None  # lists of images; None: as `wsss train` takes them, VOC's train, else all
    judge: str | None = None
    test: str | None = None
    note: str = ""

    def stage(self, name: str) -> Stage:
        return self.stages[self.place(name)]

    def place(self, name: str) -> int:
        names = [stage.name for stage in self.stages]
        if name not in names:
            raise RecipeError(f"recipe {self.name}: there is no stage '{printable(name)}'{_closest(name, names)}")
        return names.index(name)

    def split(self, name: str) -> str | None:
        """The list of images that a stage means."""
        return getattr(self, name) if name in SPLITS else name

    def consumers(self, name: str) -> Iterator[tuple[Stage, str]]:
        """The stages that take what one gives, and as what."""
        return ((stage, role) for stage in self.stages for role, source in stage.inputs.items() if source == name)

    @property
    def final(self) -> Stage:
        """The last stage with a published figure, else the last of all."""
        return next((stage for stage in reversed(self.stages) if stage.paper), self.stages[-1])


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name_or_file: str | Path) -> Recipe:
    """A recipe of the package by its name, or one's own by its file."""
    text = str(name_or_file)
    if text in names():
        path = FOLDER / f"{text}.yaml"
    else:
        path = Path(name_or_file)
        if not path.is_file():
            raise RecipeError(f"recipe: there is no recipe and no file '{printable(text)}'{_closest(text, names())}")
    return parse(_read(path), path.stem)


def parse(values: Any, name: str) -> Recipe:
    """A recipe out of what its YAML says; complains of everything that does not fit together."""
    owner = f"recipe {printable(name)}"
    values = _mapping(owner, values)
    _check_names(owner, [item.name for item in dataclasses.fields(Recipe) if item.name != "name"], values)
    for required in ("title", "dataset", "stages"):
        if required not in values:
            raise RecipeError(f"{owner}: '{required}' is missing")
    _settings.choice(owner, "dataset", values["dataset"], DATASETS)
    for key in ("title", "note", *SPLITS):
        if not isinstance(values.get(key, ""), str | None):
            _settings.fail(owner, key, "be a text", values[key])
    if not isinstance(values["stages"], list) or not values["stages"]:
        _settings.fail(owner, "stages", "be a list of stages", values["stages"])
    stages = tuple(_stage(owner, number, stage) for number, stage in enumerate(values["stages"], 1))
    recipe = Recipe(name=name, **{**values, "stages": stages})
    check(recipe)
    return recipe


def check(recipe: Recipe) -> None:
    """Every input is made earlier and is of the kind that is wanted; every setting exists."""
    made: dict[str, Stage] = {}
    for stage in recipe.stages:
        owner = f"recipe {recipe.name}, stage {stage.name}"
        if stage.name in made:
            raise RecipeError(f"{owner}: the name is taken by an earlier stage")
        kind = KINDS[stage.kind]
        for role, source in stage.inputs.items():
            if source not in made:
                later = source in (other.name for other in recipe.stages)
                hint = ". Hint: it must come earlier" if later else _closest(source, list(made))
                raise RecipeError(f"{owner}: '{role}' names '{printable(source)}', which no earlier stage is called{hint}")
            gives = KINDS[made[source].kind].gives
            if gives not in kind.takes[role]:
                wanted = " or ".join(kind.takes[role])
                raise RecipeError(f"{owner}: '{role}' must be a stage that gives {wanted}, got {source}, which gives {gives}")
        if stage.inputs.keys() not in [set(choice) for choice in kind.choices]:
            wanted = "; or ".join(", ".join(sorted(choice)) or "nothing" for choice in kind.choices)
            got = ", ".join(sorted(stage.inputs)) or "nothing"
            raise RecipeError(f"{owner}: a stage of the kind {stage.kind} takes {wanted}; got {got}")
        if kind.settings is not None:
            stage.chosen()
        _check_roles(owner, recipe, stage)
        made[stage.name] = stage


def _check_roles(owner: str, recipe: Recipe, stage: Stage) -> None:
    if stage.kind == "train":
        if stage.method is None:
            raise RecipeError(f"{owner}: 'method' is missing")
        wanted = _LEARN_FROM.get(stage.method)
        got = stage.inputs.keys() & {"pairs", "masks"}
        if got != ({wanted} if wanted else set()):
            taken = ", ".join(sorted(got)) or "no input"
            raise RecipeError(f"{owner}: {stage.method} learns from {wanted or 'image-level labels'}, got {taken}")
        source = recipe.stage(stage.inputs["pairs"]) if wanted == "pairs" else None
        if stage.method == "irn" and source.kind == "pair_labels" and source.chosen().style != "thresholds":
            raise RecipeError(f"{owner}: irn learns from an index image. Hint: style: thresholds in {source.name}")
    elif "model" in stage.inputs:
        method = recipe.stage(stage.inputs["model"]).method
        allowed = _MODELS.get(stage.kind, ("cam", "seam", "cpn", "eps", "l2g"))
        if method not in allowed:
            raise RecipeError(f"{owner}: 'model' must be of {' or '.join(allowed)}, got {method}")
        if stage.kind == "walk":
            _check_walk(owner, recipe, stage, method)


def _check_walk(owner: str, recipe: Recipe, stage: Stage, method: str) -> None:
    if method == "irn":
        if "masks" in stage.inputs:
            raise RecipeError(f"{owner}: irn walks on maps. Hint: affinitynet walks on masks")
        if recipe.stage(stage.inputs["maps"]).chosen().sizes != "irn":
            raise RecipeError(f"{owner}: irn walks on a finer grid. Hint: sizes: irn in {stage.inputs['maps']}")
    own = {"background", "radius"} if method == "irn" else {"alpha"} if "maps" in stage.inputs else set()
    strange = sorted(stage.settings.keys() - {"beta", "steps", "mode"} - own)
    if strange:
        on = f" on {'maps' if 'maps' in stage.inputs else 'masks'}" if method == "affinitynet" else ""
        raise RecipeError(f"{owner}: {', '.join(map(repr, strange))} has no place in {method}'s walk{on}")


def _stage(owner: str, number: int, values: Any) -> Stage:
    owner = f"{owner}, stage {number}"
    values = dict(_mapping(owner, values))
    for required in ("name", "kind"):
        if not isinstance(values.get(required), str):
            raise RecipeError(f"{owner}: '{required}' is missing or no text")
    if not _NAME.fullmatch(values["name"]) or len(values["name"]) > 60:
        _settings.fail(owner, "name", "be small letters, digits and hyphens", values["name"])
    owner = f"{owner} ({values['name']})"
    _settings.choice(owner, "kind", values["kind"], KINDS)
    kind = KINDS[values["kind"]]
    own = {"name", "kind", "split", "judge", "settings", "paper"}
    own |= {"method", "backbone", "published", "options", "data", "seed"} if values["kind"] == "train" else set()
    _check_names(owner, sorted(own | set(kind.takes)), values)
    inputs = {role: values.pop(role) for role in kind.takes if role in values}
    for role, source in inputs.items():
        if not isinstance(source, str):
            _settings.fail(owner, role, "name an earlier stage", source)
    for key in ("settings", "options"):
        values[key] = _mapping(f"{owner}, {key}", values.get(key) or {})
    for key in ("split", "judge", "method", "backbone", "published", "data"):
        if not isinstance(values.get(key, ""), str | None):
            _settings.fail(owner, key, "be a text", values[key])
    if values.get("seed") is not None:
        _settings.whole(owner, "seed", values["seed"], 0, 2**63 - 1)
    if values.get("data") and (Path(values["data"]).is_absolute() or ".." in Path(values["data"]).parts):
        _settings.fail(owner, "data", "lie inside the data set", values["data"])
    values.setdefault("split", "train")
    values.setdefault("judge", values["split"] if values["kind"] == "segment" else "judge")
    if values.get("paper") is not None:
        values["paper"] = _paper(owner, values["paper"])
    return Stage(inputs=inputs, **values)


def _paper(owner: str, values: Any) -> Paper:
    owner = f"{owner}, paper"
    values = _mapping(owner, values)
    _check_names(owner, [item.name for item in dataclasses.fields(Paper)], values)
    for required in ("miou", "split", "source"):
        if required not in values:
            raise RecipeError(f"{owner}: '{required}' is missing")
    _settings.number(owner, "miou", values["miou"], 0, 100)
    _settings.boolean(owner, "verified", values.get("verified", True))
    return Paper(**values)


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > 4 * yaml_text.LARGEST:  # of characters
            raise RecipeError(f"recipe: {printable(str(path))} is too large to be one")
        return yaml_text.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"recipe: cannot read {printable(str(path))}: {error.strerror}") from None
    except (yaml_text.YamlError, UnicodeError) as error:
        raise RecipeError(f"recipe: {printable(str(path))} is no YAML: {error}") from None


def _mapping(owner: str, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise RecipeError(f"{owner}: expected a mapping of names to values, got {type(values).__name__}")
    return values


def _check_names(owner: str, known: list[str], given: dict[str, Any]) -> None:
    for name in given:
        if name not in known:
            hint = _closest(name, known) or f". Hint: known are {', '.join(known)}"
            raise RecipeError(f"{owner}: unknown key '{printable(name)}'{hint}")


def _closest(name: str, known: list[str]) -> str:
    hint = did_you_mean(name, known, f"there are {', '.join(known)}" if known else "")
    return f". Hint: {hint}" if hint else ""
