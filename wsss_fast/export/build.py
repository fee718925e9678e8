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
from wsss_fast.export.files import whole_file
from wsss_fast.export.onnx import write_onnx
from wsss_fast.export.settings import SUFFIXES, TENSORRT, ExportSettings
from wsss_fast.export.verify import Picture, Report, generated, pictures, verify

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
    _check_out(out, settings)
    images = None if settings.verify is None else pictures(settings.verify, settings.masks)
    samples = None if settings.calibrate is None else pictures(settings.calibrate)
    device = torch.device("cpu") if settings.engine == "onnx" else engines.chosen_device(settings.device)
    sizes = engines.tensorrt().prepared(settings) if settings.engine in TENSORRT else None
    progress("reading the network")
    module, classes = network(model, settings, onnx)
    with _staging(out) as folder:
        job = _Job(settings, out, Path(folder), device, module, images, samples, progress)
        plain = _plain(job, onnx, classes)
        ready = _ready(job, plain)
        made = _engine(job, ready, sizes)
        tried, reason = _tried(job, plain, ready, made)
        _put_in_place(made, out, onnx)
    served = None if settings.triton is None else triton.write(settings, out, tried.meta)
    kept = tuple((tried.float16 or {}).get("kept_in_float32", ()))
    return Exported(out, tried.meta, tried.report, reason, tried.written, kept, served)


@dataclass(frozen=True)
class _Job:
    """What every step reads."""

    settings: ExportSettings
    out: Path
    folder: Path  # where files lie until they are known to be good
    device: torch.device
    module: nn.Module | None  # None: an ONNX file alone was given
    images: list[Picture] | None  # of --verify
    samples: list[Picture] | None  # of --calibrate
    progress: Progress

    def reference(self, plain: Path) -> nn.Module | Engine:
        """Without the network an engine is held against the ONNX file that it was made of, run by ONNX Runtime on the CPU."""
        if self.module is not None:
            return self.module
        return engines.load_engine(plain, "ort", "cpu", self.settings.threads)


@dataclass(frozen=True)
class _File:
    """A graph, or a package of aoti, and what has been found out about it."""

    path: Path
    meta: EngineMeta
    report: Report | None = None
    written: tuple[Path, ...] = ()
    float16: dict[str, Any] | None = None


def _check_out(out: Path, settings: ExportSettings) -> None:
    wanted = SUFFIXES[settings.engine]
    if out.suffix.lower() != wanted:
        raise ValueError(f"export: '--out' must end in {wanted} for {settings.engine}, got '{out.name}'")
    if out.is_dir():
        raise IsADirectoryError(f"export: cannot write '{out}': it is a folder")
    if settings.triton is not None:
        triton.check(settings, out)


def _staging(out: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix=".wsss-", dir=out.parent)
    except OSError as error:
        raise OSError(f"export: cannot write '{out}': {error.strerror}") from None


def _plain(job: _Job, onnx: str | Path | None, classes: tuple[str, ...]) -> _File:
    """The graph that was given, or the network as a graph, or compiled."""
    settings = job.settings
    if onnx is not None:
        return _File(Path(onnx), _given(Path(onnx), settings, job.module))
    if settings.engine == "aoti":
        from wsss_fast.export.aoti import write_aoti

        job.progress("compiling")
        made = job.folder / job.out.name
        return _File(made, write_aoti(job.module, made, settings.precision, classes, job.device))
    job.progress("writing the graph")
    graph = job.folder / f"{job.out.stem}.onnx"
    return _File(graph, write_onnx(job.module, graph, "fp32" if settings.precision == "int8" else settings.precision, classes))


def _ready(job: _Job, plain: _File) -> _File:
    """The graph with int8 convolutions, or in a float16 that does not overflow."""
    if job.samples is not None:
        return _in_int8(job, plain.path, job.samples)
    if plain.meta.precision == "fp16" and job.settings.engine != "aoti":
        return _without_overflow(job, plain)
    return plain


