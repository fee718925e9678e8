"""Questions to an ONNX graph that this package wrote: which layer a value came from, its type, what it is on an image."""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_fast.export.ort import session

Values = Callable[[Tensor], list[Tensor]]


def layer_of(node: Any) -> str:
    """The layer of the network that a node came from, as its parameters are named; "" for what stands between layers."""
    told = {entry.key: entry.value for entry in node.metadata_props}
    try:
        scopes = ast.literal_eval(told.get("pkg.torch.onnx.name_scopes", "[]"))
    except (ValueError, SyntaxError):
        return ""
    inside = [scope.removeprefix("model").lstrip(".") for scope in scopes[:-1] if scope.startswith("model")]
    return inside[-1] if inside else ""


def layers_of_values(graph: Any) -> dict[str, str]:
    """For each value its layer; for what stands between layers, such as a sum, the last layer that led to it."""
    layers: dict[str, str] = {}
    for node in graph.node:
        before = [layers[name] for name in node.input if layers.get(name)]
        layer = layer_of(node) or (before[-1] if before else "")
        layers.update(dict.fromkeys(node.output, layer))
    return layers


def value_types(graph: Any) -> dict[str, int]:
    """Inputs, outputs, weights and what lies between → type (a number of `onnx.TensorProto`)."""
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return {**types, **{tensor.name: tensor.data_type for tensor in graph.initializer}}


def inside(model: Any, names: Sequence[str]) -> Values:
    """A function of a normalised image that gives the named values of the graph, run on the CPU."""
    import onnx

    outputs = [value.name for value in model.graph.output]
    # without a type: the session knows it
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in outputs)
    try:
        run = started(model)
    finally:
        del model.graph.output[len(outputs) :]
    return lambda image: [torch.from_numpy(value) for value in run.run(list(names), {"image": image.numpy()})]


def started(model: Any) -> Any:
    """A session of ONNX Runtime on the CPU for a graph in memory."""
    import onnx

    with tempfile.TemporaryDirectory(prefix="wsss-") as folder:
        path = Path(folder) / "graph.onnx"
        onnx.save(model, path)
        return session(path, torch.device("cpu"))
