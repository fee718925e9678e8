"""Where an ONNX file begins to compute something else than the network: values inside both graphs, side by side.

The network is traced anew in the precision of the file, so that its values bear the names of the file, and then computed in
float32. Two values are a pair if the nodes that make them also came from the same layer and the same operator with the same
inputs, as the exporter wrote into the file; others are not compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from wsss_fast.export.engine import EngineMeta
from wsss_fast.export.graph import inside, layers_of_values
from wsss_fast.export.onnx import exportable, trace

HALVES = (torch.float16, torch.bfloat16)
# the largest difference of a value, in parts of its largest number, that rounding explains
ROUNDING = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 2e-1}


def first_diverging(path: Path, model: nn.Module, image: Tensor, meta: EngineMeta) -> dict[str, Any]:
    """The first node of the file, in the order of the graph, whose result is not the network's; `image` is normalised."""
    import onnx

    program = trace(exportable(model, meta.precision), meta)
    origins = {output: _origin(node) for node in program.model_proto.graph.node for output in node.output}
    eager = _values_in_float32(program.exported_program, model, image)
    graph = onnx.load(path, load_external_data=False)
    nodes = {output: node for node in graph.graph.node for output in node.output}
    compared = [name for name, node in nodes.items() if name in eager and _origin(node) == origins.get(name)]
    if not compared:
        return {"node": None, "compared": 0, "reason": "no value of the file has a counterpart in the network as traced here"}
    bound = ROUNDING[meta.precision]
    for name, value in zip(compared, inside(graph, compared)(image), strict=True):
        if value.shape != eager[name].shape or not _error(value, eager[name]) <= bound:
            node = nodes[name]
            found = {"node": node.name or name, "operation": node.op_type, "layer": layers_of_values(graph.graph)[name]}
            shapes = value.shape == eager[name].shape
            return {**found, "error": float(f"{_error(value, eager[name]):.3g}") if shapes else "another shape"}
    agree = "every node that was compared agrees with the network within rounding"
    return {"node": None, "compared": len(compared), "reason": agree}


def _error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp_min(1e-30))


def _origin(node: Any) -> tuple[str | None, ...]:
    """What the exporter wrote of where a node comes from: names alone are numbered anew when a sum more or less is traced."""
    told = {entry.key: entry.value for entry in node.metadata_props}
    return node.op_type, told.get("pkg.torch.onnx.name_scopes"), told.get("pkg.torch.onnx.fx_node")


def _values_in_float32(program: Any, model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """What a traced network computes, in float32 with the weights of `model`, whatever precision was traced."""

    def wide(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype in HALVES:
            return value.float()
        return torch.float32 if isinstance(value, torch.dtype) and value in HALVES else value

    class Recorder(torch.fx.Interpreter):
        def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return super().call_function(target, *tree_map(wide, (args, kwargs)))

        def run_node(self, node: torch.fx.Node) -> Any:
            result = super().run_node(node)
            if isinstance(result, Tensor) and result.is_floating_point() and node.op == "call_function":
                values[node.name] = result.clone()
            return result

    values: dict[str, Tensor] = {}
    module = program.module()
    module.load_state_dict(exportable(model, "fp32").state_dict(), strict=False, assign=True)
    with torch.no_grad():
        Recorder(module).run(image)
    return values
