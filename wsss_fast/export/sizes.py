"""How large the tensors of an ONNX graph are, worked out without computing it.

Sizes in a graph are numbers that other nodes make: `Shape`, arithmetic, `Concat`. This follows them, node by node, for one size
of the image: types by ONNX's own inference, and the values of small tensors by computing them. A tensor whose size does not
follow, or is too large, is a complaint, whatever chain of nodes made it; nothing large is ever made here.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np

from wsss_fast._extras import require

SIDE = 256  # of the image that sizes are worked out for, where nobody gives another
MOST_ELEMENTS = 1 << 28
MOST_TOGETHER = 1 << 30  # of all tensors; the networks here have less than a third of it at that side
_MOST_KNOWN = 4096  # elements of a tensor whose values are followed
_MOST_NODES = 100_000
# What makes the same small values from the same small values. Others may give values, and no sizes may follow from them.
_COMPUTED = frozenset(
    (
        *("Abs", "Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Flatten"),
        *("Floor", "Gather", "GatherElements", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min"),
        *("Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape"),
        *("Round", "ScatterElements", "ScatterND", "Sign", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose"),
        *("Unsqueeze", "Where"),
    )
)


class Sizes:
    """Of a model whose nodes are standard ones or call functions of the file, without graphs inside nodes."""

    def __init__(self, model: Any) -> None:
        onnx = self._onnx = require("onnx")
        self.refused = self._too_many_nodes(model)
        if self.refused:
            return
        if model.functions:
            model = import_module("onnx.inliner").inline_local_functions(model)
        helper = onnx.helper
        self._nodes = list(model.graph.node)
        self._imports = list(model.opset_import)
        self._ir = model.ir_version
        self._version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
        # Weights themselves are not kept; older files list them among the inputs.
        tensors = model.graph.initializer
        named = {tensor.name for tensor in tensors}
        self._inputs = [entry for entry in model.graph.input if entry.name not in named]
        self._weights = {tensor.name: helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims)) for tensor in tensors}
        small = [tensor for tensor in tensors if math.prod(tensor.dims) <= _MOST_KNOWN]
        self._constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in small}

    @staticmethod
    def _too_many_nodes(model: Any) -> str:
        """Functions that call functions can unfold into any number of nodes."""
        own = {(entry.domain, entry.name): entry for entry in model.functions}
        if any((node.domain, node.op_type) in own for entry in model.functions for node in entry.node):
            return "a function of the file calls another"
        count = sum(
            len(own[node.domain, node.op_type].node) if (node.domain, node.op_type) in own else 1 for node in model.graph.node
        )
        return f"it has {count} nodes" if count > _MOST_NODES else ""

    def complaint(
        self, image: tuple[int, ...] = (1, 3, SIDE, SIDE), most: int = MOST_ELEMENTS, together: int = MOST_TOGETHER
    ) -> str:
        """What is wrong for an image of this shape, or nothing. Sides that the file fixes are those of the file."""
        if self.refused:
            return self.refused
        try:
            return self._complaint(image, most, together)
        except Exception as error:  # of onnx, on what is no graph at all
            return f"its sizes cannot be worked out ({_reason(error)})"

    def _complaint(self, image: tuple[int, ...], most: int, together: int) -> str:
        types, values = dict(self._weights), dict(self._constants)
        for entry in self._inputs:
            kind = entry.type.tensor_type
            fixed = [side.dim_value for side in kind.shape.dim]
            sides = [side or whole for side, whole in zip(fixed, image, strict=True)]
            types[entry.name] = self._onnx.helper.make_tensor_type_proto(kind.elem_type, sides)
        total = 0
        for node in self._nodes:
            what = f"node '{node.name or node.op_type}' ({node.op_type})"
            wrong = self._infer(node, types, values)
            if wrong:
                return f"{what} {wrong}"
            for name in filter(None, node.output):
                sides = _sides(types[name])
                if sides is None:
                    return f"{what} makes '{name}', whose size does not follow from the file and the size of the image"
                count = math.prod(max(1, side) for side in sides)
                total += count
                if count > most:
                    return f"{what} would make a tensor of {sides}"
                if total > together:
                    return f"{what} and those before it would make tensors of {total} elements together"
            self._follow(node, types, values)
        return ""

    def _infer(self, node: Any, types: dict[str, Any], values: dict[str, np.ndarray]) -> str:
        inputs = [name for name in node.input if name]
        unknown = next((name for name in inputs if name not in types), None)
        if unknown is not None:
            return f"takes '{unknown}', which no node before it makes"
        try:
            made = self._onnx.shape_inference.infer_node_outputs(
                self._onnx.defs.get_schema(node.op_type, self._version, ""),
                node,
                {name: types[name] for name in inputs},
                {name: self._onnx.numpy_helper.from_array(values[name], name) for name in inputs if name in values},
                opset_imports=self._imports,
                ir_version=self._ir,
            )
        except Exception as error:  # of onnx, which has a class for each thing that can be wrong with a node
            return f"is wrong ({_reason(error)})"
        types.update((name, made.get(name)) for name in node.output if name)
        return ""

    def _follow(self, node: Any, types: dict[str, Any], values: dict[str, np.ndarray]) -> None:
        """The values that a node gives, where they are few and certain."""
        inputs, outputs = ([name for name in names if name] for names in (node.input, node.output))
        for name in outputs:
            values.pop(name, None)
        if node.op_type in ("Shape", "Size") and inputs:
            sides = _sides(types[inputs[0]]) or []
            own = {entry.name: entry.i for entry in node.attribute}
            part = sides[own.get("start", 0) : own.get("end", len(sides))]
            values[outputs[0]] = np.array(part if node.op_type == "Shape" else math.prod(sides), np.int64)
            return
        small = all(math.prod(_sides(types[name]) or ()) <= _MOST_KNOWN for name in outputs)
        if node.op_type not in _COMPUTED or not small or not all(name in values for name in inputs):
            return
        made = self._computed(node, types, values, list(dict.fromkeys(inputs)), outputs)
        if made is not None:
            values.update(zip(outputs, made, strict=True))

    def _computed(
        self, node: Any, types: dict[str, Any], values: dict[str, np.ndarray], inputs: list[str], outputs: list[str]
    ) -> list[np.ndarray] | None:
        from onnx.reference import ReferenceEvaluator

        helper = self._onnx.helper
        infos = [[helper.make_value_info(name, types[name]) for name in names] for names in (inputs, outputs)]
        model = helper.make_model(helper.make_graph([node], "one", *infos), opset_imports=self._imports, ir_version=self._ir)
        try:
            with np.errstate(all="ignore"):
                made = ReferenceEvaluator(model).run(None, {name: values[name] for name in inputs})
            return [np.asarray(value) for value in made]
        except Exception:
            return None  # a size that needs these values is a complaint


def _sides(kind: Any) -> list[int] | None:
    """The shape, if all of it is known."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    sides = [side.dim_value if side.HasField("dim_value") else -1 for side in kind.tensor_type.shape.dim]
    return None if min(sides, default=0) < 0 else sides


def _reason(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]
