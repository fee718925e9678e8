"""ONNX files from strangers: what reaches beyond the file, unfolds without bounds or lies about itself is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from exported import SMALLEST, onnx_file
from onnx import ModelProto, TensorProto, helper

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
    model.graph.node.append(helper.make_node("Constant", [], ["sizes"], value_ints=[1 << 40]))
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
