"""From a network or an ONNX file to an engine file that has been tried. One that fails its verification is not put in place."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsss_fast.export import engine as engines
from wsss_fast.export import foreign, source, triton
from wsss_fast.export.engine import Engine, EngineMeta
from wsss_fast.export.onnx import write_onnx
from wsss_fast.export.settings import SUFFIXES, TENSORRT, ExportSettings
from wsss_fast.export.verify import Picture, Report, generated, pictures, verify
from wsss_fast.files.whole import whole_file

Progress = Callable[[str], None]


class VerificationError(RuntimeError):
    """The engine does not compute what the network computes."""

    def __init__(self, report: Report, hint: str = "") -> None:
        where = ""
        if report.diverges is not None and report.diverges.get("node"):
            where = ". The first node that diverges: {node} ({operation}, layer {layer})".format(**report.diverges)
        super().__init__(f"export: verification failed: {report.verdict()}{where}. Hint: {hint}nothing was put in place of --out")
        self.report = report


@dataclass(frozen=True)
class Exported:
    path: Path
    meta: EngineMeta
    report: Report | None  # None: this machine cannot run the engine
    not_verified: str = ""  # why
    written: tuple[Path, ...] = ()  # reports
    kept_in_float32: tuple[str, ...] = ()  # values that float16 could not hold
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
    samples = None if settings.calibrate is None else pictures(settings.calibrate)
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
            meta = write_onnx(module, graph, "fp32" if settings.precision == "int8" else settings.precision, classes)
        written, report, float16 = (), None, None
        plain = graph
        if samples is not None:
            graph = Path(folder) / f"{out.stem}.onnx"
            against = _reference(plain, settings, module)
            meta, report, written = _in_int8(plain, graph, against, samples, images or samples, settings, out, progress)
        elif meta.precision == "fp16" and settings.engine != "aoti":
            progress("looking for overflow")
            graph, float16 = _without_overflow(plain, Path(folder) / f"{out.stem}.onnx", images or generated(), meta)
        if settings.engine in TENSORRT:
            progress("building the engine")
            profile = tensorrt.profile_of(settings, sizes, meta.scales)
            made = tensorrt.build_for_export(graph, Path(folder) / out.name, settings, profile)
        elif settings.engine != "aoti":
            made = graph
        reason = _cannot_verify(settings, meta, device, module)
        if report is not None and (reason is not None or device.type == "cpu"):
            reason = reason if settings.engine in TENSORRT else None  # the graph was verified, and is all there is
        elif reason is None:
            progress("verifying")
            engine = engines.load_engine(made, _runner(settings.engine), device, settings.threads)
            shown = graph if settings.engine in ("onnx", "ort") and meta.precision != "int8" else None
            against = _reference(plain, settings, module)
            report = dataclasses.replace(verify(engine, against, images or samples, settings.bound, shown), float16=float16)
            if settings.verify is not None:
                written += _write_reports(report, out)
            del engine
            if not report.passed:
                raise VerificationError(report)
        elif settings.verify is not None:
            raise RuntimeError(f"export: '--verify' cannot be done here: {reason}")
        _put_in_place(made, out, onnx)
    served = None if settings.triton is None else triton.write(settings, out, meta)
    kept = tuple((float16 or {}).get("kept_in_float32", ()))
    return Exported(out, meta, report, reason or "", written, kept, served)


def _in_int8(
    source: Path,
    made: Path,
    against: nn.Module | Engine,
    samples: list[Picture],
    images: list[Picture],
    settings: ExportSettings,
    out: Path,
    progress: Progress,
) -> tuple[EngineMeta, Report, tuple[Path, ...]]:
    """The float32 graph `source` with int8 convolutions at `made`, tried by ONNX Runtime on the CPU for whatever engine it is."""
    from wsss_fast.export.int8 import write_int8
    from wsss_fast.export.sensitivity import sensitivity

    progress("calibrating")
    meta = foreign.checked_meta(source)
    model, scales = write_int8(source, made, (meta.normalisation(pixels) for _, pixels, _ in samples), settings.keep_float)
    progress("verifying")
    report = verify(engines.load_engine(made, "ort", "cpu", settings.threads), against, images, settings.bound)
    losses = sensitivity(model, meta, scales, images, settings.keep_float, progress)
    written = _write_reports(report, out) + _write_reports(losses, out, "int8")
    if not report.passed:
        worst = ",".join((*settings.keep_float, *losses.worst()))
        raise VerificationError(report, f"--keep-float {worst} leaves the layers that lose most in float32; ")
    return foreign.checked_meta(made), report, written


def _without_overflow(source: Path, made: Path, images: list[Picture], meta: EngineMeta) -> tuple[Path, dict[str, Any]]:
    """The float16 graph, rewritten at `made` if it must compute something in float32; and what to report of that. Running it on
    a CPU would not show an overflow: ONNX Runtime computes in float32 there.
    """
    import onnx

    from wsss_fast.export import half

    model = foreign.checked(source)
    values = half.without_overflow(model, (meta.normalisation(pixels) for _, pixels, _ in images))
    kept = [f"{entry.value} ({entry.layer})" for entry in values if entry.overflows]
    told = {"allowed": half.ALLOWED, "kept_in_float32": kept, "largest": [dataclasses.asdict(entry) for entry in values[:5]]}
    if not kept:
        return source, told
    onnx.save(model, made)
    onnx.checker.check_model(made, full_check=True)
    return made, told


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
    if settings.precision not in ("fp32", meta.precision) and (settings.precision, meta.precision) != ("int8", "fp32"):
        raise ValueError(
            f"export: '{graph}' is {meta.precision}, asked for {settings.precision}. Hint: export the checkpoint again"
        )
    if network is not None and EngineMeta.of(network).weights_sha256 != meta.weights_sha256:
        raise ValueError(f"export: '{graph}' was not made of the weights of the model that was given with it")
    return meta


def _reference(graph: Path, settings: ExportSettings, network: nn.Module | None) -> nn.Module | Engine:
    """Without the network an engine is held against the ONNX file that it was made of, run by ONNX Runtime on the CPU."""
    if network is not None:
        return network
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


def _write_reports(report: Any, out: Path, name: str = "verify") -> tuple[Path, ...]:
    written = []
    for suffix, text in ((f".{name}.json", report.to_json()), (f".{name}.md", report.to_markdown())):
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
