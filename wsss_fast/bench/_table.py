"""The document of a run as text, for a terminal or a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from wsss_fast.bench._definition import OURS, Case, Operation

# Above this share of other work on the measuring cores a time is not to be quoted.
NOISY = 0.05

_KINDS = {"call": "a call", "graph": "in a CUDA graph", "cold": "CUDA graph, L2 flushed"}


def show(document: dict[str, Any], console: Console) -> None:
    _machine(document, console)
    for result in document["results"]:
        _result(document, result, console)
    if "failed" in document:
        console.print(document["failed"], highlight=False, markup=False)
    if any((result.get("other_load") or 0) > NOISY for result in document["results"]):
        console.print("Noisy: other programs used the same cores meanwhile; measure again before quoting these times.")


def show_conditions(rows: Sequence[dict[str, Any]], console: Console) -> None:
    table = Table(title="conditions", title_justify="left", box=None, pad_edge=False)
    for column in ("condition", "malloc", "measured", "holds"):
        table.add_column(column, justify="right" if column == "measured" else "left")
    for row in rows:
        measured = row["measured"]
        number = "not measured" if measured is None else f"{measured:.1e}" if "error" in row["measure"] else f"{measured:.2f}"
        verdict = ("yes" if row["holds"] else "NO") if row["decides"] else ("would" if row["holds"] else "would not")
        table.add_row(row["condition"], row["malloc"], number, verdict)
    console.print(table, soft_wrap=True)
    broken = sum(not row["holds"] for row in rows if row["decides"])
    decisive = sum(row["decides"] for row in rows)
    console.print(f"{decisive - broken} of {decisive} conditions hold; rows with 'would' inform and do not decide.")


def show_list(operations: Sequence[Operation], console: Console) -> None:
    for operation in operations:
        console.print(f"{operation.name}: {operation.what}", highlight=False)
        sizes = f"{_sizes(operation.sizes)}; on CUDA {_sizes(operation.cuda_sizes)}"
        console.print(f"  sizes ({operation.axes}): {sizes}", highlight=False)
        modes = f"{', '.join(operation.modes)} (on CPU by default {', '.join(operation.default_modes)})"
        console.print(f"  modes: {modes}", highlight=False)
        for entry in operation.contestants:
            devices = ", ".join(entry.devices) + (", only when asked for" if entry.extra else "")
            console.print(f"  {entry.name:<10} {entry.what} ({devices})", highlight=False)


def _machine(document: dict[str, Any], console: Console) -> None:
    machine, settings = document["machine"], document["settings"]
    build = machine.get("build", {})
    gpu = machine.get("gpu")
    lines = [
        f"{machine.get('cpu')}, {machine.get('cores')} cores, caches {machine.get('caches')}, {machine.get('memory_gib')} GiB, "
        f"{machine.get('system')}, {machine.get('libc')}",
        f"wsss_fast {machine.get('wsss_fast')} ({machine.get('revision')}), SIMD {build.get('simd')}, "
        f"compiler {build.get('compiler')}, torch {machine.get('torch')}, Python {machine.get('python')}",
        f"{machine.get('date')}, load average {machine.get('load_average')} before, {machine.get('load_average_after')} after; "
        + (f"{settings['threads']} thread(s) on core(s) {settings['cores']}" if settings["device"] == "cpu" else str(gpu)),
    ]
    if ceilings := document.get("ceilings"):
        copied, product = ceilings["bytes_per_second"] / 1e12, ceilings["tensor_flop_per_second"] / 1e12
        lines.append(f"measured here: copy {copied:.2f} TB/s, bf16 product {product:.0f} TFLOP/s; floors are computed from these")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _result(document: dict[str, Any], result: dict[str, Any], console: Console) -> None:
    case = Case.of(result["case"])
    title = f"\n{document['operation']} {case.text()}, malloc {result['malloc']}"
    if "skipped" in result:
        console.print(f"{title}: skipped, {result['skipped']}", highlight=False)
        return
    title += f", {result['rounds']} rounds"
    if "floor_ms" in result:
        title += f", floor {_milliseconds(result['floor_ms'])} ms"
    if (result.get("other_load") or 0) > NOISY:
        title += f", NOISY: other programs took {result['other_load']:.0%} of the cores"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    columns = [
        "",
        "median ms",
        "min",
        "max",
        "times ours",
        "worst round",
        "GFLOP/s",
        "MiB",
        "error",
        "gradient",
        "page faults",
    ]
    for column in columns:
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    notes = []
    for name, entry in result["contestants"].items():
        if "failed" in entry:
            notes.append(f"{name}: {entry['failed']}")
        if entry.get("note"):
            notes.append(f"{name}: {entry['note']}")
        for kind, times in entry.get("times", {}).items():
            first = kind == "call"
            ratio = entry.get("ours_is_faster", {}).get(kind)
            label = name if document["settings"]["device"] == "cpu" else f"{name}, {_KINDS[kind]}"
            table.add_row(
                label,
                *(_milliseconds(times[key]) for key in ("median_ms", "min_ms", "max_ms")),
                f"{ratio['median_of_rounds']:.2f}" if ratio else "1" if name == OURS else "",
                f"{ratio['worst_round']:.2f}" if ratio else "",
                f"{result['flop'] / 1e6 / times['median_ms']:.0f}",
                *((_memory(entry), _error(entry.get("error")), _error(entry.get("gradient_error"))) if first else ("", "", "")),
                f"{entry['page_faults']:.0f}" if first and entry.get("page_faults") is not None else "",
            )
    console.print(table, soft_wrap=True)
    for note in notes:
        console.print(f"  {note}", highlight=False, markup=False, soft_wrap=True)


def _sizes(sizes: Sequence[tuple[int, ...]]) -> str:
    return " ".join("x".join(map(str, size)) for size in sizes)


def _milliseconds(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.4f}"


def _memory(entry: dict[str, Any]) -> str:
    return f"{entry['memory_mib']:.1f}" if "memory_mib" in entry else ""


def _error(value: float | None) -> str:
    return f"{value:.1e}" if value else ""
