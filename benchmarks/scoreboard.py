"""Every recipe on the synthetic world: its masks before and after the walk, after a CRF, and its segmentation network.

    python benchmarks/scoreboard.py --out FOLDER [--jobs 2] [--json FILE] [--markdown FILE]

Each cell, a recipe with a seed, is `wsss run RECIPE --data scenes --seed N` (docs/run.md; the numbers are in
wsss_fast/recipes/small.py) with one stage more, a CRF behind the pseudo labels. Cells share the world, the starting points and
all stages that are made of the same inputs with the same settings, FOLDER/shared. A cell that is done is not run again, one that
was stopped goes on with its stage. The cells of a seed run one after the other, `--jobs` seeds at a time, each process with one
thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RECIPES = ("cam_rw", "seam", "cpn_superpixel", "cpn_grid", "eps", "eps_affinitynet", "l2g", "l2g_nosaliency", "irn", "dcp")
SEEDS = (0, 1, 2)
COLUMNS = {
    "maps": "class maps",
    "pseudo": "pseudo labels",
    "crf": "after a CRF",
    "segmentation": "segmentation, test",
    "maps_single": "maps, one class",
    "pseudo_single": "pseudo labels, one class",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--markdown", type=Path, default=None)
    parser.add_argument("--part", default=None, help="starts, or one seed, in this process")
    given = parser.parse_args()
    if given.part is not None:
        part(given)
        return 0
    started = time.monotonic()
    (given.out / "cells").mkdir(parents=True, exist_ok=True)
    waiting = [seed for seed in given.seeds if any(not cell(given.out, name, seed).exists() for name in given.recipes)]
    failed = bool(waiting) and run_parts(given, ["starts"])
    failed = failed or run_parts(given, [str(seed) for seed in waiting])
    table = collect(given)
    if given.json is not None:
        told = {"minutes_this_run": round((time.monotonic() - started) / 60, 1), **about(), "recipes": table}
        given.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    text = as_markdown(table)
    if given.markdown is not None:
        given.markdown.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 1 if failed else 0


def cell(out: Path, name: str, seed: int) -> Path:
    return out / "cells" / f"{name}-{seed}.json"


def run_parts(given: argparse.Namespace, parts: list[str]) -> bool:
    """Whether one of them failed; the others are run all the same."""
    command = [sys.executable, __file__, "--out", str(given.out), "--recipes", *given.recipes]
    waiting, running, failed = list(parts), {}, False
    while waiting or running:
        while waiting and len(running) < given.jobs:
            name = waiting.pop(0)
            running[name] = subprocess.Popen([*command, "--part", name])
        for name, process in list(running.items()):
            if process.poll() is not None:
                del running[name]
                failed |= process.returncode != 0
        time.sleep(0.5)
    return failed


def part(given: argparse.Namespace) -> None:
    import torch

    from wsss_fast.recipes import load

    torch.set_num_threads(1)
    for name in given.recipes:
        recipe = load(name)
        if given.part == "starts":
            run_cell(given.out, recipe, 0, only=[stage.name for stage in smalls(recipe) if stage.data is not None])
            continue
        path = cell(given.out, name, int(given.part))
        if path.exists():
            continue
        result = run_cell(given.out, recipe, int(given.part))
        from wsss_fast.recipes import report

        told = {"recipe": name, "seed": int(given.part), **figures(result), "stages": report.as_json(result.rows)}
        path.with_suffix(".part").write_text(json.dumps(told), encoding="utf-8")
        path.with_suffix(".part").replace(path)
        sys.stderr.write(f"{path.stem}: " + ", ".join(f"{key} {told[key]:.1f}" for key in COLUMNS if told[key]) + "\n")


def smalls(recipe: Any) -> Any:
    from wsss_fast.recipes.small import small

    return small(recipe).stages


def run_cell(out: Path, recipe: Any, seed: int, only: Any = ()) -> Any:
    from wsss_fast.recipes.run import Options, run

    where = out / "runs" / f"{recipe.name}-{seed}"
    return run(with_crf(recipe), "scenes", where, options=Options(seed, workers=0), only=only, shared=out / "shared")


def with_crf(recipe: Any) -> Any:
    """A CRF on what the pseudo labels are made of: the scores of the walk, else the maps. Masks that walked have no scores."""
    from wsss_fast.recipes import Stage

    source = pseudo(recipe)
    if source.kind == "walk" and "maps" in source.inputs:
        inputs = {"scores": source.name}
    elif source.kind == "masks" and "maps" in source.inputs:
        inputs = {"maps": source.inputs["maps"]}
    else:
        return recipe
    place = recipe.place(source.name) + 1
    refined = Stage(name="refined", kind="crf", inputs=inputs, split="train", judge="judge")
    return dataclasses.replace(recipe, stages=(*recipe.stages[:place], refined, *recipe.stages[place:]))


def pseudo(recipe: Any) -> Any:
    """The masks that the first segmentation network learns from."""
    return recipe.stage(next(stage for stage in recipe.stages if stage.method == "deeplab").inputs["masks"])


def figures(result: Any) -> dict[str, Any]:
    reached = {row.stage: row.miou for row in result.rows}
    names = {"maps": "maps", "pseudo": pseudo(result.recipe).name, "crf": "refined", "segmentation": "predictions"}
    names |= {"maps_single": "maps-single", "pseudo_single": "masks-single"}
    return {key: reached.get(name) for key, name in names.items()} | {"seconds": round(sum(row.seconds for row in result.rows))}


def collect(given: argparse.Namespace) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name in given.recipes:
        paths = [path for seed in given.seeds if (path := cell(given.out, name, seed)).exists()]
        cells = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        if not cells:
            continue
        row: dict[str, Any] = {"seeds": len(cells)}
        for key in COLUMNS:
            values = [one[key] for one in cells if one[key] is not None]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            row[key] = {"mean": round(statistics.mean(values), 2), "stdev": round(spread, 2)} if values else None
        table[name] = {**row, "cells": cells}
    return table


def about() -> dict[str, Any]:
    from wsss_fast import _machine
    from wsss_fast.data import scenes
    from wsss_fast.recipes import small

    settings = {"shared": small.SHARED, "own": small.OWN, "start": small.START, "widths": small.WIDTHS, "scales": small.SCALES}
    settings |= {"radius": small.RADIUS, "walk_steps_times": round(small.STEPS, 4), "of_dcp": [small.GENERIC, small.LAYERS]}
    return {
        "machine": _machine.describe("cpu"),
        "world_sha256": scenes.SceneSettings().digest(),
        **small.WORLD,
        "settings": settings,
    }


def as_markdown(table: dict[str, Any]) -> str:
    lines = [f"| recipe | seeds | {' | '.join(COLUMNS.values())} |", "|---" * (2 + len(COLUMNS)) + "|"]
    for name, row in table.items():
        found = ["" if row[key] is None else f"{row[key]['mean']:.1f} ± {row[key]['stdev']:.1f}" for key in COLUMNS]
        lines.append(f"| {name} | {row['seeds']} | {' | '.join(found)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
