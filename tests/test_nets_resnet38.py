"""ResNet38: sizes, taps, strides, what is trained, and what wrong images are told."""

from __future__ import annotations

import pytest
import torch
from helpers import relative_error
from networks import lively
from torch import nn

from wsss_fast.nets.resnet38 import Basic, ResNet38

WIDTH = 1 / 16


def small(**options: object) -> ResNet38:
    return lively(ResNet38(width=WIDTH, **options))


def test_size_of_the_published_network() -> None:
    with torch.device("meta"):
        model = ResNet38()
    convolutions = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert sum(weight.numel() for weight in convolutions) == 105_023_168
    assert model.channels == {"conv3": 256, "conv4": 512, "conv5": 1024, "conv6": 4096}
    frozen = {name.split(".")[0] for name, value in model.named_parameters() if not value.requires_grad and value.ndim == 4}
    assert frozen == {"conv1a", "b2", "b2_1", "b2_2"}
    assert not any(value.requires_grad for value in model.parameters() if value.ndim == 1)


@pytest.mark.parametrize("size", [(64, 48), (65, 41), (9, 8), (1, 1), (1, 23)], ids=str)
def test_taps(size: tuple[int, int]) -> None:
    model = small()
    names = ("conv3", "conv4", "conv5", "conv6")
    with torch.inference_mode():
        taps = model.features(torch.randn(2, 3, *size), *names)
    for name, tap in zip(names, taps, strict=True):
        cell = 4 if name == "conv3" else 8
        # three successive halvings, rounded up
        assert tap.shape == (2, model.channels[name], *(-(-side // cell) for side in size))
        assert tap.min() >= 0


def test_a_tap_is_not_overwritten() -> None:
    model = small()
    image = torch.randn(1, 3, 24, 24)
    with torch.inference_mode():
        together = model.features(image, "conv6", "conv3", "conv4", "conv5")
        for name, tap in zip(("conv6", "conv3", "conv4", "conv5"), together, strict=True):
            assert torch.equal(model.features(image, name)[0], tap)


def test_a_block_by_hand() -> None:
    block = lively(Basic(8, 16, 24, 2, 1, 1))
    model = small()
    x = torch.randn(1, 8, 7, 7)
    a = nn.functional.relu(block.bn_branch2a(x))
    expected = nn.functional.conv2d(a, block.conv_branch2a.weight, stride=2, padding=1)
    expected = nn.functional.conv2d(nn.functional.relu(block.bn_branch2b1(expected)), block.conv_branch2b1.weight, padding=1)
    assert relative_error(block.branch(a), expected) < 1e-6
    assert [(block.conv_branch2a.dilation, block.conv_branch2b1.dilation) for block in (model.b5, model.b5_1)] == [
        ((1, 1), (2, 2)),
        ((2, 2), (2, 2)),
    ]
    assert model.b6.conv_branch2b1.dilation == model.b7.conv_branch2b1.dilation == (4, 4)


@pytest.mark.parametrize("output_stride", [16, 32])
@pytest.mark.parametrize("size", [(64, 96), (70, 41)], ids=str)
def test_dilation_stands_for_strides(output_stride: int, size: tuple[int, int]) -> None:
    """Every second (or fourth) cell of the dilated network computes what the strided one does, up to the border."""
    fine, coarse = small(), small(output_stride=output_stride)
    coarse.load_state_dict(fine.state_dict())
    step = output_stride // 8
    with torch.inference_mode():
        image = torch.randn(1, 3, *size)
        assert relative_error(fine(image)[..., ::step, ::step], coarse(image)) < 1e-5


def test_training_leaves_frozen_layers_alone() -> None:
    model = small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    model(torch.randn(2, 3, 16, 16)).square().mean().backward()
    optimiser.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    convolutions = {name for name in before if "conv" in name and not name.startswith(("conv1a", "b2"))}
    assert changed == convolutions
    assert model.training and not model.bn7.training


def test_unfrozen() -> None:
    model = small(frozen=False).train()
    assert all(value.requires_grad for value in model.parameters()) and model.bn7.training


def test_dropout_in_training_alone() -> None:
    model = small()
    image = torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(model(image), model(image))
        model.train()
        assert not torch.equal(model(image), model(image))


def test_gradients_are_those_of_a_plain_network() -> None:
    """Operations in place must not touch what the backward pass reads: compare with finite differences."""
    model = small().double().eval()
    image = torch.randn(1, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: model(x).sum(), image, fast_mode=True)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.zeros(1, 1, 8, 8), ValueError, r"'image' must have shape \[N, 3, H, W\], got \[1, 1, 8, 8\].*RGB"),
        (torch.zeros(1, 4, 8, 8), ValueError, r"got \[1, 4, 8, 8\]"),
        (torch.zeros(3, 8, 8), ValueError, r"image\[None\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, r"float type, normalised, got uint8.*normalise"),
        (torch.zeros(1, 3, 0, 8), ValueError, "at least one row and column"),
        ([[1.0]], TypeError, "must be a torch.Tensor, got list"),
    ],
    ids=["grey", "rgba", "no batch", "bytes", "empty", "list"],
)
def test_bad_image(image: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"resnet38: 'image'.*{message}|resnet38: {message}"):
        small()(image)


def test_bad_output_stride() -> None:
    with pytest.raises(ValueError, match="resnet38: 'output_stride' must be one of 8, 16, 32, got 7"):
        ResNet38(output_stride=7)
