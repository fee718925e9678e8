"""SEAM: class maps refined by the likeness of pixels (PCM), trained to agree between two scales of an image.

Wang et al., "Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic Segmentation". Channel 0 is the
background; the classification loss does not reach it. ``forward`` gives the raw and the refined maps, [N, 1 + C, H, W] each
at image size; ``forward_cam`` the refined maps at stride 8. Gradients of the refined maps reach f8_3, f8_4 and f9 alone.

``published`` changes nothing in the forward pass.
"""

from __future__ import annotations

from torch import Tensor, nn

from wsss_fast import ops
from wsss_fast.methods import _method
from wsss_fast.nets.resnet38 import ResNet38


class Seam(_method.Method, ResNet38):
    name = "seam"
    merge = "seam"
    scales = (0.5, 1.0, 1.5, 2.0)
    threshold = 0.26

    def __init__(self, num_classes: int, published: str | None = None, *, output_stride: int = 8, width: float = 1.0) -> None:
        super().__init__(output_stride, width)
        self._describe("resnet38", num_classes, published)
        self.dropout7 = nn.Dropout2d(0.5)
        self.fc8 = _method.classifier(self.channels["conv6"], 1 + num_classes)
        self.f8_3 = _method.projection(self.channels["conv4"], 64)
        self.f8_4 = _method.projection(self.channels["conv5"], 128)
        self.f9 = _method.embedding(3 + 64 + 128, 192)

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Raw and refined maps at the network's stride."""
        conv4, conv5, conv6 = self.features(image, "conv4", "conv5", "conv6")
        cam = self.fc8(self.dropout7(conv6))
        del conv6
        features = self.f8_3(conv4.detach()).relu_(), self.f8_4(conv5.detach()).relu_()
        return cam, self.refine(_method.seed(cam), _method.pixels_and(image, *features))

    def refine(self, seed: Tensor, x: Tensor) -> Tensor:
        return ops.pcm(seed, self.f9(x))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        cam, refined = self.maps(image)
        return _method.to_image_size(cam, image), _method.to_image_size(refined, image)

    def forward_cam(self, image: Tensor) -> Tensor:
        return self.maps(image)[1]

    @staticmethod
    def objects(maps: Tensor) -> Tensor:
        return maps[:, 1:]


BACKBONES = {"resnet38": Seam}
