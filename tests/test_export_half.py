"""Half precision: sums in float32, and values that float16 cannot hold are found on images and computed in float32."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from exported import SEAM, SMALLEST, Case, error_of, onnx_file
from onnx import TensorProto
from test_export_verify import photos

from wsss_fast.cli import main
from wsss_fast.export import half, load_engine, write_onnx
from wsss_fast.export.graph import value_types
from wsss_fast.export.onnx import exportable
from wsss_fast.nets import weights


def loud(gain: float = 900) -> torch.nn.Module:
    """The same function, but what conv4_1 gives is gain^2 times as large, and without its bias."""
    model = SMALLEST.network()
    with torch.no_grad():
        for layer, weight, bias in (("conv3_3", 1, 1), ("conv4_1", 1, -9), ("conv4_2", -1, 1), ("conv4_3", -1, 0)):
            getattr(model, layer).weight.mul_(gain**weight)
            getattr(model, layer).bias.mul_(gain**bias)
    return model


def test_large_values_are_found_and_stay_float32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, checkpoint, given, out = loud(), *(tmp_path / name for name in ("loud.safetensors", "given.onnx", "a.onnx"))
    weights.save_checkpoint(checkpoint, model, model.description())
    images, _ = photos(tmp_path)
    write_onnx(model, given, "fp16")
    values = half.largest_values(onnx.load(given), [model.normalise(torch.full((1, 3, 64, 64), 200, dtype=torch.uint8))])
    with torch.no_grad():
        seen = []
        model.conv4_1.register_forward_hook(lambda layer, given, result: seen.append(float(result.abs().max())))
        model.forward_cam(model.normalise(torch.full((1, 3, 64, 64), 200, dtype=torch.uint8)))
    assert values[0].layer == "conv4_1" and values[0].largest == pytest.approx(seen[0], rel=1e-2) and seen[0] > 65504

    command = ["export", str(checkpoint), "--onnx", str(given), "--precision", "fp16", "--out", str(out), "--verify", str(images)]
    assert main(command) == 0
    assert "computed in float32, float16 could overflow: conv2d_7 (conv4_1)" in capsys.readouterr().out
    told = json.loads((tmp_path / "a.onnx.verify.json").read_text())
    assert told["passed"] and told["float16"]["largest"][0]["layer"] == "conv4_1" and told["float16"]["allowed"] == 32752
    assert "half of what float16 holds, computed in float32: conv2d_7 (conv4_1)" in (tmp_path / "a.onnx.verify.md").read_text()
    graph = onnx.load(out)
    types = value_types(graph.graph)
    wide = [node.op_type for node in graph.graph.node if types.get(node.output[0]) == TensorProto.FLOAT]
    # conv4_1, its ReLU and conv4_2, which reads it; the conversion before; the conversion of the result
    assert wide == ["Cast", "Conv", "Relu", "Conv", "Cast"]
    assert error_of(load_engine(out, device="cpu"), model, (1, 3, 81, 64)) < 2e-2


def test_nothing_changes_where_nothing_is_large() -> None:
    graph = onnx.load(onnx_file(SMALLEST, "fp16"))
    before = graph.SerializeToString()
    values = half.without_overflow(graph, [torch.randn(1, 3, 65, 64)])
    assert graph.SerializeToString() == before and not any(value.overflows for value in values)
    assert [value.largest for value in values] == sorted((value.largest for value in values), reverse=True)


@pytest.mark.parametrize("case", [SEAM, Case("affinitynet", "vgg16-psa")], ids=lambda case: case.id)
def test_any_node_can_be_taken_out(case: Case, tmp_path: Path) -> None:
    graph, path = onnx.load(onnx_file(case, "fp16")), tmp_path / "a.onnx"
    every_other = [node.output[0] for node in graph.graph.node][::2]
    half.keep_in_float32(graph, every_other)
    onnx.save(graph, path)
    onnx.checker.check_model(path, full_check=True)
    types = value_types(graph.graph)
    left = [types.get(name) for node in graph.graph.node for name in node.output if name not in every_other]
    assert TensorProto.FLOAT16 not in {types.get(name) for name in every_other} and TensorProto.FLOAT16 in left
    assert error_of(load_engine(path, device="cpu"), case.network(), (1, 3, 81, 64)) < 2e-2


def test_sums_are_in_float32() -> None:
    graph = onnx.load(onnx_file(Case("affinitynet", "vgg16-psa"), "fp16")).graph
    types = value_types(graph)
    sums = [node for node in graph.node if node.op_type in half.SUMS]
    assert len(sums) == 3 and all(types[name] == TensorProto.FLOAT for node in sums for name in (*node.input, *node.output))


def test_weights_that_float16_cannot_hold() -> None:
    model = SMALLEST.network()
    with torch.no_grad():
        model.conv4_1.weight[0, 0, 0, 0] = 1e5
    with pytest.raises(
        ValueError, match=r"weights 'conv4_1.weight' must be finite, some are not in fp16\. Hint: --precision bf16"
    ):
        exportable(model, "fp16")
    assert float(exportable(model, "bf16").model.conv4_1.weight.max()) == pytest.approx(1e5, rel=1e-2)
