"""`wsss export --triton DIR`: read back by protobuf with Triton's own schema, and its README's client run against a stand-in."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exported import SMALLEST, onnx_file
from PIL import Image
from tensorrt_wheels import fetched, one_at_a_time

from wsss_fast.cli import main
from wsss_fast.export import foreign, triton
from wsss_fast.export.build import export
from wsss_fast.export.engine import EngineMeta
from wsss_fast.export.settings import ExportSettings
from wsss_fast.export.trt.cache import record_path, write_record
from wsss_fast.nets._common import IMAGENET, Normalisation

BGR = Normalisation((10.0, 20.5, 30.25), (2.0, 3.0, 50.0), "bgr")


@cache
def schema() -> ModuleType:
    """Triton's ModelConfig: one generated file of its client, which needs protobuf alone."""
    digest = "1f5cec19b0568e037ec4d716ae702984b3ab93e35f72b8f72c5135374dd2be9a"
    with one_at_a_time("wheels"):
        wheel = fetched("tritonclient==2.73.0", "tritonclient-2.73.0-py3-none-any.whl", digest)
    module = ModuleType("model_config_pb2")
    with zipfile.ZipFile(wheel) as archive:
        exec(archive.read("tritonclient/grpc/model_config_pb2.py"), module.__dict__)
    return module


def config_of(model: Path) -> Any:
    from google.protobuf import text_format

    return text_format.Parse((model / "config.pbtxt").read_text(), schema().ModelConfig())


def meta() -> EngineMeta:
    return foreign.checked_meta(onnx_file(SMALLEST))


