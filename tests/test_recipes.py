"""Recipes: what is refused when one is read, and that those of the package fit together."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml

from wsss_fast import cli, methods, recipes
from wsss_fast._settings import SettingsError
from wsss_fast.cli import exit_codes
from wsss_fast.recipes import RecipeError, schema, small, stages
from wsss_fast.recipes.settings import KINDS

GOOD = {
    "title": "maps",
    "dataset": "voc",
    "train": "train",
    "stages": [
        {"name": "cam", "kind": "train", "method": "cam"},
        {"name": "maps", "kind": "maps", "model": "cam", "paper": {"miou": 48, "split": "train", "source": "a paper"}},
        {"name": "pairs", "kind": "pair_labels", "maps": "maps"},
        {"name": "affinity", "kind": "train", "method": "affinitynet", "pairs": "pairs"},
        {"name": "walk", "kind": "walk", "model": "affinity", "maps": "maps", "settings": {"alpha": 16}},
        {"name": "deeplab", "kind": "train", "method": "deeplab", "masks": "walk"},
        {"name": "end", "kind": "segment", "model": "deeplab", "split": "test"},
    ],
}


def changed(change) -> dict:
    values = copy.deepcopy(GOOD)
    change(values, values["stages"])
    return values


def test_a_good_one():
    recipe = schema.parse(GOOD, "good")
    assert [stage.kind for stage in recipe.stages] == ["train", "maps", "pair_labels", "train", "walk", "train", "segment"]
    assert recipe.stage("walk").inputs == {"model": "affinity", "maps": "maps"}
    assert recipe.stage("walk").chosen().given() == {"alpha": 16}
    assert (recipe.stage("maps").split, recipe.stage("maps").judge) == ("train", "judge")
    assert (recipe.stage("end").split, recipe.stage("end").judge) == ("test", "test")
    assert recipe.split("train") == "train" and recipe.split("test") is None and recipe.split("other") == "other"
    assert recipe.final.name == "maps" and recipe.final.paper.miou == 48
    assert [(stage.name, role) for stage, role in recipe.consumers("maps")] == [("pairs", "maps"), ("walk", "maps")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda top, _: top.update(titel="x"), "unknown key 'titel'. Hint: did you mean 'title'?"),
        (lambda top, _: top.pop("stages"), "'stages' is missing"),
        (lambda top, _: top.update(stages=[]), "'stages' must be a list"),
        (lambda top, _: top.update(dataset="city"), "'dataset' must be one of voc, coco"),
        (lambda top, _: top.update(train=3), "'train' must be a text"),
        (lambda _, all: all[0].pop("name"), "'name' is missing"),
        (lambda _, all: all[0].update(name="../x"), "'name' must be small letters"),
        (lambda _, all: all[0].update(kind="trian"), "did you mean 'train'?"),
        (lambda _, all: all[1].update(name="cam"), "the name is taken"),
        (lambda _, all: all[1].update(modle="cam"), "unknown key 'modle'. Hint: did you mean 'model'?"),
        (lambda _, all: all[1].update(method="cam"), "unknown key 'method'"),
        (lambda _, all: all[1].update(model="cem"), "which no earlier stage is called. Hint: did you mean 'cam'?"),
        (lambda _, all: all[1].update(model="affinity"), "must come earlier"),
        (lambda _, all: all[1].update(model=["cam"]), "'model' must name an earlier stage"),
        (lambda _, all: all[2].update(maps="cam"), "'maps' must be a stage that gives maps, got cam, which gives model"),
        (lambda _, all: all[4].pop("maps"), "takes maps, model; or masks, model; got model"),
        (lambda _, all: all[4].update(model="cam"), "'model' must be of affinitynet or irn, got cam"),
        (lambda _, all: all[6].update(model="cam"), "'model' must be of deeplab, got cam"),
        (lambda _, all: all[3].pop("pairs"), "affinitynet learns from pairs, got no input"),
        (lambda _, all: all[0].pop("method"), "'method' is missing"),
        (lambda _, all: all[3].update(method="irn"), "style: thresholds in pairs"),
        (lambda _, all: all[4].update(settings={"alhpa": 1}), "unknown setting 'alhpa'. Hint: did you mean 'alpha'?"),
        (lambda _, all: all[4].update(settings={"alpha": "x"}), "'alpha' must be a number"),
        (lambda _, all: all[2].update(settings={"crf": {"steps": 1}}), "unknown setting 'steps'"),
        (lambda _, all: all[2].update(settings={"crf": 3}), "'crf' must be a mapping"),
        (lambda _, all: all[1].update(paper={"miou": 148, "split": "a", "source": "b"}), "'miou' must be a number from 0 to 100"),
        (lambda _, all: all[1].update(paper={"miou": 48}), "paper: 'split' is missing"),
        (lambda _, all: all[0].update(seed=-1), "'seed' must be a whole number"),
        (lambda _, all: all[0].update(data="../elsewhere"), "'data' must lie inside the data set"),
        (lambda _, all: all.__setitem__(0, "cam"), "expected a mapping"),
    ],
)
def test_what_does_not_fit(change, says):
    with pytest.raises(SettingsError) as error:
        schema.parse(changed(change), "mine")
    assert says in str(error.value)


def test_irn_needs_its_maps():
    stages_of = [
        {"name": "cam", "kind": "train", "method": "cam", "backbone": "resnet50"},
        {"name": "maps", "kind": "maps", "model": "cam"},
        {"name": "pairs", "kind": "pair_labels", "maps": "maps", "settings": {"style": "thresholds"}},
        {"name": "edges", "kind": "train", "method": "irn", "pairs": "pairs"},
        {"name": "walk", "kind": "walk", "model": "edges", "maps": "maps"},
    ]
    with pytest.raises(RecipeError, match="sizes: irn in maps"):
        schema.parse({**GOOD, "stages": stages_of}, "mine")
    stages_of[1]["settings"] = {"sizes": "irn"}
    schema.parse({**GOOD, "stages": stages_of}, "mine")


@pytest.mark.parametrize(
    ("text", "says"), [("a: [", "is no YAML"), ("- 1", "expected a mapping"), ("!!python/object:os.x {}", "is no YAML")]
)
def test_files_that_are_no_recipe(tmp_path, text, says):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError, match=says):
        recipes.load(tmp_path / "mine.yaml")


def test_names_and_files(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'seam'"):
        recipes.load("seem")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GOOD))
    assert recipes.load(tmp_path / "mine.yaml") == schema.parse(GOOD, "mine")


# ---- those of the package --------------------------------------------------------------------------------------------------

SHIPPED = recipes.names()


def test_every_published_row_is_there():
    voc = {"cam_rw", "seam", "cpn_grid", "cpn_superpixel", "eps", "eps_affinitynet", "l2g", "l2g_nosaliency", "irn", "dcp"}
    assert set(SHIPPED) == voc | {"eps_coco", "l2g_coco", "dcp_coco"}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped(name):
    """Every method, backbone, option and setting exists, also when the recipe is made small."""
    recipe = recipes.load(name)
    assert recipe.stages[-1].kind == "segment" and recipe.stages[-2].method == "deeplab"
    for one in (recipe, small.small(recipe)):
        for stage in one.stages:
            if stage.kind != "train":
                assert KINDS[stage.kind].settings is type(stage.chosen())
                continue
            settings = stages.train_settings(one, stage)
            with torch.device("meta"):
                step = methods.training(stage.method, 3, stage.backbone, stage.published, settings, **stage.options)
            assert step.model.backbone_name == stage.backbone
            assert set(step.wants) <= {"saliency", "segments", "mask", "affinity"}
    assert recipe.final.paper is not None and recipe.final.paper.source


# mIoU in per cent as published; last the figures that were reported somewhere and not seen
FIGURES = {
    "cam_rw": {"maps": 47.7, "walk": 61.0, "predictions": 61.7},
    "seam": {"maps": 55.4, "walk": 63.6, "predictions": 64.5},
    "cpn_grid": {"maps": 57.1},
    "cpn_superpixel": {"maps": 57.4, "walk": 67.8, "predictions": 67.8},
    "eps": {"masks": 69.4, "predictions": 70.9},
    "eps_affinitynet": {"masks": 69.4, "predictions": 71.4},
    "eps_coco": {"masks": 37.15, "predictions": 35.7},
    "l2g": {"masks": 71.9, "masks-aug": 70.3, "predictions": 72.1},
    "l2g_nosaliency": {"maps": 56.2, "masks-aug": 56.8, "predictions": 54.9},
    "l2g_coco": {"predictions": 44.2},
    "irn": {"maps": 48.3, "walk": 66.5, "predictions": 63.5},
    "dcp": {"first-predictions": 60.3, "predictions": 64.5},
    "dcp_coco": {"predictions": 29.9},
}
NOT_VERIFIED = {("irn", "maps"), ("eps_coco", "predictions")}


def test_figures_of_the_papers():
    papers = {name: {stage.name: stage.paper for stage in recipes.load(name).stages if stage.paper} for name in SHIPPED}
    assert {name: {stage: paper.miou for stage, paper in all.items()} for name, all in papers.items()} == FIGURES
    assert {(name, stage) for name, all in papers.items() for stage, paper in all.items() if not paper.verified} == NOT_VERIFIED
    assert {paper.split for all in papers.values() for paper in all.values()} <= {
        "train",
        "train_aug",
        "val",
        "train2014",
        "val2014",
        "val2017",
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_small(name):
    """Narrow networks that begin at a common start, the world's lists, thresholds chosen on its images."""
    recipe = small.small(recipes.load(name))
    trained = [stage for stage in recipe.stages if stage.kind == "train"]
    starts = [stage for stage in trained if stage.data is not None]
    assert starts == list(recipe.stages[: len(starts)]) and 1 <= len(starts) <= 2
    for stage in trained:
        if stage not in starts:
            assert stages.train_settings(recipe, stage).crop == small.CROP
        if stage.backbone == small.GENERIC:  # DCP's classifier, which begins at ImageNet's weights
            assert name.startswith("dcp") and "init" not in stage.inputs and stage.options == {}
            continue
        assert stage.options["width"] == small.WIDTHS[stage.backbone] <= 0.25
        assert stage in starts or stage.inputs["init"] == f"start-{stage.backbone}"
    assert {recipe.split(stage.split) for stage in recipe.stages} <= {"train", "test"}
    assert all(stage.chosen().threshold == "best" for stage in recipe.stages if stage.kind == "masks" and "maps" in stage.inputs)


