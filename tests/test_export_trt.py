"""TensorRT engines are built here for real, by TensorRT-RTX, which needs no GPU for it; loading and running them needs one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from wsss_fast import methods
from wsss_fast.cli import main
from wsss_fast.export import load_engine, trt
from wsss_fast.export.onnx import write_onnx
from wsss_fast.export.trt.cache import EngineCache, record_path
from wsss_fast.export.trt.profile import parse_shapes, profile_of_sizes
from wsss_fast.export.trt.spec import EngineSpec

SHAPES = "1x64x64,1x96x96,2x128x128"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("graph") / "seam.onnx"
    write_onnx(methods.create("seam", 3, width=1 / 16).eval(), path)
    return path


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.getbasetemp() / "engine-cache"  # one for the module: engines take seconds
    folder.mkdir(mode=0o700, exist_ok=True)
    monkeypatch.setenv("WSSS_CACHE", str(folder))
    return folder / "engines"


def rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx cannot be had here")


def test_an_engine_is_built_once(graph: Path, cache: Path) -> None:
    rtx()
    spec, steps = EngineSpec(graph, "trt-rtx", parse_shapes(SHAPES)), []
    path, record = trt.cached_engine(spec, progress=lambda *step: steps.append(step))
    assert path.parent == cache and path.stat().st_size == record["bytes"] > 10_000
    assert record["outputs"] == {"maps": [-1, 4, -1, -1]} and record["plugin_layers"] == 0 and record["layers"] > 50
    assert cache.stat().st_mode & 0o077 == 0
    before = path.stat().st_mtime_ns
    assert trt.cached_engine(spec) == (path, record) and path.stat().st_mtime_ns == before
    other = EngineSpec(graph, "trt-rtx", parse_shapes("1x64x64,1x64x64,1x64x64"))
    assert trt.cached_engine(other)[0] != path


def test_a_changed_byte_makes_a_new_engine(graph: Path) -> None:
    rtx()
    spec = EngineSpec(graph, "trt-rtx", parse_shapes(SHAPES))
    path, record = trt.cached_engine(spec)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert EngineCache().find(record["facts"]) is None
    again, fresh = trt.cached_engine(spec)
    assert again == path and path.read_bytes() != bytes(data)
    assert EngineCache().find(fresh["facts"]) == fresh


def test_the_command(graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rtx()
    out = tmp_path / "seam.engine"
    assert main(["export", "--onnx", str(graph), "--engine", "trt-rtx", "--shapes", SHAPES, "--out", str(out)]) == 0
    assert "this machine has none" in capsys.readouterr().out
    told = json.loads(record_path(out).read_text())
    assert told["onnx"] == "seam.onnx" and (tmp_path / "seam.onnx").read_bytes() == graph.read_bytes()
    assert told["facts"]["profile"] == SHAPES and told["meta"]["method"] == "seam"
    assert main(["export", "--inspect", str(out)]) == 0
    with pytest.raises(trt.EngineError, match="runs on a GPU, asked for cpu"):
        load_engine(out, device="cpu")


def test_a_strangers_engine_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "stranger.engine"
    path.write_bytes(b"code")
    record_path(path).write_text(json.dumps({"engine_sha256": "", "facts": {"flavour": "trt"}}))
    with pytest.raises(trt.EngineError, match=r"was not built by this user on this machine.*Hint: wsss export"):
        trt.load(path, CPU)


def test_a_folder_that_others_can_write_is_refused(cache: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(PermissionError, match="engine cache"):
        EngineCache(shared)


def test_what_cannot_be_built_says_why(graph: Path, tmp_path: Path) -> None:
    rtx()
    with pytest.raises(trt.EngineError, match="has 0 plugin layers, 1 are required"):
        trt.cached_engine(EngineSpec(graph, "trt-rtx", parse_shapes(SHAPES), require_plugins=1))
    with pytest.raises(trt.EngineError, match=r"has no compute capability 1\.0"):
        trt.cached_engine(EngineSpec(graph, "trt-rtx", parse_shapes(SHAPES), capabilities=("1.0",)))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trt.flavour.MODULES, "trt", "tensorrt_that_is_nowhere")
    with pytest.raises(ModuleNotFoundError, match=r"is not installed, which 'trt' needs\. Hint: pip install tensorrt"):
        trt.require("trt")


def test_plugins_need_their_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WSSS_TENSORRT_PLUGINS", raising=False)
    with pytest.raises(FileNotFoundError, match="'--plugins' needs the plugin library"):
        trt.plugin_library()
    assert trt.plugin_library({"plugins_sha256": None}) is None
    library = tmp_path / "plugins.so"
    library.write_bytes(b"one")
    monkeypatch.setenv("WSSS_TENSORRT_PLUGINS", str(library))
    assert trt.plugin_library({"plugins_sha256": trt.file_sha256(library)}) == library
    with pytest.raises(trt.EngineError, match="another plugin library"):
        trt.plugin_library({"plugins_sha256": "0" * 64})


def test_shapes() -> None:
    profile = parse_shapes("1x64x65,2x64x128,4x512x512")
    assert profile.least == (1, 64, 65) and profile.holds((4, 64, 65)) and not profile.holds((5, 64, 65))
    for text in ("", "1x2x3", "1x2,1x2,1x2", "ax1x1,1x1x1,1x1x1", "2x64x64,1x64x64,4x64x64"):
        with pytest.raises(ValueError, match="export: 'shapes' must"):
            parse_shapes(text)
    assert profile_of_sizes([(100, 200), (50, 300)], (0.5, 1.0)).text() == "1x32x100,1x50x200,1x100x300"
