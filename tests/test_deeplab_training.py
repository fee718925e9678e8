"""DeepLab's schedules, its loss against NumPy, what is trained and what is not, and inference against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import relative_error, threads
from networks import lively
from torch import Tensor, nn
from torch.nn import functional

from wsss_fast import methods, ops
from wsss_fast._settings import SettingsError
from wsss_fast.methods import deeplab
from wsss_fast.methods._training import Training
from wsss_fast.train.optimiser import make_optimiser, parameter_groups

NETWORKS = [("resnet101-caffe", "aspp"), ("resnet101-caffe", "largefov"), ("vgg16", "aspp"), ("vgg16", "largefov")]
NETWORKS += [("resnet38", "largefov"), ("resnet50", "aspp"), ("efficientnet-lite0", "aspp"), ("efficientnet-lite0", "largefov")]


def scenes(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Coloured squares of two classes on grey noise, and their masks."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(60, 110, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    mask = torch.zeros(count, side, side, dtype=torch.uint8)
    for index in range(count):
        y, x = torch.randint(0, side // 2, (2,), generator=generator).tolist()
        square = slice(y, y + side // 2), slice(x, x + side // 2)
        mask[index][square] = 1 + index % 2
        pixels[index][(slice(None), *square)] //= 2
        pixels[index, 2 * (index % 2)][square] += 120
    return pixels, mask


def batch(count: int = 2, side: int = 40) -> dict[str, object]:
    pixels, mask = scenes(count, side)
    inside = torch.ones_like(mask, dtype=torch.bool)
    return {"pixels": pixels, "inside": inside, "mask": mask, "names": [f"scene{index}" for index in range(count)]}


def training(backbone: str = "vgg16", head: str = "aspp", published: str | None = None, **changes: object) -> Training:
    chosen = methods.settings("deeplab", published, backbone=backbone, head=head, **changes)
    width = {} if backbone == "efficientnet-lite0" else {"width": 1 / 16}
    return methods.training("deeplab", 2, backbone, published, chosen, head=head, **width)


def cross_entropy(logits: Tensor, mask: Tensor) -> float:
    """In float64 NumPy; the mask at the size of the logits by the middle of each cell."""
    z = logits.detach().double().numpy()
    truth = mask.numpy()
    for axis in (1, 2):
        cells = z.shape[axis + 1]
        truth = truth.take(np.floor((np.arange(cells) + 0.5) * truth.shape[axis] / cells).astype(int), axis)
    z = z - z.max(1, keepdims=True)
    log = z - np.log(np.exp(z).sum(1, keepdims=True))
    n, y, x = np.nonzero(truth != 255)
    return float(-log[n, truth[n, y, x], y, x].mean())


def test_schedules() -> None:
    v2 = methods.settings("deeplab")
    assert (v2.resize, v2.crop, v2.batch * v2.accumulate, v2.epochs, v2.rate_every) == ("scale", 321, 10, 19, 10)
    assert (v2.lr, v2.new_rate, v2.momentum, v2.weight_decay, v2.power) == (2.5e-4, 10, 0.9, 5e-4, 0.9)
    assert v2.size_choices == (0.5, 0.75, 1.0, 1.25, 1.5) and v2.sizes == (0.5, 1.5) and v2.loss == "scales"
    assert methods.settings("deeplab", backbone="resnet101-caffe", head="largefov") == v2
    v1 = methods.settings("deeplab", backbone="resnet38")
    assert (v1.lr, v1.crop, v1.size_choices, v1.loss, v1.rate_every) == (1e-3, 448, (), "image", 1) and max(v1.jitter) > 0
    fov = methods.settings("deeplab", backbone="vgg16", head="largefov")
    assert (fov.lr, fov.loss, fov.crop, fov.epochs) == (1e-3, "grid", 321, 19)
    fork = methods.settings("deeplab", "code", backbone="vgg16", head="largefov")
    assert (fork.lr, fork.loss, fork.crop, fork.epochs, max(fork.size_choices)) == (2.5e-4, "scales", 448, 28, 2.0)
    coco = methods.settings("deeplab", dataset="coco", backbone="vgg16", head="aspp")
    assert (coco.batch, coco.accumulate, coco.power, coco.crop, coco.epochs) == (20, 2, 0.85, 321, 24)
    assert max(coco.size_choices) == 1.5
    # what a network of its own settings gets without being told
    assert methods.training("deeplab", 2, "resnet38", width=1 / 16).settings == v1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "pixels"}, "'loss' must be one of scales, grid, image"),
        ({"size_choices": (0.25, 1.0)}, r"'size_choices' must be a number from 0.5 to 1.5, got 0.25"),
        ({"size_choices": 1.0}, "'size_choices' must be a list of numbers"),
        ({"rate_every": 0}, "'rate_every' must be a whole number from 1"),
        ({"backbone": "resnet"}, "settings: 'backbone' must be one of .* Hint: did you mean 'resnet50'"),
        ({"head": "asp"}, "settings: 'head' must be one of aspp, largefov, got 'asp'. Hint"),
        ({"hed": "aspp"}, "unknown setting 'hed'"),
    ],
)
def test_wrong_settings(arguments: dict, message: str) -> None:
    with pytest.raises((SettingsError, ValueError), match=message):
        methods.settings("deeplab", **arguments)


def test_other_methods_pass_over_the_backbone() -> None:
    assert methods.settings("cam", backbone="resnet50") == methods.settings("cam")
    with pytest.raises(SettingsError, match="unknown setting 'head'"):
        methods.settings("cam", head="aspp")


@pytest.mark.parametrize("size", [(5, 7), (41, 56), (8, 8)], ids=str)
def test_loss_on_the_grid(size: tuple[int, int]) -> None:
    every = [3 * torch.randn(2, 4, *size), torch.randn(2, 4, 4, 6), torch.randn(2, 4, 3, 4), torch.randn(2, 4, *size)]
    mask = torch.randint(0, 4, (2, 41, 56)).to(torch.uint8)
    mask[torch.rand(mask.shape) < 0.3] = 255
    terms = deeplab.losses(every, mask)
    expected = [cross_entropy(logits, mask) for logits in every]
    found = [terms["segmentation"], terms["smaller"], terms["maximum"], terms["total"]]
    assert [float(value) for value in found] == pytest.approx(
        [expected[0], expected[1] + expected[2], expected[3], sum(expected)], rel=1e-5
    )
    alone = deeplab.losses(every[0].half(), mask)
    assert float(alone["total"]) == pytest.approx(expected[0], rel=2e-3) and set(alone) == {"segmentation", "total"}


def test_loss_at_the_image() -> None:
    """Two cells enlarged to three pixels, corners on corners: the middle one is their mean."""
    logits = torch.tensor([[0.0, 2.0], [1.0, -3.0]]).view(1, 2, 1, 2)
    mask = torch.tensor([[[1, 0, 255]]], dtype=torch.uint8)
    expected = (np.log1p(np.exp(-1.0)) + np.log1p(np.exp(-1.0 - 1.0))) / 2
    assert float(deeplab.losses(logits, mask, at="image")["total"]) == pytest.approx(expected, rel=1e-6)


def test_nothing_to_learn_from() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    total = deeplab.losses(logits, torch.full((2, 9, 9), 255, dtype=torch.uint8))["total"]
    total.backward()
    assert total.item() == 0 and not logits.grad.any()


def test_gradient_of_the_loss() -> None:
    logits = torch.randn(1, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([0, 1, 2, 255] * 12, dtype=torch.uint8).view(1, 6, 8)
    for at in ("grid", "image"):
        assert torch.autograd.gradcheck(lambda x, at=at: deeplab.losses(x, mask, at=at)["total"], logits)


@pytest.mark.parametrize(("backbone", "head"), NETWORKS)
def test_what_is_trained(backbone: str, head: str) -> None:
    step = training(backbone, head)
    step.train()
    terms = step(batch())
    assert ("maximum" in terms) == (step.settings.loss == "scales")
    terms["total"].backward()
    new = {id(parameter) for parameter in step.new_parameters()}
    names = {name for name, parameter in step.model.named_parameters() if id(parameter) in new}
    assert names and all(
        name.split(".")[0 if "base" not in name else 1][:4] in ("aspp", "fov", "conv", "bn_f", "cls_") for name in names
    )
    for name, parameter in step.model.named_parameters():
        if id(parameter) in new:
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
    norms = [layer for name, layer in step.model.named_modules() if isinstance(layer, nn.BatchNorm2d) and "fov" not in name]
    assert not any(layer.training or layer.weight.requires_grad for layer in norms)
    assert all(parameter.grad is not None for parameter in step.model.parameters() if parameter.requires_grad)


def test_faults_of_released_code() -> None:
    forgotten = training("resnet101-caffe", "largefov", "code")
    assert not any(parameter.requires_grad for parameter in forgotten.model.base.fov.parameters())
    assert any(parameter.requires_grad for parameter in forgotten.model.base.layer5.parameters())
    assert all(parameter.requires_grad for parameter in training("resnet101-caffe", "aspp", "code").model.base.aspp.parameters())
    batch_statistics = training("resnet38", "largefov", "code").train().model
    norms = [layer for layer in batch_statistics.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(layer.training and layer.momentum == 3e-4 and not layer.weight.requires_grad for layer in norms)
    assert batch_statistics.backbone.conv1a.weight.requires_grad


@pytest.mark.parametrize("published", [None, "code"])
@pytest.mark.parametrize(("backbone", "head"), [("resnet101-caffe", "largefov"), ("resnet38", "largefov")])
def test_what_a_step_moves(backbone: str, head: str, published: str | None) -> None:
    """The faults in a step of the published optimiser: a head that never learns; statistics of the batch, gains that stay."""
    step = training(backbone, head, published)
    optimiser = make_optimiser(step)
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    step.train()(batch())["total"].backward()
    optimiser.step()
    moved = {name for name, value in step.model.state_dict().items() if not torch.equal(value, before[name])}
    in_groups = {id(value) for group in optimiser.param_groups for value in group["params"]}
    weights = {name for name, value in step.model.named_parameters() if id(value) in in_groups}
    code = published == "code"
    if backbone == "resnet101-caffe":
        assert ({name for name in moved if name.startswith("base.fov.")} == set()) == code
        assert moved == weights and "base.layer5.block1.reduce.conv.weight" in moved
        return
    gains = {name for name, layer in step.model.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    backbone_gains = {name for name in gains if name.startswith("backbone.")}
    statistics = {name for name in gains if f"{name}.running_var" in moved}
    assert statistics == (gains if code else gains - backbone_gains)
    assert {name for name in gains if f"{name}.weight" in moved} == (set() if code else gains - backbone_gains)
    assert ("backbone.conv1a.weight" in moved) == code and "cls_conv.weight" in moved
    momentum = 3e-4 if code else 0.1
    mean = step.model.bn_fov.running_mean / momentum  # from 0: that of the batch
    assert mean.abs().max() > 0 and step.model.bn_fov.momentum == momentum


@pytest.mark.parametrize(("backbone", "head"), NETWORKS)
def test_rates(backbone: str, head: str) -> None:
    """1 and 2 times for what was pretrained, 10 and 20 for the head; weights alone decay."""
    step = training(backbone, head)
    rates = {group["name"]: (group["lr"] / step.settings.lr, group["weight_decay"]) for group in parameter_groups(step)}
    published = {"weights": (1, 5e-4), "biases": (2, 0), "new weights": (10, 5e-4), "new biases": (20, 0)}
    published |= {"new gains": (10, 0)}
    if backbone != "vgg16":
        del published["biases"]  # of convolutions in front of a normalisation
    if backbone != "resnet38":
        del published["new gains"]  # no normalisation in the head
    assert rates == {name: (pytest.approx(rate), decay) for name, (rate, decay) in published.items()}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mask", None, r"train deeplab: 'mask' must be a tensor in the batch, got NoneType. Hint: .*name their folder"),
        ("mask", torch.zeros(2, 20, 20, dtype=torch.uint8), r"'mask' must have shape \[2, 40, 40\], got \[2, 20, 20\]"),
        ("mask", torch.zeros(2, 40, 40), "'mask' must be of type uint8, got float32"),
        ("pixels", torch.zeros(2, 40, 40, 3, dtype=torch.uint8), r"'pixels' must be uint8 RGB of shape \[N, 3, H, W\]"),
    ],
)
def test_wrong_batches(key: str, value: object, message: str) -> None:
    step = training()
    with pytest.raises((ValueError, TypeError), match=message):
        step({**batch(), key: value})


def test_a_class_that_is_none() -> None:
    wrong = batch()
    wrong["mask"][1, 3, 4] = 3
    with pytest.raises(ValueError, match=r"'mask' must be 0 .* 1 to 2 .* 255 .*, got 3 in scene1. Hint"):
        training()(wrong)
    with pytest.raises(ValueError, match=r"'mask' must be 0 .*, got 3"):
        deeplab.losses(torch.randn(2, 3, 4, 4), wrong["mask"])


def test_learns() -> None:
    data = batch(8, 48)
    step = training("resnet50", freeze=False, loss="image").train()
    optimiser = torch.optim.Adam(step.parameters())
    steps = 60
    with threads(1):  # many small steps: threads that wait for each other take longer
        for index in range(steps):
            optimiser.param_groups[0]["lr"] = 6e-3 * (1 - index / steps) ** 0.9
            optimiser.zero_grad()
            step(data)["total"].backward()
            optimiser.step()
    found = methods.infer_segmentation(step.model.eval(), data["pixels"], scales=(1,), reduce="mean", crf=False).argmax(1)
    truth = data["mask"]
    iou = [((found == c) & (truth == c)).sum() / ((found == c) | (truth == c)).sum() for c in range(3)]
    assert min(iou) > 0.8 and sum(iou) / 3 > 0.9, iou


@torch.inference_mode()
def test_inference_as_published() -> None:
    """Max: softmax of the enlarged ``forward``. Mean: by its definition, in float64."""
    pixels = scenes(2, 48)[0][:, :, :40]
    model = lively(methods.create("deeplab", 2, "resnet101-caffe", head="aspp", width=1 / 16))
    image = model.normalise(pixels)
    expected = functional.interpolate(model(image), (40, 48), mode="bilinear").softmax(1)
    assert relative_error(methods.infer_segmentation(model, pixels, crf=False), expected) < 1e-5
    crf = ops.dense_crf(expected, pixels, iterations=10, gaussian=(1, 3), bilateral=(67, 3, 4))
    found = methods.infer_segmentation(model, pixels)
    assert relative_error(found, crf) < 1e-3 and not torch.allclose(found, expected, atol=1e-3)

    model = lively(methods.create("deeplab", 2, "resnet38", width=1 / 16))
    image = model.normalise(pixels)
    total = torch.zeros(2, 3, 40, 48, dtype=torch.float64)
    for scale in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75):
        scaled = functional.interpolate(image, (int(40 * scale), int(48 * scale)), mode="bilinear")
        for turn in (lambda x: x, lambda x: x.flip(3)):
            logits = turn(model.forward_cam(turn(scaled))).double()
            total += functional.interpolate(logits, (40, 48), mode="bilinear", align_corners=True)
    expected = (total / 12).softmax(1)
    assert relative_error(methods.infer_segmentation(model, pixels, crf=False), expected) < 1e-5
    asked = methods.infer_segmentation(model, pixels, crf={"iterations": 0})
    assert relative_error(asked, expected) < 1e-4  # softmax of the logarithm


@torch.inference_mode()
def test_inference_on_squares() -> None:
    """As DCP tested: the image squeezed to squares, scores averaged."""
    pixels = scenes(2, 48)[0][:, :, :40]
    model = lively(methods.create("deeplab", 2, "vgg16", head="largefov", width=1 / 16))
    image, total = model.normalise(pixels), torch.zeros(2, 3, 40, 48, dtype=torch.float64)
    for side in (24, 33, 41):
        logits = model.forward_cam(functional.interpolate(image, (side, side), mode="bilinear", align_corners=False))
        total += functional.interpolate(logits.double(), (40, 48), mode="bilinear", align_corners=True)
    found = methods.infer_segmentation(model, pixels, squares=(24, 33, 41), reduce="mean", crf=False)
    assert relative_error(found, (total / 3).softmax(1)) < 1e-5
    refined = methods.infer_segmentation(model, pixels, squares=(24, 33, 41), reduce="mean")
    assert relative_error(refined, ops.dense_crf(found, pixels, **model.inference.crf)) < 1e-4


def test_inference_table() -> None:
    def told(backbone: str, head: str, published: str | None = None) -> deeplab.Inference:
        with torch.device("meta"):
            return methods.create("deeplab", 2, backbone, published, head=head).inference

    assert told("resnet101-caffe", "largefov").crf == {"iterations": 10, "gaussian": (3, 3), "bilateral": (121, 5, 4)}
    assert told("resnet50", "aspp") == told("resnet101-caffe", "aspp")
    assert told("vgg16", "aspp").crf["bilateral"] == (65, 3, 4) and told("vgg16", "largefov").scales == (1.0,)
    assert told("vgg16", "largefov", "code").scales == (1.0, 0.75, 0.5)
    r38 = told("resnet38", "largefov")
    assert r38.crf["iterations"] == 1 and r38.flip and r38.reduce == "mean" and max(r38.scales) == 1.75


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 3)], ids=str)
def test_small_images(size: tuple[int, int]) -> None:
    model = methods.create("deeplab", 2, "vgg16", width=1 / 16).eval()
    found = methods.infer_segmentation(model, torch.zeros(1, 3, *size, dtype=torch.uint8))
    assert found.shape == (1, 3, *size) and torch.allclose(found.sum(1), torch.ones(1, *size), atol=1e-5)


def test_wrong_inference() -> None:
    model = methods.create("deeplab", 2, "vgg16", width=1 / 16)
    pixels = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"'model' must be in eval mode"):
        methods.infer_segmentation(model, pixels)
    model.eval()
    with pytest.raises(ValueError, match="'pixels' must be uint8 RGB"):
        methods.infer_segmentation(model, pixels.float())
    with pytest.raises(ValueError, match="'scales' must be numbers above 0"):
        methods.infer_segmentation(model, pixels, scales=(0,))
    with pytest.raises(ValueError, match="'squares' must be whole numbers from 1 to 16384, got \\(0,\\)"):
        methods.infer_segmentation(model, pixels, squares=(0,))
    with pytest.raises(ValueError, match="'squares' come in place of 'scales'"):
        methods.infer_segmentation(model, pixels, squares=(8,), scales=(1,))
    with pytest.raises(ValueError, match="'reduce' must be one of max, mean"):
        methods.infer_segmentation(model, pixels, reduce="sum")
    with pytest.raises(ValueError, match="'model' must be a deeplab, got 'cam'"):
        methods.infer_segmentation(methods.create("cam", 2, width=1 / 16), pixels)
