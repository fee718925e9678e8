"""Packed networks compute what they did, at every size."""

from __future__ import annotations

import pytest
import torch
from helpers import relative_error
from networks import lively
from torch import nn

from wsss_fast import methods, nets


@pytest.mark.parametrize("name", ["seam", "cpn", "cam-efficientnet", "deeplab"])
@torch.inference_mode()
def test_equal(name: str) -> None:
    model = methods.create("cam", 3, "efficientnet-lite0") if "-" in name else methods.create(name, 3, width=1 / 16)
    model = lively(model)
    packed = nets.pack(nets.fold(model))
    for size in ((1, 3, 37, 50), (2, 3, 64, 64), (1, 3, 3, 1)):
        image = torch.randn(size)
        assert relative_error(packed.forward_cam(image), model.forward_cam(image)) < 1e-5
    assert not any(type(layer) is nn.Conv2d for layer in packed.modules())
    assert not packed.training


def test_weight_can_be_read() -> None:
    layer = nn.Conv2d(5, 16, 3, bias=False)
    assert torch.equal(nets.pack(nn.Sequential(layer))[0].weight, layer.weight)


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="pack: 'module' must be float32 on the CPU, got float64 on cpu"):
        nets.pack(nn.Sequential(nn.Conv2d(3, 4, 1)).double())
