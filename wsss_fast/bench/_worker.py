"""The measuring process. It gets a request (JSON) on standard input and writes messages, one JSON a line, to standard output.

A process of its own, so that threads, affinity and malloc are set before torch starts, and so that the memory of one contestant
is not that of another.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from wsss_fast import _machine, bench
from wsss_fast.bench import _memory, _timing
from wsss_fast.bench._definition import MARK, Case, Operation
from wsss_fast.bench._timing import Call


def main() -> None:
    request = json.load(sys.stdin)
    warnings.simplefilter("ignore")
    if request["task"] == "memory":
        send(memory=measure_memory(request))
        return
    device = request["device"]
    send(machine=_machine.describe(device))
    with _own_stream(device):
        if device == "cuda":
            send(ceilings=_timing.ceilings())
        measure_times(request)
    send(load_average=_machine.load_average())


def send(**message: Any) -> None:
    sys.stdout.write(MARK + json.dumps(message) + "\n")
    sys.stdout.flush()


def measure_times(request: Mapping[str, Any]) -> None:
    operation, device = bench.load(request["operation"]), request["device"]
    started = time.monotonic()
    prepared: dict[str, Any] = {}
    for data in request["cases"]:
        case = Case.of(data)
        if time.monotonic() - started > request["budget"]:
            send(case=data, skipped="the time budget was used up")
            continue
        send(doing=f"{case.text()}: exact result")
        problem = Problem(operation, case, device)
        _use_all_cores()
        problem.solve_exactly()
        _use(request["threads"], request["cores"])
        calls: dict[str, Call] = {}
        results: dict[str, dict[str, Any]] = {}
        for name in case.contestants:
            send(doing=f"{case.text()}: {name}, first call")
            results[name] = {}
            try:
                function = prepared.setdefault(name, operation.contestant(name).prepare())
                before = time.monotonic()
                call = problem.call(function)
                error, gradient_error = problem.errors(call())
                results[name] |= {"first_call_s": time.monotonic() - before, "error": error, "gradient_error": gradient_error}
                if not problem.agrees(error, gradient_error):
                    raise ArithmeticError(f"its result is not the exact one: error {error:.1e}, gradient {gradient_error:.1e}")
                if device == "cuda" and request["memory"]:
                    results[name]["memory_mib"] = problem.cuda_memory(call)
                calls[name] = call
            except Exception as failure:
                results[name]["failed"] = _timing._one_line(failure)
        send(doing=f"{case.text()}: {request['rounds']} rounds of {', '.join(calls)}")
        timed = _time(calls, request, device)
        del problem
        send(case=data, results=results, **timed)
        del calls
        gc.collect()


def _time(calls: Mapping[str, Call], request: Mapping[str, Any], device: str) -> dict[str, Any]:
    if not calls:
        return {"samples": {}, "rounds": 0, "other_load": None}
    gc.collect()
    # The exact result leaves a large heap behind, which would serve some contestants' matrices for nothing, by chance.
    _memory.give_back_free_memory()
    clock = _timing.CudaClock(calls) if device == "cuda" else _timing.CpuClock(calls)
    gc.collect()
    gc.disable()
    busy, own, wall = _machine.busy_seconds(request["cores"]), time.process_time(), time.monotonic()
    rounds = _timing.run_rounds(clock, request["rounds"], request["seconds"])
    own, wall = time.process_time() - own, time.monotonic() - wall
    after = _machine.busy_seconds(request["cores"])
    gc.enable()
    other = None
    if device == "cpu" and busy is not None and after is not None:
        other = max(0.0, after - busy - own) / (wall * len(request["cores"]))
    samples = {
        name: {"seconds": entry.seconds, "faults": statistics.median(entry.faults) if entry.faults else None, "note": entry.note}
        for name, entry in clock.samples.items()
    }
    return {"samples": samples, "rounds": rounds, "other_load": other}


def measure_memory(request: Mapping[str, Any]) -> dict[str, Any]:
    """MiB above inputs and outputs of one contestant in one case, in this fresh process (CPU)."""
    operation = bench.load(request["operation"])
    case = Case.of(request["cases"][0])
    (name,) = case.contestants
    problem = Problem(operation, case, "cpu")
    _use(request["threads"], request["cores"])
    call = problem.call(operation.contestant(name).prepare())
    outputs = sum(tensor.numel() * tensor.element_size() for tensor in call()) / 2**20
    growth, how = _memory.peak_growth(call)
    return {"mib": max(0.0, growth - outputs), "how": how}


class Problem:
    """Inputs of one case, its exact answer, and how a contestant is called on them."""

    def __init__(self, operation: Operation, case: Case, device: str) -> None:
        self.operation, self.case = operation, case
        self.device = device
        dtype = getattr(torch, case.dtype)
        made = operation.inputs(case.size)
        self.wanted = operation.modes[case.mode]
        # integers stay what they are
        self.inputs = {
            key: (tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)).requires_grad_(
                key in self.wanted
            )
            for key, tensor in made.items()
        }
        shape = operation.result_shape(case.size) if operation.result_shape else next(iter(made.values())).shape
        self.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
        self.exact: tuple[Tensor, ...] = ()

    def solve_exactly(self) -> None:
        inputs = {
            key: (x.detach().double() if x.is_floating_point() else x).requires_grad_(key in self.wanted)
            for key, x in self.inputs.items()
        }
        with contextlib.nullcontext() if self.wanted else torch.no_grad():
            out = self.operation.exact(*inputs.values())
        gradients = torch.autograd.grad(out, [inputs[key] for key in self.wanted], self.grad.double()) if self.wanted else ()
        self.exact = (out.detach(), *gradients)

    def call(self, function: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        """A function without arguments that gives the result and the gradients."""
        inputs, wanted = list(self.inputs.values()), [self.inputs[key] for key in self.wanted]
        if not wanted:

            def forward() -> tuple[Tensor, ...]:
                with torch.no_grad():
                    return (function(*inputs),)

            return forward
        if self.case.mode.startswith("bwd"):
            out = function(*inputs)
            return lambda: (out, *torch.autograd.grad(out, wanted, self.grad, retain_graph=True))

        def both() -> tuple[Tensor, ...]:
            out = function(*inputs)
            return (out, *torch.autograd.grad(out, wanted, self.grad))

        return both

    def errors(self, got: tuple[Tensor, ...]) -> tuple[float, float]:
        each = [
            float((a.detach().double() - b).abs().max() / b.abs().max().clamp_min(1e-300))
            for a, b in zip(got, self.exact, strict=True)
        ]
        return each[0], max(each[1:], default=0.0)

    def agrees(self, error: float, gradient_error: float) -> bool:
        out, gradient = self.operation.tolerance[self.case.dtype]
        return error <= out and gradient_error <= gradient  # NaN does not

    def cuda_memory(self, call: Callable[[], tuple[Tensor, ...]]) -> float:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        got = call()
        torch.cuda.synchronize()
        new = got[1:] if self.case.mode.startswith("bwd") else got
        outputs = sum(tensor.numel() * tensor.element_size() for tensor in new)
        return (torch.cuda.max_memory_allocated() - before - outputs) / 2**20


def _use_all_cores() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, _EVERY_CORE)
    torch.set_num_threads(len(_EVERY_CORE))


def _use(threads: int, cores: list[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


_EVERY_CORE = _machine.usable_cores()


@contextlib.contextmanager
def _own_stream(device: str) -> Iterator[None]:
    if device == "cpu":
        yield
        return
    # Backward alone is timed again and again on one kept graph; compiled functions would else give their buffers away.
    with contextlib.suppress(ImportError, AttributeError):
        from torch._functorch import config

        config.donated_buffer = False
    with torch.cuda.stream(torch.cuda.Stream()):
        yield


if __name__ == "__main__":
    main()