def test_settings_that_make_a_method_what_it_is_stay():
    settings = {
        name: stages.train_settings(made, made.stages[1]) for name in SHIPPED for made in [small.small(recipes.load(name))]
    }
    assert settings["cpn_grid"].patches == "grid" and settings["cpn_superpixel"].patches == "superpixels"
    assert settings["l2g"].shape and not settings["l2g_nosaliency"].shape


@pytest.mark.parametrize("name", ["dcp", "dcp_coco"])
def test_dcp_is_trained_and_tested_as_published(name):
    recipe = recipes.load(name)
    assert recipe.stage("patterns").chosen().images == {"dcp": 800, "dcp_coco": 2000}[name]
    for stage in (recipe.stage("deeplab"), recipe.stage("again")):
        chosen = stages.train_settings(recipe, stage)
        assert (chosen.optimiser, chosen.lr, chosen.lr * chosen.new_rate, chosen.loss) == ("adam", 5e-6, 1e-4, "grid")
        assert (chosen.resize, chosen.sizes, chosen.crop) == ("squash", (328.0, 328.0), 328)
        assert (chosen.batch, chosen.epochs, chosen.schedule, chosen.decay_epochs) == (16, 20, "step", ())
    for stage in ("first-masks", "first-predictions", "predictions"):
        chosen = recipe.stage(stage).chosen()
        assert (chosen.squares, chosen.reduce, chosen.crf) == ((241, 328, 401), "mean", None)
    assert recipe.stage("again").inputs == {"masks": "first-masks"}  # from scratch, on what the first network finds