def written(tmp_path: Path, name: str = "model", graph: Path | None = None, **settings: Any) -> Path:
    graph = graph or onnx_file(SMALLEST)
    settings = ExportSettings(triton=str(tmp_path / "models"), **settings)
    return export(None, tmp_path / f"{name}.onnx", settings, onnx=graph).triton


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def agrees_with_onnxruntime(model: Path) -> None:
    """ONNX Runtime will serve the file: what it says of inputs and outputs must stand in the configuration."""
    config = config_of(model)
    session = onnxruntime.InferenceSession(model / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    for told, real in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [entry.name for entry in told] == [entry.name for entry in real]
        for entry, value in zip(told, real, strict=True):
            assert value.type == "tensor(float)" and schema().DataType.Name(entry.data_type) == "TYPE_FP32"
            assert list(entry.dims) == [size if isinstance(size, int) else -1 for size in value.shape[1:]]


def test_the_configuration_says_what_the_file_does(tmp_path: Path) -> None:
    model = written(tmp_path, "small-net_1.x")
    assert model == tmp_path / "models" / "small-net_1.x" and files(model) == ["1/model.onnx", "README.md", "config.pbtxt"]
    assert (model / "1" / "model.onnx").read_bytes() == (tmp_path / "small-net_1.x.onnx").read_bytes()
    assert list((tmp_path / "models").iterdir()) == [model]
    config = config_of(model)
    assert (config.name, config.backend, config.max_batch_size) == (model.name, "onnxruntime", 4)
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    assert json.loads(config.parameters["wsss_fast"].string_value) == json.loads(meta().to_json())
    assert [list(entry.dims) for entry in (*config.input, *config.output)] == [[3, -1, -1], [3, -1, -1]]
    agrees_with_onnxruntime(model)


def test_several_outputs(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    sizes = {"image": ["batch", 3, "h", "w"], "edge": ["batch", 1, "h", "w"], "displacement": ["batch", 2, "h", "w"]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in sizes.items()]
    parts = [helper.make_tensor("parts", TensorProto.INT64, [2], [1, 2])]
    node = helper.make_node("Split", ["image", "parts"], ["edge", "displacement"], axis=1)
    graph = helper.make_graph([node], "irn", values[:1], values[1:], parts)
    out = tmp_path / "irn.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), out)
    settings = ExportSettings(triton=str(tmp_path / "models"))
    model = triton.write(settings, out, replace(meta(), outputs=("edge", "displacement")))
    agrees_with_onnxruntime(model)
    assert "- `displacement`, float32 [N, 2, any, any]" in (model / "README.md").read_text()
    values[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(helper.make_model(helper.make_graph([node], "irn", values[:1], values[1:], parts)), out)
    with pytest.raises(ValueError, match=r"'image' has \[2, 3, -1, -1\]"):
        triton.write(settings, out, meta())


def test_devices_and_batches(tmp_path: Path) -> None:
    kinds, tf32 = {}, {}
    for device in ("auto", "cpu"):
        config = config_of(written(tmp_path, name=device, device=device))
        kinds[device] = schema().ModelInstanceGroup.Kind.Name(config.instance_group[0].kind)
        accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
        tf32[device] = [dict(entry.parameters) for entry in accelerators if entry.name == "cuda"]
        assert len(config.instance_group) == 1
    assert kinds == {"auto": "KIND_AUTO", "cpu": "KIND_CPU"} and tf32 == {"auto": [{"use_tf32": "0"}], "cpu": []}


def test_an_engine(tmp_path: Path) -> None:
    """What stands in the record of a TensorRT engine; such engines are built on a GPU alone."""
    out = tmp_path / "net.engine"
    out.write_bytes(b"machine code")
    facts = {"library": "10.14.1", "gpu": "NVIDIA H200", "profile": "1x8x8,2x8x8,16x8x8"}
    write_record(record_path(out), {"facts": facts, "outputs": {"maps": [-1, 4, -1, -1]}})
    settings = ExportSettings(engine="trt", triton=str(tmp_path / "models"))
    model = triton.write(settings, out, meta())
    assert (model / "1" / "model.plan").read_bytes() == b"machine code"
    config = config_of(model)
    assert (config.backend, config.max_batch_size) == ("tensorrt", 16) and config.HasField("dynamic_batching")
    assert schema().ModelInstanceGroup.Kind.Name(config.instance_group[0].kind) == "KIND_GPU"
    assert [list(entry.dims) for entry in (*config.input, *config.output)] == [[3, -1, -1], [4, -1, -1]]
    assert not config.HasField("optimization")
    assert "runs with TensorRT 10.14.1 on NVIDIA H200 alone" in (model / "README.md").read_text()
    write_record(record_path(out), {"facts": {**facts, "profile": "1x8x8,1x8x8,1x9x9"}, "outputs": {"maps": [-1, 4, -1, -1]}})
    single = config_of(triton.write(settings, out, meta()))
    assert single.max_batch_size == 1 and not single.HasField("dynamic_batching")
    with pytest.raises(ValueError, match="needs an engine for single images"):
        triton.check(replace(settings, shapes="2x8x8,2x8x8,2x8x8"), out)


@pytest.mark.parametrize("normalisation", [IMAGENET, BGR], ids=["rgb", "bgr"])
def test_the_client_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalisation: Normalisation) -> None:
    """The server is ONNX Runtime on the served file; the result is the network's on the same photo."""
    proto = onnx.load(onnx_file(SMALLEST))
    onnx.helper.set_model_props(proto, {"wsss_fast": replace(meta(), normalisation=normalisation).to_json()})
    onnx.save(proto, tmp_path / "graph.onnx")
    model = written(tmp_path, graph=tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(model / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    config = config_of(model)

    class Client:
        def __init__(self, address: str) -> None:
            self.address = address

        def get_model_config(self, name: str) -> dict[str, Any]:
            assert name == config.name
            return {"parameters": {key: {"string_value": value.string_value} for key, value in config.parameters.items()}}

        def infer(self, name: str, sent: list[Any]) -> Any:
            outputs = session.run(None, {entry.name: entry.data for entry in sent})
            return SimpleNamespace(as_numpy=dict(zip((told.name for told in config.output), outputs, strict=True)).get)

    class Input:
        def __init__(self, name: str, shape: list[int], kind: str) -> None:
            self.name, self.shape, self.kind = name, shape, kind

        def set_data_from_numpy(self, data: np.ndarray) -> None:
            assert list(data.shape) == self.shape and data.dtype == np.float32 and self.kind == "FP32" and data.flags.c_contiguous
            self.data = data

    http = SimpleNamespace(InferenceServerClient=Client, InferInput=Input)
    monkeypatch.setitem(sys.modules, "tritonclient", SimpleNamespace(http=http))
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    (code,) = re.findall(r"```python\n(.*?)```", (model / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code.replace("photo.jpg", str(tmp_path / "photo.png")), "README.md", "exec"), names)
    image = normalisation(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    with torch.inference_mode():
        wanted = SMALLEST.network().forward_cam(image).numpy()
    got = names[config.output[0].name]
    assert np.abs(names["image"] - image.numpy()).max() <= 1e-6
    assert got.shape == wanted.shape and np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_its_own_model_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "other" / "1").mkdir(parents=True)
    (models / "other" / "config.pbtxt").write_text("theirs")
    (models / "model").mkdir()  # empty
    model = written(tmp_path)
    (model / "config.pbtxt").write_text((model / "config.pbtxt").read_text() + "# changed\n")
    assert "# changed" not in (written(tmp_path) / "config.pbtxt").read_text()
    assert files(models) == ["model/1/model.onnx", "model/README.md", "model/config.pbtxt", "other/config.pbtxt"]
    assert sorted(path.name for path in models.iterdir()) == ["model", "other"]


def strangers(models: Path, kind: str) -> None:
    model = models / "model"
    if kind == "the repository is a file":
        models.write_text("theirs")
        return
    models.mkdir()
    if kind == "a file":
        model.write_text("theirs")
    elif kind == "a link":
        (models.parent / "elsewhere").mkdir()
        model.symlink_to(models.parent / "elsewhere")
    else:
        (model / "1").mkdir(parents=True)
        name = {"another's model": "1/model.onnx", "another's file": "1/weights.bin", "a link inside": "1/model.onnx"}[kind]
        if kind == "a link inside":
            (models.parent / "theirs").write_text("theirs")
            (model / name).symlink_to(models.parent / "theirs")
        else:
            (model / name).write_text("theirs")


STRANGE = {
    "the repository is a file": "must be a folder",
    "a file": "which is no folder",
    "a link": "which is no folder",
    "another's model": "which holds '1/model.onnx', which it did not write",
    "another's file": "which holds '1/weights.bin', which it did not write",
    "a link inside": "which holds '1/model.onnx', which it did not write",
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_others_made_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    models, out = tmp_path / "models", tmp_path / "model.onnx"
    strangers(models, kind)
    before = [(path, path.is_symlink(), path.is_dir() or path.read_text()) for path in sorted(tmp_path.rglob("*"))]
    assert main(["export", "--onnx", str(onnx_file(SMALLEST)), "--out", str(out), "--triton", str(models)]) == 1
    assert STRANGE[kind] in capsys.readouterr().err and not out.exists()
    assert [(path, path.is_symlink(), path.is_dir() or path.read_text()) for path in sorted(tmp_path.rglob("*"))] == before


@pytest.mark.parametrize("name", ["my model", "..", "-x", ".hidden", "a" * 101, "ünet", 'q"'])
def test_names_that_no_model_can_have(tmp_path: Path, name: str) -> None:
    out = tmp_path / f"{name}.onnx"
    with pytest.raises(ValueError, match=r"names the model after --out, which cannot be .* Hint: letters"):
        export(None, out, ExportSettings(triton=str(tmp_path / "models")), onnx=onnx_file(SMALLEST))
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["export", "--onnx", str(onnx_file(SMALLEST)), "--out", str(tmp_path / "net.onnx"), "--triton", str(tmp_path / "m")]
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["triton"] == str(tmp_path / "m" / "net")
    assert main(asked) == 0 and f"for Triton: {tmp_path / 'm' / 'net'}\n" in capsys.readouterr().out
    for more in (["--engine", "trt-rtx"], ["--engine", "aoti"], ["--engine", "trt", "--plugins"]):
        assert main([*asked, *more]) == 2
        assert "'triton' must be for onnx, ort, or trt without --plugins, got " + more[1] in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = written(tmp_path)
    before = (model / "config.pbtxt").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(triton.shutil, "copyfile", full)
    with pytest.raises(OSError, match=r"cannot write '.*model': No space left on device\. '.*model\.onnx' is in place"):
        written(tmp_path)
    assert (model / "config.pbtxt").read_bytes() == before and list((tmp_path / "models").iterdir()) == [model]
