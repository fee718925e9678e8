"""`wsss bench`: ours against named peers, in turn, in one run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsss_fast.cli import _parser, _terminal, exit_codes
from wsss_fast.files.whole import whole_file

PROG = "wsss bench"

_EPILOG = "`wsss bench pcm --conditions` says what the project promises about pcm and whether it holds here (exit status 1: not)."


def run(argv: Sequence[str]) -> int:
    parser = _parser.new_parser(PROG, "Measure operations against their peers: in turn, in one run, medians and ratios.", _EPILOG)
    parser.add_argument("operations", nargs="*", type=str, metavar="OPERATION", help="what to measure; 'all': everything")
    parser.add_argument("--list", action="store_true", help="list operations, sizes and contestants")
    parser.add_argument("--conditions", action="store_true", help="measure and judge the bounds set for an operation")
    parser.add_argument("--device", type=str, default="cpu", metavar="NAME", help="cpu or cuda (default cpu)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads, each on a core of its own (default 1)")
    parser.add_argument("--sizes", type=str, default="", metavar="AxB,…", help="sizes, as --list shows them")
    parser.add_argument("--dtype", type=str, default="", metavar="NAME,…", help="float32, bfloat16, float16")
    parser.add_argument("--modes", type=str, default="", metavar="NAME,…", help="fwd, bwd, fwdbwd, …")
    parser.add_argument("--impl", type=str, default="", metavar="NAME,…", help="contestants (default: all but extras)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="samples of each contestant (default 9)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, metavar="X", help="of rounds a case; else fewer rounds (default 60)"
    )
    parser.add_argument("--budget", type=float, default=None, metavar="X", help="seconds; what would begin later is skipped")
    parser.add_argument(
        "--malloc",
        type=str,
        default="",
        metavar="NAME,…",
        help="default, tuned (glibc keeps large blocks); with --conditions both",
    )
    parser.add_argument("--memory", action="store_true", dest="memory", default=True, help="measure peak memory (default)")
    parser.add_argument("--no-memory", action="store_false", dest="memory", help="do not: one process less a contestant")
    parser.add_argument("--json", type=str, default="", metavar="FILE", help="results for machines; - for standard output")
    try:
        given = _parser.parse(parser, argv)
        options = _check(given)
    except _parser.UsageError as error:
        return _parser.usage_failure(PROG, str(error))
    return _measure(given, options)


def _check(given: Any) -> dict[str, tuple[Any, ...]]:
    from wsss_fast import bench

    known = bench.names()
    for name in given.operations:
        if name not in (*known, "all"):
            raise _parser.UsageError(f"unknown operation '{name}'. Hint: one of {', '.join(known)}, all")
    if not given.operations and not given.list:
        raise _parser.UsageError(f"required: OPERATION ({', '.join(known)}, all), or --list")
    if given.device not in ("cpu", "cuda"):
        raise _parser.UsageError(f"--device: expected cpu or cuda, got '{given.device}'")
    if given.conditions and (given.device != "cpu" or given.threads != 1):
        raise _parser.UsageError("--conditions are about a CPU, and each operation's tell the number of threads")
    for option, least in (("threads", 1), ("rounds", 1), ("seconds", 0), ("budget", 0)):
        value = getattr(given, option)
        if value is not None and not value >= least:
            raise _parser.UsageError(f"--{option}: expected {least} or more, got {value}")
    malloc = _parser.names(given.malloc) or (("default", "tuned") if given.conditions else ("default",))
    for name in malloc:
        if name not in ("default", "tuned"):
            raise _parser.UsageError(f"--malloc: expected default or tuned, got '{name}'")
    try:
        sizes = tuple(tuple(int(part) for part in text.split("x")) for text in _parser.names(given.sizes))
    except ValueError:
        raise _parser.UsageError(f"--sizes: expected numbers joined by x, got '{given.sizes}'") from None
    return {
        "sizes": sizes,
        "dtypes": _parser.names(given.dtype),
        "modes": _parser.names(given.modes),
        "contestants": _parser.names(given.impl),
        "malloc": malloc,
    }


def _measure(given: Any, options: dict[str, tuple[Any, ...]]) -> int:
    from rich.console import Console

    from wsss_fast import bench
    from wsss_fast.bench import _session, _table

    # A table cut to a pipe's assumed 80 columns would lose its figures.
    stream = _terminal.own(sys.stderr if given.json == "-" else sys.stdout)
    console = Console(width=None if sys.stdout.isatty() else 160, file=stream)
    chosen = bench.names() if "all" in given.operations or not given.operations else given.operations
    operations = [bench.load(name) for name in chosen]
    if given.list:
        _table.show_list(operations, console)
        return exit_codes.DONE
    if given.device == "cuda":
        _demand_cuda()
    settings = _session.Settings(
        given.device,
        given.threads,
        given.rounds,
        given.seconds,
        given.budget or float("inf"),
        given.memory,
        options.pop("malloc"),
    )
    plans = [
        _session.plan_conditions(operation) if given.conditions else _session.plan(operation, given.device, **options)
        for operation in operations
    ]
    documents, holds, started = [], True, time.monotonic()
    with _Status() as status:
        for number, (operation, cases) in enumerate(zip(operations, plans, strict=True)):
            left = settings.budget - (time.monotonic() - started)
            threads = operation.threads if given.conditions else settings.threads
            share = replace(settings, threads=threads, budget=max(0.0, left) / (len(plans) - number))
            document = _session.run(operation, cases, share, status.say)
            holds = holds and "failed" not in document
            if given.conditions:
                document["conditions"] = _session.judge(operation, document)
                holds = holds and all(row["holds"] for row in document["conditions"] if row["decides"])
            documents.append(document)
    for document in documents:
        _table.show(document, console)
        if given.conditions:
            console.print()
            _table.show_conditions(document["conditions"], console)
    if given.json:
        _write_json(given.json, documents)
    # Ours must run and be right; a peer that cannot run here is only said so.
    ours = [result["contestants"].get("ours", {}) for document in documents for result in document["results"]]
    return exit_codes.DONE if holds and not any("failed" in entry for entry in ours) else exit_codes.ERROR


def _demand_cuda() -> None:
    import torch

    import wsss_fast

    if not torch.cuda.is_available():
        raise RuntimeError("bench: no CUDA device. Hint: wsss doctor shows what this machine has")
    if not wsss_fast.build_info()["cuda"]:
        raise RuntimeError("bench: this build holds no CUDA kernels. Hint: build where nvcc is found, or set WSSS_CUDA=ON")


def _write_json(target: str, documents: list[dict[str, Any]]) -> None:
    text = json.dumps(documents, indent=1) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        with whole_file(Path(target), "bench") as part:
            part.write_text(text, encoding="utf-8")


class _Status:
    """What is being measured: a line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(file=_terminal.own(sys.stderr))
        self._live = self._console.status("starting") if self._console.is_terminal else None
        self._last = time.monotonic()

    def __enter__(self) -> _Status:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        if self._live:
            self._live.update(text)
        elif time.monotonic() - self._last > 15:
            self._last = time.monotonic()
            sys.stderr.write(f"{PROG}: {text}\n")