def test_small_deeplabs_are_alike():
    """What a recipe says about DeepLab is for full networks: on scenes all are trained and tested in one way."""
    told = set()
    for name in SHIPPED:
        made = small.small(recipes.load(name))
        for stage in made.stages:
            if stage.method == "deeplab":
                told.add(stages.train_settings(made, stage))
            elif stage.kind == "segment":
                told.add(stage.chosen())
    assert len(told) == 2


def test_the_list(capsys):
    assert cli.main(["run", "--list"]) == exit_codes.DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == SHIPPED
    assert "64.5 on val" in next(line for line in lines if line.startswith("seam")) and "not verified" in "".join(lines)
    assert cli.main(["run", "--list", "--json"]) == exit_codes.DONE
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["irn"]["paper"] == {"miou": 63.5, "split": "val", "verified": True}


def test_the_list_needs_no_torch():
    program = "import sys; from wsss_fast import cli; cli.main(['run', '--list']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60).returncode == 0


def test_backgrounds_move_to_the_best_constant_of_the_maps() -> None:
    assert stages.exponent_of(0.5) == pytest.approx(1)
    for alpha in (1.5, 4.0, 16.0, 24.0):
        threshold = stages.threshold_at(alpha)
        assert (1 - threshold) ** alpha == pytest.approx(threshold, abs=0.05)
    made = small.small(recipes.load("seam"))
    pairs, walk = (next(stage for stage in made.stages if stage.kind == kind) for kind in ("pair_labels", "walk"))
    assert pairs.settings["alphas"] == [4, 24] and pairs.settings["beside"] == 6
    assert walk.settings == {"alpha": "best", "steps": 3}
    made = small.small(recipes.load("irn"))
    pairs, walk = (next(stage for stage in made.stages if stage.kind == kind) for kind in ("pair_labels", "walk"))
    assert pairs.settings["beside"] == pytest.approx(11.67, abs=0.01) and walk.settings == {"radius": 2, "steps": 12}
    assert stages.train_settings(made, made.stage("edges")).radius == 2 == made.stage("walk").chosen().radius
    assert small.small(recipes.load("cam_rw")).stage("affinity").options["radius"] == 2


def test_a_walk_takes_only_its_own_settings() -> None:
    for name, wrong in (("irn", "alpha"), ("cam_rw", "radius"), ("cam_rw", "background"), ("eps_affinitynet", "alpha")):
        recipe = recipes.load(name)
        changed = [replace(stage, settings={wrong: 3}) if stage.kind == "walk" else stage for stage in recipe.stages]
        with pytest.raises(RecipeError, match=f"'{wrong}' has no place in (irn|affinitynet)'s walk"):
            schema.check(replace(recipe, stages=tuple(changed)))
