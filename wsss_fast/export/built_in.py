"""The built-in network as it is exported: ImageNet's 1,000 classes, with the everyday groups that masks are made of."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from wsss_fast.classes.groups import imagenet_groups
from wsss_fast.methods.cam import CamEfficientNet
from wsss_fast.nets.efficientnet import load_pretrained


class BuiltIn(CamEfficientNet):
    """Its maps come without ReLU: the mean of a map is the score of its class, from which follows what is in an image and how
    much each class counts in its group. Merging sets negative values to 0, as a ReLU here would.
    """

    groups: ClassVar = tuple((group.name, group.classes) for group in imagenet_groups())

    @property
    def bias(self) -> tuple[float, ...]:
        return tuple(self._fc.bias.tolist())

    def forward_cam(self, image: Tensor) -> Tensor:
        return self.class_maps(self.features(image))


def built_in() -> BuiltIn:
    pretrained, _ = load_pretrained(output_stride=16)
    model = BuiltIn(pretrained.num_classes)
    model.load_state_dict(pretrained.state_dict())
    return model.eval()
