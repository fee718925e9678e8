"""Our operations in an ONNX graph: one node each, of domain ``wsss``, with a body in standard operations in the same file.

An engine that knows the operation (a TensorRT plugin of the same name) replaces the node; every other engine runs the body. The
attributes ``plugin_namespace`` and ``plugin_version`` make TensorRT prefer the plugin. The bodies compute in float32 whatever
the type of the graph: their norms and sums would overflow float16.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import onnx
from onnx import FunctionProto, ModelProto, NodeProto, helper, parser

from wsss_fast.ops._reference.half_disc import half_disc

DOMAIN = "wsss"
PLUGIN = {"plugin_namespace": DOMAIN, "plugin_version": "1"}

Attributes = dict[str, Any]

# node → its inputs and the types of its attributes, which are the fields of the plugin
SIGNATURES: dict[str, tuple[tuple[str, ...], dict[str, type]]] = {
    "Pcm": (("cam", "feature"), {"eps": float}),
    "Prcm": (("cam", "x", "query", "phi"), {"scale": float, "classes": int, "view": int, "rectify": int}),
    "Affinity": (("feature",), {"radius": int}),
}


def complete(model: ModelProto) -> None:
    """Gives every node of ours its plugin attributes, and the model a body for each kind of node."""
    attributes: dict[str, Attributes] = {}
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        own = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        if attributes.setdefault(node.op_type, own) != own:
            raise ValueError(f"export: nodes {node.op_type} of one network must have the same attributes")
        node.attribute.extend(helper.make_attribute(name, value) for name, value in PLUGIN.items())
    (opset,) = (entry.version for entry in model.opset_import if entry.domain == "")
    model.functions.extend(body(name, own, opset) for name, own in attributes.items())


def body(name: str, attributes: Attributes, opset: int) -> FunctionProto:
    """What a node computes, in standard operations of `opset`. Those of Prcm and Affinity are for the given attributes alone."""
    inputs, own = SIGNATURES[name]
    signature = f"{name} <{', '.join((*own, *PLUGIN))}> ({', '.join(inputs)}) => (out)"
    operations = _BODIES[name](attributes)
    return parser.parse_function(f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]> {signature} {{{operations}}}')


def nodes(model: ModelProto) -> list[NodeProto]:
    return [node for node in model.graph.node if node.domain == DOMAIN]


def _pcm(_: Attributes) -> str:
    # the matrix of likenesses is symmetric: its row sums, which lie together in memory, are its column sums
    return """
    columns = Constant <value_ints = [0, 0, -1]> ()
    first = Constant <value_ints = [1]> ()
    second = Constant <value_ints = [2]> ()
    tiny = Constant <value_float: float = @eps> ()
    wide_cam = Cast <to = 1> (cam)
    wide_feature = Cast <to = 1> (feature)
    value = Reshape (wide_cam, columns)
    x = Reshape (wide_feature, columns)
    length = ReduceL2 <keepdims = 1> (x, first)
    divisor = Add (length, tiny)
    unit = Div (x, divisor)
    rows = Transpose <perm = [0, 2, 1]> (unit)
    cosine = MatMul (rows, unit)
    alike = Relu (cosine)
    sums = ReduceSum <keepdims = 0> (alike, second)
    total = Unsqueeze (sums, first)
    whole = Add (total, tiny)
    gathered = MatMul (value, alike)
    mean = Div (gathered, whole)
    size = Shape (cam)
    map = Reshape (mean, size)
    out = CastLike (map, cam)"""


def _prcm(attributes: Attributes) -> str:
    if attributes["view"]:
        keys = """
    images_classes = Shape <start = 0, end = 2> (proxy)
    rest = Constant <value_ints = [-1]> ()
    viewed = Concat <axis = 0> (images_classes, rest)
    key = Reshape (keys, viewed)"""
    else:
        keys = """
    key = Transpose <perm = [0, 2, 1]> (keys)"""
    return f"""
    columns = Constant <value_ints = [0, 0, -1]> ()
    factor = Constant <value_float: float = @scale> ()
    wide_cam = Cast <to = 1> (cam)
    wide_x = Cast <to = 1> (x)
    wide_query = Cast <to = 1> (query)
    wide_phi = Cast <to = 1> (phi)
    seed = Reshape (wide_cam, columns)
    pixels = Reshape (wide_x, columns)
    given = Reshape (wide_query, columns)
    question = {"Relu" if attributes["rectify"] else "Identity"} (given)
    share = Softmax <axis = 2> (seed)
    places = Transpose <perm = [0, 2, 1]> (pixels)
    proxy = MatMul (share, places)
    proxies = Transpose <perm = [0, 2, 1]> (proxy)
    projected = MatMul (wide_phi, proxies)
    keys = Relu (projected){keys}
    likeness = MatMul (key, question)
    scaled = Mul (likeness, factor)
    gate = Softmax <axis = {1 if attributes["classes"] else 2}> (scaled)
    gated = Mul (seed, gate)
    size = Shape (cam)
    map = Reshape (gated, size)
    out = CastLike (map, cam)"""


OUTSIDE = 1e30  # no feature is near it: exp(-difference) is 0
LAST = 2**63 - 1


def _affinity(attributes: Attributes) -> str:
    radius = attributes["radius"]
    reach = radius - 1
    offsets = half_disc(radius)
    # slices end at a distance from the padded border, so that no arithmetic on shapes is needed
    planes = "".join(
        f"""
    from_{e} = Constant <value_ints = [{dy}, {dx + reach}]> ()
    to_{e} = Constant <value_ints = [{dy - reach or LAST}, {dx - reach or LAST}]> ()
    partner_{e} = Slice (around, from_{e}, to_{e}, sides)
    difference_{e} = Sub (x, partner_{e})
    distance_{e} = Abs (difference_{e})
    mean_{e} = ReduceMean <keepdims = 1> (distance_{e}, channels)
    negative_{e} = Neg (mean_{e})
    plane_{e} = Exp (negative_{e})"""
        for e, (dy, dx) in enumerate(offsets)
    )
    return f"""
    sides = Constant <value_ints = [2, 3]> ()
    channels = Constant <value_ints = [1]> ()
    border = Constant <value_ints = [0, 0, 0, {reach}, 0, 0, {reach}, {reach}]> ()
    outside = Constant <value_float = {OUTSIDE}> ()
    x = Cast <to = 1> (feature)
    around = Pad (x, border, outside){planes}
    planes = Concat <axis = 1> ({", ".join(f"plane_{e}" for e in range(len(offsets)))})
    out = CastLike (planes, feature)"""


_BODIES: dict[str, Callable[[Attributes], str]] = {"Pcm": _pcm, "Prcm": _prcm, "Affinity": _affinity}


@contextlib.contextmanager
def known_nodes() -> Iterator[None]:
    """Tells onnx what our nodes look like: without it the exporter cannot write them. For a while only, so that files are
    checked as other readers check them, who know nothing but the bodies.
    """
    schema = onnx.defs.OpSchema
    floats = [("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "")]
    kinds = {float: schema.AttrType.FLOAT, int: schema.AttrType.INT}
    for name, (inputs, attributes) in SIGNATURES.items():
        given = [schema.FormalParameter(entry, "T") for entry in inputs]
        fields = [schema.Attribute(entry, kinds[kind], "") for entry, kind in attributes.items()]
        result = [schema.FormalParameter("out", "T")]
        onnx.defs.register_schema(
            schema(name, DOMAIN, 1, inputs=given, outputs=result, type_constraints=floats, attributes=fields)
        )
    try:
        yield
    finally:
        for name in SIGNATURES:
            onnx.defs.deregister_schema(name, 1, DOMAIN)


def translations() -> dict[Any, Callable[..., Any]]:
    """Our torch operators → nodes, within `known_nodes`. What the operators also return for their gradients is left out."""
    import torch
    from onnxscript import opset20, values

    own = values.Opset(DOMAIN, 1)

    def pcm(cam: Any, feature: Any, eps: float, impl: str) -> Any:
        out = own.Pcm(cam, feature, eps=eps)
        return out, opset20.Identity(out)

    def prcm(cam: Any, x: Any, query: Any, phi: Any, scale: float, classes: bool, view: bool, rectify: bool, impl: str) -> Any:
        out = own.Prcm(cam, x, query, phi, scale=scale, classes=int(classes), view=int(view), rectify=int(rectify))
        return out, *(opset20.Identity(out) for _ in range(3))

    def affinity(feature: Any, radius: int, impl: str) -> Any:
        return own.Affinity(feature, radius=radius)

    operators = torch.ops.wsss_fast
    return {operators.pcm.default: pcm, operators.prcm.default: prcm, operators.affinity.default: affinity}
