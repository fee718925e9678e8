"""Where an ONNX file begins to compute something else than the network: values inside both graphs, side by side.

The exporter names a value of the graph as the traced network names it, so that the two can be paired.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_fast.export.engine import EngineMeta
from wsss_fast.export.graph import inside, layer_of
from wsss_fast.export.onnx import exportable, trace

# the largest difference of a value, in parts of its largest number, that rounding explains
ROUNDING = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 2e-1}


def first_diverging(path: Path, model: nn.Module, image: Tensor, meta: EngineMeta) -> dict[str, Any]:
    """The first node of the file, in the order of the graph, whose result is not the network's; `image` is normalised."""
    import onnx

    eager = _eager_values(model, image, meta)
    graph = onnx.load(path, load_external_data=False)
    nodes = {output: node for node in graph.graph.node for output in node.output}
    compared = [name for name in nodes if name in eager]
    bound = ROUNDING[meta.precision]
    for name, value in zip(compared, inside(graph, compared)(image), strict=True):
        if value.shape != eager[name].shape or not _error(value, eager[name]) <= bound:
            node = nodes[name]
            found = {"node": node.name or name, "operation": node.op_type, "layer": layer_of(node)}
            shapes = value.shape == eager[name].shape
            return {**found, "error": float(f"{_error(value, eager[name]):.3g}") if shapes else "another shape"}
    return {"node": None, "compared": len(compared), "reason": "every node of the file agrees with the network within rounding"}


def _error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp_min(1e-30))


def _eager_values(model: nn.Module, image: Tensor, meta: EngineMeta) -> dict[str, Tensor]:
    class Recorder(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Any:
            result = super().run_node(node)
            if isinstance(result, Tensor) and result.is_floating_point() and node.op == "call_function":
                values[node.name] = result.clone()
            return result

    values: dict[str, Tensor] = {}
    program = trace(exportable(model, "fp32"), meta).exported_program
    with torch.no_grad():
        Recorder(program.module()).run(image)
    return values
