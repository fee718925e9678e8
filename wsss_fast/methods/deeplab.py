"""DeepLab: the segmentation networks that are trained on pseudo labels.

Heads: ``largefov`` (DeepLab v1: a 3x3 convolution of dilation 12 and two 1x1) and ``aspp`` (v2: four branches of dilation 6,
12, 18 and 24, summed). Backbones and the layouts of their published checkpoints:

- ``resnet101-caffe``: deeplab-pytorch (v2), L2G's fork of it (v1)
- ``vgg16``: L2G's fork of deeplab-pytorch
- ``resnet38``: the v1 of SEAM and CPN, with batch normalisation in its head
- ``resnet50``, ``resnet101``: torchvision's backbone names, for ImageNet weights
- ``efficientnet-lite0``: not published with DeepLab; a CPU can train it from the built-in ImageNet weights

``forward_cam`` gives the logits [N, 1 + C, h, w] of one scale, background first. ``forward`` in eval mode gives the
element-wise maximum of the logits over ``scales`` of the image, at the grid of scale 1; in training the list of the logits of
all scales, then the maximum.

``published``: "paper" averages behind VGG16's pool5, as DeepLab's Caffe model does and its PyTorch ports do not; "code"
trains ResNet38 with batch statistics and nothing frozen, as happened in the released training, and trains and tests VGG16 with
LargeFOV as L2G's fork does. What it changes in training besides: `DeepLabTraining`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wsss_fast.methods._deeplab_training import HEADS, DeepLabSettings, DeepLabTraining, losses, settings
from wsss_fast.methods._infer import at_scale, bilinear
from wsss_fast.methods._method import Method
from wsss_fast.nets._common import batch_norms, check_choice, check_image, freeze, scaled
from wsss_fast.nets.efficientnet import HEAD_CHANNELS, EfficientNetLite0
from wsss_fast.nets.resnet import CaffeResNet, ResNet
from wsss_fast.nets.resnet38 import ResNet38
from wsss_fast.nets.vgg16 import VGG16

__all__ = ["BACKBONES", "TRAINING", "DeepLab", "DeepLabSettings", "DeepLabTraining", "Inference", "losses", "settings"]

RATES = (6, 12, 18, 24)
FOV_RATE = 12
SCALES = (1.0, 0.75, 0.5)


@dataclass(frozen=True)
class Inference:
    """How a network was tested: what `methods.infer_segmentation` does by default."""

    crf: dict[str, Any]  # arguments of ops.dense_crf
    scales: tuple[float, ...] = SCALES
    flip: bool = False
    reduce: str = "max"


_LARGEFOV_CRF = {"iterations": 10, "gaussian": (3, 3), "bilateral": (121, 5, 4)}
_ASPP_CRF = {"iterations": 10, "gaussian": (1, 3), "bilateral": (67, 3, 4)}
_VGG16_CRF = {"iterations": 10, "gaussian": (2, 2), "bilateral": (65, 3, 4)}
_RESNET38_CRF = {"iterations": 1, "gaussian": (3, 3), "bilateral": (32, 13, 10)}
_RESNET38 = Inference(_RESNET38_CRF, (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True, reduce="mean")
INFERENCE = {"aspp": Inference(_ASPP_CRF), "largefov": Inference(_LARGEFOV_CRF)}  # of ResNet-101, and of what was never published
INFERENCE |= {("vgg16", "aspp"): Inference(_VGG16_CRF), ("vgg16", "largefov"): Inference(_LARGEFOV_CRF, (1.0,))}
INFERENCE |= {("resnet38", "largefov"): _RESNET38, ("resnet38", "aspp"): _RESNET38}


class Aspp(nn.Module):
    """The sum of c0, c1, c2 and c3."""

    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        for index, branch in enumerate(branches):
            self.add_module(f"c{index}", branch)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.children()
        total = first(x)
        for branch in others:
            total = total + branch(x)
        return total


class LargeFov(nn.Sequential):
    def __init__(self, inputs: int, middle: int, outputs: int, rate: int = FOV_RATE) -> None:
        super().__init__()
        self.conv6 = nn.Conv2d(inputs, middle, 3, padding=rate, dilation=rate)
        self.relu6 = nn.ReLU(inplace=True)
        self.drop6 = nn.Dropout2d(0.5)
        self.conv7 = nn.Conv2d(middle, middle, 1)
        self.relu7 = nn.ReLU(inplace=True)
        self.drop7 = nn.Dropout2d(0.5)
        self.conv8 = nn.Conv2d(middle, outputs, 1)
        _start_small(self)


class DeepLab(Method, nn.Module):
    """What the backbones share; they define ``forward_cam``."""

    name = "deeplab"
    new_layers = ("base.aspp.*", "base.fov.*", "aspp.*", "conv_fov*", "bn_fov*", "cls_conv.*")
    background = "first"
    outputs = ("logits",)

    def __init__(self, num_classes: int, published: str | None, backbone: str, head: str, scales: tuple[float, ...]) -> None:
        super().__init__()
        check_choice("deeplab", "head", head, HEADS)
        if not scales or scales[0] != 1 or not all(0 < scale <= 1 for scale in scales):
            raise ValueError(f"deeplab: 'scales' must begin with 1 and lie between 0 and 1, got {scales!r}")
        self._describe(backbone, num_classes, published)
        self.head = head
        self.scales = tuple(scales)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        check_image("deeplab", image)
        if min(image.shape[2:]) * min(self.scales) < 1:
            expected = f"have sides of at least {1 / min(self.scales):.3g} pixels for scales {self.scales}"
            raise ValueError(f"deeplab: 'image' must {expected}, got {list(image.shape)}")
        every = [self.forward_cam(image)]
        every += [self.forward_cam(at_scale(image, scale)) for scale in self.scales[1:]]
        largest = every[0]
        for logits in every[1:]:
            largest = torch.maximum(largest, bilinear(logits, every[0].shape[2:]))
        return [*every, largest] if self.training else largest

    @property
    def inference(self) -> Inference:
        """How this network was tested."""
        if self.published == "code" and (self.backbone_name, self.head) == ("vgg16", "largefov"):
            return INFERENCE["largefov"]
        return INFERENCE.get((self.backbone_name, self.head), INFERENCE[self.head])


class DeepLabCaffe(DeepLab):
    """Backbone and head stand side by side in ``base``."""

    def __init__(
        self,
        num_classes: int,
        published: str | None = None,
        *,
        backbone: str = "resnet101-caffe",
        head: str = "aspp",
        scales: tuple[float, ...] = SCALES,
        output_stride: int = 8,
        width: float = 1.0,
    ) -> None:
        super().__init__(num_classes, published, backbone, head, scales)
        if backbone == "vgg16":
            check_choice("deeplab", "output_stride", output_stride, (8,))
            self.base = VGG16(width, average_pool=published == "paper")
        else:
            self.base = CaffeResNet(101, output_stride, width)
        self.output_stride = output_stride
        self.normalise = self.base.normalise
        sizes = self.base.outputs, scaled(1024, width), 1 + num_classes
        if head == "largefov":
            self.base.add_module("aspp" if backbone == "vgg16" else "fov", LargeFov(*sizes))
        else:
            branch = _deep_branch if backbone == "vgg16" else _branch
            self.base.add_module("aspp", Aspp([branch(*sizes, rate) for rate in RATES]))

    def forward_cam(self, image: Tensor) -> Tensor:
        check_image("deeplab", image)
        return self.base(image)


class DeepLabTorchvision(DeepLab):
    def __init__(
        self,
        num_classes: int,
        published: str | None = None,
        *,
        backbone: str = "resnet101",
        head: str = "aspp",
        scales: tuple[float, ...] = SCALES,
        output_stride: int = 8,
        width: float = 1.0,
    ) -> None:
        super().__init__(num_classes, published, backbone, head, scales)
        self.backbone = ResNet(int(backbone.removeprefix("resnet")), output_stride, width=width)
        freeze(*batch_norms(self.backbone))
        self.output_stride = output_stride
        self.normalise = self.backbone.normalise
        sizes = self.backbone.channels["layer4"], scaled(1024, width), 1 + num_classes
        self.aspp = LargeFov(*sizes) if head == "largefov" else Aspp([_branch(*sizes, rate) for rate in RATES])

    def forward_cam(self, image: Tensor) -> Tensor:
        return self.aspp(self.backbone(image))


class DeepLabEfficientNet(DeepLab):
    def __init__(
        self,
        num_classes: int,
        published: str | None = None,
        *,
        head: str = "aspp",
        scales: tuple[float, ...] = SCALES,
        output_stride: int = 16,
    ) -> None:
        super().__init__(num_classes, published, "efficientnet-lite0", head, scales)
        self.backbone = EfficientNetLite0(num_classes=None, output_stride=output_stride)
        self.output_stride = output_stride
        self.normalise = self.backbone.normalise
        # The published rates are cells of 8 pixels; these look as many pixels far.
        rates = [rate * 8 // output_stride for rate in RATES]
        sizes = HEAD_CHANNELS, 256, 1 + num_classes
        self.aspp = LargeFov(*sizes, rates[1]) if head == "largefov" else Aspp([_branch(*sizes, rate) for rate in rates])

    def forward_cam(self, image: Tensor) -> Tensor:
        return self.aspp(self.backbone.features(image))


class DeepLabResNet38(DeepLab):
    def __init__(
        self,
        num_classes: int,
        published: str | None = None,
        *,
        head: str = "largefov",
        scales: tuple[float, ...] = SCALES,
        output_stride: int = 8,
        width: float = 1.0,
    ) -> None:
        super().__init__(num_classes, published, "resnet38", head, scales)
        self.backbone = ResNet38(output_stride, width, frozen=published != "code")
        # The published momentum needs thousands of steps before the statistics are those of the data.
        momentum = 0.1 if published is None else 3e-4
        for layer in batch_norms(self.backbone):
            layer.momentum = momentum
        self.output_stride = output_stride
        self.normalise = self.backbone.normalise
        inputs, middle, outputs = self.backbone.channels["conv6"], scaled(512, width), 1 + num_classes
        if head == "aspp":
            self.aspp = Aspp([_branch(inputs, middle, outputs, rate) for rate in RATES])
            return
        self.conv_fov = nn.Conv2d(inputs, middle, 3, padding=FOV_RATE, dilation=FOV_RATE, bias=False)
        self.bn_fov = nn.BatchNorm2d(middle, momentum=momentum)
        self.conv_fov2 = nn.Conv2d(middle, middle, 1, bias=False)
        self.bn_fov2 = nn.BatchNorm2d(middle, momentum=momentum)
        self.dropout1 = nn.Dropout(0.5)
        self.cls_conv = nn.Conv2d(middle, outputs, 1)
        for layer in (self.conv_fov, self.conv_fov2, self.cls_conv):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward_cam(self, image: Tensor) -> Tensor:
        x = self.backbone(image)
        if self.head == "aspp":
            return self.aspp(x)
        x = self.bn_fov(self.conv_fov(x)).relu_()
        x = self.bn_fov2(self.conv_fov2(x)).relu_()
        return self.cls_conv(self.dropout1(x))

    def foldable(self) -> list:
        if self.head == "aspp":
            return []
        return [([self.conv_fov], self, "bn_fov"), ([self.conv_fov2], self, "bn_fov2")]


def _branch(inputs: int, middle: int, outputs: int, rate: int) -> nn.Module:
    layer = nn.Conv2d(inputs, outputs, 3, padding=rate, dilation=rate)
    _start_small(layer)
    return layer


def _deep_branch(inputs: int, middle: int, outputs: int, rate: int) -> nn.Module:
    first = [nn.Conv2d(inputs, middle, 3, padding=rate, dilation=rate), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    second = [nn.Conv2d(middle, middle, 1), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    branch = nn.Sequential(*first, *second, nn.Conv2d(middle, outputs, 1))
    _start_small(branch)
    return branch


def _start_small(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)


TRAINING = DeepLabTraining
BACKBONES = {
    "resnet101-caffe": DeepLabCaffe,
    "vgg16": DeepLabCaffe,
    "resnet38": DeepLabResNet38,
    "resnet101": DeepLabTorchvision,
    "resnet50": DeepLabTorchvision,
    "efficientnet-lite0": DeepLabEfficientNet,
}
