"""Every method on the synthetic world, from one starting point: how good are its class maps?

    python benchmarks/scenes.py --out FOLDER [--jobs 2] [--json FILE]

1. The world (`wsss demo scenes`, frozen settings) is written to FOLDER/world.
2. A narrow ResNet38 is trained on crops of single objects, nothing frozen: the starting point of all methods, FOLDER/start.
3. Each method is trained from it with three seeds. A seed changes the head and the order of images, nothing else.
4. Class maps are inferred with the image-level labels; the constant background score is chosen on the training images and used
   on the test images as it is.

A cell (method, seed) that is done is not computed again. Cells run in `--jobs` processes of one thread each. Nothing here is
tuned for a method: settings are the published ones scaled from 448 to 96 pixels, and the same number of epochs for all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from wsss_fast.recipes.small import OWN, SCALES, SHARED, START, WIDTHS, WORLD, write_world

METHODS = ("cam", "seam", "cpn", "eps", "l2g")
SEEDS = (0, 1, 2)
WIDTH = WIDTHS["resnet38"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None, help="where the table goes, with the machine's description")
    parser.add_argument("--cell", default=None, help="METHOD:SEED, one cell in this process")
    parser.add_argument("--pretrain", action="store_true", help="the starting point alone, as one of several processes")
    given = parser.parse_args()
    if given.cell:
        method, seed = given.cell.split(":")
        cell(given.out, method, int(seed))
        return 0
    if given.pretrain:
        train_start(given.out)
        return 0
    started = time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    write_world(given.out / "world")
    if not (given.out / "start" / "model.safetensors").exists():
        together = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={given.jobs}"]
        subprocess.run([*together, __file__, "--out", str(given.out), "--pretrain"], check=True)
    cells = [f"{method}:{seed}" for seed in SEEDS for method in METHODS]
    failed = run_cells(given.out, cells, given.jobs)
    table = collect(given.out)
    told = {"minutes_this_run": round((time.monotonic() - started) / 60, 1), **description(given.out), "methods": table}
    if given.json:
        given.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(as_text(table) + "\n")
    return 1 if failed else 0


def train_start(out: Path) -> None:
    """The shared starting point: a classifier of single objects."""
    import torch

    torch.set_num_threads(1)
    fit("cam", out / "world" / "Crops", "folders", None, out / "start", seed=0, changes=START, init=None)


def fit(
    method: str, data: Path, kind: str, split: str | None, out: Path, seed: int, changes: dict[str, Any], init: Path | None
) -> None:
    from wsss_fast import methods
    from wsss_fast.train.job import Plan, train
    from wsss_fast.train.settings import DataSettings, NetworkSettings, RunSettings

    saliency = data / "SaliencyMaps"
    plan = Plan(
        method,
        DataSettings(data=str(data), kind=kind, split=split, saliency=str(saliency) if saliency.is_dir() else None),
        NetworkSettings(init=str(init) if init else None, options=f"width={WIDTH}"),
        methods.settings(method, **changes),
        RunSettings(device="cpu", workers=0, seed=seed, tensorboard=False, pictures="0", checkpoint_every="2 epochs"),
    )
    train(plan, out)


def run_cells(out: Path, cells: list[str], jobs: int) -> bool:
    """Two processes of one thread do more than one process of two."""
    waiting = [name for name in cells if not result_path(out, *name.split(":")).exists()]
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed = False
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop(0)
            running[name] = subprocess.Popen([sys.executable, __file__, "--out", str(out), "--cell", name])
        for name, process in list(running.items()):
            if process.poll() is not None:
                del running[name]
                failed |= process.returncode != 0
                sys.stderr.write(f"{name}: {'done' if process.returncode == 0 else 'FAILED'}, {len(waiting)} to go\n")
        time.sleep(0.5)
    return failed


def cell(out: Path, method: str, seed: int) -> None:
    import torch

    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    started = time.monotonic()
    run = out / f"{method}-{seed}"
    fit(method, out / "world", "voc", "train", run, seed, {**SHARED, **OWN[method]}, out / "start" / "model.safetensors")
    trained = time.monotonic()
    result = measure(run / "model.safetensors", out / "world")
    seconds = {"training": round(trained - started), "inference": round(time.monotonic() - trained)}
    told = {"method": method, "seed": seed, **result, "seconds": seconds}
    result_path(out, method, str(seed)).write_text(json.dumps(told), encoding="utf-8")


def measure(model_path: Path, world: Path) -> dict[str, Any]:
    """mIoU of the class maps; the threshold is chosen on the training images."""
    from wsss_fast.methods import checkpoint

    model = checkpoint.load(model_path)
    train, test = (curve(model, world, split) for split in ("train", "test"))
    best = train.best()
    return {
        "threshold": best / 100,
        "train_miou": float(train.miou()[best]),
        "test_miou": float(test.miou()[best]),
        "test_miou_at_its_own_best": float(test.miou().max()),
        "test_iou": [float(value) for value in test.iou()[best]],
    }


def curve(model: Any, world: Path, split: str) -> Any:
    import numpy as np
    import torch

    from wsss_fast import methods
    from wsss_fast.data import open_dataset
    from wsss_fast.evaluate import Curve, read_mask
    from wsss_fast.files.images import read_image
    from wsss_fast.files.limits import MAX_BYTES, MAX_PIXELS

    dataset = open_dataset(world, kind="voc", split=split)
    found = Curve(["background", *dataset.classes])
    for name in dataset.ids:
        pixels = read_image(dataset.image_path(name), MAX_PIXELS, MAX_BYTES, "ignore").pixels
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
        present = torch.as_tensor(dataset.labels(name) > 0.5)
        maps = methods.infer_cam(model, image, scales=SCALES, flip=False, present=present[None])[0]
        chosen = present.nonzero()[:, 0]
        found.add(chosen.numpy(), maps[chosen].numpy(), read_mask(dataset.mask_path(name)), name)
    return found


def result_path(out: Path, method: str, seed: str) -> Path:
    return out / f"{method}-{seed}.json"


def collect(out: Path) -> dict[str, Any]:
    import statistics

    table: dict[str, Any] = {}
    for method in METHODS:
        paths = [result_path(out, method, str(seed)) for seed in SEEDS]
        cells = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
        if not cells:
            continue
        row: dict[str, Any] = {"seeds": len(cells)}
        for name in ("train_miou", "test_miou", "test_miou_at_its_own_best", "threshold"):
            values = [one[name] for one in cells]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            row[name] = {"mean": round(statistics.mean(values), 4), "stdev": round(spread, 4)}
        row["cells"] = cells
        table[method] = row
    return table


def description(out: Path) -> dict[str, Any]:
    from wsss_fast import _machine
    from wsss_fast.data import scenes

    start = (out / "start" / "model.safetensors").read_bytes()
    return {
        "machine": _machine.describe("cpu"),
        "world_sha256": scenes.SceneSettings().digest(),
        "start_sha256": hashlib.sha256(start).hexdigest(),
        "images": WORLD,
        "width": WIDTH,
        "scales": SCALES,
        "settings": {"shared": SHARED, "own": {method: OWN[method] for method in METHODS}, "start": START},
    }


def as_text(table: dict[str, Any]) -> str:
    lines = ["| method | seeds | train mIoU | test mIoU | background score |", "|---|---|---|---|---|"]
    for method, row in table.items():
        percent = {
            name: f"{100 * row[name]['mean']:.1f} ± {100 * row[name]['stdev']:.1f}" for name in ("train_miou", "test_miou")
        }
        lines.append(
            f"| {method} | {row['seeds']} | {percent['train_miou']} | {percent['test_miou']} | {row['threshold']['mean']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
