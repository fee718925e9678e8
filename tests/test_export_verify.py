"""Verification: what computes the same passes, what does not fails and is told where it began."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported import SEAM, SMALLEST, Case, onnx_file
from PIL import Image

from wsss_fast import methods
from wsss_fast.export import load_engine
from wsss_fast.export.diverge import first_diverging
from wsss_fast.export.engine import EngineMeta
from wsss_fast.export.graph import layers_of_values
from wsss_fast.export.verify import pictures, scores, verify


def photos(folder: Path, model: torch.nn.Module | None = None) -> tuple[Path, Path]:
    """Two pictures; their masks are the labels that the network gives, or noise."""
    images, masks = folder / "images", folder / "masks"
    images.mkdir()
    masks.mkdir()
    generator = np.random.default_rng(0)
    for name, size in (("one", (71, 90)), ("two", (64, 53))):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 9, 3), dtype=np.uint8))
        coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(images / f"{name}.png")
        mask = generator.integers(0, 4, size, dtype=np.uint8)
        if model is not None:
            ((_, pixels, _),) = pictures(images / f"{name}.png")
            with torch.no_grad():
                output = model.forward_cam(model.normalise(pixels))
            mask = scores(output, EngineMeta.of(model), size).argmax(1)[0].numpy().astype(np.uint8)
        Image.fromarray(mask).save(masks / f"{name}.png")
    return images, masks


def tampered(case: Case, folder: Path, layer: str) -> Path:
    """One weight of a layer is another: as a kernel that computes something else."""
    model = onnx.load(onnx_file(case))
    (tensor,) = (entry for entry in model.graph.initializer if entry.name == f"model.{layer}.weight")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0] += 1
    tensor.raw_data = values.tobytes()
    path = folder / "tampered.onnx"
    onnx.save(model, path)
    return path


def test_the_right_engine_passes_on_generated_pictures() -> None:
    report = verify(load_engine(onnx_file(SEAM), device="cpu"), SEAM.network())
    assert report.passed and report.judged_by == "differences" and len(report.comparisons) == 3
    assert len({(entry.height, entry.width) for entry in report.comparisons}) == 3
    assert 0 < report.worst("largest").largest < 1e-4 and report.worst("cosine").cosine > 0.999999
    assert json.loads(report.to_json())["passed"] and "**Passed**" in report.to_markdown()


def test_half_precision_has_bounds_of_its_own() -> None:
    engine = load_engine(onnx_file(SMALLEST, "fp16"), device="cpu")
    report = verify(engine, SMALLEST.network())
    assert report.passed and report.bound == 2e-2 and 1e-5 < report.worst("largest").largest < 2e-2


def test_images_and_masks(tmp_path: Path) -> None:
    model = SMALLEST.network()
    images, masks = photos(tmp_path, model)
    report = verify(load_engine(onnx_file(SMALLEST), device="cpu"), model, pictures(images, masks))
    assert report.passed and report.judged_by == "labels" and report.bound == 0.999 and report.agreement > 0.999
    assert [entry.image for entry in report.comparisons] == ["one.png"] * 3 + ["two.png"] * 3
    assert len({(entry.height, entry.width) for entry in report.comparisons}) == 6
    assert report.miou["reference"] > 0.5 and abs(report.miou["difference"]) < 1e-3
    assert "mIoU against the masks" in report.to_markdown()


@pytest.mark.parametrize("layer", ["conv1_2", "conv4_2", "fc8"])
def test_a_wrong_engine_fails_and_the_first_wrong_node_is_named(layer: str, tmp_path: Path) -> None:
    path, model = tampered(SMALLEST, tmp_path, layer), SMALLEST.network()
    images, masks = photos(tmp_path, model)
    report = verify(load_engine(path, device="cpu"), model, pictures(images, masks), onnx_file=path)
    assert not report.passed
    assert report.diverges["layer"] == layer and report.diverges["operation"] == "Conv" and report.diverges["error"] > 1e-3
    assert "FAILED" in report.to_markdown() and layer in report.to_markdown()
    assert report.miou["engine"] <= report.miou["reference"]


def sums_of(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type == "Add" and weights.isdisjoint(node.input)]


def test_a_wrong_sum_is_named_in_half_precision(tmp_path: Path) -> None:
    model, path = onnx.load(onnx_file(SEAM, "fp16")), tmp_path / "a.onnx"
    sums = sums_of(model)
    wrong = sums[len(sums) // 2]
    wrong.input[1] = wrong.input[0]
    onnx.save(model, path)
    engine = load_engine(path, device="cpu")
    found = first_diverging(path, SEAM.network(), torch.randn(1, 3, 65, 81), engine.meta)
    assert len(sums) > 8 and found["error"] > 3e-2 and found["layer"]
    assert (found["node"], found["operation"], found["layer"]) == (
        wrong.name,
        "Add",
        layers_of_values(model.graph)[wrong.output[0]],
    )


def test_values_that_share_no_more_than_a_name_are_not_compared(tmp_path: Path) -> None:
    model, path = onnx.load(onnx_file(SEAM, "fp16")), tmp_path / "a.onnx"
    image, meta = torch.randn(1, 3, 65, 81), load_engine(onnx_file(SEAM, "fp16"), device="cpu").meta
    whole = first_diverging(onnx_file(SEAM, "fp16"), SEAM.network(), image, meta)
    first, second = (node.output[0] for node in sums_of(model)[:2])
    other = {first: second, second: first}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [other.get(name, name) for name in names]
    del model.graph.value_info[:]
    onnx.save(model, path)
    swapped = first_diverging(path, SEAM.network(), image, meta)
    assert whole["node"] is None and swapped["node"] is None
    assert whole["compared"] > 50 and swapped["compared"] == whole["compared"] - 2


def test_a_result_that_is_not_a_number_fails() -> None:
    model = SMALLEST.network()
    engine = load_engine(model, device="cpu")
    run = engine._run
    engine._run = lambda image: tuple(output.index_fill(3, torch.tensor([0]), torch.nan) for output in run(image))
    report = verify(engine, model, bound=0.0)
    assert not report.passed and np.isnan(report.worst("largest").largest)


def test_an_engine_is_held_against_its_own_network_alone() -> None:
    engine = load_engine(onnx_file(SMALLEST), device="cpu")
    with pytest.raises(ValueError, match="must be the same network, got cam of 3 classes and cam of 4 classes"):
        verify(engine, methods.create("cam", 4, "vgg16-psa", width=1 / 16).eval())


def test_pictures_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be an image or a folder of images"):
        pictures(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png' cannot be read"):
        pictures(tmp_path)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"the mask .* cannot be read"):
        pictures(tmp_path, tmp_path / "none")
    with pytest.raises(ValueError, match="must be a mask with one number a pixel, got RGB"):
        pictures(tmp_path, tmp_path)
