"""int8: what is written, what it costs in labels, which layer costs it, and that a file which costs too much is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported import SMALLEST, error_of, onnx_file
from onnx import numpy_helper
from test_export_verify import photos

from wsss_fast.cli import main
from wsss_fast.export import int8, load_engine, trt
from wsss_fast.export.build import VerificationError, export
from wsss_fast.export.settings import ExportSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    photos(folder)
    return folder / "images"


def settings(folder: Path, **others: object) -> ExportSettings:
    return ExportSettings(**{"precision": "int8", "calibrate": str(folder), "device": "cpu", **others})


def test_convolutions_are_quantised_and_the_last_one_is_not(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.onnx"
    exported = export(None, out, settings(folder), onnx=onnx_file(SMALLEST))
    assert exported.report.passed and exported.meta.precision == "int8" and exported.report.bound == 0.95
    model = onnx.load(out)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    in_int8 = [node for node in convolutions if node.input[1] in made]
    assert len(convolutions) == 16 and len(in_int8) == 15
    assert not [node for node in in_int8 if node.output[0] in {value.name for value in model.graph.output}]
    float_model = onnx.load(onnx_file(SMALLEST))
    originals = {tensor.name: numpy_helper.to_array(tensor) for tensor in float_model.graph.initializer}
    for node in in_int8:
        assert [made[name].op_type for name in node.input[:2]] == ["DequantizeLinear", "DequantizeLinear"]
        weight, activation = made[node.input[1]], made[made[node.input[0]].input[0]]
        steps, scale, zero = (numpy_helper.to_array(weights[name]) for name in weight.input)
        assert (
            steps.dtype == np.int8
            and scale.shape == (steps.shape[0],)
            and not zero.any()
            and activation.op_type == "QuantizeLinear"
        )
        original = originals[weight.input[0].removesuffix("_int8")]
        assert np.abs(steps * scale[:, None, None, None] - original).max() <= scale.max() / 2 * 1.001
        assert (np.abs(steps).reshape(len(steps), -1).max(axis=1) == 127).all()
    assert out.stat().st_size < 0.5 * onnx_file(SMALLEST).stat().st_size
    engine = load_engine(out, device="cpu")
    assert {"precision": "int8"}.items() <= engine.identity.items()
    assert 1e-4 < error_of(engine, SMALLEST.network(), (1, 3, 81, 64)) < 0.2
    told = json.loads((tmp_path / "a.onnx.int8.json").read_text())
    losses = [entry["agreement"] for entry in told["layers"]]
    assert len(losses) == 15 and losses == sorted(losses) and told["images"] == ["one.png", "two.png"]
    assert (tmp_path / "a.onnx.int8.md").is_file() and (tmp_path / "a.onnx.verify.json").is_file()


def test_a_scale_is_that_of_the_least_error() -> None:
    # steps of c / 127 cost c^2 / (12 * 127^2) a number, the one large value (8 - c)^2 / 100,000: least at c = 5.27
    values = np.concatenate([np.linspace(-1, 1, 100_000), [8.0]]).astype(np.float32)
    assert int8._best_scale(values) == pytest.approx(5.27 / 127, rel=0.05)
    assert int8._best_scale(np.linspace(-1, 1, 4001, dtype=np.float32)) == pytest.approx(1 / 127, rel=0.05)
    assert int8._best_scale(np.zeros(5, np.float32)) == 1


def spoiled(tmp_path: Path, layer: str) -> Path:
    """The channels of a layer's input are of sizes so different that one scale cannot serve them. Without biases, which would
    make labels of their own."""
    model = onnx.load(onnx_file(SMALLEST))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, tensor in tensors.items():
        if name.endswith(".bias"):
            tensor.raw_data = bytes(len(tensor.raw_data))
    before = {"conv3_2": "conv3_1"}[layer]
    gain = np.where(np.arange(len(numpy_helper.to_array(tensors[f"model.{before}.weight"]))) % 2, 3000, 1).astype(np.float32)
    for name, shape in ((f"{before}.weight", (-1, 1, 1, 1)), (f"{layer}.weight", (1, -1, 1, 1))):
        tensor = tensors[f"model.{name}"]
        factor = 1 / gain if name == f"{layer}.weight" else gain
        tensor.raw_data = (numpy_helper.to_array(tensor) * factor.reshape(shape)).astype(np.float32).tobytes()
    path = tmp_path / "spoiled.onnx"
    onnx.save(model, path)
    return path


def test_a_file_that_loses_labels_is_refused_and_the_layer_named(folder: Path, tmp_path: Path) -> None:
    graph, out = spoiled(tmp_path, "conv3_2"), tmp_path / "a.onnx"
    out.write_text("old")
    with pytest.raises(VerificationError, match=r"Hint: --keep-float conv3_2,\S* leaves the layers that lose most") as caught:
        export(None, out, settings(folder), onnx=graph)
    assert out.read_text() == "old" and not caught.value.report.passed
    assert json.loads((tmp_path / "a.onnx.int8.json").read_text())["layers"][0]["layer"] == "conv3_2"
    exported = export(None, out, settings(folder, keep_float=("conv3_2",)), onnx=graph)
    assert exported.report.agreement > caught.value.report.agreement
    assert "Left in float32: conv3_2." in (tmp_path / "a.onnx.int8.md").read_text()


def test_tensorrt_builds_from_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx cannot be had here")
    monkeypatch.setenv("WSSS_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "a.engine"
    wanted = settings(folder, engine="trt-rtx", shapes="1x64x64,1x64x64,1x96x96")
    exported = export(None, out, wanted, onnx=onnx_file(SMALLEST))
    assert exported.report.passed and "run on a GPU" in exported.not_verified
    record = json.loads((tmp_path / "a.engine.json").read_text())
    assert record["meta"]["precision"] == "int8" and out.stat().st_size == record["bytes"]
    assert trt.file_sha256(tmp_path / "a.onnx") == record["facts"]["onnx_sha256"]


REFUSED = {
    "no images": (["--precision", "int8"], "'int8' needs images"),
    "images for nothing": (["--calibrate", "{folder}"], "'int8' needs images and nothing else does"),
    "layers for nothing": (["--keep-float", "fc8"], "'keep_float' is for int8"),
    "aoti": (["--precision", "int8", "--calibrate", "{folder}", "--engine", "aoti"], "'int8' is for onnx, ort and TensorRT"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_usage(name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = REFUSED[name]
    given = [part.format(folder=folder) for part in arguments]
    assert main(["export", "--onnx", str(onnx_file(SMALLEST)), "--out", str(tmp_path / "a.onnx"), *given]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_unknown_layers_and_other_precisions(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'keep_float' must name layers .* got 'conv3_9'\. Hint: did you mean 'conv3_\d'"):
        export(None, tmp_path / "a.onnx", settings(folder, keep_float=("conv3_9",)), onnx=onnx_file(SMALLEST))
    model = onnx.load(onnx_file(SMALLEST))
    assert "conv3_1" not in int8.chosen_layers(model, ("conv3_1",)) and len(int8.chosen_layers(model, ("conv3_1",))) == 14
    assert not torch.is_inference_mode_enabled() and not list(tmp_path.iterdir())
