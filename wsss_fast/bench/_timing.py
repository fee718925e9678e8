"""Clocks. One sample is the time of one call; contestants take turns, so that a disturbance hits all of them."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

Call = Callable[[], object]

_SHORT = 0.01  # CPU samples shorter than this repeat the call
_REPEATS = 20  # calls in a CUDA sample
_LEAST_ROUNDS = 3


@dataclass
class Samples:
    """Seconds a call, a list a kind of measurement: "call"; on CUDA also "graph" and "cold"."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    faults: list[float] = field(default_factory=list)
    note: str = ""

    def add(self, kind: str, seconds: float) -> None:
        self.seconds.setdefault(kind, []).append(seconds)


class CpuClock:
    """Wall time, and the page faults that a call takes: memory fetched anew from the system is not free."""

    def __init__(self, calls: Mapping[str, Call]) -> None:
        self.calls = calls
        self.samples = {name: Samples() for name in calls}
        self._repeats = {}
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            self._repeats[name] = max(1, round(_SHORT / max(time.perf_counter() - started, 1e-7)))

    def round(self) -> None:
        for name, call in self.calls.items():
            repeats = self._repeats[name]
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            started = time.perf_counter()
            for _ in range(repeats):
                call()
            self.samples[name].add("call", (time.perf_counter() - started) / repeats)
            self.samples[name].faults.append((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / repeats)


class CudaClock:
    """CUDA events around three things: 20 calls from Python ("call"); the same 20 replayed as one CUDA graph, inputs in the L2
    cache ("graph"); and a graph of one call after the L2 cache was flushed ("cold").

    Runs on the current stream, which must not be the default one: graphs cannot be captured there.
    """

    def __init__(self, calls: Mapping[str, Call]) -> None:
        self.calls = calls
        self.samples = {name: Samples() for name in calls}
        cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or 64 << 20
        self._flush = torch.empty(4 * cache, dtype=torch.uint8, device="cuda")
        self._graphs: dict[str, tuple[Any, Any]] = {}
        for name, call in calls.items():
            for _ in range(3):
                call()
            torch.cuda.synchronize()
            try:
                self._graphs[name] = (_capture(call, _REPEATS), _capture(call, 1))
            except Exception as error:
                torch.cuda.synchronize()
                self.samples[name].note = f"no CUDA graph: {_one_line(error)}"

    def round(self) -> None:
        for name, call in self.calls.items():
            sample = self.samples[name]
            sample.add("call", _between_events(call, _REPEATS) / _REPEATS)
            if name in self._graphs:
                many, one = self._graphs[name]
                many.replay()
                sample.add("graph", _between_events(many.replay, 1) / _REPEATS)
                # The flush keeps the device busy while the host enqueues events and graph: no launch gap is timed.
                sample.add("cold", _between_events(one.replay, 1, before=self._flush.zero_))


def _capture(call: Call, repeats: int) -> Any:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        for _ in range(repeats):
            call()
    graph.replay()
    torch.cuda.synchronize()
    return graph


def _between_events(call: Call, repeats: int, before: Call | None = None) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    if before is not None:
        before()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def ceilings() -> dict[str, float]:
    """What this device reaches: bytes a second of a large copy (read + written), FLOP a second of a large bf16 product."""
    source = torch.empty(1 << 31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    answer = {}
    for name, amount, call in (
        ("bytes_per_second", 2.0 * source.numel(), lambda: target.copy_(source)),
        ("tensor_flop_per_second", 2.0 * 8192**3, lambda: a @ b),
    ):
        for _ in range(3):
            call()
        answer[name] = amount / statistics.median(_between_events(call, 1) for _ in range(11))
    return answer


def run_rounds(clock: CpuClock | CudaClock, rounds: int, seconds: float) -> int:
    """Rounds done: as many as asked for, fewer (but at least 3) when they take longer than `seconds`."""
    started = time.perf_counter()
    for done in range(1, rounds + 1):
        clock.round()
        if done >= _LEAST_ROUNDS and time.perf_counter() - started > seconds:
            return done
    return rounds


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
