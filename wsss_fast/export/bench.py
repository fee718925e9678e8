"""How fast an engine is, beside the network in PyTorch: both in turn, so that a disturbance hits both.

One sample is one image batch of uint8 pixels on the engine's device to maps on it, one scale. `wsss bench export_ort` measures
ONNX Runtime in a process of its own, and checks the results; this is for any engine and any size.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wsss_fast.export.engine import PRECISIONS, Engine
from wsss_fast.export.verify import Eager

PERCENTILES = (50, 90, 99)
WARM_UP = 3
NOT_CAPTURED = ("ort",)  # ONNX Runtime keeps to the stream that its session was made with


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
        model: the network, to be measured too: eager, and on CUDA also compiled by torch.compile, both in the engine's precision
            (int8: fp16).
        rounds: samples of each; fewer, but at least 5, when they take longer than `seconds`.
    """
    on_cuda = engine.device.type == "cuda"
    name = engine.identity["engine"]
    calls: dict[str, Callable[[], object]] = {name: _call(engine, shape)}
    if on_cuda and name not in NOT_CAPTURED:
        calls[f"{name}, CUDA graph"] = _call(engine, shape, captured=True)
    if model is not None:
        eager = _Beside(model, engine)
        calls["eager"] = _call(eager, shape)
        if on_cuda:
            compiled = _Beside(model, engine)
            compiled._model.forward_cam = torch.compile(compiled._model.forward_cam)
            calls["torch.compile"] = _call(compiled, shape)
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    started = time.monotonic()
    for done in range(1, rounds + 1):
        for title, call in calls.items():
            before = time.perf_counter()
            call()
            samples[title].append(time.perf_counter() - before)
        if done >= 5 and time.monotonic() - started > seconds:
            break
    measured = {title: _figures(values, shape[0]) for title, values in samples.items()}
    own = samples[name]
    for title, values in samples.items():
        if values is not own:
            measured[title]["engine_is_faster"] = statistics.median(b / a for a, b in zip(own, values, strict=True))
    return {"shape": list(shape), "device": engine.device.type, "identity": engine.identity, "measured": measured}


class _Beside(Eager):
    """The network in PyTorch, on an engine's device and, on CUDA, in its precision."""

    def __init__(self, model: nn.Module, engine: Engine) -> None:
        self._type = torch.float32
        if engine.device.type == "cuda":
            self._type = PRECISIONS.get(engine.meta.precision, torch.float16)
        super().__init__(copy.deepcopy(model).to(self._type), engine.device, exact=False)

    def _run(self, image: Tensor) -> tuple[Tensor, ...]:
        return super()._run(image.to(self._type))


def _call(engine: Engine, shape: tuple[int, int, int], captured: bool = False) -> Callable[[], object]:
    n, h, w = shape
    pixels = torch.randint(0, 256, (n, 3, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(engine.device)
    forward = _captured(engine, engine.normalise(pixels)) if captured else engine.forward_cam

    def run() -> Tensor | tuple[Tensor, ...]:
        with torch.inference_mode():
            out = forward(engine.normalise(pixels))
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        return out

    return run


def _captured(engine: Engine, image: Tensor) -> Callable[[Tensor], Tensor | tuple[Tensor, ...]]:
    """The engine's kernels for images of one shape, recorded once as a CUDA graph and then started together."""
    aside = torch.cuda.Stream(engine.device)
    aside.wait_stream(torch.cuda.current_stream(engine.device))
    with torch.cuda.stream(aside), torch.inference_mode():
        for _ in range(WARM_UP):  # what is done once, such as choosing algorithms, cannot be recorded
            engine.forward_cam(image)
    torch.cuda.current_stream(engine.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.inference_mode():
        out = engine.forward_cam(image)

    def replay(fresh: Tensor) -> Tensor | tuple[Tensor, ...]:
        image.copy_(fresh)
        graph.replay()
        return out

    return replay


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
        lines.append(f"{name:18} {times}  {figures['images_per_second']:.1f} images/s{faster}")
    return "\n".join(lines) + "\n"
