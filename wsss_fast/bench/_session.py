"""One benchmark run: requests to measuring processes, their answers as one document, conditions judged."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from wsss_fast import _machine
from wsss_fast.bench._definition import MARK, OURS, Case, Operation

# Large blocks come from the heap and stay there, so that a buffer of many megabytes is not fetched anew at every call.
TUNED = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=67108864"

Report = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    device: str = "cpu"
    threads: int = 1
    rounds: int = 9
    seconds: float = 60.0  # of rounds, a case
    budget: float = math.inf  # of everything, an operation; cases that begin later are skipped
    memory: bool = True
    malloc: tuple[str, ...] = ("default",)


class WorkerError(RuntimeError):
    """A measuring process ended without its answer."""


def plan(
    operation: Operation,
    device: str,
    sizes: Sequence[tuple[int, ...]] = (),
    dtypes: Sequence[str] = (),
    modes: Sequence[str] = (),
    contestants: Sequence[str] = (),
) -> list[Case]:
    sizes = sizes or (operation.cuda_sizes if device == "cuda" else operation.sizes)
    modes = modes or (("fwd", "bwd") if device == "cuda" and "bwd" in operation.modes else operation.default_modes)
    usual = ("bfloat16", "float32") if device == "cuda" else ("float32",)
    dtypes = dtypes or tuple(name for name in usual if name in operation.tolerance)
    axes = operation.axes.count("x") + 1
    for size in sizes:
        if len(size) != axes or min(size) < 1:
            raise ValueError(f"bench: a size of {operation.name} is {operation.axes}, got {'x'.join(map(str, size))}")
    for given, known, kind in ((modes, operation.modes, "mode"), (dtypes, operation.tolerance, "dtype")):
        for name in given:
            if name not in known:
                raise ValueError(f"bench: {operation.name} has no {kind} '{name}'. Hint: one of {', '.join(known)}")
    chosen = tuple(operation.chosen(device, tuple(contestants)))
    return [Case(tuple(size), mode, dtype, chosen) for dtype in dtypes for size in sizes for mode in modes]


def plan_conditions(operation: Operation) -> list[Case]:
    """The fewest cases that decide the conditions; only the peers that stand in one take part."""
    cases: dict[tuple[Any, ...], Case] = {}
    for condition in operation.conditions:
        key = (condition.size, condition.mode)
        case = cases.setdefault(key, Case(condition.size, condition.mode, "float32", (OURS,)))
        if condition.against and condition.against not in case.contestants:
            cases[key] = replace(case, contestants=(*case.contestants, condition.against))
    return list(cases.values())


def run(operation: Operation, cases: Sequence[Case], settings: Settings, report: Report) -> dict[str, Any]:
    """Measures everything and gives the document that `--json` writes."""
    cores = _machine.usable_cores()
    if settings.device == "cpu" and settings.threads > len(cores):
        raise ValueError(f"bench: {settings.threads} threads need as many cores, this process may use {len(cores)}")
    request = {
        **asdict(settings),
        "budget": min(settings.budget, 1e9),
        "operation": operation.name,
        "task": "time",
        "cases": [asdict(case) for case in cases],
        # The last cores: the first one serves most interrupts.
        "cores": cores[-settings.threads :] if settings.device == "cpu" else cores,
    }
    document: dict[str, Any] = {
        "format": 1,
        "operation": operation.name,
        "settings": {**asdict(settings), "budget": None if math.isinf(settings.budget) else settings.budget},
        "contestants": {entry.name: entry.what for entry in operation.contestants},
        "machine": {},
        "results": [],
    }
    document["settings"]["cores"] = request["cores"]
    try:
        for malloc in settings.malloc:
            for message in _work(request, malloc, settings, report):
                _note(document, operation, message, malloc)
    except WorkerError as error:
        document["failed"] = str(error)  # what was measured before it is kept
    if settings.memory and settings.device == "cpu":
        _add_memory(document, request, settings, report)
    return document


def _note(document: dict[str, Any], operation: Operation, message: dict[str, Any], malloc: str) -> None:
    if "machine" in message and not document["machine"]:
        document["machine"] = message["machine"]
    if "ceilings" in message:
        document["ceilings"] = message["ceilings"]
    if "load_average" in message:
        document["machine"]["load_average_after"] = message["load_average"]
    if "case" in message:
        document["results"].append(_result(operation, message, malloc, document.get("ceilings")))


def _add_memory(document: dict[str, Any], request: dict[str, Any], settings: Settings, report: Report) -> None:
    """A fresh process for each contestant and case; with malloc as users have it."""
    for result in document["results"]:
        if result["malloc"] != settings.malloc[0]:
            continue
        for name, entry in result["contestants"].items():
            if "failed" in entry:
                continue
            case = {**result["case"], "contestants": [name]}
            report(f"memory of {name}, {Case.of(case).text()}")
            one = {**request, "task": "memory", "cases": [case]}
            try:
                for message in _work(one, "default", settings, report):
                    if "memory" in message:
                        entry["memory_mib"], entry["memory_measured"] = message["memory"]["mib"], message["memory"]["how"]
            except WorkerError as error:
                entry["memory_measured"] = f"failed: {error}"


def _result(operation: Operation, message: dict[str, Any], malloc: str, ceilings: dict[str, float] | None) -> dict[str, Any]:
    case = Case.of(message["case"])
    result: dict[str, Any] = {"case": asdict(case), "malloc": malloc}
    if "skipped" in message:
        return {**result, "skipped": message["skipped"], "contestants": {}}
    work = operation.work(case.size, case.mode, case.dtype)
    result |= {"flop": work.flop, "bytes": work.bytes, "rounds": message["rounds"], "other_load": message["other_load"]}
    if ceilings:
        arithmetic = work.flop * work.tensor_products / ceilings["tensor_flop_per_second"]
        result["floor_ms"] = 1e3 * max(arithmetic, work.bytes / ceilings["bytes_per_second"])
    contestants = message["results"]
    for name, sample in message["samples"].items():
        entry = contestants[name]
        entry["note"], entry["page_faults"] = sample["note"], sample["faults"]
        entry["times"] = {kind: _summary(seconds) for kind, seconds in sample["seconds"].items()}
        entry["gflop_per_second"] = work.flop / 1e6 / min(times["median_ms"] for times in entry["times"].values())
    ours = contestants.get(OURS, {}).get("times", {})
    for name, entry in contestants.items():
        if name != OURS and "times" in entry and ours:
            entry["ours_is_faster"] = {kind: _ratio(times, ours[kind]) for kind, times in entry["times"].items() if kind in ours}
    return {**result, "contestants": contestants}


def _summary(seconds: Sequence[float]) -> dict[str, Any]:
    each = [1e3 * value for value in seconds]
    return {"median_ms": statistics.median(each), "min_ms": min(each), "max_ms": max(each), "each_ms": each}


def _ratio(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, float]:
    each = [a / b for a, b in zip(theirs["each_ms"], ours["each_ms"], strict=True)]
    return {
        "median_of_rounds": statistics.median(each),
        "worst_round": min(each),
        "of_medians": theirs["median_ms"] / ours["median_ms"],
        "of_minima": theirs["min_ms"] / ours["min_ms"],
    }


def judge(operation: Operation, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every condition with what was measured; those on time once for each setting of malloc, which only the default decides."""
    contestants = {
        (tuple(result["case"]["size"]), result["case"]["mode"], result["malloc"]): result["contestants"]
        for result in document["results"]
    }
    keys = {
        "memory": "memory_mib",
        "share of memory": "memory_mib",
        "error": "error",
        "gradient error": "gradient_error",
    }
    rows = []
    for condition in operation.conditions:
        timed = condition.measure == "ratio"
        for malloc in document["settings"]["malloc"] if timed else document["settings"]["malloc"][:1]:
            entry = contestants.get((condition.size, condition.mode, malloc), {}).get(condition.against or OURS, {})
            ratio = entry.get("ours_is_faster", {}).get("call", {}).get("median_of_rounds")
            measured = ratio if timed else entry.get(keys[condition.measure])
            if condition.measure == "share of memory":
                own = contestants.get((condition.size, condition.mode, malloc), {}).get(OURS, {}).get("memory_mib")
                measured = own / measured if own is not None and measured else None
            row = {"condition": condition.text(), "measure": condition.measure, "bound": condition.bound, "measured": measured}
            decides = condition.decides and (malloc == "default" or not timed)
            rows.append({**row, "malloc": malloc, "holds": condition.holds(measured), "decides": decides})
    return rows


def _work(request: dict[str, Any], malloc: str, settings: Settings, report: Report) -> Iterator[dict[str, Any]]:
    threads = str(settings.threads)
    environment = {
        **os.environ,
        # The child must find the package that runs here, also when that is a source folder put on the path by hand.
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
    }
    environment.pop(_machine.MALLOC_TUNABLES, None)
    if malloc == "tuned":
        environment[_machine.MALLOC_TUNABLES] = TUNED
    command = [sys.executable, "-m", "wsss_fast.bench._worker"]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True, env=environment
        ) as child,
    ):
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps(request))
            child.stdin.close()
            for line in child.stdout:
                if not line.startswith(MARK):
                    continue  # what a library prints
                message = json.loads(line.removeprefix(MARK))
                if "doing" in message:
                    report(message["doing"])
                else:
                    yield message
            status = child.wait()
        except BaseException:
            child.kill()
            raise
        if status != 0:
            complaints.seek(0)
            said = complaints.read().strip().splitlines() or [f"exit status {status}"]
            raise WorkerError(f"bench: the measuring process failed: {said[-1]}")
