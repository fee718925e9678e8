"""Labelling against the published way, on the same images and weights, in one run.

    python benchmarks/label.py [--images 16] [--threads 2] [--engine ort] [--json FILE]
    python benchmarks/label.py --device cuda --network resnet38 --images 2000 --published 40

The published way is what the scripts of PSA, SEAM and IRN do: one image after the other, the network as PyTorch runs it, all
classes enlarged and added in NumPy, the walk by eight squarings of a dense matrix (t = 256), pydensecrf in a pool of processes,
PNG. Both get the image-level labels, two of twenty classes; four scales and their mirror images, 500 x 375; random weights.
On a CPU ours runs the exported network by ONNX Runtime, the fastest of the engines there, or `--engine torch`; neither way's time
holds loading and exporting. On a GPU both compute in the network's float32, and the dense walk of the published way runs there
too. Needs the extras `peers` and `export`. Times are of a machine that does nothing else, or they mean nothing; the processor
time, which is told beside them, suffers less from others.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from PIL import Image

import wsss_fast
from wsss_fast import _machine, methods, ops
from wsss_fast.bench.dense_crf import photo
from wsss_fast.bench.random_walk import pairs
from wsss_fast.export.engine import load_engine
from wsss_fast.label import decode, formats, job, network, refine, walk

HEIGHT, WIDTH, CLASSES, PRESENT = 375, 500, 20, (3, 11)
ALPHA, BETA, SQUARINGS = 16.0, 8.0, 8
CASES = {"cam": {}, "cam, walk and CRF": {"walk": "image", "walk_steps": 256, "crf": True}}
LEAST = {"cam": 2.0, "cam, walk and CRF": 4.0}
MOST_BESIDE_PREDICT = 0.25


class Stages:
    """Seconds that threads spend in each stage, the ones inside others not counted twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            with self.span(name):
                return function(*arguments, **options)

        return run

    @contextlib.contextmanager
    def span(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[name] += time.perf_counter() - started


@contextlib.contextmanager
def watched(stages: Stages) -> Iterator[None]:
    places = [
        (decode, "_picture", "wait for the decoder"),
        (network.NetworkModel, "predict", "predict"),
        (refine, "_merge", "merge"),
        (walk.ImageWalk, "spread", "walk"),
        (refine, "_crf", "crf"),
        (refine, "_largest", "largest"),
        (formats, "encode", "encode"),
        (job.OutputFolder, "write", "write"),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, stage in places:
        setattr(owner, name, stages.timed(stage, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def ours(images: Path, labels: Path, model: Any, out: Path, settings: dict[str, Any]) -> tuple[float, dict[str, float]]:
    stages, settings = Stages(), {"alpha": ALPHA, **settings} if "walk" in settings else settings
    with watched(stages):
        started = time.perf_counter()
        summary = wsss_fast.label(images, model, out, labels=str(labels), **settings)
        seconds = time.perf_counter() - started
    assert summary.labelled == summary.total, summary.failures
    return seconds, dict(stages.seconds)


def crf_of(probability: np.ndarray, image: np.ndarray) -> np.ndarray:
    import pydensecrf.densecrf as densecrf
    from pydensecrf.utils import unary_from_softmax

    labels, height, width = probability.shape
    field = densecrf.DenseCRF2D(width, height, labels)
    field.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probability)))
    field.addPairwiseGaussian(sxy=3, compat=3)
    field.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.ascontiguousarray(image), compat=10)
    return np.array(field.inference(10)).reshape(labels, height, width)


