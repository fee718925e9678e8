"""EfficientNet-Lite0: the published classifier to the last bit, and dense features that are that classifier on a finer grid."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from wsss_fast.nets import efficientnet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def strided():
    return efficientnet.load_pretrained(32)[0]


@pytest.fixture(scope="module")
def dense():
    return efficientnet.load_pretrained(16)[0]


def waves(size: int) -> torch.Tensor:
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 2, indexing="ij")
    planes = [torch.sin(x * 0.13 + y * 0.021), torch.cos(y * 0.09 - x * 0.033), torch.sin((x + 2 * y) * 0.05)]
    return torch.stack(planes)[None].float()


def test_scores_equal_the_published_implementation(strided):
    # Computed once with the PyPI package efficientnet-lite-pytorch 0.1.0 and the same weights (equal to the last bit then).
    with torch.inference_mode():
        scores = strided(waves(224))[0]
    published = {
        0: -0.00285,
        1: 2.30452,
        281: -0.3873,
        504: 0.39187,
        872: 2.43188,
        906: 6.6661,
        911: 6.5933,
        999: -2.2748,
    }
    for index, value in published.items():
        assert abs(float(scores[index]) - value) < 2e-4, index
    assert abs(float(scores.double().sum()) + 69.85028) < 2e-2
    assert abs(float(scores.double().square().sum()) - 1926.97997) < 5e-2


@pytest.mark.parametrize(("output_stride", "shift"), [(16, 8), (8, 12)])
def test_dense_cells_are_cells_of_the_classifier(strided, output_stride, shift):
    """Every second (fourth) dense cell equals a cell of the strided network, for an image moved by the alignment shift."""
    network = efficientnet.load_pretrained(output_stride)[0]
    size, step = 704, 32 // output_stride
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    moved = torch.zeros_like(image)
    moved[:, :, shift:, shift:] = image[:, :, :-shift, :-shift]
    with torch.inference_mode():
        fine, coarse = network.features(image), strided.features(moved)
    # Only in the middle: the zero padding of the two lies at different places, and a little of it reaches even there.
    middle = slice(coarse.shape[-1] // 2 - 1, coarse.shape[-1] // 2 + 1)
    want = coarse[:, :, middle, middle]

    def error(phase):
        return float((fine[:, :, phase::step, phase::step][:, :, middle, middle] - want).abs().mean())

    assert error(0) < 0.004
    assert error(1) > 0.015  # one cell further is plainly another answer


def test_maps_lie_where_the_object_is(dense):
    """A map and the map of the mirrored photo must mirror each other: a constant shift would show as twice its size."""
    from skimage import data

    shifts = []
    for photo, classes in (("coffee", [967, 968]), ("camera", [872]), ("chelsea", [281, 282, 285])):
        from PIL import Image

        pixels = np.array(Image.fromarray(getattr(data, photo)()).convert("RGB").resize((448, 448)))
        image = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() - 127) / 128
        with torch.inference_mode():
            centres = [_centre(dense, view, classes) for view in (image, image.flip(3))]
        shifts.append((sum(centres) - 28) / 2 * 16)
    assert abs(sum(shifts) / len(shifts)) < 4, shifts


def _centre(network, image, classes) -> float:
    plane = network.class_maps(network.features(image))[0, classes].mean(0).relu()
    return float((plane.sum(0) * (torch.arange(plane.shape[1]) + 0.5)).sum() / plane.sum())


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("size", [1, 7, 31, 33, 225])
def test_any_size_gives_the_ceiling(output_stride, size):
    network = efficientnet.EfficientNetLite0(num_classes=3, output_stride=output_stride).eval()
    with torch.inference_mode():
        features = network.features(torch.zeros(1, 3, size, 40))
    assert features.shape[2] == -(-size // output_stride)


def test_mean_of_class_maps_is_the_score(dense):
    with torch.inference_mode():
        features = dense.features(waves(96))
        difference = dense.class_maps(features).mean((2, 3)) - dense.scores(features)
    assert float(difference.abs().max()) < 1e-4


def test_parameter_names_are_the_published_ones():
    state = torch.load(efficientnet.weights_path(), weights_only=True)
    own = efficientnet.EfficientNetLite0().state_dict()
    assert list(own) == list(state)
    assert all(own[name].shape == state[name].shape for name in state)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="'output_stride' must be one of 8, 16, 32, got 4"):
        efficientnet.EfficientNetLite0(output_stride=4)
    with pytest.raises(ValueError, match="'num_classes'"):
        efficientnet.EfficientNetLite0(num_classes=0)
    with pytest.raises(ValueError, match=r"'image' must have shape \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        efficientnet.EfficientNetLite0(num_classes=1)(torch.zeros(1, 1, 8, 8))


def test_missing_or_foreign_weights_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(efficientnet, "WEIGHTS_PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(ModuleNotFoundError, match=r"wsss_fast\[demo\]"):
        efficientnet.load_pretrained()
    folder = tmp_path / "other_weights"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "models" / "efficientnet-lite0-00000000.pth").write_bytes(b"not the file")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(efficientnet, "WEIGHTS_PACKAGE", "other_weights")
    with pytest.raises(ValueError, match="not the published file"):
        efficientnet.load_pretrained()
    assert "other_weights" not in sys.modules  # looked at, never run
