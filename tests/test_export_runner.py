"""The C++ program that runs an engine without Python: everything but TensorRT itself, for which a stand-in is linked."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported import SMALLEST, onnx_file
from helpers import ROOT, relative_error, tool
from PIL import Image
from tensorrt_wheels import headers

from wsss_fast.cli import main
from wsss_fast.export.engine import EngineMeta
from wsss_fast.export.trt import parse_shapes
from wsss_fast.export.trt.cache import record_path, sha256_of, write_record
from wsss_fast.export.trt.spec import EngineSpec, environment_of
from wsss_fast.nets._common import CAFFE, IMAGENET, Normalisation

SOURCES = ROOT / "export" / "runner"
STANDIN = ROOT / "tests" / "runner" / "standin_engine.cpp"
DESCRIPTION = json.loads(EngineMeta.of(SMALLEST.network(), ("cat", 'dög "Rex"', "owl")).to_json())


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner over the stand-in, under AddressSanitizer and UBSan."""
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    built = tmp_path_factory.mktemp("runner") / "wsss_runner"
    sources = [path for path in sorted(SOURCES.glob("*.cpp")) if path.name != "engine.cpp"]
    options = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [compiler, *options, f"-I{SOURCES}", *map(str, sources), str(STANDIN), "-o", str(built)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return built


def run(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def engine(folder: Path, plan: bytes = b"machine code", plugins: Path | None = None, shapes: str = "", **meta: Any) -> Path:
    """An engine and the record that the exporter writes beside it."""
    graph = folder / "graph.onnx"
    graph.write_bytes(b"graph")
    path = folder / "small.engine"
    path.write_bytes(plan)
    spec = EngineSpec(graph, "trt", parse_shapes(shapes or "1x8x8,1x40x40,2x64x96"), plugins)
    record = {"facts": spec.facts(environment_of("10.14.1")), "engine_sha256": sha256_of(path), "plugin_layers": 0}
    write_record(record_path(path), {**record, "meta": {**DESCRIPTION, **meta}, "outputs": {"maps": [-1, 4, -1, -1]}})
    return path


def picture(height: int = 37, width: int = 53, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    if path.suffix == ".ppm":
        Image.fromarray(pixels).save(path)
    else:
        np.save(path, pixels)
    return path


@pytest.mark.parametrize("normalisation", [IMAGENET, CAFFE, Normalisation((0.1, 2.5, 7), (3, 0.3, 11), "bgr")])
def test_the_engine_is_given_what_python_gives(program: Path, tmp_path: Path, normalisation: Normalisation) -> None:
    told = {"mean": normalisation.mean, "std": normalisation.std, "order": normalisation.order}
    path, pixels = engine(tmp_path, normalisation=told), picture()
    with (tmp_path / "second.npy").open("wb") as file:
        np.lib.format.write_array(file, pixels, version=(2, 0))
    noted = b"P6 # a note\n53\t#\n37\n#\n255\n" + pixels.tobytes()
    (tmp_path / "noted.ppm").write_bytes(noted)
    images = [save(tmp_path / "a.ppm", pixels), save(tmp_path / "b.npy", pixels), tmp_path / "second.npy", tmp_path / "noted.ppm"]
    done = run(program, path, "--check", "--out", tmp_path / "out", *images)
    assert (done.returncode, done.stderr) == (0, "") and "LOADED" not in done.stdout
    wanted = normalisation(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].numpy()
    for image in images:
        got = np.load(tmp_path / "out" / f"{image.stem}.image.npy")
        assert got.dtype == np.float32 and got.shape == (3, 37, 53)
        assert np.abs(got - wanted).max() <= 1e-6


def test_maps_are_written(program: Path, tmp_path: Path) -> None:
    path = engine(tmp_path, outputs=["edge", "displacement"])
    normalised = np.random.default_rng(1).standard_normal((3, 9, 12)).astype(np.float32)
    np.save(tmp_path / "a.b.npy", normalised)
    done = run(program, path, tmp_path / "a.b.npy", "--out", tmp_path / "new" / "out")
    assert (done.returncode, done.stderr) == (0, "") and "LOADED 12 bytes, plugins ''" in done.stdout
    assert sorted(file.name for file in (tmp_path / "new" / "out").iterdir()) == ["a.b.displacement.npy", "a.b.edge.npy"]
    assert "a.b.edge.npy" in done.stdout and "trt 10.14.1 for" in done.stdout
    for k, name in enumerate(("edge", "displacement")):
        written = tmp_path / "new" / "out" / f"a.b.{name}.npy"
        assert np.array_equal(np.load(written), (k + 1) * normalised[:, ::2, ::2])
        assert written.stat().st_mode & 0o777 == (tmp_path / "a.b.npy").stat().st_mode & 0o777


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 119, 120, 128, 5000])
def test_a_changed_engine_is_never_loaded(program: Path, tmp_path: Path, size: int) -> None:
    plan = random.Random(size).randbytes(size)
    path, image = engine(tmp_path, plan), save(tmp_path / "a.ppm", picture())
    assert f"LOADED {size} bytes" in run(program, path, "--out", tmp_path / "good", image).stdout
    changed = bytearray(plan)
    if size:
        changed[random.Random(1).randrange(size)] ^= 1
    for other in (bytes(changed) if size else b"x", plan + b"\0", plan[:-1] if size else b"\0"):
        path.write_bytes(other)
        done = run(program, path, "--out", tmp_path / "out", image)
        assert done.returncode == 1 and "is not the engine that its record tells of, and is not loaded" in done.stderr
        assert "LOADED" not in done.stdout and not (tmp_path / "out").exists()


def test_the_plugin_library_must_be_the_one_of_the_engine(program: Path, tmp_path: Path) -> None:
    library, image = tmp_path / "libplugins.so", save(tmp_path / "a.ppm", picture())
    library.write_bytes(b"library")
    path = engine(tmp_path, plugins=library)
    asked = [path, "--out", tmp_path / "out", image]
    assert "the engine has plugin layers. Hint: --plugins LIBRARY" in run(program, *asked).stderr
    relative = subprocess.run(
        [str(program), *map(str, asked), "--plugins", library.name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    # a bare name would be looked for among the system's libraries
    assert relative.returncode == 0 and f"plugins '{library}'" in relative.stdout
    library.write_bytes(b"another")
    done = run(program, *asked, "--plugins", library)
    assert done.returncode == 1 and "was built with another plugin library" in done.stderr and "LOADED" not in done.stdout
    path = engine(tmp_path)
    assert "the engine has no plugin layers" in run(program, *asked, "--plugins", library).stderr


USAGE = {
    "nothing": ([], "required: ENGINE"),
    "no image": (["{engine}", "--out", "{out}"], "required: ENGINE"),
    "no folder": (["{engine}", "{image}"], "required: ENGINE"),
    "unknown": (["{engine}", "{image}", "--ouf", "{out}"], "unknown option '--ouf'"),
    "no value": (["{engine}", "{image}", "--out"], "--out needs a value"),
    "after --": (["{engine}", "{image}", "--", "--out", "{out}"], "required: ENGINE"),
}


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage(program: Path, tmp_path: Path, name: str) -> None:
    arguments, message = USAGE[name]
    places = {"engine": engine(tmp_path), "out": tmp_path / "out", "image": save(tmp_path / "a.ppm", picture())}
    done = run(program, *(argument.format(**places) for argument in arguments))
    assert done.returncode == 2 and message in done.stderr and "--check   stop before" in done.stderr
    assert not (tmp_path / "out").exists()


RECORDS: dict[str, tuple[Any, str]] = {
    "none": (None, "small.engine.json' is not a file"),
    "not JSON": ("{", "it is not JSON"),
    "more than JSON": ("{} {}", "it is not JSON"),
    "a zero": ("{}\0", "it is not JSON"),
    "deep": ("[" * 100_000, "it is not JSON"),
    "empty": ("{}", "'engine_sha256' is missing"),
    "hash": ({"engine_sha256": "abc"}, "'engine_sha256' must be a SHA-256"),
    "library": ({"facts.plugins_sha256": 7}, "'facts.plugins_sha256' must be a SHA-256"),
    "profile": ({"facts.profile": "1x8x8,1x8x8"}, "'facts.profile' must be three sizes"),
    "long profile": ({"facts.profile": "1x8x8,1x8x8,1x8x8,1x8x8"}, "'facts.profile' must be three sizes"),
    "mean": ({"meta.normalisation.mean": [1, 2]}, "'meta.normalisation.mean.2' is missing"),
    "a mean": ({"meta.normalisation.mean": [1, 2, "x"]}, "'meta.normalisation.mean.2' must be a number"),
    "endless mean": ({"meta.normalisation.mean": [1, float("inf"), 2]}, "'meta.normalisation.mean.1' must be a number"),
    "deviation": ({"meta.normalisation.std": [1, 0, 1]}, "'meta.normalisation.std' must be above 0"),
    "order": ({"meta.normalisation.order": "hsv"}, "'meta.normalisation.order' must be rgb or bgr"),
    "no outputs": ({"meta.outputs": []}, "'meta.outputs.0' is missing"),
    "outputs elsewhere": ({"meta.outputs": ["../maps"]}, "'meta.outputs.0' must be a plain name"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records_that_are_refused(program: Path, tmp_path: Path, name: str) -> None:
    content, message = RECORDS[name]
    path, image = engine(tmp_path), save(tmp_path / "a.ppm", picture())
    record = record_path(path)
    if content is None:
        record.unlink()
    elif isinstance(content, str):
        record.write_text(content)
    else:
        told = json.loads(record.read_text())
        for place, value in content.items():
            *folders, last = place.split(".")
            inner = told
            for folder in folders:
                inner = inner[folder]
            inner[last] = value
        record.write_text(json.dumps(told))
    done = run(program, path, "--out", tmp_path / "out", image)
    assert done.returncode == 1 and message in done.stderr and done.stdout == "" and not (tmp_path / "out").exists()


def npy(array: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


IMAGES = {
    "empty": (b"", "must be a PPM (P6) or an NPY file"),
    "text": (b"hello", "must be a PPM (P6) or an NPY file"),
    "grey": (b"P5 9 9 255\n" + bytes(81), "must be a PPM (P6) or an NPY file"),
    "16 bits": (b"P6 9 9 65535\n" + bytes(486), "it must have 8 bits a channel"),
    "header alone": (b"P6 9", "it must have 8 bits a channel"),
    "note without end": (b"P6 9 9 #", "it must have 8 bits a channel"),
    "no pixels": (b"P6 0 9 255\n", "it has 9 rows and 0 columns"),
    "short": (b"P6 9 9 255\n" + bytes(242), "does not hold as many pixels as it says"),
    "long": (b"P6 9 9 255\n" + bytes(244), "does not hold as many pixels as it says"),
    "bomb": (b"P6 32768 32768 255\n" + bytes(9), "does not hold as many pixels as it says"),
    "huge": (b"P6 99999999999999 3 255\n" + bytes(9), ""),
    "npy's first bytes": (npy(picture())[:9], "it ends within its header"),
    "npy's header cut": (npy(picture())[:40], "it ends within its header"),
    "npy's values cut": (npy(picture())[:-1], "does not hold as many values as it says"),
    "float64": (npy(np.zeros((3, 9, 9))), "it must be uint8 or float32"),
    "columns first": (npy(np.asfortranarray(picture())), "it must be in C order"),
    "pixels' shape": (npy(np.zeros((3, 9, 9), np.uint8)), "pixels must have the shape (H, W, 3)"),
    "floats' shape": (npy(np.zeros((9, 9, 3), np.float32)), "float32 must have the shape (3, H, W)"),
    "four axes": (npy(np.zeros((3, 9, 3, 1), np.float32)), "float32 must have the shape (3, H, W)"),
    "no axes": (npy(np.float32(0)), "float32 must have the shape (3, H, W)"),
    "too small": (npy(picture(7, 40)), "is 1x7x40, the engine takes 1x8x8,1x40x40,2x64x96"),
    "too large": (npy(picture(64, 97)), "is 1x64x97, the engine takes"),
}


def test_bad_images_cost_themselves_alone(program: Path, tmp_path: Path) -> None:
    path, good = engine(tmp_path), save(tmp_path / "good.ppm", picture())
    for name, (content, _) in IMAGES.items():
        (tmp_path / f"bad {name}").write_bytes(content)
    bad = [*(tmp_path / f"bad {name}" for name in IMAGES), tmp_path, tmp_path / "nowhere\x1b[31m.ppm"]
    done = run(program, path, "--out", tmp_path / "out", *bad, good)
    assert done.returncode == 3 and f"{len(bad)} of {len(bad) + 1} images failed" in done.stderr
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["good.maps.npy"]
    for line, (name, (_, message)) in zip(done.stderr.splitlines(), IMAGES.items(), strict=False):
        assert f"bad {name}'" in line and message in line
    assert f"'{tmp_path}' is not a file" in done.stderr and "nowhere?[31m.ppm' is not a file" in done.stderr
    assert run(program, path, "--out", tmp_path / "other", *bad).returncode == 1


def test_damaged_files_never_crash(program: Path, tmp_path: Path) -> None:
    """A sanitizer would end the program with another status and a report."""
    chance = random.Random(0)

    def damaged(content: bytes) -> bytes:
        changed = bytearray(content)
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(changed))
            changed[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        return bytes(changed[: chance.randrange(1, len(changed))]) if chance.random() < 0.2 else bytes(changed)

    path, images = engine(tmp_path), []
    for index in range(300):
        small = picture(8, 9, index)
        content = b"P6\n9 8\n255\n" + small.tobytes() if index % 2 else npy(small)
        images.append(tmp_path / f"{index}")
        head = chance.randrange(20, 140)
        images[-1].write_bytes(damaged(content[:head]) + content[head:])
    done = run(program, path, "--out", tmp_path / "out", *images)
    assert done.returncode == 3 and "Sanitizer" not in done.stderr and "runtime error" not in done.stderr
    record = record_path(path).read_bytes()
    for index in range(25):
        record_path(path).write_bytes(damaged(record))
        done = run(program, path, "--check", "--out", tmp_path / f"record-{index}", images[0])
        assert done.returncode in (0, 1) and "Sanitizer" not in done.stderr and "runtime error" not in done.stderr


def test_nothing_that_exists_is_replaced(program: Path, tmp_path: Path) -> None:
    path, image = engine(tmp_path), save(tmp_path / "a.ppm", picture())
    old = tmp_path / "a.maps.npy"
    old.write_text("old")
    done = run(program, path, "--out", tmp_path, image)
    assert done.returncode == 1 and "a.maps.npy' exists. Hint: another --out" in done.stderr and old.read_text() == "old"
    twice = run(program, path, "--out", tmp_path / "out", image, save(tmp_path / "a.npy", picture()))
    assert twice.returncode == 1 and "two images would be written to" in twice.stderr and "LOADED" not in twice.stdout
    for place in (old, old / "out"):
        done = run(program, path, "--out", place, image)
        assert done.returncode == 1 and f"cannot write into '{place}'" in done.stderr and old.read_text() == "old"
    done = run(program, tmp_path / "none.engine", "--out", tmp_path / "out", image)
    assert done.returncode == 1 and "none.engine' is not a file" in done.stderr
    done = run(program, engine(tmp_path, b"broken"), "--out", tmp_path / "broken", image)
    assert done.returncode == 1 and "the engine is broken" in done.stderr and not list((tmp_path / "broken").iterdir())
    assert "is 1x37x53" in run(program, engine(tmp_path, shapes="2x8x8,2x40x40,2x64x96"), "--out", tmp_path / "c", image).stderr


def linked(folder: Path) -> Path:
    """The whole program, TensorRT's part included, against TensorRT-RTX."""
    libraries = Path(pytest.importorskip("tensorrt_rtx_libs", reason="tensorrt-rtx cannot be had here").__file__).parent
    if shutil.which("nvcc") is None:
        pytest.skip("no CUDA compiler (nvcc) on PATH")
    root = [f"-DTENSORRT_ROOT={headers()}", f"-DTENSORRT_LIBRARY={libraries / 'libtensorrt_rtx.so.1'}"]
    for command in (["-S", str(SOURCES), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Debug", *root], ["--build", str(folder), "-j2"]):
        done = subprocess.run([tool("cmake"), *command], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "warning" not in done.stdout + done.stderr
    return folder / "wsss_runner"


def test_it_links_to_tensorrt(tmp_path: Path) -> None:
    """Nothing of it has run on a GPU."""
    program = linked(tmp_path / "built")
    path, image = engine(tmp_path), save(tmp_path / "a.ppm", picture())
    done = run(program, path, "--check", "--out", tmp_path / "check", image)
    assert (done.returncode, done.stderr) == (0, "")
    done = run(program, path, "--out", tmp_path / "out", image)
    # without a GPU that is the first thing missing; with one, these bytes are no engine, or the headers' version is another one
    expected = "TensorRT cannot" if torch.cuda.is_available() else "wsss_runner: CUDA cannot find a GPU"
    assert done.returncode == 1 and expected in done.stderr


@pytest.mark.cuda
def test_it_gives_the_maps_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSSS_CACHE", str(tmp_path))
    program, made = linked(tmp_path / "built"), tmp_path / "small.engine"
    source = ["--onnx", str(onnx_file(SMALLEST)), "--engine", "trt-rtx", "--shapes", "1x8x8,1x40x40,2x64x96"]
    assert main(["export", *source, "--out", str(made)]) == 0
    pixels, model = picture(), SMALLEST.network()
    done = run(program, made, "--out", tmp_path / "maps", save(tmp_path / "a.ppm", pixels))
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        wanted = model.forward_cam(model.normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None]))[0]
    assert relative_error(torch.from_numpy(np.load(tmp_path / "maps" / "a.maps.npy")), wanted) < 1e-4