def _engine(job: _Job, ready: _File, sizes: Any) -> Path:
    if job.settings.engine not in TENSORRT:
        return ready.path
    job.progress("building the engine")
    tensorrt = engines.tensorrt()
    profile = tensorrt.profile_of(job.settings, sizes, ready.meta.scales)
    return tensorrt.build_for_export(ready.path, job.folder / job.out.name, job.settings, profile)


def _tried(job: _Job, plain: _File, ready: _File, made: Path) -> tuple[_File, str]:
    """The file with the report of its verification, or with the reason why there is none."""
    settings = job.settings
    reason = _cannot_verify(settings, ready.meta, job.device, job.module)
    if ready.report is not None and (reason is not None or job.device.type == "cpu"):
        # the int8 graph was verified, which for ONNX Runtime on a CPU is the whole engine
        return ready, (reason or "") if settings.engine in TENSORRT else ""
    if reason is not None:
        if settings.verify is not None:
            raise RuntimeError(f"export: '--verify' cannot be done here: {reason}")
        return ready, reason
    job.progress("verifying")
    engine = engines.load_engine(made, _runner(settings.engine), job.device, settings.threads)
    shown = made if settings.engine in ("onnx", "ort") and ready.meta.precision != "int8" else None
    report = verify(engine, job.reference(plain.path), job.images or job.samples, settings.bound, shown)
    report = dataclasses.replace(report, float16=ready.float16)
    written = ready.written if settings.verify is None else ready.written + _write_reports(report, job.out)
    if not report.passed:
        raise VerificationError(report)
    return dataclasses.replace(ready, report=report, written=written), ""


def _in_int8(job: _Job, plain: Path, samples: list[Picture]) -> _File:
    """The float32 graph `plain` with int8 convolutions, tried by ONNX Runtime on the CPU for whatever engine it is."""
    from wsss_fast.export.int8 import write_int8
    from wsss_fast.export.sensitivity import sensitivity

    settings, images, against = job.settings, job.images or samples, job.reference(plain)
    job.progress("calibrating")
    meta = foreign.checked_meta(plain)
    made = job.folder / f"{job.out.stem}.onnx"
    model, scales = write_int8(plain, made, (meta.normalisation(pixels) for _, pixels, _ in samples), settings.keep_float)
    job.progress("verifying")
    report = verify(engines.load_engine(made, "ort", "cpu", settings.threads), against, images, settings.bound)
    losses = sensitivity(model, meta, scales, images, settings.keep_float, job.progress)
    written = _write_reports(report, job.out) + _write_reports(losses, job.out, "int8")
    if not report.passed:
        worst = ",".join((*settings.keep_float, *losses.worst()))
        raise VerificationError(report, f"--keep-float {worst} leaves the layers that lose most in float32; ")
    return _File(made, foreign.checked_meta(made), report, written)


def _without_overflow(job: _Job, plain: _File) -> _File:
    """The float16 graph, written anew if it must compute something in float32; and what to report of that. Running it on a CPU
    would not show an overflow: ONNX Runtime computes in float32 there.
    """
    import onnx

    from wsss_fast.export import half

    job.progress("looking for overflow")
    model = foreign.checked(plain.path)
    values = half.without_overflow(model, (plain.meta.normalisation(pixels) for _, pixels, _ in job.images or generated()))
    kept = [f"{entry.value} ({entry.layer})" for entry in values if entry.overflows]
    told = {"allowed": half.ALLOWED, "kept_in_float32": kept, "largest": [dataclasses.asdict(entry) for entry in values[:5]]}
    if not kept:
        return dataclasses.replace(plain, float16=told)
    made = job.folder / f"{job.out.stem}.onnx"
    onnx.save(model, made)
    onnx.checker.check_model(made, full_check=True)
    return _File(made, plain.meta, float16=told)


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
