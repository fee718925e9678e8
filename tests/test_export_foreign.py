"""ONNX files from strangers: what reaches beyond the file, unfolds without bounds or lies about itself is refused."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported import SMALLEST, onnx_file
from onnx import ModelProto, TensorProto, helper, numpy_helper

from wsss_fast.export import load_engine
from wsss_fast.export.inspect import inspect


def external(place: str) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)

    return change


def unknown_domain(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node[0].domain = "com.microsoft"


def undefined_node(model: ModelProto) -> None:
    model.graph.node[0].domain, model.graph.node[0].op_type = "wsss", "Nothing"


def bomb(model: ModelProto) -> None:
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [3], [100_000, 100_000, 8])
    model.graph.initializer.append(sizes)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["sizes"], ["large"]))


def bomb_in_a_constant(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["sizes"], value_ints=[1 << 40, 1, 1, 1]))
    model.graph.node.append(helper.make_node("Expand", ["image", "sizes"], ["large"]))


def lying_tensor(model: ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1 << 40


def negative_tensor(model: ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -1


def loop(model: ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("If", ["image"], ["x"], then_branch=body, else_branch=body))


def nameless(model: ModelProto) -> None:
    del model.metadata_props[:]


def described(**changes: object) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        (entry,) = model.metadata_props
        entry.value = json.dumps({**json.loads(entry.value), **changes})

    return change


def not_json(model: ModelProto) -> None:
    model.metadata_props[0].value = "{"


def other_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4


def numbers(model: ModelProto, **named: object) -> None:
    for name, value in named.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def made_by(*nodes: tuple, **named: object) -> Callable[[ModelProto], None]:
    """Nodes (operation, inputs, attributes), each giving what the next takes as 'last', behind the constants `named`."""

    def change(model: ModelProto) -> None:
        numbers(model, **named)
        for place, (operation, inputs, attributes) in enumerate(nodes):
            taken = [f"last{place - 1}" if name == "last" else name for name in inputs.split()]
            taken = ["" if name == "-" else name for name in taken]
            model.graph.node.append(helper.make_node(operation, taken, [f"last{place}"], **attributes))

    return change


FILL = ("ConstantOfShape", "last", {})
HALF = np.array([1 << 20, 1 << 20])
BOMBS = {
    "Identity": made_by(("Identity", "sizes", {}), FILL, sizes=np.array([100_000, 100_000])),
    "Cast": made_by(("Cast", "sizes", {"to": TensorProto.INT64}), FILL, sizes=np.array([1e5, 1e5], np.float32)),
    "Mul": made_by(("Mul", "a b", {}), FILL, a=HALF, b=HALF),
    "Pow of the image": made_by(("Shape", "image", {}), ("Mul", "last last", {}), ("Mul", "last last", {}), FILL),
    "Range": made_by(("Range", "zero many one", {}), zero=np.array(0), many=np.array(1 << 40), one=np.array(1)),
    "Range of a product": made_by(
        ("Mul", "many many", {}), ("Range", "zero last one", {}), zero=np.array(0), many=np.array(1 << 20), one=np.array(1)
    ),
    "Resize by sizes": made_by(("Resize", "image - - sizes", {}), sizes=np.array([1, 3, 1 << 20, 1 << 20])),
    "Resize by scales": made_by(("Resize", "image - scales", {}), scales=np.array([1, 1, 1e4, 1e4], np.float32)),
    "RandomNormal": made_by(("RandomNormal", "", {"shape": [1 << 20, 1 << 20]})),
    "RandomUniform": made_by(("RandomUniform", "", {"shape": [1 << 20, 1 << 20]})),
    "Tile": made_by(("Concat", "a b", {"axis": 0}), ("Tile", "image last", {}), a=np.array([1, 1]), b=HALF),
    "Pad": made_by(("Pad", "image pads", {}), pads=np.array([0, 0, 0, 0, 0, 0, 1 << 20, 1 << 20])),
    "OneHot": made_by(("OneHot", "image many pair", {}), many=np.array(1 << 40), pair=np.array([0, 1])),
    "broadcast": made_by(("Add", "a b", {}), a=np.zeros((1 << 16, 1), np.float32), b=np.zeros((1, 1 << 16), np.float32)),
    "outer product": made_by(("MatMul", "a b", {}), a=np.zeros((1 << 16, 1), np.float32), b=np.zeros((1, 1 << 16), np.float32)),
    "EyeLike": made_by(("EyeLike", "a", {}), ("Tile", "last many", {}), a=np.zeros((9, 9), np.float32), many=HALF),
    "strided transpose": made_by(
        ("ConvTranspose", "image w", {"strides": [1 << 13, 1 << 13]}), w=np.zeros((3, 1, 1, 1), np.float32)
    ),
}
# Their size is what the values of the image, or chance, make it.
UNKNOWN = {
    "MatMul of the image's values": made_by(
        ("ReduceMax", "image", {"keepdims": 0}),
        ("Cast", "last", {"to": TensorProto.INT64}),
        ("Reshape", "last one", {}),
        FILL,
        one=np.array([1]),
    ),
    "NonZero": made_by(("NonZero", "image", {})),
    "a size by chance": made_by(
        ("RandomUniform", "", {"shape": [1], "high": 1e9}), ("Cast", "last", {"to": TensorProto.INT64}), FILL
    ),
    "a size by MatMul": made_by(("MatMul", "a b", {}), FILL, a=np.full((1, 1), 1 << 20), b=np.full(1, 1 << 20)),
}


@pytest.mark.parametrize("name", [*BOMBS, *UNKNOWN])
def test_no_chain_of_nodes_makes_a_large_tensor(name: str, tmp_path: Path) -> None:
    model = onnx.load(onnx_file(SMALLEST))
    {**BOMBS, **UNKNOWN}[name](model)
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    message = "would make a tensor of" if name in BOMBS else "whose size does not follow from the file"
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        load_engine(path, device="cpu")
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_many_tensors_together_are_bounded_too(tmp_path: Path) -> None:
    nodes = [("Expand", f"image s{i}", {}) for i in range(80)]
    sizes = {f"s{i}": np.array([100, 3, 256, 256]) for i in range(80)}
    model = onnx.load(onnx_file(SMALLEST))
    made_by(*nodes, **sizes)(model)
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="and those before it would make tensors of"):
        load_engine(path, device="cpu")


def test_functions_do_not_unfold(tmp_path: Path) -> None:
    model = onnx.load(onnx_file(SMALLEST))
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("wsss", 1)]
    for level in range(1, 60):
        nodes = [
            helper.make_node(f"F{level - 1}", ["x"], ["y"], domain="wsss"),
            helper.make_node(f"F{level - 1}", ["y"], ["z"], domain="wsss"),
        ]
        model.functions.append(helper.make_function("wsss", f"F{level}", ["x"], ["z"], nodes, imports))
    model.functions.append(
        helper.make_function("wsss", "F0", ["x"], ["z"], [helper.make_node("Identity", ["x"], ["z"])], imports)
    )
    model.opset_import.append(helper.make_opsetid("wsss", 1))
    model.graph.node.append(helper.make_node("F59", ["image"], ["all"], domain="wsss"))
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="a function of the file calls another"):
        load_engine(path, device="cpu")
    del model.functions[:]
    model.functions.append(
        helper.make_function("", "Relu", ["X"], ["Y"], [helper.make_node("Identity", ["X"], ["Y"])], imports[:1])
    )
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"defines '::Relu' in its own way"):
        load_engine(path, device="cpu")


def test_a_size_that_explodes_for_other_images_alone(tmp_path: Path) -> None:
    """Above 300 rows each further row makes a million elements: found when such an image comes, before it runs."""
    model = onnx.load(onnx_file(SMALLEST))
    made_by(
        ("Shape", "image", {"start": 2, "end": 3}),
        ("Sub", "last rows", {}),
        ("Max", "last zero", {}),
        ("Mul", "last many", {}),
        ("Expand", "bit last", {}),
        ("ReduceSum", "last", {"keepdims": 0}),
        rows=np.array([300]),
        zero=np.array([0]),
        many=np.array([1 << 45]),
        bit=np.zeros(1, np.float32),
    )(model)
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    engine = load_engine(path, device="cpu")
    engine.forward_cam(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"too large for images of \[1, 3, 320, 64\]: node 'Expand' .* Hint: smaller images"):
        engine.forward_cam(torch.zeros(1, 3, 320, 64))


HOSTILE = {
    "another file": (external("../../../etc/passwd"), r"is kept in '\.\./\.\./\.\./etc/passwd'"),
    "an absolute file": (external("/etc/passwd"), "is kept in '/etc/passwd'"),
    "a file beside it": (external("weights.bin"), "is kept in 'weights.bin'. Hint: one file"),
    "a name with control characters": (external("a\x1b[2J"), r"is kept in 'a\\x1b\[2J'"),
    "an unknown domain": (unknown_domain, "operations of 'com.microsoft'"),
    "a node nobody defines": (undefined_node, "'wsss::Nothing', which the file does not define"),
    "a shape bomb": (bomb, r"ConstantOfShape\) would make a tensor of \[100000, 100000, 8\]"),
    "a shape bomb in a constant": (bomb_in_a_constant, r"Expand\) would make a tensor"),
    "a tensor that lies": (lying_tensor, "elements and holds"),
    "a tensor of negative size": (negative_tensor, "elements and holds"),
    "a graph in a node": (loop, r"holds a graph of its own \(If\)"),
    "no description": (nameless, "does not say what its network expects"),
    "a broken description": (not_json, "holds a description that cannot be read"),
    "a description of another version": (described(schema=99), "another version"),
    "an unknown method": (described(method="sam"), "contradicts itself"),
    "names that do not fit": (described(classes=["cat"]), "contradicts itself"),
    "another number of classes": (described(num_classes=7, classes=[]), r"says 7 classes and gives \[3\] channels, not 7"),
    "other outputs": (described(outputs=["edge"]), "must give edge, as it says of itself"),
    "another input": (other_input, "must take one input, 'image'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_before_an_engine_sees_them(name: str, tmp_path: Path) -> None:
    change, message = HOSTILE[name]
    model = onnx.load(onnx_file(SMALLEST))
    change(model)
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=message) as caught:
        load_engine(path, device="cpu")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a" * 400], ids=["empty", "text", "numbers"])
def test_files_that_are_no_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is no ONNX file|does not say what its network expects"):
        load_engine(path, device="cpu")


def test_a_torn_file(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(onnx_file(SMALLEST).read_bytes()[:100_000])
    with pytest.raises(ValueError, match="is no ONNX file"):
        load_engine(path, device="cpu")


def test_inspect_tells_without_running(tmp_path: Path) -> None:
    told = inspect(onnx_file(SMALLEST))
    assert told["kind"] == "onnx" and told["inputs"] == ["image: float [batch, 3, height, width]"]
    assert told["network"]["method"] == "cam" and told["nodes"]["Conv"] > 10 and told["weights"]["float"] > 10_000
    engine = tmp_path / "a.engine"
    engine.write_bytes(b"machine code")
    assert inspect(engine)["record"] is None
    (tmp_path / "a.engine.json").write_text('{"flavour": "trt"}')
    assert inspect(engine)["record"] == {"flavour": "trt"}
    with pytest.raises(ValueError, match="must end in"):
        inspect(Path(__file__))
