"""Builds one engine, in a process of its own: TensorRT can end the process that it runs in. torch is not loaded.

python -m wsss_fast.export.trt.child SPEC.json OUT.engine TIMING_CACHE  → OUT.engine, OUT.engine.json (what was built), and lines
on standard output: ``{"phase": ..., "step": ..., "steps": ...}`` of progress, ``{"warning": ...}``.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from wsss_fast.export.trt import flavour, timing
from wsss_fast.export.trt.spec import EngineSpec
from wsss_fast.files.whole import whole_file


class BuildError(RuntimeError):
    """What TensorRT said when it gave up."""


def build(spec: EngineSpec, out: Path, timing_cache: Path) -> dict[str, Any]:
    trt = flavour.require(spec.flavour)
    said: list[str] = []
    logger = flavour.logger(trt, said)
    if spec.plugins is not None:
        flavour.load_plugins(trt, spec.plugins)
    builder = trt.Builder(logger)
    # types are those of the graph; a library that leaves no choice may have no such flag
    flags = getattr(trt, "NetworkDefinitionCreationFlag", None)
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(spec.onnx.read_bytes()):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise BuildError(f"{trt.__name__} cannot read '{spec.onnx.name}': {errors}")
    told = _network(trt, network)
    config = _config(trt, builder, spec)
    times = timing.use(trt, config, timing_cache, lambda text: _tell(warning=text))
    if hasattr(config, "progress_monitor"):
        config.progress_monitor = _monitor(trt)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"{trt.__name__} built no engine: " + ("; ".join(said[-3:]) or "it gave no reason"))
    with whole_file(out) as part:
        part.write_bytes(bytes(plan))
    if times:
        timing.write(timing_cache, bytes(config.get_timing_cache().serialize()))
    return {**told, "warnings": said[-5:]}


def _config(trt: ModuleType, builder: Any, spec: EngineSpec) -> Any:
    config = builder.create_builder_config()
    # on by default, and rounds float32 products to 10 bits
    (config.set_flag if spec.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    config.builder_optimization_level = spec.optimisation
    profile = builder.create_optimization_profile()
    shapes = [(n, 3, h, w) for n, h, w in (spec.profile.least, spec.profile.best, spec.profile.most)]
    profile.set_shape("image", *shapes)
    config.add_optimization_profile(profile)
    if spec.capabilities:
        if not flavour.builds_without_gpu(trt):
            raise BuildError(f"{trt.__name__} builds for the GPU at hand only, not for {', '.join(spec.capabilities)}")
        config.num_compute_capabilities = len(spec.capabilities)
        for index, name in enumerate(spec.capabilities):
            known = getattr(trt.ComputeCapability, "SM" + name.replace(".", ""), None)
            if known is None:
                can = ", ".join(entry for entry in dir(trt.ComputeCapability) if entry.startswith("SM"))
                raise BuildError(f"{trt.__name__} has no compute capability {name}; it has {can}")
            config.set_compute_capability(known, index)
    return config


def _monitor(trt: ModuleType) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            _tell(phase=phase_name, step=step + 1, steps=self.steps.get(phase_name, 0))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def _network(trt: ModuleType, network: Any) -> dict[str, Any]:
    """What the engine is built of, as far as it can be told before TensorRT fuses layers."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return {
        "layers": len(layers),
        "plugin_layers": sum(layer.type == trt.LayerType.PLUGIN_V3 for layer in layers),
        "layer_types": dict(Counter(layer.get_output(0).dtype.name for layer in layers)),
        "inputs": {tensor.name: list(tensor.shape) for tensor in inputs},
        "outputs": {tensor.name: list(tensor.shape) for tensor in outputs},
        "types": {tensor.name: tensor.dtype.name for tensor in (*inputs, *outputs)},
    }


def _tell(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    spec_path, out, timing_cache = map(Path, arguments)
    try:
        told = build(EngineSpec.from_json(spec_path.read_text(encoding="utf-8")), out, timing_cache)
    except (BuildError, ImportError, OSError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    out.with_name(out.name + ".json").write_text(json.dumps(told), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