def published_maps(model: torch.nn.Module, image: np.ndarray, device: str) -> np.ndarray:
    added = np.zeros((CLASSES, HEIGHT, WIDTH), np.float32)
    with torch.no_grad():
        for scale in model.scales:
            small = Image.fromarray(image).resize((round(WIDTH * scale), round(HEIGHT * scale)), Image.Resampling.BICUBIC)
            x = model.normalise(torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].to(device))
            for mirrored in (False, True):
                cam = model.forward_cam(x.flip(3) if mirrored else x)
                full = torch.nn.functional.interpolate(cam, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)[0]
                added += full.cpu().numpy()[:, :, ::-1] if mirrored else full.cpu().numpy()
    added[added < 0] = 0
    maps = added / (added.max(axis=(1, 2), keepdims=True) + 1e-5)
    absent = [index for index in range(CLASSES) if index not in PRESENT]
    maps[absent] = 0
    return maps


def published_walk(rows: torch.Tensor, image: np.ndarray) -> torch.Tensor:
    """Rows [1, 21, H, W]; the affinities are ours, so that both walk on the same graph."""
    grid = walk.grid_of(rows, walk.STRIDE)
    picture = torch.from_numpy(image).permute(2, 0, 1)[None].to(rows.device).float() / 255
    edges = walk.image_edges(torch.nn.functional.adaptive_avg_pool2d(picture, grid))
    where, values = pairs(ops.edge_affinity(edges, walk.RADIUS)[0])
    count = grid[0] * grid[1]
    dense = torch.zeros(count, count, device=rows.device).index_put_(tuple(where), values) ** BETA
    transition = dense / dense.sum(dim=0, keepdim=True)
    for _ in range(SQUARINGS):
        transition = transition @ transition
    small = torch.nn.functional.adaptive_avg_pool2d(rows, grid).flatten(2)[0]
    walked = (small @ transition).view(1, -1, *grid)
    return torch.nn.functional.interpolate(walked, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)


def published(
    paths: list[Path], model: torch.nn.Module, out: Path, settings: dict[str, Any], processes: int, device: str
) -> float:
    out.mkdir()
    chosen = [0, *(index + 1 for index in PRESENT)]

    def save(name: str, scores: np.ndarray) -> None:
        Image.fromarray(np.array(chosen, np.uint8)[scores.argmax(axis=0)]).save(out / f"{name}.png")

    started = time.perf_counter()
    waiting: list[tuple[str, Future[np.ndarray]]] = []
    with ProcessPoolExecutor(processes) as pool:
        for path in paths:
            image = np.array(Image.open(path).convert("RGB"))
            maps = published_maps(model, image, device)
            if "walk" not in settings:
                background = np.full((1, HEIGHT, WIDTH), model.threshold, np.float32)
                save(path.stem, np.concatenate([background, maps])[chosen])
                continue
            rows = torch.from_numpy(np.concatenate([(1 - maps.max(axis=0, keepdims=True)) ** ALPHA, maps]))[None].to(device)
            scores = published_walk(rows, image)[0].cpu().numpy()[chosen]
            waiting.append((path.stem, pool.submit(crf_of, scores, image)))
        for name, future in waiting:
            save(name, future.result())
    return time.perf_counter() - started


def agreement(first: Path, second: Path) -> float:
    same = [np.array(Image.open(path)) == np.array(Image.open(first / path.name)) for path in second.glob("*.png")]
    return float(np.mean(same))


