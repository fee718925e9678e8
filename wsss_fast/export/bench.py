"""How fast an engine is, beside the network in PyTorch: both in turn, so that a disturbance hits both.

One sample is one image batch of uint8 pixels on the engine's device to maps on it, one scale. `wsss bench export_ort` measures
ONNX Runtime in a process of its own, and checks the results; this is for any engine and any size.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wsss_fast.export.engine import Engine
from wsss_fast.export.verify import Eager

PERCENTILES = (50, 90, 99)


def bench(
    engine: Engine,
    shape: tuple[int, int, int] = (1, 448, 448),
    model: nn.Module | None = None,
    rounds: int = 30,
    seconds: float = 60.0,
) -> dict[str, Any]:
    """Latency percentiles and images a second.

    Args:
        shape: batch, height, width.
        model: the network, to be measured too: eager, and on CUDA also compiled by torch.compile.
        rounds: samples of each; fewer, but at least 5, when they take longer than `seconds`.
    """
    calls: dict[str, Callable[[], object]] = {engine.identity["engine"]: _call(engine, shape)}
    if model is not None:
        eager = Eager(model, engine.device, exact=False)
        calls["eager"] = _call(eager, shape)
        if engine.device.type == "cuda":
            compiled = Eager(model, engine.device, exact=False)
            compiled._model.forward_cam = torch.compile(compiled._model.forward_cam)
            calls["torch.compile"] = _call(compiled, shape)
    for call in calls.values():
        for _ in range(3):
            call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    started = time.monotonic()
    for done in range(1, rounds + 1):
        for name, call in calls.items():
            before = time.perf_counter()
            call()
            samples[name].append(time.perf_counter() - before)
        if done >= 5 and time.monotonic() - started > seconds:
            break
    measured = {name: _figures(values, shape[0]) for name, values in samples.items()}
    own = samples[engine.identity["engine"]]
    for name, values in samples.items():
        if values is not own:
            measured[name]["engine_is_faster"] = statistics.median(b / a for a, b in zip(own, values, strict=True))
    return {"shape": list(shape), "device": engine.device.type, "identity": engine.identity, "measured": measured}


def _call(engine: Engine, shape: tuple[int, int, int]) -> Callable[[], object]:
    n, h, w = shape
    pixels = torch.randint(0, 256, (n, 3, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(engine.device)

    def run() -> Tensor | tuple[Tensor, ...]:
        with torch.inference_mode():
            out = engine.forward_cam(engine.normalise(pixels))
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        return out

    return run


def _figures(seconds: list[float], images: int) -> dict[str, float]:
    ordered = sorted(seconds)
    told = {f"p{p}_ms": 1e3 * ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in PERCENTILES}
    return {"samples": len(ordered), **told, "images_per_second": images / statistics.median(ordered)}


def as_text(told: dict[str, Any]) -> str:
    shape = "x".join(map(str, told["shape"]))
    lines = [f"{shape} on {told['device']}"]
    for name, figures in told["measured"].items():
        times = "  ".join(f"p{p} {figures[f'p{p}_ms']:.2f} ms" for p in PERCENTILES)
        faster = f"  (the engine is {figures['engine_is_faster']:.2f} times as fast)" if "engine_is_faster" in figures else ""
        lines.append(f"{name:14} {times}  {figures['images_per_second']:.1f} images/s{faster}")
    return "\n".join(lines) + "\n"
