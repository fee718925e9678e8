"""VGG16 in its two published cuts: the same convolutions under two sets of names."""

from __future__ import annotations

import pytest
import torch
from helpers import relative_error
from networks import lively
from torch import nn

from wsss_fast.nets.vgg16 import VGG16, VGG16PSA

WIDTH = 1 / 8


def test_size_of_the_published_network() -> None:
    with torch.device("meta"):
        model, convolutions = VGG16PSA(), VGG16()
    assert sum(value.numel() for value in convolutions.parameters()) == 14_714_688
    assert sum(value.numel() for value in model.parameters()) == 14_714_688 + (512 * 9 + 1) * 1024 + 1025 * 1024
    assert {"conv1_1.weight", "conv5_3.bias", "fc6.weight", "fc7.bias"} <= set(model.state_dict())
    assert {"layer1.0.0.weight", "layer1.12.0.bias", "layer2.2.0.weight"} <= set(convolutions.state_dict())
    frozen = {name.split(".")[0] for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen == {"conv1_1", "conv1_2", "conv2_1", "conv2_2"}


@pytest.mark.parametrize("size", [(64, 48), (65, 41), (3, 9), (1, 1)], ids=str)
def test_taps(size: tuple[int, int]) -> None:
    model = lively(VGG16PSA(width=WIDTH))
    with torch.inference_mode():
        taps = model.features(torch.randn(1, 3, *size), "conv4", "conv5", "conv6")
    cells = tuple(-(-side // 8) for side in size)
    assert [tuple(tap.shape) for tap in taps] == [(1, channels, *cells) for channels in (64, 64, 128)]


def test_both_cuts_compute_the_same() -> None:
    named, plain = lively(VGG16PSA(width=WIDTH)), lively(VGG16(width=WIDTH))
    convolutions = [layer for layer in plain.modules() if isinstance(layer, nn.Conv2d)]
    for layer, (_, other) in zip(convolutions, named.named_children(), strict=False):
        layer.load_state_dict(other.state_dict())
    with torch.inference_mode():
        image = torch.randn(1, 3, 33, 40)
        before_pool = named.features(image, "conv5")[0]
        assert relative_error(plain(image), nn.functional.max_pool2d(before_pool, 3, 1, 1)) < 1e-6
        averaged = VGG16(WIDTH, average_pool=True).eval()
        averaged.load_state_dict(plain.state_dict())
        assert relative_error(averaged(image), nn.functional.avg_pool2d(plain(image), 3, 1, 1)) < 1e-6


def test_fc6_dilation() -> None:
    assert VGG16PSA(fc6_dilation=4, width=WIDTH).fc6.dilation == (4, 4)
