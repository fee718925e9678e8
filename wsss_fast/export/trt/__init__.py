"""TensorRT: engines for one GPU, built from the ONNX file that every engine reads.

path, record = trt.export_engine("seam.onnx", "seam.engine")     # built, or taken from the cache
engine = load_engine("seam.engine")                              # only if this machine built it
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsss_fast.export.onnx import whole_file, write_onnx
from wsss_fast.export.ort import file_sha256
from wsss_fast.export.trt.build import EngineError, Progress, cached_engine
from wsss_fast.export.trt.cache import EngineCache, record_path, sha256_of, write_record
from wsss_fast.export.trt.spec import DEFAULT_SHAPES, EngineSpec, Profile, environment_of, parse_shapes, profile_of_sizes

__all__ = [
    "EngineCache",
    "EngineError",
    "EngineSpec",
    "Profile",
    "cached_engine",
    "export_engine",
    "parse_shapes",
    "profile_of_sizes",
]


def export_engine(spec: EngineSpec, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Writes the engine to `out`, beside it `out`.json (what it was built of and for) and the ONNX file that it can be built from
    again. Gives the record.
    """
    path, record = cached_engine(spec, progress=progress)
    source = out.with_suffix(".onnx")
    if source.resolve() != spec.onnx.resolve():
        _copy(spec.onnx, source)
    _copy(path, out)
    write_record(record_path(out), {**record, "onnx": source.name})
    return record


def load(path: Path, device: torch.device, threads: int | None = None) -> Any:
    """The engine of an ``.engine`` file that this machine built, or of an ``.onnx`` file (built now, or taken from the cache)."""
    if path.suffix.lower() == ".onnx":
        spec = EngineSpec(path, "trt", Profile(*DEFAULT_SHAPES))
        return _running(spec, device)
    cache = EngineCache()
    told = _told(path)
    digest = sha256_of(path)
    record = cache.known(digest) if digest is not None else None
    if record is not None and _fits_here(record):
        from wsss_fast.export.trt.run import TrtEngine

        return TrtEngine(path, record, device)
    source = path.with_name(str(told.get("onnx", "")))
    facts = told.get("facts", {})
    if source.suffix == ".onnx" and source.is_file() and file_sha256(source) == facts.get("onnx_sha256"):
        return _running(EngineSpec(source, str(facts["flavour"]), parse_shapes(str(facts["profile"]))), device)
    why = (
        "was built for another GPU, driver or library"
        if record
        else "was not built by this user on this machine, or was changed since"
    )
    hint = "wsss export --onnx FILE --engine trt builds it from its ONNX file"
    raise EngineError(f"load_engine: '{path}' {why}, and is not loaded. Hint: {hint}")


def from_network(model: nn.Module, classes: tuple[str, ...], precision: str, device: torch.device, threads: int | None) -> Any:
    with tempfile.TemporaryDirectory(prefix="wsss-") as folder:
        path = Path(folder) / "network.onnx"
        write_onnx(model, path, precision, classes)
        return load(path, device, threads)


def _running(spec: EngineSpec, device: torch.device) -> Any:
    from wsss_fast.export.trt.run import TrtEngine

    path, record = cached_engine(spec)
    return TrtEngine(path, record, device, spec.plugins)


def _fits_here(record: dict[str, Any]) -> bool:
    from wsss_fast.export.trt import flavour

    environment = environment_of(flavour.require(record["facts"]["flavour"]).__version__)
    return all(record["facts"].get(name) == value for name, value in environment.items())


def _told(path: Path) -> dict[str, Any]:
    import json

    try:
        told = json.loads(record_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _copy(source: Path, target: Path) -> None:
    with whole_file(target) as part:
        shutil.copyfile(source, part)
