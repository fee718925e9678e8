"""AffinityNet (PSA): learns whether two nearby pixels belong together, for a random walk on class maps.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision". ``forward`` and ``forward_cam`` give
planes of pair affinities [N, E, h, w] for ``ops.random_walk``; the pairs of the published code, away from the border, are
``ops.affinity_pairs`` of them.

``published="paper"``: exp of minus the sum of the differences over channels; the code, and the default, take the mean.
``published="code"``: the loss takes the pairs of `ops.affinity_pairs` alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsss_fast import ops
from wsss_fast.methods._method import Method, check_published, embedding, projection
from wsss_fast.methods.losses import affinitynet_pairs
from wsss_fast.nets.resnet38 import ResNet38
from wsss_fast.nets.vgg16 import VGG16PSA

# branch → tap, channels, groups of its normalisation (VGG16 alone)
BRANCHES = {"f8_3": ("conv4", 64, 8), "f8_4": ("conv5", 128, 16), "f8_5": ("conv6", 256, 32)}
CHANNELS = 64 + 128 + 256


def losses(planes: Tensor, labels: Tensor, published: str | None = None, radius: int = 5) -> dict[str, Tensor]:
    """The terms of a step: ``pairs`` (`affinitynet_pairs`), which is the ``total``.

    Args:
        planes: [N, E, h, w], of ``forward``.
        labels: integers [N, h, w] on the grid of the planes; 0 is the background, 255 is ignored.
        published: "code" leaves out pairs near the border, as released (about 14 % of them at 56 x 56).
        radius: of the network.
    """
    check_published("affinitynet.losses", published)
    pairs = affinitynet_pairs(planes, labels, radius, "published" if published == "code" else "full")
    return {"pairs": pairs, "total": pairs}


class AffinityNet(Method):
    name = "affinitynet"
    outputs = ("planes",)
    radius: int

    def _add_branches(self) -> None:
        for branch, (tap, channels, _) in BRANCHES.items():
            self.add_module(branch, projection(self.channels[tap], channels))
        self.f9 = embedding(CHANNELS, CHANNELS)

    def branch(self, name: str, tap: Tensor) -> Tensor:
        return functional.elu(getattr(self, name)(tap))

    def forward(self, image: Tensor) -> Tensor:
        taps = self.features(image, *(tap for tap, _, _ in BRANCHES.values()))
        joined = torch.cat([self.branch(name, tap) for name, tap in zip(BRANCHES, taps, strict=True)], dim=1)
        feature = functional.elu(self.f9(joined))
        if self.published == "paper":
            feature = feature * CHANNELS  # the mean of these differences is the sum of the others
        return ops.affinity(feature, self.radius)

    def forward_cam(self, image: Tensor) -> Tensor:
        return self.forward(image)


class AffinityResNet38(AffinityNet, ResNet38):
    def __init__(
        self, num_classes: int, published: str | None = None, *, radius: int = 5, output_stride: int = 8, width: float = 1.0
    ) -> None:
        super().__init__(output_stride, width)
        self._describe("resnet38", num_classes, published)
        self.radius = radius
        self._add_branches()


class AffinityVGG16(AffinityNet, VGG16PSA):
    def __init__(self, num_classes: int, published: str | None = None, *, radius: int = 5, width: float = 1.0) -> None:
        super().__init__(fc6_dilation=4, width=width)
        self._describe("vgg16-psa", num_classes, published)
        self.radius = radius
        self._add_branches()
        for branch, (_, channels, groups) in BRANCHES.items():
            self.add_module(f"gn{branch[1:]}", nn.GroupNorm(groups, channels))

    def branch(self, name: str, tap: Tensor) -> Tensor:
        return functional.elu(getattr(self, f"gn{name[1:]}")(getattr(self, name)(tap)))


BACKBONES = {"resnet38": AffinityResNet38, "vgg16-psa": AffinityVGG16}
