"""TensorRT: engines for one GPU, built from the ONNX file that every engine reads.

wsss export seam.safetensors --engine trt --out seam.engine      # built, or taken from the cache
engine = load_engine("seam.engine")                              # only if this machine built it
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsss_fast.export.settings import ExportSettings
from wsss_fast.export.trt.build import EngineError, Progress, cached_engine
from wsss_fast.export.trt.cache import EngineCache, read_record, record_path, sha256_of, write_record
from wsss_fast.export.trt.flavour import require
from wsss_fast.export.trt.profile import DEFAULT_SHAPES, Profile, image_sizes, parse_shapes, profile_of_sizes
from wsss_fast.export.trt.spec import EngineSpec, environment_of
from wsss_fast.files.whole import file_sha256, whole_file

if TYPE_CHECKING:
    import torch

__all__ = [
    "EngineCache",
    "EngineError",
    "EngineSpec",
    "Profile",
    "build_for_export",
    "cached_engine",
    "parse_shapes",
    "prepared",
    "profile_of",
    "profile_of_sizes",
    "require",
]


PLUGIN_LIBRARY = "WSSS_TENSORRT_PLUGINS"


def prepared(settings: ExportSettings) -> list[tuple[int, int]] | None:
    """What would fail anyhow fails here, before a network is read. Gives the sizes of the images of `profile_from`."""
    require(settings.engine)
    if settings.plugins:
        plugin_library()
    if settings.shapes:
        parse_shapes(settings.shapes)
    return image_sizes(settings.profile_from) if settings.profile_from else None


def profile_of(settings: ExportSettings, sizes: list[tuple[int, int]] | None, scales: tuple[float, ...]) -> Profile:
    if sizes is not None:
        return profile_of_sizes(sizes, scales)
    return parse_shapes(settings.shapes) if settings.shapes else Profile(*DEFAULT_SHAPES)


def build_for_export(
    graph: Path, made: Path, settings: ExportSettings, profile: Profile, progress: Progress | None = None
) -> Path:
    """Puts the engine of an ONNX file, from the cache or freshly built, at `made`, and its record at `made`.json."""
    plugins = plugin_library() if settings.plugins else None
    spec = EngineSpec(graph, settings.engine, profile, plugins, settings.require_plugins or 0)
    path, record = cached_engine(spec, progress=progress)
    _copy(path, made)
    source = made.with_suffix(".onnx")  # stands beside the engine, which can be built from it again
    if source != graph:
        _copy(graph, source)
    write_record(record_path(made), {**record, "onnx": source.name})
    return made


def plugin_library(facts: dict[str, Any] | None = None) -> Path | None:
    """The library that `export/tensorrt` builds where TensorRT's headers are; for the `facts` of an engine the one that it was
    built with, None if it was built without.
    """
    if facts is not None and not facts.get("plugins_sha256"):
        return None
    named = os.environ.get(PLUGIN_LIBRARY)
    if not named or not Path(named).is_file():
        hint = f"build export/tensorrt with CMake and let {PLUGIN_LIBRARY} name libwsss_tensorrt.so"
        raise FileNotFoundError(f"export: '--plugins' needs the plugin library, got {named!r}. Hint: {hint}")
    if facts is not None and file_sha256(Path(named)) != facts["plugins_sha256"]:
        raise EngineError(f"load_engine: the engine was built with another plugin library than '{named}'. Hint: export it again")
    return Path(named)


def load(path: Path, device: torch.device, threads: int | None = None) -> Any:
    """The engine of an ``.engine`` file that this machine built, or of an ``.onnx`` file (built now, or taken from the cache)."""
    if path.suffix.lower() == ".onnx":
        spec = EngineSpec(path, "trt", Profile(*DEFAULT_SHAPES))
        return _running(spec, device)
    cache = EngineCache()
    told = read_record(record_path(path)) or {}
    digest = sha256_of(path)
    record = cache.known(digest) if digest is not None else None
    if record is not None and _fits_here(record):
        from wsss_fast.export.trt.run import TrtEngine

        return TrtEngine(path, record, device, plugin_library(record["facts"]))
    source = path.parent / Path(str(told.get("onnx"))).name
    facts = told.get("facts", {})
    if source.suffix == ".onnx" and source.is_file() and file_sha256(source) == facts.get("onnx_sha256"):
        plugins = plugin_library() if facts.get("plugins_sha256") else None
        return _running(EngineSpec(source, str(facts["flavour"]), parse_shapes(str(facts["profile"])), plugins), device)
    why = (
        "was built for another GPU, driver or library"
        if record
        else "was not built by this user on this machine, or was changed since"
    )
    hint = "wsss export --onnx FILE --engine trt builds it from its ONNX file"
    raise EngineError(f"load_engine: '{path}' {why}, and is not loaded. Hint: {hint}")


def _running(spec: EngineSpec, device: torch.device) -> Any:
    from wsss_fast.export.trt.run import TrtEngine

    path, record = cached_engine(spec)
    return TrtEngine(path, record, device, spec.plugins)


def _fits_here(record: dict[str, Any]) -> bool:
    from wsss_fast.export.trt import flavour

    environment = environment_of(flavour.require(record["facts"]["flavour"]).__version__)
    return all(record["facts"].get(name) == value for name, value in environment.items())


def _copy(source: Path, target: Path) -> None:
    with whole_file(target) as part:
        shutil.copyfile(source, part)
