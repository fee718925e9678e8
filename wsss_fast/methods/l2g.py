"""L2G: a network that sees whole images learns from one that sees crops; both refine their maps by PCM.

Jiang et al., "L2G: A Simple Local-to-Global Knowledge Transfer Framework for Weakly Supervised Semantic Segmentation". The
background is the last channel. With A the column-normalised likeness of pixels (SEAM's, without ReLU behind f8_3 and f8_4) the
maps are fc8(conv6) + fc8(conv6 A). fc8 is linear and has no bias, so with K = fc8(conv6) they are K + K A: PCM of C + 1 maps in
place of 4,096 features. ``forward`` gives the maps [N, C + 1, h, w] and the scores [N, C] (the mean of the objects' maps over
places); ``forward_cam`` the maps.

``published`` changes nothing in the forward pass.
"""

from __future__ import annotations

from torch import Tensor

from wsss_fast import ops
from wsss_fast.methods import _method
from wsss_fast.nets.resnet38 import ResNet38


class L2g(_method.Method, ResNet38):
    name = "l2g"
    merge = "l2g"
    scales = (0.5, 1.0, 1.5, 2.0)
    threshold = 0.25

    def __init__(self, num_classes: int, published: str | None = None, *, output_stride: int = 8, width: float = 1.0) -> None:
        super().__init__(output_stride, width)
        self._describe("resnet38", num_classes, published)
        self.fc8 = _method.classifier(self.channels["conv6"], num_classes + 1)
        self.f8_3 = _method.projection(self.channels["conv4"], 64)
        self.f8_4 = _method.projection(self.channels["conv5"], 128)
        self.f9 = _method.embedding(3 + 64 + 128, 192)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.forward_cam(image)
        return maps, maps[:, :-1].mean(dim=(2, 3))

    def forward_cam(self, image: Tensor) -> Tensor:
        conv4, conv5, conv6 = self.features(image, "conv4", "conv5", "conv6")
        cam = self.fc8(conv6)
        del conv6
        features = self.f8_3(conv4.detach()), self.f8_4(conv5.detach())
        return cam + ops.pcm(cam, self.f9(_method.pixels_and(image, *features)))

    @staticmethod
    def objects(maps: Tensor) -> Tensor:
        return maps[:, :-1]


BACKBONES = {"resnet38": L2g}
