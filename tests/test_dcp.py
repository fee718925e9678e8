"""Class patterns: against one-shot NumPy, planted clusters, the sign and its margin, the label rule, files, and bad input."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from dcp_cases import learned, planted
from helpers import relative_error
from networks import lively

from wsss_fast import methods, ops
from wsss_fast.methods import dcp
from wsss_fast.methods.dcp import ClassPatterns
from wsss_fast.nets import weights


def test_sample() -> None:
    labels = (torch.rand(200, 5, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.0, 0.05, 0.5, 0.9, 1.0])).float()
    drawn = dcp.sample(labels, 40, seed=3)
    assert drawn.sum(0).tolist() == [min(40, int(count)) for count in labels.sum(0)] and (drawn <= labels).all()
    assert torch.equal(drawn, dcp.sample(labels, 40, seed=3)) and not torch.equal(drawn, dcp.sample(labels, 40, seed=4))
    # drawn from all of them, not from the first
    assert drawn[100:, 4].sum() > 5
    assert labels.sum() > drawn.sum()


def test_planted_clusters() -> None:
    features, labels, where, directions = planted()
    alone = learned(features[1:], labels[1:], where[1:])  # the first image shows both classes
    assert ((alone.direction * directions).sum(1) > 0.995).all()
    patterns = learned(features, labels, where)
    assert ((patterns.direction * directions).sum(1) > 0.95).all()
    assert (patterns.margin > 0.9).all() and patterns.missing == [] and patterns.ambiguous == []
    assert (patterns.variance > 2 * patterns.second).all() and (patterns.variance < patterns.total).all()
    scores = patterns.scores(features)
    rows = features.double() - patterns.mean[0, :, None, None]
    assert relative_error(scores[:, 0], torch.einsum("ndhw,d->nhw", rows, patterns.direction[0])) < 1e-5
    right = ((scores > 0) == (where > 0.5))[labels > 0.5]
    assert right.float().mean() > 0.97


def test_sign_follows_the_maps() -> None:
    features, labels, where, _ = planted()
    patterns, turned = learned(features, labels, where), learned(features, labels, 1 - where)
    assert relative_error(turned.direction, -patterns.direction) < 1e-5
    assert relative_error(turned.margin, patterns.margin) < 1e-5
    # a map of any unit and any size
    scaled = torch.nn.functional.interpolate(7 * where - 3, scale_factor=4, mode="nearest")
    assert ((learned(features, labels, scaled).direction * patterns.direction).sum(1) > 0.99).all()


def test_margin_is_the_correlation() -> None:
    features, labels, where, _ = planted()
    cam = where + 0.7 * torch.rand(where.shape)
    patterns = learned(features, labels, cam)
    scores = patterns.scores(features.double())
    for c in range(2):
        chosen = labels[:, c] > 0.5
        expected = np.corrcoef(scores[chosen, c].flatten().numpy(), cam[chosen, c].flatten().numpy())[0, 1]
        assert float(patterns.margin[c]) == pytest.approx(expected, abs=1e-5)


def test_without_maps_the_border_tells() -> None:
    features, labels, _, directions = planted()
    patterns = learned(features, labels)  # objects lie inside
    assert patterns.guide == "border" and ((patterns.direction * directions).sum(1) > 0.95).all() and patterns.ambiguous == []


@pytest.mark.parametrize("cam", ["constant", "noise", "none"])
def test_ambiguous_signs_are_reported(cam: str, caplog: pytest.LogCaptureFixture) -> None:
    features, labels, where, _ = planted()
    maps = {"constant": torch.full_like(where, 0.3), "noise": torch.rand_like(where), "none": None}[cam]
    if cam == "none":  # nothing but border
        features = features[:, :, :2]
    with caplog.at_level(logging.WARNING):
        patterns = learned(features, labels, maps)
    assert patterns.ambiguous == [0, 1] and (patterns.margin < dcp.AMBIGUOUS).all()
    assert "sign of the pattern is doubtful" in caplog.text and "classes 0, 1" in caplog.text
    if cam == "constant":  # then the largest component is positive, whatever the eigenvector came as
        largest = patterns.direction.gather(1, patterns.direction.abs().argmax(1, keepdim=True))
        assert (patterns.margin == 0).all() and (largest > 0).all()


def ready(classes: int = 3) -> ClassPatterns:
    patterns = ClassPatterns(classes, 2)
    patterns.finished = True
    return patterns


def test_label_rule() -> None:
    """Places: none, first, second, both positive; class 2 is positive everywhere and in no image. 0 is not positive."""
    scores = (
        torch.tensor([[-1.0, 2.0, -1.0, 1.0], [0.0, -1.0, 0.5, 3.0], [1.0, 1.0, 1.0, 1.0]]).view(1, 3, 2, 2).repeat(4, 1, 1, 1)
    )
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]])
    expected = [[0, 1, 2, 255], [0, 1, 0, 1], [0, 0, 2, 2], [0, 0, 0, 0]]
    mask = ready().labels(scores, labels)
    assert mask.dtype == torch.uint8 and mask.flatten(1).tolist() == expected
    enlarged = ready().labels(scores, labels, (8, 6))
    assert enlarged.shape == (4, 8, 6) and enlarged[0, 0, 0] == 0 and enlarged[0, -1, -1] == 255 and enlarged[0, 0, -1] == 1


def test_crf_on_images_of_one_class() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(16, 16, dtype=torch.bool)
    truth[4:12, 4:12] = True
    pixels = torch.where(truth, 200, 50).to(torch.uint8).expand(2, 3, 16, 16).contiguous()
    noisy = torch.where(truth ^ (torch.rand(16, 16, generator=generator) < 0.12), 1.0, -1.0)
    scores = noisy.expand(2, 3, 16, 16)
    labels = torch.tensor([[0, 1, 0], [0, 1, 1]])
    plain, refined = ready().labels(scores, labels), ready().labels(scores, labels, pixels=pixels)
    assert torch.equal(refined[1], plain[1])  # two classes
    errors = [int((mask[0] != truth * 2).sum()) for mask in (plain, refined)]
    assert errors[0] > 15 and errors[1] <= 2
    likely = torch.where(plain[0] == 2, 0.7, 0.3)
    crf = ops.dense_crf(torch.stack([1 - likely, likely])[None], pixels[:1], **dcp.CRF)[0]
    assert torch.equal(refined[0], 2 * crf.argmax(0).to(torch.uint8))


def test_a_class_without_images(caplog: pytest.LogCaptureFixture) -> None:
    features, labels, where, _ = planted()
    labels = torch.cat([labels, torch.zeros(len(labels), 1)], dim=1)
    with caplog.at_level(logging.WARNING):
        patterns = learned(features, labels, torch.cat([where, where[:, :1]], dim=1))
    assert patterns.missing == [2] and patterns.images[2] == 0 and "no pattern" in caplog.text
    assert not patterns.scores(features)[:, 2].any()
    assert not patterns.labels(patterns.scores(features), torch.tensor([[0, 0, 1]]).repeat(len(features), 1)).any()


def test_a_class_of_one_image(caplog: pytest.LogCaptureFixture) -> None:
    features, labels, where, directions = planted()
    with caplog.at_level(logging.WARNING):
        patterns = learned(features[2:3], labels[2:3], where[2:3])
    assert patterns.images.tolist() == [1, 0] and "rests on one image: classes 0" in caplog.text
    assert float((patterns.direction[0] * directions[0]).sum()) > 0.9 and patterns.direction.isfinite().all()
    # two places: covariance of rank 1; one place, or places that are all the same: none
    pair = torch.tensor([[1.0, 3.0], [5.0, 5.0], [0.0, -2.0]]).view(1, 3, 1, 2)
    two = learned(pair, torch.ones(1, 1), torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))
    assert two.direction[0].tolist() == pytest.approx([0.5**0.5, 0, -(0.5**0.5)]) and float(two.variance) == pytest.approx(2)
    assert float(two.margin) == pytest.approx(1) and float(two.second) == pytest.approx(0, abs=1e-12)
    for same in (pair[..., :1], torch.full((2, 3, 4, 4), 1 / 3)):
        assert learned(same, torch.ones(len(same), 1)).missing == [0]


def test_files(tmp_path: Path) -> None:
    features, labels, where, _ = planted()
    patterns = learned(features, labels, where)
    path = tmp_path / "patterns.safetensors"
    patterns.save(path, classes=["cat", "dog"], tap="layer4.0")
    again = ClassPatterns.load(path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in patterns.state_dict().items())
    assert torch.equal(again.scores(features), patterns.scores(features)) and again.guide == "cam"
    told = weights.describe(path)
    assert told["method"] == "dcp" and told["classes"] == ["cat", "dog"] and told["tap"] == "layer4.0"
    assert [file.name for file in tmp_path.iterdir()] == ["patterns.safetensors"]
    other = tmp_path / "other.safetensors"
    weights.save_checkpoint(other, torch.nn.Linear(2, 2), {"method": "cam"})
    with pytest.raises(ValueError, match="must be a file of class patterns"):
        ClassPatterns.load(other)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ClassPatterns.load(tmp_path / "nothing.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        ClassPatterns.load(path)


TAPS = [("resnet101", "layer4.0"), ("resnet50", "layer4.2"), ("resnet50", "layer3"), ("resnet38", "b6.bn_branch2a")]
TAPS += [("resnet38", "bn7"), ("vgg16-psa", "conv5_3"), ("vgg16-psa", "fc7"), ("efficientnet-lite0", "_blocks.15")]


@pytest.mark.parametrize(("backbone", "layer"), TAPS)
def test_taps(backbone: str, layer: str) -> None:
    options = {} if backbone == "efficientnet-lite0" else {"width": 1 / 16}
    model = lively(methods.create("cam", 3, backbone, **options))
    image = torch.randn(2, 3, 40, 48)
    features, maps = dcp.tap(model, image, layer)
    with torch.inference_mode():
        assert torch.equal(maps, model.forward_cam(image))
        network = model.get_submodule(backbone) if backbone.startswith("resnet1") or backbone == "resnet50" else model
        if layer == "layer4.0":
            assert torch.equal(features, network.layer4[0](network.features(image, "layer3")[0])) and features.min() >= 0
        names = {
            "layer4.2": "layer4",
            "layer3": "layer3",
            "b6.bn_branch2a": "conv5",
            "bn7": "conv6",
            "conv5_3": "conv5",
            "fc7": "conv6",
        }
        if layer in names:
            assert torch.equal(features, network.features(image, names[layer])[0])
    patterns = ClassPatterns(3, features.shape[1])
    patterns.update(features, torch.ones(2, 3), maps)
    patterns.finish()
    assert patterns.scores(features).shape == (2, 3, *features.shape[2:])


def test_wrong_taps() -> None:
    model = methods.create("cam", 3, "resnet50", width=1 / 16)
    image = torch.randn(1, 3, 16, 16)
    with pytest.raises(ValueError, match="'model' must be in eval mode"):
        dcp.tap(model, image)
    model.eval()
    for layer, message in (("layer9", "which none has"), ("conv1", "which fits"), ("", "which none has")):
        with pytest.raises(ValueError, match=f"'layer' must name one module of the network, got '{layer}', {message}"):
            dcp.tap(model, image, layer)
    assert not any(module._forward_hooks for module in model.modules())


def test_refused_batches_leave_nothing() -> None:
    features, labels, where, _ = planted()
    patterns = ClassPatterns(2, 24)
    broken = features.clone()
    broken[3, 2, 1, 1] = float("nan")
    wrong = [
        ((broken, labels, where), ValueError, r"'features' must be finite, got NaN or Inf. Hint"),
        (
            (features[:, :5], labels, where),
            ValueError,
            r"'features' must have shape \[N, channels, h, w\] = \[any, 24, any, any\]",
        ),
        ((features.long(), labels, where), TypeError, "'features' must be of type float32"),
        ((features[0], labels, where), ValueError, "add the batch dimension"),
        ((features, labels[:5], where), ValueError, r"'labels' must have shape \[N, C\] = \[12, 2\]"),
        ((features, labels, where[:, :1]), ValueError, r"'cam' must have shape"),
        ((features, labels, where / 0), ValueError, "'cam' must be finite"),
        ((features[:, :, :0], labels, where), ValueError, "'features' must not be empty"),
    ]
    for arguments, kind, message in wrong:
        with pytest.raises(kind, match=message):
            patterns.update(*arguments)
    assert not patterns._sums and patterns.guide == ""
    with pytest.raises(RuntimeError, match="finish needs images"):
        patterns.finish()
    with pytest.raises(RuntimeError, match="scores comes after finish"):
        patterns.scores(features)
    patterns.update(features, labels, where)
    with pytest.raises(ValueError, match="'cam' must be given in all calls or in none"):
        patterns.update(features, labels)
    patterns.finish()
    with pytest.raises(RuntimeError, match="update comes before finish"):
        patterns.update(features, labels, where)
    with pytest.raises(ValueError, match="'scores' must be finite"):
        patterns.labels(patterns.scores(features) / 0, labels)
    with pytest.raises(ValueError, match=r"'pixels' must have shape .*got \[12, 3, 8, 9\]"):
        patterns.labels(patterns.scores(features), labels, (9, 9), torch.zeros(12, 3, 8, 9, dtype=torch.uint8))
    with pytest.raises(ValueError, match="'channels' must be a whole number, 1 or more"):
        ClassPatterns(2, 0)
    with pytest.raises(ValueError, match="room for 254 classes"):
        ready(255).labels(torch.zeros(1, 255, 2, 2), torch.zeros(1, 255))
