"""AffinityNet (PSA): learns whether two nearby pixels belong together, for a random walk on class maps.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision". ``forward`` and ``forward_cam`` give
planes of pair affinities [N, E, h, w] for ``ops.random_walk``; the pairs of the published code, away from the border, are
``ops.affinity_pairs`` of them.

It is trained on labels that ``methods.pair_labels`` makes of class maps or masks; `walk` and `walk_mask` then improve these.

``published="paper"``: exp of minus the sum of the differences over channels; the code, and the default, take the mean.
``published="code"``: loss and walk take the pairs of `ops.affinity_pairs` alone, and on grids of less than 2 radius + 1 the walk
shrinks its radius, as SEAM does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsss_fast import ops
from wsss_fast._settings import setting
from wsss_fast.files.png import BACKGROUND, IGNORE
from wsss_fast.methods import _maps, _walk
from wsss_fast.methods._method import Method, check_published, embedding, projection
from wsss_fast.methods._training import PSA_MOMENTUM, Training, TrainSettings
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


@dataclass(frozen=True, kw_only=True)
class AffinitySettings(TrainSettings):
    resize: str = setting("none", "what `sizes` bounds: the long or short side, a scale, squash (both sides), or none")
    epochs: int = setting(8, "passes over the training images")
    batch: int = setting(8, "images a step, over all processes")
    affinity_stride: ClassVar[int] = 8  # of the grid that the labels are made for


def settings(published: str | None, dataset: str) -> AffinitySettings:
    """On ResNet38; PSA's VGG16 takes ``lr=0.1``. Released for VOC alone."""
    return AffinitySettings(momentum=PSA_MOMENTUM[published])


class AffinityTraining(Training):
    wants = ("affinity",)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return losses(self.model(self.image(batch)), batch["affinity"], self.model.published, self.model.radius)


# ---- the walk --------------------------------------------------------------------------------------------------------------

# of the background's exponent and of the steps, as published
WALKS = {"psa": {"alpha": 16.0, "steps": 256}, "seam": {"alpha": 6.0, "steps": 64}}


def walk(
    model: AffinityNet,
    pixels: Tensor,
    cam: Tensor,
    *,
    alpha: float = 16.0,
    beta: float = 8.0,
    steps: int = 256,
    mode: str = "exact",
    impl: str | None = None,
) -> Tensor:
    """Class maps spread by the affinities that the network sees in the image.

    The background (1 - max cam)^alpha comes in front of the maps, cells of the network's stride are averaged and walk
    (`ops.random_walk`), and the result is enlarged again (bilinear).

    Args:
        model: in eval mode.
        pixels: uint8 RGB [N, 3, H, W].
        cam: [N, K, H, W] from 0 to 1, the classes of the images alone; K may be 0.
        alpha, steps: the published pairs are `WALKS`.
        beta, mode, impl: of ``ops.random_walk``.

    Returns:
        [N, 1 + K, H, W], background first; its ``argmax(1)`` is the label, 0 for the background.
    """
    _walk.check("affinitynet.walk", model, pixels, cam)
    return _walked(model, pixels, _maps.add_background(cam.float(), alpha), beta, steps, mode, impl)


def walk_mask(model: AffinityNet, pixels: Tensor, mask: Tensor, **settings: Any) -> Tensor:
    """`walk` from a mask in place of class maps: each pixel is sure of its label.

    Args:
        mask: uint8 [N, H, W], 0 for the background, class + 1; what is 255 is filled from around it.
        **settings: beta, steps, mode and impl of `walk`.

    Returns:
        The new mask, uint8 [N, H, W].
    """
    _walk.check_mask("affinitynet.walk_mask", model, pixels, mask)
    values = torch.tensor([value for value in mask.unique().tolist() if value not in (BACKGROUND, IGNORE)], device=mask.device)
    values = torch.cat([values.new_zeros(1), values]).to(torch.uint8)
    rows = (mask[:, None] == values[:, None, None]).float()
    settings = {"beta": 8.0, "steps": 256, "mode": "exact", "impl": None} | settings
    return values[_walked(model, pixels, rows, **settings).argmax(dim=1)]


@torch.inference_mode()
def _walked(model: AffinityNet, pixels: Tensor, rows: Tensor, beta: float, steps: int, mode: str, impl: str | None) -> Tensor:
    stride, radius, border = model.output_stride, model.radius, "full"
    padding = _walk.beyond(pixels.shape[2:], stride)
    planes = model.forward_cam(functional.pad(model.normalise(pixels), padding)).float()
    if model.published == "code":
        border, side = "published", min(planes.shape[2:])
        radius = max((side - 1) // 2, 1) if side < 2 * radius + 1 else radius
    planes = _walk.smaller(planes, model.radius, radius)
    return _walk.by_planes(rows, planes, stride, radius, beta, steps, mode, border, impl)


class AffinityNet(Method):
    name = "affinitynet"
    outputs = ("planes",)
    new_layers = ("f8_*", "gn8_*", "f9.*")
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
    def __init__(self, num_classes: int, published: str | None = None, *, radius: int = 5, width: float = 1.0) -> None:
        super().__init__(width=width)  # at its stride of 8: the branches need taps of one size
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


TRAINING = AffinityTraining
BACKBONES = {"resnet38": AffinityResNet38, "vgg16-psa": AffinityVGG16}