@contextlib.contextmanager
def watched_gpu(device: str) -> Iterator[list[float]]:
    """Share of each half second in which the GPU was at work, by nvidia-smi; empty on a CPU."""
    shares: list[float] = []
    if device == "cpu":
        yield shares
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "500"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield shares
        finally:
            process.terminate()
            shares.extend(float(line) / 100 for line in process.communicate()[0].split())


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    torch.set_num_threads(given.threads)
    images, labels = folder / "images", folder / "labels.csv"
    images.mkdir()
    for i in range(given.images):
        Image.fromarray(photo(i, HEIGHT, WIDTH).permute(1, 2, 0).numpy()).save(images / f"{i:04d}.jpg", quality=95)
    labels.write_text("".join(f"{i:04d}.jpg,{';'.join(map(str, PRESENT))}\n" for i in range(given.images)))
    theirs = sorted(images.iterdir())[: given.published or given.images]
    torch.manual_seed(0)
    model = methods.create("cam", CLASSES, backbone=given.network).eval()
    engine = load_engine(model, given.engine, given.device)
    model = model.to(given.device)
    told = {name: getattr(given, name) for name in ("images", "published", "threads", "engine", "network")}
    results: dict[str, Any] = {**told, "machine": _machine.describe(given.device), "cases": {}}
    for number, (name, settings) in enumerate(CASES.items()):
        settings = {"device": given.device, "threads": given.threads, **settings}
        warm = folder / f"warm{number}-images"
        warm.mkdir()
        for path in theirs[:8]:
            (warm / path.name).hardlink_to(path)
        ours(warm, labels, engine, folder / f"warm{number}", settings)
        before = processor_seconds()
        with watched_gpu(given.device) as busy:
            seconds, stages = ours(images, labels, engine, folder / f"ours{number}", settings)
        between = processor_seconds()
        their_seconds = published(theirs, model, folder / f"published{number}", settings, given.threads, given.device)
        after = processor_seconds()
        own, their = seconds / given.images, their_seconds / len(theirs)
        results["cases"][name] = {
            "ours_images_per_second": 1 / own,
            "published_images_per_second": 1 / their,
            "times_faster": their / own,
            "least": LEAST[name] if given.device == "cpu" else None,
            "ours_processor_seconds_per_image": (between - before) / given.images,
            "published_processor_seconds_per_image": (after - between) / len(theirs),
            "share_beside_predict": 1 - stages["predict"] / seconds,
            "gpu_busy": float(np.mean(busy)) if busy else None,
            "stage_ms_per_image": {stage: 1000 * spent / given.images for stage, spent in stages.items()},
            "equal_pixels": agreement(folder / f"ours{number}", folder / f"published{number}"),
            "hours_for_voc_train_aug": 10582 * own / 3600,
        }
    return results


def shown(results: dict[str, Any]) -> Iterator[str]:
    told = ", ".join(f"{name} {results[name]}" for name in ("images", "threads", "engine", "network"))
    yield f"{told}, load {results['machine']['load_average']}"
    for name, case in results["cases"].items():
        asked = "" if case["least"] is None else f" (asked: {case['least']:g})"
        yield ""
        yield f"{name}: {case['times_faster']:.2f} times the published way{asked}"
        yield f"  ours {case['ours_images_per_second']:.2f}, published {case['published_images_per_second']:.2f} images/s"
        mine, theirs = case["ours_processor_seconds_per_image"], case["published_processor_seconds_per_image"]
        yield f"  processor seconds an image: ours {mine:.2f}, published {theirs:.2f}, {theirs / mine:.2f} times as many"
        yield f"  beside predict {case['share_beside_predict']:.0%} of the time (asked: below {MOST_BESIDE_PREDICT:.0%})"
        if case["gpu_busy"] is not None:
            yield f"  GPU at work {case['gpu_busy']:.0%} of the time"
        yield f"  equal pixels {case['equal_pixels']:.2%}; VOC's 10,582 images would take {case['hours_for_voc_train_aug']:.1f} h"
        yield "  ms an image: " + ", ".join(f"{stage} {ms:.1f}" for stage, ms in case["stage_ms_per_image"].items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--network", choices=("efficientnet-lite0", "resnet38"), default="efficientnet-lite0")
    parser.add_argument("--published", type=int, default=None, help="images for the published way; default all")
    parser.add_argument("--engine", choices=("ort", "torch"), default=None, help="default ort on a CPU, torch on a GPU")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    given.engine = given.engine or ("ort" if given.device == "cpu" else "torch")
    with tempfile.TemporaryDirectory() as folder:
        results = measure(given, Path(folder))
    sys.stdout.write("\n".join(shown(results)) + "\n")
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
