"""What tests of `wsss run` share: narrow trainings, a recipe of two stages, runs without workers."""

from __future__ import annotations

import json
from pathlib import Path

from wsss_fast import recipes
from wsss_fast.recipes.run import Options, Result, run

NARROW = {"crop": 32, "sizes": [20, 40], "batch": 2, "epochs": 1, "freeze": False}
TRAIN = {"kind": "train", "options": {"width": 0.02}, "settings": NARROW}
TWO = {
    "title": "maps",
    "dataset": "voc",
    "stages": [
        {"name": "cam", "method": "cam", **TRAIN},
        {"name": "maps", "kind": "maps", "model": "cam", "settings": {"scales": [1]}},
    ],
}
OPTIONS = Options(workers=0, pictures="0")


def go(data: Path, out: Path, values=TWO, **more) -> Result:
    return run(recipes.schema.parse(values, "mine"), data, out, **{"init": "none", "options": OPTIONS, **more})


def stage(out: Path, name: str) -> Path:
    return next(out.glob(f"[0-9][0-9]-{name}"))


def edited(change) -> dict:
    """The two stages with a change of their list."""
    values = json.loads(json.dumps(TWO))
    change(values["stages"])
    return values
