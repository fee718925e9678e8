"""EPS: class maps and a background map, tied to a saliency map in training.

Lee et al., "Railroad is not a Train: Saliency as Pseudo-pixel Supervision for Weakly Supervised Semantic Segmentation". The
background is the last channel. ``forward`` gives the image's scores [N, C + 1] (the mean over places) and the logits [N, C +
1, h, w]; ``forward_cam`` the logits.

``published`` changes nothing in the forward pass and in the losses. In the settings it changes the momentum and, with "code", the
number of epochs on COCO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wsss_fast._settings import setting
from wsss_fast.methods._method import Method, check_published, classifier
from wsss_fast.methods._training import PSA_MOMENTUM, Checks, Training, TrainSettings
from wsss_fast.methods.losses import eps_saliency, soft_margin
from wsss_fast.nets.resnet38 import ResNet38


def losses(
    output: tuple[Tensor, Tensor],
    saliency: Tensor,
    labels: Tensor,
    published: str | None = None,
    tau: float = 0.4,
    lam: float = 0.5,
) -> dict[str, Tensor]:
    """The terms of a step, ``classification`` (`soft_margin` of the objects' scores) and ``saliency`` (`eps_saliency`), and the
    ``total``, their sum.

    Args:
        output: scores [N, C + 1] and logits [N, C + 1, h, w], of ``forward``; the score of the background is not used.
        saliency: [N, 1, H, W], from 0 to 1; brought to the size of the logits (nearest).
        labels: [N, C], 1 for a class in the image, else 0.
        published: changes nothing.
        tau, lam: of `eps_saliency`; ``lam`` is 0.9 for COCO.
    """
    check_published("eps.losses", published)
    scores, logits = output
    terms = {"classification": soft_margin(scores[:, :-1], labels), "saliency": eps_saliency(logits, saliency, labels, tau, lam)}
    return {**terms, "total": sum(terms.values())}


@dataclass(frozen=True, kw_only=True)
class EpsSettings(TrainSettings):
    batch: int = setting(8, "images a step, over all processes")
    tau: float = setting(0.4, "smallest overlap with the saliency map for a class to be foreground")
    lam: float = setting(0.5, "share of the foreground against the complement of the background")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tau", "lam"):
            Checks(self).number(name, 0, 1)


def settings(published: str | None, dataset: str) -> EpsSettings:
    """On COCO 15 epochs are the 76,950 steps of the published log; the released script asks for 50."""
    momentum = PSA_MOMENTUM[published]
    if dataset == "voc":
        return EpsSettings(momentum=momentum)
    epochs = 50 if published == "code" else 15
    return EpsSettings(momentum=momentum, sizes=(256.0, 448.0), crop=321, batch=16, epochs=epochs, lam=0.9)


class EpsTraining(Training):
    wants = ("saliency",)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        output = self.model(self.image(batch))
        saliency = batch["saliency"].float() / 255
        return losses(output, saliency, batch["labels"], self.model.published, self.settings.tau, self.settings.lam)


class Eps(Method, ResNet38):
    name = "eps"
    new_layers = ("fc8.*",)
    merge = "eps"
    background = "last"
    softmax = True
    outputs = ("logits",)
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


TRAINING = EpsTraining
BACKBONES = {"resnet38": Eps}
