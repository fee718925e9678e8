"""How DeepLab is trained: the published schedules of each network, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from wsss_fast import _settings
from wsss_fast._settings import setting
from wsss_fast.files.png import IGNORE
from wsss_fast.methods import _maps
from wsss_fast.methods._method import check_published
from wsss_fast.methods._training import Training, TrainSettings, check_mask
from wsss_fast.nets._common import batch_norms, freeze
from wsss_fast.ops import _check

if TYPE_CHECKING:
    from wsss_fast.methods.deeplab import DeepLab

HEADS = ("aspp", "largefov")
LOSSES = ("scales", "grid", "image")


@dataclass(frozen=True, kw_only=True)
class DeepLabSettings(TrainSettings):
    """The defaults are those of deeplab-pytorch's ResNet-101 on VOC 2012.

    Published lengths are numbers of updates: 20,000 of 10 images are 19 epochs of the 10,582 images of VOC.
    """

    resize: str = setting("scale", "what `sizes` bounds: the long or short side, a scale, squash (both sides), or none")
    sizes: tuple[float, ...] = setting((0.5, 1.5), "range of the resize, drawn anew for each image")
    size_choices: tuple[float, ...] = setting(
        (0.5, 0.75, 1.0, 1.25, 1.5), "draw the resize from these values within `sizes`; none: from the whole range"
    )
    crop: int = setting(321, "side of the square cut out at random, padded with the mean colour where the image is smaller")
    jitter: tuple[float, ...] = setting((0.0, 0.0, 0.0, 0.0), "strength of brightness, contrast, saturation and hue changes")
    epochs: int = setting(19, "passes over the training images")
    batch: int = setting(5, "images a step, over all processes")
    accumulate: int = setting(2, "steps whose gradients are averaged before the weights move")
    lr: float = setting(2.5e-4, "learning rate of pretrained weights; their biases have twice as much")
    momentum: float = setting(0.9, "of SGD")
    rate_every: int = setting(10, "updates after which the poly schedule moves the rates")
    loss: str = setting(
        "scales",
        "scales: each scale of the image and their maximum, on the network's grid; grid: the image alone, on the grid; "
        "image: the image alone, its logits enlarged to pixels",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _settings.choice("train", "loss", self.loss, LOSSES)


_FIVE = {"sizes": (0.5, 1.5), "size_choices": (0.5, 0.75, 1.0, 1.25, 1.5)}
_SEVEN = {"sizes": (0.5, 2.0), "size_choices": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)}
_L2G_VGG16 = {**_SEVEN, "crop": 448, "epochs": 28}
_LARGEFOV_VGG16 = {"loss": "grid", "lr": 1e-3, "batch": 10, "accumulate": 1, "rate_every": 1}
# The released program shifts hue, saturation and value by up to 10 of 180 and 255: here as factors.
_RESNET38 = {"loss": "image", "lr": 1e-3, "crop": 448, "size_choices": (), "jitter": (0.04, 0.0, 0.04, 0.056)}
_RESNET38 |= {"batch": 10, "accumulate": 1, "rate_every": 1}

# What differs from the defaults of DeepLabSettings.
SCHEDULES = {
    ("vgg16", "aspp"): _L2G_VGG16,
    ("vgg16", "largefov"): _LARGEFOV_VGG16,
    ("resnet38", "largefov"): _RESNET38,
    ("resnet38", "aspp"): _RESNET38,
}
COCO = {
    ("resnet101-caffe", "aspp"): {"epochs": 12, "batch": 20, "accumulate": 1},
    ("vgg16", "aspp"): {"epochs": 24, "batch": 20, "accumulate": 2, "power": 0.85, "crop": 321, **_FIVE},
}
COCO_EPOCHS = 6  # 50,000 updates of 10 of the 82,783 images


def settings(published: str | None, dataset: str, backbone: str | None = None, head: str | None = None) -> DeepLabSettings:
    """Those of a network, by default the ResNet-101 with ASPP. docs/deeplab.md has the table."""
    backbone = backbone or "resnet101-caffe"
    head = head or ("largefov" if backbone == "resnet38" else "aspp")
    _settings.choice("settings", "head", head, HEADS)
    chosen = SCHEDULES.get((backbone, head), {})
    if published == "code" and (backbone, head) == ("vgg16", "largefov"):
        chosen = _L2G_VGG16
    if dataset == "coco":
        chosen = {**chosen, "epochs": COCO_EPOCHS, **COCO.get((backbone, head), {})}
    return replace(DeepLabSettings(), **chosen)


def losses(
    logits: Tensor | Sequence[Tensor], mask: Tensor, published: str | None = None, *, at: str = "grid"
) -> dict[str, Tensor]:
    """The terms of a step, and their sum. With CE the mean cross-entropy over the places that `mask` does not ignore::

        segmentation = CE(logits of the image, mask)
        smaller = sum over its other scales of CE(logits, mask)                        (with several logits)
        maximum = CE(element-wise maximum of all, mask)                                (with several logits)
        total = segmentation + smaller + maximum

    Args:
        logits: [N, 1 + C, h, w], background first; or what ``forward`` gives in training: those of each scale, then the maximum.
        mask: uint8 [N, H, W]: 0 background, class + 1, 255 ignored. Where it ignores everything CE is 0.
        published: changes nothing.
        at: "grid" brings the mask to the logits (nearest), "image" the logits to the mask (bilinear, corners on corners).
    """
    check_published("deeplab.losses", published)
    _check.choice("deeplab.losses", "at", at, ("grid", "image"))
    every = [logits] if isinstance(logits, Tensor) else list(logits)
    for output in every:
        _maps.check_maps("deeplab.losses", "logits", output, "[N, 1 + C, h, w]")
    _check.tensor("deeplab.losses", "mask", mask, "[N, H, W]")
    _check.shape("deeplab.losses", "mask", mask, "[N, H, W]", (len(every[0]), None, None), "N of 'logits'")
    check_mask("deeplab.losses", mask, every[0].shape[1] - 1)
    return _terms(every, mask, at)


def _terms(every: list[Tensor], mask: Tensor, at: str) -> dict[str, Tensor]:
    first, *others = [_cross_entropy(logits, mask, at) for logits in every]
    terms = {"segmentation": first}
    if others:
        *smaller, terms["maximum"] = others
        if smaller:
            terms["smaller"] = torch.stack(smaller).sum()
    return {**terms, "total": sum(terms.values())}


def _cross_entropy(logits: Tensor, mask: Tensor, at: str) -> Tensor:
    logits = _maps.exact(logits)
    if at == "image":
        logits = functional.interpolate(logits, mask.shape[1:], mode="bilinear", align_corners=True)
    else:
        mask = functional.interpolate(mask[:, None], logits.shape[2:], mode="nearest-exact")[:, 0]
    total = functional.cross_entropy(logits, mask.long(), ignore_index=IGNORE, reduction="sum")
    return total / (mask != IGNORE).sum().clamp(min=1)  # not the mean of torch, which is NaN where all is ignored


class DeepLabTraining(Training):
    """With ``published="code"`` two faults of released programs: what no group of their optimiser holds is never trained. That is
    the LargeFOV head on ResNet-101, and the gains of batch normalisation on ResNet38.
    """

    wants = ("mask",)
    wants_labels = False
    model: DeepLab

    def __init__(self, model: DeepLab, settings: DeepLabSettings) -> None:
        super().__init__(model, settings)
        if model.published == "code":
            freeze(*self.forgotten())

    def forgotten(self) -> list[torch.nn.Module]:
        if self.model.backbone_name == "resnet38":
            return list(batch_norms(self.model))
        return [self.model.base.fov] if hasattr(self.model, "base") and hasattr(self.model.base, "fov") else []

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        image = self.image(batch)
        several = self.settings.loss == "scales" and len(self.model.scales) > 1
        every = self.model(image) if several else [self.model.forward_cam(image)]
        return _terms(every, batch["mask"], "image" if self.settings.loss == "image" else "grid")
