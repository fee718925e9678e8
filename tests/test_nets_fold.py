"""Folded networks compute what they did."""

from __future__ import annotations

import pytest
import torch
from helpers import relative_error
from networks import lively
from torch import nn

from wsss_fast import methods, nets
from wsss_fast.nets.efficientnet import EfficientNetLite0
from wsss_fast.nets.resnet import CaffeResNet, ResNet
from wsss_fast.nets.resnet38 import ResNet38

# network, and how many normalisations stay: in ResNet38 those behind an identity shortcut
NETWORKS = {
    "resnet38": (lambda: ResNet38(width=1 / 16), 15),
    "resnet50": (lambda: ResNet(50, 8, width=1 / 8), 0),
    "resnet101-caffe": (lambda: CaffeResNet(101, width=1 / 8), 0),
    "efficientnet-lite0": (lambda: EfficientNetLite0(10), 0),
    "seam": (lambda: methods.create("seam", 2, width=1 / 16), 15),
    "deeplab": (lambda: methods.create("deeplab", 2, "resnet38", width=1 / 16), 15),
}


def run(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    return model.forward_cam(image) if hasattr(model, "forward_cam") else model(image)


def norms(model: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_equal(name: str) -> None:
    build, left = NETWORKS[name]
    model = lively(build())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    image = torch.randn(2, 3, 37, 50)
    expected = run(model, image)
    folded = nets.fold(model)
    assert norms(folded) == left
    assert relative_error(run(folded, image), expected) < 1e-5
    assert before.keys() == model.state_dict().keys(), "the network itself was changed"
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert relative_error(run(nets.fold(folded), image), expected) < 1e-5  # folding twice is folding once


def test_exact_in_float64() -> None:
    model = lively(ResNet38(width=1 / 16)).double()
    image = torch.randn(1, 3, 25, 25, dtype=torch.float64)
    with torch.inference_mode():
        assert relative_error(nets.fold(model)(image), model(image)) < 1e-12


def test_in_place_and_eval() -> None:
    model = lively(ResNet38(width=1 / 16)).train()
    assert nets.fold(model, inplace=True) is model
    assert not model.training and isinstance(model.bn7, nn.Identity)


def test_a_network_without_anything_to_fold() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert norms(nets.fold(model)) == 1
