"""What every method tells about itself, and the parts that several of them share."""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsss_fast._settings import PUBLISHED
from wsss_fast.nets._common import Normalisation


class Method:
    """Mixed into a network. ``forward`` serves training and comparison; ``forward_cam`` is what inference runs and what is
    exported. ``merge`` is None for methods whose ``forward_cam`` gives no class maps.
    """

    name: ClassVar[str]
    merge: ClassVar[str | None] = None  # the preset of ops.CAM_MERGE
    scales: ClassVar[tuple[float, ...]] = (1.0,)  # of the published inference, each with its mirror image
    threshold: ClassVar[float | None] = None  # the published constant background score
    background: ClassVar[str | None] = None  # "first" or "last": its channel in what forward_cam gives
    softmax: ClassVar[bool] = False  # maps are merged as probabilities, of channels on the grid of the network
    outputs: ClassVar[tuple[str, ...]] = ("maps",)  # what forward_cam gives
    new_layers: ClassVar[tuple[str, ...]] = ()  # patterns of parameters that no pretrained backbone brings
    groups: ClassVar[tuple[tuple[str, tuple[int, ...]], ...]] = ()  # names and classes that masks are made of; (): the classes
    bias: tuple[float, ...] = ()  # of each class's score, which its map then holds at every place; (): none, or not told
    unused: ClassVar[tuple[str, ...]] = ()  # patterns of entries in published checkpoints that have no use
    normalise: Normalisation
    options: dict[str, Any]  # of `create`
    num_classes: int
    published: str | None
    backbone_name: str
    output_stride: int

    def _describe(self, backbone: str, num_classes: int, published: str | None) -> None:
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"{self.name}: 'num_classes' must be a whole number, 1 or more (objects), got {num_classes!r}")
        check_published(self.name, published)
        self.num_classes = num_classes
        self.published = published
        self.backbone_name = backbone
        self.options = {}

    def description(self) -> dict[str, Any]:
        """What a checkpoint has to say so that `create` makes this network again, and what it expects of pixels."""
        made = {"method": self.name, "num_classes": self.num_classes, "backbone": self.backbone_name, "published": self.published}
        return {**made, "options": self.options, "normalisation": dataclasses.asdict(self.normalise)}

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for key in [key for key in state if key.startswith(prefix)]:
            if any(fnmatchcase(key.removeprefix(prefix), pattern) for pattern in self.unused):
                del state[key]
        super()._load_from_state_dict(state, prefix, *rest)

    @property
    def cam_stride(self) -> int:
        """Pixels a cell of what ``forward_cam`` gives."""
        return self.output_stride

    @classmethod
    def objects(cls, maps: Tensor) -> Tensor:
        """The maps of the object classes, [N, C, h, w], out of what ``forward_cam`` gives, as they are merged."""
        return objects(maps, cls.background, cls.softmax)


def objects(maps: Tensor, background: str | None, softmax: bool) -> Tensor:
    maps = maps.softmax(dim=1) if softmax else maps
    if background is None:
        return maps
    return maps[:, 1:] if background == "first" else maps[:, :-1]


def check_published(name: str, published: str | None) -> None:
    if published not in PUBLISHED:
        raise ValueError(f"{name}: 'published' must be None, 'paper' or 'code', got {published!r}")


def classifier(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution without bias, Xavier-uniform."""
    layer = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer


def projection(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution without bias, Kaiming-normal."""
    layer = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.kaiming_normal_(layer.weight)
    return layer


def embedding(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution without bias, Xavier-uniform with gain 4."""
    layer = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.xavier_uniform_(layer.weight, gain=4)
    return layer


def seed(cam: Tensor) -> Tensor:
    """What PCM refines: raw maps [N, 1 + C, H, W], background first -> the same shape, without gradient.

    Each class is divided by its maximum, the background is what the strongest object leaves of 1, and of the objects
    each pixel keeps the strongest. Image labels are not used.
    """
    cam = cam.detach().relu()
    maps = (cam - 1e-5).relu() / (cam.amax(dim=(2, 3), keepdim=True) + 1e-5)
    objects = maps[:, 1:]
    strongest = objects.amax(dim=1, keepdim=True)
    return torch.cat([1 - strongest, torch.where(objects < strongest, 0.0, objects)], dim=1)


def pixels_and(image: Tensor, *features: Tensor) -> Tensor:
    """The image at the size of ``features``, and behind it their channels."""
    small = functional.interpolate(image, features[0].shape[2:], mode="bilinear", align_corners=True)
    return torch.cat([small, *features], dim=1)


def to_image_size(maps: Tensor, image: Tensor) -> Tensor:
    return functional.interpolate(maps, image.shape[2:], mode="bilinear", align_corners=True)
