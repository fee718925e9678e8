"""TensorRT engines are built here for real, by TensorRT-RTX, which needs no GPU for it; loading and running them needs one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exported import SEAM, SMALLEST, onnx_file
from PIL import Image

from wsss_fast.cli import main
from wsss_fast.export import load_engine, trt
from wsss_fast.export.trt.cache import EngineCache, record_path
from wsss_fast.export.trt.profile import image_sizes, parse_shapes, profile_of_sizes
from wsss_fast.export.trt.spec import EngineSpec
from wsss_fast.export.verify import verify

SHAPES = "1x64x64,1x96x96,2x128x128"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "seam.onnx"
    path.write_bytes(onnx_file(SEAM).read_bytes())
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


def photos(folder: Path, *sizes: tuple[int, int]) -> Path:
    folder.mkdir()
    for number, (width, height) in enumerate(sizes):
        Image.new("RGB", (width, height)).save(folder / f"{number}.png")
    return folder


def test_sizes_are_those_that_labelling_gives_the_network(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = photos(tmp_path / "photos", (64, 48), (3000, 1500))
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying
    Image.new("RGB", (90, 60)).save(folder / "turned.jpg", exif=turned)
    assert image_sizes(folder) == [(48, 64), (512, 1024), (90, 60)]
    (folder / "broken.jpg").write_bytes(b"no picture")
    assert len(image_sizes(folder)) == 3
    assert "1 of 4 images" in caplog.text and "broken.jpg" in caplog.text
    assert profile_of_sizes(image_sizes(folder), (0.5, 1.0)).text() == "1x32x32,1x90x64,1x512x1024"


def test_an_engine_for_a_folder(graph: Path, tmp_path: Path) -> None:
    rtx()
    folder, out = photos(tmp_path / "photos", (64, 48), (80, 96)), tmp_path / "seam.engine"
    arguments = ["--onnx", str(graph), "--engine", "trt-rtx", "--profile-from", str(folder), "--out", str(out)]
    assert main(["export", *arguments]) == 0
    # SEAM sees each image at 0.5, 1, 1.5 and 2 times its size
    assert json.loads(record_path(out).read_text())["facts"]["profile"] == "1x32x32,1x96x96,1x192x160"


RTX = ["--onnx", "{graph}", "--engine", "trt-rtx", "--out", "{out}"]
REFUSED = {
    "a folder without images": (
        [*RTX, "--profile-from", "{empty}"],
        1,
        "must be a folder of images, got '{empty}', which holds none",
    ),
    "a folder that is not there": ([*RTX, "--profile-from", "{empty}/no"], 1, "must be a folder of images, got"),
    "no image can be read": (
        [*RTX, "--profile-from", "{broken}"],
        1,
        "must hold images that can be read, and '{broken}' holds none",
    ),
    "two sources of sizes": ([*RTX, "--profile-from", "{empty}", "--shapes", SHAPES], 2, "'shapes' and 'profile_from' both say"),
    "shapes that are none": ([*RTX, "--shapes", "1x64"], 1, "'shapes' must be min,opt,max, got '1x64'"),
    "no plugin layer": ([*RTX, "--plugins", "--require-plugins", "0"], 2, "'require_plugins' must be 1 or more, got 0"),
    "layers without library": (
        [*RTX, "--require-plugins", "1"],
        2,
        "needs the plugin library. Hint: --plugins --require-plugins 1",
    ),
    "no library": ([*RTX, "--plugins", "--require-plugins", "1"], 1, "'--plugins' needs the plugin library, got None"),
    "another engine": (
        ["--onnx", "{graph}", "--out", "{out}", "--shapes", SHAPES],
        2,
        "'shapes' is for trt and trt-rtx, got engine",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(
    name: str, graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rtx()
    monkeypatch.delenv("WSSS_TENSORRT_PLUGINS", raising=False)
    arguments, status, message = REFUSED[name]
    places = {"graph": graph, "out": tmp_path / "a.engine", "empty": tmp_path / "empty", "broken": tmp_path / "broken"}
    for folder in ("empty", "broken"):
        places[folder].mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"no picture")
    assert main(["export", *(part.format(**places) for part in arguments)]) == status
    assert message.format(**places) in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "empty"]


def test_more_plugin_layers_than_nodes(
    graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rtx()
    library, out = tmp_path / "plugins.so", tmp_path / "a.engine"
    library.write_bytes(b"never loaded")
    monkeypatch.setenv("WSSS_TENSORRT_PLUGINS", str(library))
    arguments = ["--onnx", str(graph), "--engine", "trt-rtx", "--plugins", "--require-plugins", "2", "--out", str(out)]
    assert main(["export", *arguments]) == 1 and not out.exists()
    assert "'seam' has 1 nodes that a plugin can compute (Pcm, Prcm), 2 plugin layers are required" in capsys.readouterr().err


def test_verification_stays_within_the_sizes_of_the_engine() -> None:
    engine, model = load_engine(onnx_file(SMALLEST), device="cpu"), SMALLEST.network()
    engine.profile = parse_shapes("1x40x40,1x64x64,1x128x200")
    sizes = [(entry.height, entry.width) for entry in verify(engine, model).comparisons]
    assert sizes == [(128, 200), (128, 161), (128, 200)]  # of 192 x 224, 225 x 161 and 129 x 290


def test_the_building_process_does_not_load_torch() -> None:
    code = "import sys, wsss_fast.export.trt.child; assert not {'torch', 'numpy', 'onnx'} & set(sys.modules), sorted(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
