"""ResNet-50 and ResNet-101 with torchvision's and with Caffe's strides."""

from __future__ import annotations

import pytest
import torch
from helpers import relative_error
from networks import lively

from wsss_fast.nets.resnet import CaffeResNet, ResNet

WIDTH = 1 / 8


@pytest.mark.parametrize(("depth", "parameters", "last"), [(50, 23_508_032, "layer3.5"), (101, 42_500_160, "layer3.22")])
def test_size_of_the_published_network(depth: int, parameters: int, last: str) -> None:
    """The numbers of torchvision's models without their classifier."""
    with torch.device("meta"):
        model = ResNet(depth)
    assert sum(value.numel() for value in model.parameters()) == parameters
    names = set(model.state_dict())
    assert {
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.bias",
        f"{last}.bn3.weight",
    } <= names
    assert model.layer2[0].conv1.stride == (1, 1) and model.layer2[0].conv2.stride == (2, 2)


@pytest.mark.parametrize("size", [(64, 48), (65, 41), (5, 9), (1, 1)], ids=str)
def test_taps(size: tuple[int, int]) -> None:
    model = lively(ResNet(50, output_stride=16, dilate=False, width=WIDTH))
    names = ("layer4", "stem", "layer1", "layer2", "layer3")
    with torch.inference_mode():
        taps = model.features(torch.randn(1, 3, *size), *names)
    for name, tap, cell in zip(names, taps, (16, 4, 4, 8, 16), strict=True):
        assert tap.shape == (1, model.channels[name], *(-(-side // cell) for side in size))


@pytest.mark.parametrize("kind", ["torchvision", "caffe"])
@pytest.mark.parametrize("size", [(64, 96), (65, 33)], ids=str)
def test_dilation_stands_for_strides(kind: str, size: tuple[int, int]) -> None:
    """In the Caffe form every cell of the strided network is one of the dilated; so is it in torchvision's."""
    build = (lambda stride: ResNet(50, stride, width=WIDTH)) if kind == "torchvision" else (lambda s: CaffeResNet(50, s, WIDTH))
    fine, coarse = lively(build(8)), lively(build(32))
    coarse.load_state_dict(fine.state_dict())
    with torch.inference_mode():
        image = torch.randn(1, 3, *size)
        assert relative_error(fine(image)[..., ::4, ::4], coarse(image)) < 1e-5


def test_without_dilation_the_filters_stay() -> None:
    model = ResNet(50, output_stride=16, dilate=False, width=WIDTH)
    assert {layer.dilation for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)} == {(1, 1)}


def test_caffe_strides_and_pool() -> None:
    model = lively(CaffeResNet(101, width=WIDTH))
    block = model.layer3.block1
    assert block.reduce.conv.stride == (2, 2) and block.conv3x3.conv.stride == (1, 1)
    assert [stage.block1.conv3x3.conv.dilation[0] for stage in (model.layer2, model.layer3, model.layer4, model.layer5)] == [
        1,
        1,
        2,
        4,
    ]
    # 41 -> 21 -> 11 where a window may hang over the border, 10 elsewhere
    assert model.layer1(torch.zeros(1, 3, 41, 41)).shape[2:] == (11, 11)


@pytest.mark.parametrize(
    "build", [lambda: ResNet(50, width=WIDTH), lambda: CaffeResNet(50, width=WIDTH)], ids=["torchvision", "caffe"]
)
def test_statistics_stay_in_training(build) -> None:
    model = lively(build()).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="resnet: 'depth' must be one of 50, 101, got 34"):
        ResNet(34)
    with pytest.raises(ValueError, match="resnet50: 'output_stride' must be one of 8, 16, 32, got 4"):
        ResNet(50, output_stride=4)
    with pytest.raises(ValueError, match=r"resnet50: 'image' must have shape \[N, 3, H, W\], got \[1, 4, 8, 8\]"):
        ResNet(50, width=WIDTH)(torch.zeros(1, 4, 8, 8))
