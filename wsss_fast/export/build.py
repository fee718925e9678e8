"""From a network or an ONNX file to an engine file that has been tried. One that fails its verification is not put in place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from wsss_fast.export import engine as engines
from wsss_fast.export import foreign, source, triton
from wsss_fast.export.engine import Engine, EngineMeta
from wsss_fast.export.files import whole_file
from wsss_fast.export.onnx import write_onnx
from wsss_fast.export.settings import SUFFIXES, TENSORRT, ExportSettings
from wsss_fast.export.verify import Report, pictures, verify

Progress = Callable[[str], None]


class VerificationError(RuntimeError):
    """The engine does not compute what the network computes."""

    def __init__(self, report: Report) -> None:
        where = ""
        if report.diverges is not None and report.diverges.get("node"):
            where = ". The first node that diverges: {node} ({operation}, layer {layer})".format(**report.diverges)
        super().__init__(f"export: verification failed: {report.verdict()}{where}. Hint: nothing was put in place of --out")
        self.report = report


@dataclass(frozen=True)
class Exported:
    path: Path
    meta: EngineMeta
    report: Report | None  # None: this machine cannot run the engine
    not_verified: str = ""  # why
    written: tuple[Path, ...] = ()  # reports
    triton: Path | None = None  # the model's folder in a Triton repository


def export(
    model: str | Path | nn.Module | None,
    out: str | Path,
    settings: ExportSettings | None = None,
    onnx: str | Path | None = None,
    progress: Progress = lambda stage: None,
) -> Exported:
    """Writes `out` and verifies it, on `settings.verify` or on three generated pictures.

    Args:
        model: a checkpoint, "efficientnet-lite0", a network, or None with `settings.random_weights`.
        out: .onnx for onnx and ort, .pt2 for aoti, .engine for TensorRT.
        onnx: build from this ONNX file; with `model` too, the result is verified against the network.
        progress: is told what is being done.
    """
    settings = settings or ExportSettings()
    out = Path(out)
    wanted = SUFFIXES[settings.engine]
    if out.suffix.lower() != wanted:
        raise ValueError(f"export: '--out' must end in {wanted} for {settings.engine}, got '{out.name}'")
    if out.is_dir():
        raise IsADirectoryError(f"export: cannot write '{out}': it is a folder")
    if settings.triton is not None:
        triton.check(settings, out)
    images = None if settings.verify is None else pictures(settings.verify, settings.masks)
    device = torch.device("cpu") if settings.engine == "onnx" else engines.chosen_device(settings.device)
    if settings.engine in TENSORRT:
        tensorrt = engines.tensorrt()
        sizes = tensorrt.prepared(settings)
    progress("reading the network")
    module, classes = network(model, settings, onnx)
    try:
        staging = tempfile.TemporaryDirectory(prefix=".wsss-", dir=out.parent)
    except OSError as error:
        raise OSError(f"export: cannot write '{out}': {error.strerror}") from None
    with staging as folder:
        graph = Path(folder) / f"{out.stem}.onnx"
        if onnx is not None:
            graph = Path(onnx)
            meta = _given(graph, settings, module)
        elif settings.engine == "aoti":
            made = Path(folder) / out.name
            progress("compiling")
            from wsss_fast.export.aoti import write_aoti

            meta = write_aoti(module, made, settings.precision, classes, device)
        else:
            progress("writing the graph")
            meta = write_onnx(module, graph, settings.precision, classes)
        if settings.engine in TENSORRT:
            progress("building the engine")
            profile = tensorrt.profile_of(settings, sizes, meta.scales)
            made = tensorrt.build_for_export(graph, Path(folder) / out.name, settings, profile)
        elif settings.engine != "aoti":
            made = graph
        report, reason = None, _cannot_verify(settings, meta, device, module)
        if reason is None:
            progress("verifying")
            engine = engines.load_engine(made, _runner(settings.engine), device, settings.threads)
            against = module if module is not None else _reference(graph, settings)
            shown = graph if settings.engine in ("onnx", "ort") else None
            report = verify(engine, against, images, settings.bound, shown)
            written = _write_reports(report, out) if settings.verify is not None else ()
            del engine
            if not report.passed:
                raise VerificationError(report)
        elif settings.verify is not None:
            raise RuntimeError(f"export: '--verify' cannot be done here: {reason}")
        _put_in_place(made, out, onnx)
    served = None if settings.triton is None else triton.write(settings, out, meta)
    return Exported(out, meta, report, reason or "", written if report is not None else (), served)


def network(
    model: str | Path | nn.Module | None, settings: ExportSettings, onnx: str | Path | None = None
) -> tuple[nn.Module | None, tuple[str, ...]]:
    told = {name: getattr(settings, name) for name in ("method", "backbone", "published", "num_classes")}
    told = {name: value for name, value in told.items() if value is not None}
    if settings.random_weights is not None:
        if model is not None:
            raise ValueError("export: 'random_weights' stands in place of a model, got both")
        return source.random(told.pop("method"), settings.random_weights, **told), ()
    if model is None:
        if onnx is None:
            raise ValueError("export: a model is needed. Hint: a checkpoint, --onnx FILE, or --method M --random-weights SEED")
        return None, ()
    if onnx is not None:
        told.pop("num_classes", None)
    return source.network(model, **told)


def _given(graph: Path, settings: ExportSettings, network: nn.Module | None) -> EngineMeta:
    """The description of an ONNX file that was given, held against what was asked for."""
    if settings.engine == "aoti":
        raise ValueError("export: 'aoti' is compiled from a network, not from an ONNX file. Hint: give the checkpoint")
    meta = foreign.checked_meta(graph)
    if settings.num_classes not in (None, meta.num_classes):
        raise ValueError(f"export: '{graph}' has {meta.num_classes} classes, asked for {settings.num_classes}")
    if settings.precision not in ("fp32", meta.precision):
        raise ValueError(
            f"export: '{graph}' is {meta.precision}, asked for {settings.precision}. Hint: export the checkpoint again"
        )
    if network is not None and EngineMeta.of(network).weights_sha256 != meta.weights_sha256:
        raise ValueError(f"export: '{graph}' was not made of the weights of the model that was given with it")
    return meta


def _reference(graph: Path, settings: ExportSettings) -> Engine:
    """Without the network an ONNX file is held against itself, run by ONNX Runtime on the CPU."""
    return engines.load_engine(graph, "ort", "cpu", settings.threads)


def _runner(engine: str) -> str:
    return {"onnx": "ort", "ort": "ort", "aoti": "aoti"}.get(engine, "trt")


def _cannot_verify(settings: ExportSettings, meta: EngineMeta, device: torch.device, module: nn.Module | None) -> str | None:
    if settings.engine in TENSORRT and not torch.cuda.is_available():
        return "TensorRT engines run on a GPU, and this machine has none"
    if meta.precision == "bf16" and settings.engine in ("onnx", "ort") and device.type == "cpu":
        return "ONNX Runtime has no bfloat16 convolutions on a CPU"
    if module is None and settings.engine in ("onnx", "ort") and device.type == "cpu":
        return "there is nothing to hold it against. Hint: give the network too, as MODEL"
    return None


def _write_reports(report: Report, out: Path) -> tuple[Path, ...]:
    written = []
    for suffix, text in ((".verify.json", report.to_json()), (".verify.md", report.to_markdown())):
        path = out.with_name(out.name + suffix)
        with whole_file(path) as part:
            part.write_text(text, encoding="utf-8")
        written.append(path)
    return tuple(written)


def _put_in_place(made: Path, out: Path, onnx: str | Path | None) -> None:
    """All that stands under the name of `made` (an engine brings what it was built of) takes the name of `out`."""
    if onnx is not None and made == Path(onnx):
        with whole_file(out) as part:
            part.write_bytes(made.read_bytes())
        return
    for file in sorted(made.parent.iterdir(), reverse=True):
        if file.name == out.name or (out.suffix == ".engine" and file.is_file()):
            file.replace(out.with_name(file.name))
