"""What the networks share: the pixels they expect, checks of the image, and layers that are not trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Normalisation:
    """The pixels that a network expects: ``(value - mean) / std`` of values from 0 to 255, in RGB or BGR order."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    order: str = "rgb"

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [N, 3, H, W] -> float32 of the same shape."""
        check_pixels("normalise", "pixels", pixels)
        if self.order == "bgr":
            pixels = pixels.flip(1)
        mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std


# (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225) of values from 0 to 1
IMAGENET = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE = Normalisation((104.008, 116.669, 122.675), (1.0, 1.0, 1.0), "bgr")


def check_pixels(caller: str, argument: str, pixels: Tensor) -> None:
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
        got = f"{str(pixels.dtype).removeprefix('torch.')} {list(pixels.shape)}"
        raise ValueError(f"{caller}: '{argument}' must be uint8 RGB of shape [N, 3, H, W], got {got}")


def check_image(network: str, image: Tensor) -> None:
    """Everything a wrong image can be, said before a convolution fails on it."""
    if not isinstance(image, Tensor):
        raise TypeError(f"{network}: 'image' must be a torch.Tensor, got {type(image).__name__}")
    if image.ndim != 4 or image.shape[1] != 3:
        hint = "convert the picture to RGB" if image.ndim == 4 else "add the batch dimension with image[None]"
        raise ValueError(f"{network}: 'image' must have shape [N, 3, H, W], got {list(image.shape)}. Hint: {hint}")
    if not image.is_floating_point():
        got = str(image.dtype).removeprefix("torch.")
        hint = "model.normalise(image) makes the network's input of uint8 RGB pixels"
        raise TypeError(f"{network}: 'image' must be of a float type, normalised, got {got}. Hint: {hint}")
    if image.shape[2] < 1 or image.shape[3] < 1:
        raise ValueError(f"{network}: 'image' must have at least one row and column, got {list(image.shape)}")


def check_choice(network: str, argument: str, value: object, choices: Iterable[object]) -> None:
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{network}: '{argument}' must be one of {', '.join(map(str, choices))}, got {value!r}")


def scaled(channels: int, width: float) -> int:
    """Channels of a narrower network: a multiple of 8, so that it can be halved and quartered."""
    return max(8, round(channels * width / 8) * 8)


def freeze(*modules: nn.Module) -> None:
    """Takes the parameters of ``modules`` out of training."""
    for module in modules:
        module.requires_grad_(False)


def unfreeze(root: nn.Module) -> None:
    """Puts all of it into training, batch normalisation included: for networks that were not pretrained."""
    root.requires_grad_(True)
    for module in root.modules():
        if hasattr(module, "frozen"):
            module.frozen = False
    root.train(root.training)


def batch_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


def keep_statistics(module: nn.Module) -> None:
    """Batch normalisation uses its stored statistics, also in training."""
    for layer in batch_norms(module):
        layer.eval()


class KeepsStatistics(nn.Module):
    """While it is `frozen`, `train()` leaves batch normalisation on its stored statistics."""

    frozen = True

    def train(self, mode: bool = True) -> KeepsStatistics:
        super().train(mode)
        if self.frozen:
            keep_statistics(self)
        return self


def stride_or_dilation(trained_stride: int, reached: int, dilation: int, output_stride: int) -> tuple[int, int]:
    """The stride of a stage and the dilation behind it: once ``output_stride`` is reached, strides turn into dilation."""
    if reached * trained_stride > output_stride:
        return 1, dilation * trained_stride
    return trained_stride, dilation
