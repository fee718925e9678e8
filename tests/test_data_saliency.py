"""Saliency maps: the classical method on pictures with a known answer, ONNX networks, folders that are resumed."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from data_worlds import photo, save
from onnx import TensorProto, helper
from PIL import Image

from wsss_fast import cli
from wsss_fast.cli import exit_codes
from wsss_fast.data import DataError, boundary_saliency
from wsss_fast.data import saliency as maps
from wsss_fast.data.saliency import SaliencySettings, make_maps


def scene(seed: int = 0, height: int = 90, width: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """A textured background of two colours, a disc that touches no border, and where the disc is."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    disc = (y - 42) ** 2 + (x - 70) ** 2 < 20**2
    colours = np.where((x < width / 2)[..., None], (60, 110, 60), (90, 140, 180))
    colours = np.where(disc[..., None], (200, 60, 50), colours)
    return (colours + random.normal(0, 8, (height, width, 3))).clip(0, 255).astype(np.uint8), disc


def test_classical_finds_the_disc():
    for seed in range(3):
        pixels, disc = scene(seed)
        found = boundary_saliency.saliency(pixels)
        assert found.shape == disc.shape and found.dtype == np.uint8
        assert found[disc].mean() > 180 and found[~disc].mean() < 25
        overlap = ((found > 127) & disc).sum() / ((found > 127) | disc).sum()
        assert overlap > 0.85


def test_classical_tells_the_object_from_background_of_two_parts():
    """What reaches the border is background however much it differs from the rest."""
    pixels, disc = scene()
    found = boundary_saliency.saliency(pixels)
    left = ~disc & (np.arange(120) < 60)
    assert abs(found[left].mean() - found[~disc & ~left].mean()) < 20


def test_classical_finds_an_object_larger_than_its_background():
    """Not the area decides, but the share of it that lies on the border."""
    pixels, inside = np.full((90, 120, 3), (90, 140, 90), np.uint8), np.zeros((90, 120), bool)
    inside[13:77, 13:107] = True
    pixels[inside] = (170, 80, 60)
    pixels = (pixels + np.random.default_rng(0).normal(0, 5, pixels.shape)).clip(0, 255).astype(np.uint8)
    found = boundary_saliency.saliency(pixels)
    assert found[inside].mean() > found[~inside].mean() + 120


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 300), (300, 1), (5, 3), (900, 700)])
def test_classical_takes_any_size(size):
    flat = np.full((size[1], size[0], 3), 90, np.uint8)
    assert not boundary_saliency.saliency(flat).any()
    noisy = boundary_saliency.saliency(
        photo(0, size) if size[0] < 500 else np.repeat(np.repeat(photo(0, (9, 7)), 100, 0), 100, 1)
    )
    assert noisy.shape == (size[1], size[0])


def test_classical_is_the_same_every_time():
    pixels, _ = scene()
    assert np.array_equal(boundary_saliency.saliency(pixels), boundary_saliency.saliency(pixels))


