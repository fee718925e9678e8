"""What a graph in half precision must compute in float32: sums over many values, and values that float16 cannot hold.

The largest float16 is 65,504. `largest_values` runs the graph on images with every node in float32 and tells how large its values
become; `keep_in_float32` takes nodes out of half precision, with conversions where they meet the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from wsss_fast.export.graph import inside, layers_of_values, value_types

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
# standard operations that add up many values; those of ours have bodies that compute in float32
SUMS = (
    "GlobalAveragePool", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization", "ReduceL2",
    "ReduceMean", "ReduceSum", "ReduceSumSquare", "Softmax",
)  # fmt: skip
LARGEST = 65504.0  # of float16
ALLOWED = LARGEST / 2  # on a sample of images: others will show larger values


@dataclass(frozen=True)
class LargeValue:
    value: str  # name in the graph
    layer: str  # that it comes from
    largest: float  # magnitude on the images

    @property
    def overflows(self) -> bool:
        return not self.largest <= ALLOWED  # NaN does


def keep_sums_in_float32(model: Any) -> None:
    keep_in_float32(model, [node.output[0] for node in model.graph.node if node.op_type in SUMS])


def without_overflow(model: Any, images: Iterable[Tensor]) -> tuple[LargeValue, ...]:
    """Takes out of float16, in place, each node that makes or reads a value which comes near its largest number on the images
    (normalised, float32). Gives all values, the largest first.
    """
    values = largest_values(model, images)
    large = {entry.value for entry in values if entry.overflows}
    touching = [node.output[0] for node in model.graph.node if large & {*node.input, *node.output}]
    keep_in_float32(model, touching)
    return values


def largest_values(model: Any, images: Iterable[Tensor]) -> tuple[LargeValue, ...]:
    """Of the float16 values of a graph, were they computed in float32."""
    types = value_types(model.graph)
    names = [name for node in model.graph.node for name in node.output if types.get(name) == TensorProto.FLOAT16]
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    keep_in_float32(wide, [node.output[0] for node in model.graph.node])
    for name in names:
        wide.graph.node.append(helper.make_node("Abs", [name], [f"{name}_magnitude"]))
        wide.graph.node.append(helper.make_node("ReduceMax", [f"{name}_magnitude"], [f"{name}_largest"], keepdims=0))
    largest = [0.0] * len(names)
    run = inside(wide, [f"{name}_largest" for name in names])
    for image in images:
        largest = [max(float(value), before) for value, before in zip(run(image), largest, strict=True)]
    layers = layers_of_values(model.graph)
    found = (LargeValue(name, layers[name], value) for name, value in zip(names, largest, strict=True))
    return tuple(sorted(found, key=lambda entry: entry.largest, reverse=True))


def keep_in_float32(model: Any, values: Iterable[str]) -> None:
    """The nodes that make these values compute in float32, and so does what lies between two of them; in place."""
    chosen, graph, types = set(values), model.graph, value_types(model.graph)
    change = _Conversions(graph)
    wide: set[str] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        halves = [name for name in node.input if types.get(name) in HALVES]
        to_half = node.op_type == "Cast" and node.attribute[0].i in HALVES
        if chosen.isdisjoint(node.output) or not (halves or to_half):
            nodes += change(node, {name: types[name] for name in halves if name in wide})
            continue
        nodes += change(node, {name: TensorProto.FLOAT for name in halves if name not in wide})
        if to_half:
            node.attribute[0].i = TensorProto.FLOAT
        wide.update(name for name in node.output if types.get(name) in HALVES)
    del graph.node[:]
    graph.node.extend(nodes)
    for value in graph.value_info:
        if value.name in wide:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    drop_unused_weights(graph)


def drop_unused_weights(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


class _Conversions:
    """Values of a graph in another type, each converted once: weights by themselves, what is computed by a node."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._made: set[str] = set()

    def __call__(self, node: NodeProto, wanted: dict[str, int]) -> list[NodeProto]:
        """`node`, reading those inputs in the types that are wanted, behind the conversions that it needs."""
        casts = []
        for place, name in enumerate(node.input):
            if name not in wanted:
                continue
            node.input[place] = converted = f"{name}_{TensorProto.DataType.Name(wanted[name]).lower()}"
            if converted in self._made:
                continue
            self._made.add(converted)
            if name in self._weights:
                values = numpy_helper.to_array(self._weights[name]).astype(helper.tensor_dtype_to_np_dtype(wanted[name]))
                self._graph.initializer.append(numpy_helper.from_array(values, converted))
            else:
                casts.append(helper.make_node("Cast", [name], [converted], name=converted, to=wanted[name]))
                self._graph.value_info.append(helper.make_tensor_value_info(converted, wanted[name], None))
        return [*casts, node]
