"""Every method becomes engines, built for real by TensorRT-RTX, which needs no GPU for it; with our plugins too.

Nothing is run here: tests that load engines need a GPU (test_export_trt_run.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from exported import BY_METHOD, CLASSES, Case, onnx_file
from tensorrt_wheels import plugin_library

from wsss_fast import methods
from wsss_fast.export import functions, trt
from wsss_fast.export.engine import EngineMeta
from wsss_fast.export.trt.profile import parse_shapes
from wsss_fast.export.trt.spec import EngineSpec

SHAPES = "1x64x64,1x96x96,2x128x128"
PLUGINS = {"seam": 1, "l2g": 1, "cpn": 2}  # nodes Pcm and Prcm
every = pytest.mark.parametrize("precision", ["fp32", "fp16"])


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx cannot be had here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSSS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def built(case: Case, precision: str, plugins: Path | None = None, require: int = 0) -> dict[str, Any]:
    spec = EngineSpec(onnx_file(case, precision), "trt-rtx", parse_shapes(SHAPES), plugins, require)
    path, record = trt.cached_engine(spec)
    assert path.stat().st_size == record["bytes"] and record["facts"]["profile"] == SHAPES
    return record


def test_every_method_is_here() -> None:
    assert set(BY_METHOD) == set(methods.NAMES)


@every
@pytest.mark.parametrize("method", methods.NAMES)
def test_an_engine_of(method: str, precision: str) -> None:
    case = BY_METHOD[method]
    record = built(case, precision)
    meta = EngineMeta.from_json(json.dumps(record["meta"]), "the record")
    assert (meta.method, meta.precision, meta.num_classes) == (method, precision, CLASSES)
    graph = onnx.load(onnx_file(case, precision)).graph
    assert record["inputs"] == {"image": [-1, 3, -1, -1]}  # free in all axes
    assert (
        record["outputs"] == {value.name: _free_shape(value) for value in graph.output}
        and tuple(record["outputs"]) == meta.outputs
    )
    assert set(record["types"].values()) == {"FLOAT"} and set(record["types"]) == {"image", *meta.outputs}
    # no convolution got lost, and each computes in the type that was asked for
    convolutions = sum(node.op_type == "Conv" for node in graph.node)
    assert record["plugin_layers"] == 0 and record["layers"] > convolutions
    halves = record["layer_types"].get("HALF", 0)
    assert halves >= convolutions if precision == "fp16" else halves == 0


@every
@pytest.mark.parametrize("method", PLUGINS)
def test_plugin_layers_of(method: str, precision: str) -> None:
    case, count = BY_METHOD[method], PLUGINS[method]
    assert len(functions.nodes(onnx.load(onnx_file(case, precision)))) == count
    record = built(case, precision, plugin_library(), require=count)
    plain = built(case, precision)
    assert record["plugin_layers"] == count and record["outputs"] == plain["outputs"]
    # a plugin stands where the layers of a body stood
    assert record["layers"] <= plain["layers"] - 5 * count
    assert record["facts"]["plugins_sha256"] and record["engine_sha256"] != plain["engine_sha256"]


def test_more_plugin_layers_than_there_can_be(tmp_path: Path) -> None:
    library = tmp_path / "never_loaded.so"
    library.write_bytes(b"")
    with pytest.raises(trt.EngineError, match=r"'cam' has 0 nodes that a plugin can compute \(Pcm, Prcm\), 1 plugin layers are"):
        built(BY_METHOD["cam"], "fp32", library, require=1)


def test_a_library_that_is_none_is_an_error(tmp_path: Path) -> None:
    library = tmp_path / "text.so"
    library.write_bytes(b"no library")
    with pytest.raises(trt.EngineError, match=r"cannot load the plugin library '.*text.so'"):
        built(BY_METHOD["seam"], "fp32", library)


def _free_shape(value: onnx.ValueInfoProto) -> list[int]:
    return [-1 if size.dim_param else size.dim_value for size in value.type.tensor_type.shape.dim]
