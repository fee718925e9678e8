"""How a recipe becomes small: the one place for the numbers of runs on the synthetic world (docs/scenes.md).

Nothing here is tuned for a recipe. Lengths in pixels are the published ones times 96 / 448: the radius of pairs, and the steps of
walks, whose length goes with the root of their number. Networks are narrow, all methods learn for the same number of epochs
(those that learn pairs for one more) with the same rates (segmentation networks, whose heads are deep, with a quarter).
Constants that were published for full networks are chosen on the training images: a background of class maps; what was published
beside one keeps its ratio. In place of ImageNet's weights the narrow networks start from one that was trained on crops of single
objects. DCP's classifier, a ResNet-101, becomes EfficientNet-Lite0 with ImageNet's weights: DCP rests on generic features, which
cannot be learned from eight classes alone.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsss_fast.recipes.schema import Recipe, Stage, check
from wsss_fast.recipes.settings import BEST

WORLD = {"train": 1000, "test": 300, "crops": 4000, "seed": 0}
IMAGES = WORLD["train"] + WORLD["test"] + WORLD["crops"]
SPLITS = {"train": "train", "judge": "train", "test": "test"}
SAVED = "SaliencyMaps"
CROPS = "Crops"
CROP = 96
EPOCHS = 3
PUBLISHED_STEPS = 256  # of walks that do not say theirs
STEPS = (CROP / 448) ** 2  # of walks, in place of each published one
IRN_BACKGROUND = 0.15  # at which IRN judges the class maps that its thresholds are for
GENERIC = "efficientnet-lite0"
GENERIC_SETTINGS = {"freeze": True}  # the normalisation of ImageNet stays, as ResNet-101's does
LAYERS = {"layer4.0": "_blocks.11"}  # the first block of the last stage
RADIUS = 2  # of pairs and walks, in cells: the published 5 and 10 come to 1 and 2, and 1 has no neighbours
SCALES = (1.0, 1.5)  # at which networks are inferred, without mirror images
WIDTHS = {"resnet38": 0.125, "resnet50": 0.25}

# What all methods share. Momentum makes up for few steps: 190 in place of the published 10,000 and more.
SHARED: dict[str, Any] = {
    "resize": "long",
    "sizes": (96.0, 128.0),
    "crop": CROP,
    "epochs": EPOCHS,
    "batch": 16,
    "lr": 0.02,
    "new_rate": 2.0,
    "weight_decay": 1e-4,
    "jitter": (0.1, 0.1, 0.1, 0.02),
    "freeze": False,
    "momentum": 0.9,
    "schedule": "poly",
    "power": 0.9,
    "shuffle": True,
}
# SEAM's smaller view keeps a grid worth comparing: 6 x 6 in place of 4 x 4.
OWN: dict[str, dict[str, Any]] = {
    "cam": {},
    "seam": {"second_scale": 0.5},
    "cpn": {"segments": (60,), "grid": (12, 24)},
    "eps": {},
    "l2g": {"nesterov": False},
    "affinitynet": {"resize": "none", "epochs": 4},
    "irn": {"resize": "scale", "sizes": (0.75, 1.25), "epochs": 4, "radius": RADIUS},
    "deeplab": {"resize": "scale", "sizes": (0.75, 1.25), "size_choices": (), "accumulate": 1, "rate_every": 1, "lr": 0.005},
}
# kept from the recipe, because they make the method what it is
KEPT = {"shape", "patches", "tau", "lam", "binary_background", "weight", "threshold"}
START: dict[str, Any] = {**SHARED, "sizes": (56.0, 80.0), "crop": 64, "epochs": 15, "batch": 32, "lr": 0.05}
CRF: dict[str, Any] = {"iterations": 10, "gaussian": (1.0, 3.0), "bilateral": (17.0, 13.0, 10.0)}


def small(recipe: Recipe) -> Recipe:
    """The same stages on the synthetic world, with the trainings of the starting points before them."""
    stages = tuple(_small(recipe, stage) for stage in recipe.stages)
    backbones = sorted({stage.backbone for stage in stages if stage.kind == "train"} & WIDTHS.keys())
    starts = tuple(start(backbone) for backbone in backbones)
    made = replace(recipe, stages=(*starts, *stages), **SPLITS)
    check(made)
    return made


def start(backbone: str) -> Stage:
    return Stage(
        name=f"start-{backbone}",
        kind="train",
        method="cam",
        backbone=backbone,
        options={"width": WIDTHS[backbone]},
        data=CROPS,
        settings=START,
        seed=0,  # one starting point for all seeds
        split="train",
        judge="none",
    )


def is_written(folder: Path) -> bool:
    return (folder / "world.json").is_file()


def write_world(folder: Path, progress: Any = None, **changes: int) -> None:
    """The world, unless it is there already."""
    from wsss_fast.data import scenes

    if not is_written(folder):
        scenes.write(folder, **{**WORLD, **changes}, progress=progress)


def _small(recipe: Recipe, stage: Stage) -> Stage:
    if stage.kind == "train":
        return _small_training(stage)
    settings = dict(stage.settings)
    if stage.kind == "maps" and settings.get("sizes") != "irn":
        settings |= {"scales": SCALES, "flip": False}
    if stage.kind in ("pair_labels", "segment") or (stage.kind == "masks" and "patterns" in stage.inputs):
        settings["crf"] = settings.get("crf") if settings.get("crf") is False else CRF
    if stage.kind == "crf":
        settings |= CRF
    if stage.kind == "patterns":
        settings["layer"] = LAYERS[settings["layer"]]
    if "threshold" in settings:
        settings["threshold"] = BEST
    if stage.kind == "segment":  # all networks are trained, and so tested, in the same way
        settings = {"crf": settings["crf"], "scales": SCALES, "flip": False}
    if stage.kind == "walk":
        settings |= _small_walk(recipe, stage)
    if stage.kind == "pair_labels":
        settings["beside"] = _beside(recipe, settings)
    return replace(stage, settings=settings, split=_split(stage.split), judge=_split(stage.judge))


def _small_walk(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    settings: dict[str, Any] = {"steps": max(round(STEPS * stage.settings.get("steps", PUBLISHED_STEPS)), 1)}
    if recipe.stage(stage.inputs["model"]).method == "irn":
        settings["radius"] = RADIUS
    elif "maps" in stage.inputs:
        settings["alpha"] = BEST
    return settings


def _beside(recipe: Recipe, settings: dict[str, Any]) -> float:
    """The exponent of the background that the recipe walks with, which its labels of pairs were published beside."""
    if settings.get("style") == "thresholds":
        return math.log(IRN_BACKGROUND) / math.log(1 - IRN_BACKGROUND)
    return next(float(stage.settings.get("alpha", 16.0)) for stage in recipe.stages if stage.kind == "walk")


def _small_training(stage: Stage) -> Stage:
    backbone = small_backbone(stage.method, stage.backbone)
    settings = {name: value for name, value in stage.settings.items() if name in KEPT}
    settings |= {**SHARED, **OWN[stage.method]}
    inputs: dict[str, str] = dict(stage.inputs)
    options: dict[str, Any] = {}
    if backbone == GENERIC:
        settings |= GENERIC_SETTINGS
    else:
        inputs.setdefault("init", f"start-{backbone}")
        options["width"] = WIDTHS[backbone]
    if stage.method == "deeplab":
        options["head"] = "largefov"
    if stage.method == "affinitynet":
        options["radius"] = RADIUS
    if stage.settings.get("patches") == "grid":
        settings["patches"] = "grid"
    return replace(
        stage, backbone=backbone, options=options, settings=settings, inputs=inputs, split=_split(stage.split), judge="none"
    )


def small_backbone(method: str | None, backbone: str | None) -> str:
    """Of classifiers ResNet-50 and ResNet-101 have stand-ins of their own, all other networks are narrow ResNet38s."""
    if method == "cam" and backbone == "resnet101":
        return GENERIC
    return "resnet50" if method == "irn" or (method == "cam" and backbone == "resnet50") else "resnet38"


def _split(name: str) -> str:
    """Lists by name are those of real data sets; the world has two."""
    return name if name in (*SPLITS, "none") else "judge"
