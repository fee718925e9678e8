"""Explicit int8: convolutions between QuantizeLinear and DequantizeLinear nodes, which ONNX Runtime and TensorRT read.

Weights have a scale for each output channel, activations one scale, found on images; zero stands for 0, as TensorRT demands.
The last convolutions of the network, attention, norms and everything else stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from wsss_fast._nearest import did_you_mean
from wsss_fast.export import foreign
from wsss_fast.export.graph import inside, layer_of
from wsss_fast.export.half import drop_unused_weights
from wsss_fast.export.onnx import META
from wsss_fast.files.names import printable

STEPS = 127  # from zero to the largest int8
SAMPLE = 4096  # numbers of each activation and image from which its scale is found
CLIPS = np.linspace(0.3, 1, 29)  # the largest activation that has a step of its own, in parts of the largest seen
ZERO = "int8_zero"

Scales = dict[str, float]  # activation -> the size of its steps


def layers_for_int8(model: Any) -> dict[str, list[NodeProto]]:
    """Layer -> its convolutions, of those behind which another one comes: what the last ones give is the result."""
    weights = {tensor.name for tensor in model.graph.initializer}
    behind: set[str] = set()  # values that a convolution is computed from
    layers: dict[str, list[NodeProto]] = {}
    for node in reversed(model.graph.node):
        convolution = node.op_type == "Conv" and node.domain == "" and node.input[1] in weights
        leads_on = not behind.isdisjoint(node.output)
        if convolution and leads_on:
            layers.setdefault(layer_of(node) or node.output[0], []).append(node)
        if convolution or leads_on:
            behind.update(node.input)
    return dict(reversed(layers.items()))


def chosen_layers(model: Any, keep_float: Collection[str] = ()) -> tuple[str, ...]:
    """Without those that are to stay float32, by the name of a layer or of what it is a part of."""
    layers = tuple(layers_for_int8(model))
    for name in keep_float:
        if not any(_is_part(layer, name) for layer in layers):
            parts = {layer[:end] for layer in layers for end in range(len(layer) + 1) if layer[end : end + 1] in ("", ".")}
            hint = did_you_mean(name, sorted(parts), f"as {', '.join(layers[:3])}")
            raise ValueError(f"export: 'keep_float' must name layers that int8 can take, got '{printable(name)}'. Hint: {hint}")
    return tuple(layer for layer in layers if not any(_is_part(layer, name) for name in keep_float))


def _is_part(layer: str, name: str) -> bool:
    return layer == name or layer.startswith(f"{name}.")


def calibrate(model: Any, images: Iterable[Tensor]) -> Scales:
    """The scale of each activation that a convolution may read in int8: of those that clip large values more and less, the one
    with the smallest squared error on the images (normalised, float32).
    """
    names = sorted({node.input[0] for nodes in layers_for_int8(model).values() for node in nodes})
    run = inside(model, names)
    generator = np.random.default_rng(0)
    samples: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for image in images:
        for name, value in zip(names, run(image), strict=True):
            flat = value.numpy().ravel()
            # drawn at random: a regular step would see some channels or columns only
            samples[name].append(flat[generator.integers(0, flat.size, SAMPLE)])
    return {name: _best_scale(np.concatenate(parts)) for name, parts in samples.items()}


def _best_scale(values: np.ndarray) -> float:
    largest = float(np.abs(values).max())
    if largest == 0:
        return 1.0

    def error(scale: float) -> float:
        return float(np.square(np.clip(np.rint(values / scale), -STEPS, STEPS) * scale - values).mean())

    return min((clip * largest / STEPS for clip in CLIPS), key=error)


def quantised(model: Any, scales: Scales, layers: Collection[str]) -> Any:
    """A copy of the graph in which these layers compute in int8."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    taken = {node.output[0] for layer, nodes in layers_for_int8(copy).items() if layer in layers for node in nodes}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    fresh: dict[str, TensorProto] = {ZERO: numpy_helper.from_array(np.array(0, np.int8), ZERO)}
    nodes: list[NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        if node.output[0] in taken:
            activation, weight = node.input[:2]
            if activation not in done:
                nodes += _pair(activation, scales[activation], fresh)
            if weight not in done:
                nodes.append(_dequantised(weight, numpy_helper.to_array(weights[weight]), fresh))
            done |= {activation, weight}
            node.input[0], node.input[1] = f"{activation}_int8_float", f"{weight}_int8_float"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(fresh.values())
    drop_unused_weights(graph)
    return copy


def _pair(name: str, scale: float, fresh: dict[str, TensorProto]) -> list[NodeProto]:
    given = f"{name}_scale"
    fresh[given] = numpy_helper.from_array(np.array(scale, np.float32), given)
    number, back = f"{name}_int8", f"{name}_int8_float"
    return [
        helper.make_node("QuantizeLinear", [name, given, ZERO], [number], name=number),
        helper.make_node("DequantizeLinear", [number, given, ZERO], [back], name=back),
    ]


def _dequantised(name: str, values: np.ndarray, fresh: dict[str, TensorProto]) -> NodeProto:
    scale = np.abs(values).reshape(len(values), -1).max(axis=1) / STEPS
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    steps = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))).clip(-STEPS, STEPS).astype(np.int8)
    number, given, zeros, back = f"{name}_int8", f"{name}_scale", f"{name}_zero", f"{name}_int8_float"
    parts = {number: steps, given: scale, zeros: np.zeros(len(values), np.int8)}
    fresh.update({part: numpy_helper.from_array(value, part) for part, value in parts.items()})
    return helper.make_node("DequantizeLinear", [number, given, zeros], [back], name=back, axis=0)


def write_int8(graph: Path, made: Path, images: Iterable[Tensor], keep_float: Collection[str] = ()) -> tuple[Any, Scales]:
    """From a float32 ONNX file of `write_onnx` to one with int8 convolutions. Gives the graph that was read, and the scales."""
    model = foreign.checked(graph)
    meta = foreign.meta_of(model, graph)
    if meta.precision != "fp32":
        raise ValueError(f"export: int8 is made of a network in fp32, '{graph.name}' is {meta.precision}")
    layers = chosen_layers(model, keep_float)
    scales = calibrate(model, images)
    result = quantised(model, scales, layers)
    helper.set_model_props(result, {META: replace(meta, precision="int8").to_json()})
    onnx.save(result, made)
    onnx.checker.check_model(made, full_check=True)
    return model, scales
