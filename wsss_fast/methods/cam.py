"""CAM: a classifier whose last layer, applied at every place, gives class maps.

Zhou et al., "Learning Deep Features for Discriminative Localization". As the baseline of PSA (ResNet38, VGG16) and of IRN
(ResNet-50): dropout, average over all places, 1x1 convolution without bias. ``forward`` gives class scores [N, C] before the
sigmoid, ``forward_cam`` the maps [N, C, h, w] after ReLU.

``published="code"``: the VGG16 of PSA takes the square root of its maps and applies its classifier before the average
(which only dropout can tell).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from wsss_fast.methods._method import Method, check_published, classifier
from wsss_fast.methods._training import PSA_MOMENTUM, Training, TrainSettings
from wsss_fast.methods.losses import soft_margin
from wsss_fast.nets.efficientnet import EfficientNetLite0
from wsss_fast.nets.resnet import ResNet
from wsss_fast.nets.resnet38 import ResNet38
from wsss_fast.nets.vgg16 import VGG16PSA


def losses(scores: Tensor, labels: Tensor, published: str | None = None) -> dict[str, Tensor]:
    """The terms of a step: ``classification`` (`soft_margin`), which is the ``total``.

    Args:
        scores: [N, C], of ``forward``.
        labels: [N, C], 1 for a class in the image, else 0.
        published: changes nothing.
    """
    check_published("cam.losses", published)
    classification = soft_margin(scores, labels)
    return {"classification": classification, "total": classification}


def settings(published: str | None, dataset: str) -> TrainSettings:
    """As PSA trains its ResNet38. Released for VOC alone."""
    return TrainSettings(momentum=PSA_MOMENTUM[published])


class CamTraining(Training):
    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return losses(self.model(self.image(batch)), batch["labels"], self.model.published)


class Cam(Method):
    name = "cam"
    new_layers = ("fc8.*", "classifier.*", "_fc.*")
    merge = "psa"
    scales = (1.0, 0.5, 1.5, 2.0)
    threshold = 0.2


class CamResNet38(Cam, ResNet38):
    def __init__(self, num_classes: int, published: str | None = None, *, output_stride: int = 8, width: float = 1.0) -> None:
        ResNet38.__init__(self, output_stride, width)
        self._describe("resnet38", num_classes, published)
        self.dropout7 = nn.Dropout2d(0.5)
        self.fc8 = classifier(self.channels["conv6"], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        features = self.dropout7(self.features(image, "conv6")[0])
        return self.fc8(features.mean(dim=(2, 3), keepdim=True)).flatten(1)

    def forward_cam(self, image: Tensor) -> Tensor:
        return self.fc8(self.features(image, "conv6")[0]).relu()


class CamVGG16(Cam, VGG16PSA):
    def __init__(self, num_classes: int, published: str | None = None, *, width: float = 1.0) -> None:
        VGG16PSA.__init__(self, fc6_dilation=1, width=width)
        self._describe("vgg16-psa", num_classes, published)
        self.drop7 = nn.Dropout2d(0.5)
        self.fc8 = classifier(self.channels["conv6"], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc8(self.drop7(self.features(image, "conv6")[0])).mean(dim=(2, 3))

    def forward_cam(self, image: Tensor) -> Tensor:
        maps = self.fc8(self.features(image, "conv6")[0]).relu()
        return maps.sqrt() if self.published == "code" else maps


class CamResNet(Cam, nn.Module):
    """As IRN trains it: output stride 16 without dilation; layers up to layer2 get no gradient."""

    merge = "irn"
    threshold = None  # IRN makes labels of two thresholds
    unused = ("stage*", "backbone.*", "newly_added.*")  # the published module holds its layers a second time in lists

    def __init__(
        self,
        num_classes: int,
        published: str | None = None,
        *,
        backbone: str = "resnet50",
        output_stride: int = 16,
        dilate: bool = False,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self._describe(backbone, num_classes, published)
        network = ResNet(int(backbone.removeprefix("resnet")), output_stride, dilate, width)
        self.add_module(self.backbone_name, network)
        self.output_stride = output_stride
        self.normalise = network.normalise
        self.classifier = classifier(network.channels["layer4"], num_classes)
        for layer in (network.conv1, network.bn1, network.layer1, network.layer2):
            layer.requires_grad_(False)

    def features(self, image: Tensor) -> Tensor:
        return self.get_submodule(self.backbone_name)(image)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.features(image).mean(dim=(2, 3), keepdim=True)).flatten(1)

    def forward_cam(self, image: Tensor) -> Tensor:
        return self.classifier(self.features(image)).relu()


class CamEfficientNet(Cam, EfficientNetLite0):
    """Not published with CAM; small enough for a CPU."""

    merge = "psa"

    def __init__(self, num_classes: int, published: str | None = None, *, output_stride: int = 16) -> None:
        EfficientNetLite0.__init__(self, num_classes, output_stride)
        self._describe("efficientnet-lite0", num_classes, published)

    def forward_cam(self, image: Tensor) -> Tensor:
        return self.class_maps(self.features(image)).relu()


TRAINING = CamTraining
BACKBONES = {
    "resnet38": CamResNet38,
    "vgg16-psa": CamVGG16,
    "resnet50": CamResNet,
    "resnet101": CamResNet,
    "efficientnet-lite0": CamEfficientNet,
}