def network(path, nodes, shape=(1, 3, "h", "w"), outputs=("map",), inputs=("image",), constants=()):
    """An ONNX file; every output is float and of any shape."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def red(path, **options):
    """The red channel of what the network is given."""
    pick = [helper.make_tensor("first", TensorProto.INT64, [1], [0]), helper.make_tensor("second", TensorProto.INT64, [1], [1])]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    node = helper.make_node("Slice", ["image", "first", "second", "axis"], ["map"])
    return network(path, [node], constants=[*pick, axis], **options)


@pytest.fixture
def images(tmp_path):
    for number, name in enumerate(("a.png", "sub/b.jpg", "c.png")):
        save(tmp_path / "images" / name, photo(number, (40, 30)))
    return tmp_path / "images"


PLAIN = SaliencySettings(mean=(0, 0, 0), std=(1, 1, 1), side=64)


def test_onnx_network(images, tmp_path):
    pixels = np.full((30, 40, 3), (200, 10, 20), np.uint8)
    pixels[:, 20:, 0] = 40
    save(images / "a.png", pixels)
    summary = make_maps(images, tmp_path / "out", red(tmp_path / "red.onnx"), PLAIN)
    assert (summary.total, summary.made, summary.there, summary.failures) == (3, 3, 0, {})
    found = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert found.shape == (30, 40) and found.dtype == np.uint8
    assert (found[:, :17] == 200).all() and (found[:, 23:] == 40).all()
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["model"] == "red.onnx" and len(provenance["sha256"]) == 64 and provenance["size"] == [64, 64]
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["a.png", "b.png", "c.png", "provenance.json"]


def test_onnx_normalisation_and_activations(images, tmp_path):
    path = red(tmp_path / "red.onnx", shape=(1, 3, 32, 48))
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, 40).round()
    expected = pixels[..., 0] / 255
    for activation, formula in {
        "none": lambda x: x,
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "minmax": lambda x: (x - x.min()) / (x.max() - x.min()),
    }.items():
        mean, std = ((0.0,) * 3, (1.0,) * 3) if activation == "none" else ((0.5, 0, 0), (0.25, 1, 1))
        made = maps.OnnxNetwork(path.read_bytes(), "red.onnx", SaliencySettings(mean=mean, std=std, activation=activation))
        assert made.size == (32, 48)
        wanted = 255 * formula((expected - mean[0]) / std[0])
        assert np.abs(made(pixels) - wanted)[:, 3:-3].max() < 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"no network"), "cannot be used"),
        (lambda path: red(path, shape=(1, 4, 8, 8)), "must have one input of float32"),
        (lambda path: network(path, [helper.make_node("Add", ["a", "b"], ["map"])], inputs=("a", "b")), "must have one input"),
        (lambda path: network(path, [helper.make_node("Identity", ["image"], ["map"])]), "must be one map, got shape"),
        (lambda path: network(path, [helper.make_node("Log", ["image"], ["map"])], shape=(1, 3, 1, 1)), "one map"),
    ],
)
def test_onnx_networks_that_do_not_fit(images, tmp_path, make, message):
    make(tmp_path / "x.onnx")
    with pytest.raises(DataError, match=message):
        make_maps(images, tmp_path / "out", tmp_path / "x.onnx", PLAIN)


def test_onnx_output_out_of_range(images, tmp_path):
    path = red(tmp_path / "red.onnx")
    with pytest.raises(DataError, match=r"must give values from 0 to 1, got .* Hint: --activation sigmoid"):
        make_maps(images, tmp_path / "out", path)
    with pytest.raises(ValueError, match="'output' must be one of map"):
        make_maps(images, tmp_path / "out", path, SaliencySettings(output="mop"))
    with pytest.raises(DataError, match="there is no file"):
        make_maps(images, tmp_path / "out", tmp_path / "absent.onnx")


def test_onnx_file_with_data_elsewhere(images, tmp_path):
    array = onnx.numpy_helper.from_array(np.ones((1, 1, 64, 64), np.float32), "one")
    path = network(
        tmp_path / "x.onnx",
        [helper.make_node("ReduceMax", ["image"], ["top"]), helper.make_node("Mul", ["top", "one"], ["map"])],
        constants=[array],
    )
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="secret.bin", size_threshold=0)
    with pytest.raises(DataError, match=r"cannot be used.*without external data"):
        make_maps(images, tmp_path / "out", path, PLAIN)


def test_resume_and_failures(images, tmp_path):
    (images / "bad.png").write_bytes(b"\x89PNG\r\n")
    calls = []
    summary = make_maps(images, tmp_path / "out", progress=lambda now, name, reason: calls.append((now.done, name, bool(reason))))
    assert summary.made == 3 and list(summary.failures) == ["bad.png"]
    assert calls == [(1, "a.png", False), (2, "bad.png", True), (3, "c.png", False), (4, "sub/b.jpg", False)]
    (tmp_path / "out" / "c.png").unlink()
    before = (tmp_path / "out" / "a.png").stat().st_mtime_ns
    again = make_maps(images, tmp_path / "out")
    assert (again.made, again.there) == (1, 2) and (tmp_path / "out" / "a.png").stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"holds maps made otherwise \(by classical\)"):
        make_maps(images, tmp_path / "out", red(tmp_path / "red.onnx"), PLAIN)


def test_out_around_the_images(images, tmp_path):
    with pytest.raises(DataError, match=r"^saliency: the image folder .* lies in the output folder"):
        make_maps(images, tmp_path)


def test_command(images, tmp_path, capsys):
    assert cli.main(["saliency", str(images), "--out", str(tmp_path / "out"), "--json"]) == exit_codes.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["total"] == told["made"] == 3
    (images / "bad.png").write_bytes(b"")
    assert cli.main(["saliency", str(images), "--out", str(tmp_path / "out")]) == exit_codes.SOME_FAILED
    told = capsys.readouterr()
    assert "0 maps in" in told.out and "3 were there already, 1 failed" in told.out and "bad.png: the file is empty" in told.err
    assert cli.main(["saliency", str(images), "--out", "x", "--activation", "sigmoidal"]) == exit_codes.USAGE
    assert "did you mean 'sigmoid'?" in capsys.readouterr().err
    assert cli.main(["saliency", str(tmp_path / "absent"), "--out", str(tmp_path / "x")]) == exit_codes.ERROR
    assert "there is no image folder" in capsys.readouterr().err


def test_an_onnx_network_that_unfolds_is_refused(images, tmp_path):
    sizes = onnx.numpy_helper.from_array(np.array([100_000, 100_000]), "sizes")
    nodes = [helper.make_node("Identity", ["sizes"], ["same"]), helper.make_node("ConstantOfShape", ["same"], ["map"])]
    path = network(tmp_path / "x.onnx", nodes, constants=[sizes])
    with pytest.raises(DataError, match=r"cannot be used: node 'ConstantOfShape' .* would make a tensor of"):
        make_maps(images, tmp_path / "out", path, PLAIN)
