"""SEAM: class maps refined by the likeness of pixels (PCM), trained to agree between two scales of an image.

Wang et al., "Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic Segmentation". Channel 0 is the
background; the classification loss does not reach it. ``forward`` gives the raw and the refined maps, [N, 1 + C, H, W] each
at image size; ``forward_cam`` the refined maps at stride 8. Gradients of the refined maps reach f8_3, f8_4 and f9 alone.

``published`` changes nothing in the forward pass. In the losses (`losses`) "paper" leaves out what the paper does not have: min
pooling, and that of the objects of a target each place keeps the strongest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from wsss_fast import ops
from wsss_fast._settings import setting
from wsss_fast.methods import _maps, _method
from wsss_fast.methods._training import PSA_MOMENTUM, Checks, Training, TrainSettings
from wsss_fast.methods.losses import min_pooling, seam_ecr, seam_er, soft_margin
from wsss_fast.nets.resnet38 import ResNet38
from wsss_fast.ops import _check


def losses(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], labels: Tensor, published: str | None = None
) -> dict[str, Tensor]:
    """The terms of a step, and their sum. With N(.) for `max_norm`, 0 in classes not in the image, at the size of `second`::

        classification = 1/2 sum over views of soft_margin(mean over places of the objects' raw maps)
        min_pooling = 1/2 sum over views of min_pooling(refined)                                 (not with "paper")
        er = seam_er(N(raw 1), N(raw 2))
        ecr = seam_ecr(N(raw 2), N(refined 1)) + seam_ecr(N(raw 1), N(refined 2)),
              the background of the raw maps set to 1 - max of the objects
        total = classification + min_pooling + er + ecr

    Args:
        first: raw and refined maps of the image, [N, 1 + C, H, W] each, of ``forward``.
        second: those of its smaller copy (0.3 of each side).
        labels: [N, C], 1 for a class in the image, else 0. An image without classes has nothing to compare but backgrounds.
        published: None and "code": as released; "paper": without min pooling, and the targets are not reduced to the strongest
            object of each place.

    `classification` and `er` move the raw maps of both views, `ecr` and `min_pooling` the refined ones.
    """
    _method.check_published("seam.losses", published)
    first = _maps.check_pair("seam.losses", "first", first)
    second = _maps.check_pair("seam.losses", "second", second)
    if first[0].shape[:2] != second[0].shape[:2]:
        expected = f"have N and 1 + C of 'first', {list(first[0].shape[:2])}"
        raise ValueError(_check.complaint("seam.losses", "second", expected, list(second[0].shape)))
    n, channels, *size = second[0].shape
    _maps.check_labels("seam.losses", labels, n, channels - 1)
    present = _maps.with_background(labels)
    views = first, second
    pooled = [soft_margin(raw[:, 1:].mean(dim=(2, 3)), labels) for raw, _ in views]
    (raw1, refined1), (raw2, refined2) = (
        [_maps.keep(_resized(_maps.max_norm(x), size), present) for x in view] for view in views
    )
    strongest = published != "paper"
    target1, target2 = _maps.set_background(raw1.detach()), _maps.set_background(raw2.detach())
    terms = {
        "classification": (pooled[0] + pooled[1]) / 2,
        "er": seam_er(raw1, raw2),
        "ecr": seam_ecr(target2, refined1, labels, strongest) + seam_ecr(target1, refined2, labels, strongest),
    }
    if published != "paper":
        terms["min_pooling"] = (min_pooling(first[1], labels) + min_pooling(second[1], labels)) / 2
    return {**terms, "total": sum(terms.values())}


def _resized(maps: Tensor, size: list[int]) -> Tensor:
    if list(maps.shape[2:]) == size:
        return maps
    return functional.interpolate(maps, size, mode="bilinear", align_corners=True)


@dataclass(frozen=True, kw_only=True)
class SeamSettings(TrainSettings):
    sizes: tuple[float, ...] = setting((448.0, 768.0), "range of the resize, drawn anew for each image")
    epochs: int = setting(8, "passes over the training images")
    batch: int = setting(8, "images a step, over all processes")
    second_scale: float = setting(0.3, "size of the second view")

    def __post_init__(self) -> None:
        super().__post_init__()
        Checks(self).number("second_scale", 0.05, 1)


def settings(published: str | None, dataset: str) -> SeamSettings:
    """Released for VOC alone."""
    return SeamSettings(momentum=PSA_MOMENTUM[published])


class SeamTraining(Training):
    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        image = self.image(batch)
        size = [max(1, int(side * self.settings.second_scale)) for side in image.shape[2:]]
        smaller = functional.interpolate(image, size, mode="bilinear", align_corners=True)
        return losses(self.model(image), self.model(smaller), batch["labels"], self.model.published)


class Seam(_method.Method, ResNet38):
    name = "seam"
    new_layers = ("fc8.*", "f8_3.*", "f8_4.*", "f9.*")
    merge = "seam"
    background = "first"
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


TRAINING = SeamTraining
BACKBONES = {"resnet38": Seam}
