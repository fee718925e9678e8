"""Engines out of the cache, built where there is none yet."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsss_fast.export.trt import flavour
from wsss_fast.export.trt.cache import EngineCache, record_path
from wsss_fast.export.trt.spec import EngineSpec, environment_of

Progress = Callable[[str, int, int], None]
logger = logging.getLogger("wsss_fast.export")
PLUGIN_OPERATIONS = ("Pcm", "Prcm")  # of export/tensorrt


class EngineError(RuntimeError):
    """An engine that cannot be built or loaded."""


def cached_engine(
    spec: EngineSpec, cache: EngineCache | None = None, progress: Progress | None = None
) -> tuple[Path, dict[str, Any]]:
    """The engine of `spec` and its record; built if the cache has none for this GPU, driver and library."""
    from wsss_fast.export import foreign, functions

    graph = foreign.checked(spec.onnx)  # refuses a file that reaches beyond itself
    meta = foreign.meta_of(graph, spec.onnx)
    able = sum(node.op_type in PLUGIN_OPERATIONS for node in functions.nodes(graph))
    del graph
    if able < spec.require_plugins:
        what = f"'{meta.method}' has {able} nodes that a plugin can compute ({', '.join(PLUGIN_OPERATIONS)})"
        raise EngineError(f"export: {what}, {spec.require_plugins} plugin layers are required")
    trt = flavour.require(spec.flavour)
    environment = environment_of(trt.__version__)
    if environment["gpu"] is None and not flavour.builds_without_gpu(trt):
        hint = "--engine trt-rtx builds without a GPU; --engine onnx writes what trt needs, to be built on the server"
        raise EngineError(f"export: {trt.__name__} builds engines on the GPU they are for, and there is none here. Hint: {hint}")
    cache = EngineCache() if cache is None else cache
    facts = spec.facts(environment)
    with cache.lock(facts):
        record = cache.find(facts)
        if record is None:
            record = _build(spec, facts, cache, json.loads(meta.to_json()), progress)
    if record["plugin_layers"] < spec.require_plugins:
        hint = "--plugins builds with the plugin library"
        has = record["plugin_layers"]
        raise EngineError(f"export: the engine has {has} plugin layers, {spec.require_plugins} are required. Hint: {hint}")
    return cache.engine_path(facts), record


def _build(
    spec: EngineSpec, facts: dict[str, Any], cache: EngineCache, meta: dict[str, Any], progress: Progress | None
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="build-", dir=cache.folder) as name:
        folder = Path(name)
        (folder / "spec.json").write_text(spec.to_json(), encoding="utf-8")
        out = folder / "out.engine"
        timing = cache.folder / f"timing-{facts['flavour']}-{facts['library']}-{facts.get('compute_capability', 'any')}.cache"
        command = [sys.executable, "-m", "wsss_fast.export.trt.child", str(folder / "spec.json"), str(out), str(timing)]
        _run(command, _child_environment(spec, folder), spec, progress)
        layers = json.loads(record_path(out).read_text(encoding="utf-8"))
        return cache.keep(facts, out, {"meta": meta, **layers})


def _run(command: list[str], environment: dict[str, str], spec: EngineSpec, progress: Progress | None) -> None:
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
    ):
        try:
            for line in child.stdout or ():
                _hear(line, progress)
            status = child.wait()
        except BaseException:
            child.kill()
            raise
        if status != 0:
            errors.seek(0)
            said = " ".join(errors.read().split())[-600:]
            how = f"the building process was ended by signal {-status}" if status < 0 else "no engine was built"
            raise EngineError(f"export: {how} for '{spec.onnx.name}' ({spec.flavour}, {spec.profile.text()}): {said}")


def _hear(line: str, progress: Progress | None) -> None:
    """A line of the building process; TensorRT may print others of its own."""
    try:
        told = json.loads(line)
        if "warning" in told:
            logger.warning("export: %s", told["warning"])
        elif progress is not None:
            progress(str(told["phase"]), int(told["step"]), int(told["steps"]))
    except (ValueError, KeyError, TypeError):
        return


def _child_environment(spec: EngineSpec, folder: Path) -> dict[str, str]:
    """TensorRT-RTX looks for its library under a name that its wheel does not have, as soon as there is a plugin node."""
    environment = dict(os.environ)
    libraries = flavour.library_folder(flavour.require(spec.flavour))
    if libraries is not None:
        for versioned in libraries.glob("lib*.so.*"):
            plain = folder / (versioned.name.split(".so.")[0] + ".so")
            if not plain.exists():
                plain.symlink_to(versioned)
        known = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = str(folder) if not known else f"{folder}{os.pathsep}{known}"
    return environment
