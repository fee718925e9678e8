"""Published rows from data set to segmentation network: `wsss run`, docs/run.md.

from wsss_fast.recipes import load
from wsss_fast.recipes.run import run

run(load("seam"), data="VOC2012", out="OUT", init={"resnet38": "resnet38.params"})     # or load("my.yaml")

Each NAME.yaml here is one published row: its stages, what differs from the published settings of each method, and the figures
of the paper. `schema` reads them, `stages` has a function for each kind of stage, `record` what makes a stage skipped, resumed
or refused, `small` how the same recipe runs on the synthetic world.
"""

from __future__ import annotations

from wsss_fast.recipes.schema import Paper, Recipe, RecipeError, Stage, load, names

__all__ = ["Paper", "Recipe", "RecipeError", "Stage", "load", "names"]
