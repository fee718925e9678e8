"""EPS: class maps and a background map, tied to a saliency map in training.

Lee et al., "Railroad is not a Train: Saliency as Pseudo-pixel Supervision for Weakly Supervised Semantic Segmentation". The
background is the last channel. ``forward`` gives the image's scores [N, C + 1] (the mean over places) and the logits [N, C +
1, h, w]; ``forward_cam`` the logits. The loss is ``losses.eps_saliency``.

``published`` changes nothing in the forward pass.
"""

from __future__ import annotations

from torch import Tensor

from wsss_fast.methods._method import Method, classifier
from wsss_fast.nets.resnet38 import ResNet38


class Eps(Method, ResNet38):
    name = "eps"
    merge = "eps"
    scales = (0.5, 1.0, 1.5, 2.0)
    threshold = 0.2

    def __init__(self, num_classes: int, published: str | None = None, *, output_stride: int = 8, width: float = 1.0) -> None:
        super().__init__(output_stride, width)
        self._describe("resnet38", num_classes, published)
        self.fc8 = classifier(self.channels["conv6"], num_classes + 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.forward_cam(image)
        return logits.mean(dim=(2, 3)), logits

    def forward_cam(self, image: Tensor) -> Tensor:
        return self.fc8(self.features(image, "conv6")[0])

    @staticmethod
    def objects(maps: Tensor) -> Tensor:
        """The probabilities: the softmax is taken on the grid of the network."""
        return maps.softmax(dim=1)[:, :-1]


BACKBONES = {"resnet38": Eps}
