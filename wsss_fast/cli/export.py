"""`wsss export MODEL --engine onnx|ort|trt|trt-rtx|aoti --out FILE`, and `--inspect FILE`, `--bench FILE`."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from wsss_fast import _openmp
from wsss_fast.cli import _parser, exit_codes
from wsss_fast.cli._progress import ProgressLine
from wsss_fast.export.settings import ExportSettings

PROG = "wsss export"
_EPILOG = (
    "MODEL is a checkpoint or efficientnet-lite0, the built-in network. The file is tried before it is put in place: on the "
    "images of --verify it must give the labels that the network gives, else on generated pictures the numbers. onnx and ort "
    "write the same file; ort tries it on --device. --bench runs the file: a .pt2 is machine code, so take it only "
    "from people you trust."
)
_STAGES = 3


def run(argv: Sequence[str]) -> int:
    parser = _parser.new_parser(PROG, "Export a trained network for other programs and faster engines.", _EPILOG)
    parser.add_argument("model", nargs="?", type=str, default=None, metavar="MODEL", help="the network")
    parser.add_argument("--out", type=str, default=None, metavar="FILE", help="the .onnx, .pt2 or .engine file to write")
    parser.add_argument("--onnx", type=str, default=None, metavar="FILE", help="build from this ONNX file in place of MODEL")
    parser.add_argument(
        "--inspect", type=str, default=None, metavar="FILE", help="tell what an exported file holds; runs nothing"
    )
    parser.add_argument("--bench", type=str, default=None, metavar="FILE", help="measure an exported file; with MODEL, beside it")
    parser.add_argument("--size", type=str, default="1x448x448", metavar="NxHxW", help="of --bench (default 1x448x448)")
    parser.add_argument("--json", action="store_true", help="print the outcome for machines")
    _parser.add_settings(parser, ExportSettings)
    try:
        given = _parser.parse(parser, argv)
        settings = _settings(given)
        _check(given)
        size = _size(given.size)
    except _parser.UsageError as error:
        return _parser.usage_failure(PROG, str(error))
    if given.inspect is not None:
        return _inspect(given)
    _openmp.wait_without_spinning()
    if given.bench is not None:
        return _bench(given, settings, size)
    return _export(given, settings)


def _settings(given: Any) -> ExportSettings:
    try:
        return ExportSettings(**{item.name: given[item.name] for item in dataclasses.fields(ExportSettings)})
    except ValueError as error:
        raise _parser.UsageError(str(error)) from None


def _check(given: Any) -> None:
    if sum(value is not None for value in (given.out, given.inspect, given.bench)) != 1:
        raise _parser.UsageError("required: one of --out FILE, --inspect FILE and --bench FILE")
    if given.inspect is not None and (given.model, given.onnx) != (None, None):
        raise _parser.UsageError("--inspect takes the file alone")
    if given.out is not None and given.model is None and given.onnx is None and given.random_weights is None:
        raise _parser.UsageError("required: MODEL, --onnx FILE, or --method METHOD --random-weights SEED")
    if given.model is not None and given.random_weights is not None:
        raise _parser.UsageError("--random-weights stands in place of MODEL")


def _size(text: str) -> tuple[int, int, int]:
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if found is None:
        raise _parser.UsageError(f"--size: expected batch x height x width as 1x448x448, got '{text}'")
    return tuple(int(part) for part in found.groups())


def _export(given: Any, settings: ExportSettings) -> int:
    from wsss_fast.export.build import export

    done = 0
    with ProgressLine("exporting", hidden=given.json) as progress:

        def stage(name: str) -> None:
            nonlocal done
            progress.update(done, max(done, _STAGES), name)
            done += 1

        exported = export(given.model, given.out, settings, given.onnx, stage)
    report, meta = exported.report, exported.meta
    if given.json:
        told = {
            "out": str(exported.path),
            "network": json.loads(meta.to_json()),
            "verified": None if report is None else json.loads(report.to_json()),
            "not_verified": exported.not_verified,
            "kept_in_float32": list(exported.kept_in_float32),
            "reports": [str(path) for path in exported.written],
            "triton": None if exported.triton is None else str(exported.triton),
        }
        sys.stdout.write(json.dumps(told) + "\n")
        return exit_codes.DONE
    grouped = f" in {len(meta.groups)} groups" if meta.groups else ""
    sys.stdout.write(
        f"{exported.path}: {meta.method} on {meta.backbone}, {meta.num_classes} classes{grouped}, {meta.precision}\n"
    )
    if report is not None:
        sys.stdout.write(f"verified: {report.verdict()}\n")
    if exported.kept_in_float32:
        sys.stdout.write(f"computed in float32, float16 could overflow: {', '.join(exported.kept_in_float32)}\n")
    if exported.not_verified:
        sys.stdout.write(f"NOT verified: {exported.not_verified}\n")
    if exported.written:
        sys.stdout.write("reports: " + ", ".join(map(str, exported.written)) + "\n")
    if exported.triton is not None:
        sys.stdout.write(f"for Triton: {exported.triton}\n")
    return exit_codes.DONE


def _inspect(given: Any) -> int:
    from wsss_fast.export.inspect import as_text, inspect

    told = inspect(given.inspect)
    sys.stdout.write(json.dumps(told) + "\n" if given.json else as_text(told))
    return exit_codes.DONE


def _bench(given: Any, settings: ExportSettings, size: tuple[int, int, int]) -> int:
    from wsss_fast.export.bench import as_text, bench
    from wsss_fast.export.build import network
    from wsss_fast.export.engine import load_engine

    kind = settings.engine if settings.engine in ("ort", "aoti", "trt") else None
    engine = load_engine(given.bench, kind, settings.device, settings.threads)
    model = network(given.model, settings)[0] if given.model is not None or settings.random_weights is not None else None
    told = bench(engine, size, model)
    sys.stdout.write(json.dumps(told) + "\n" if given.json else as_text(told))
    return exit_codes.DONE
