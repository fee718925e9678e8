"""L2G: a network that sees whole images learns from one that sees crops; both refine their maps by PCM.

Jiang et al., "L2G: A Simple Local-to-Global Knowledge Transfer Framework for Weakly Supervised Semantic Segmentation". The
background is the last channel. With A the column-normalised likeness of pixels (SEAM's, without ReLU behind f8_3 and f8_4) the
maps are fc8(conv6) + fc8(conv6 A). fc8 is linear and has no bias, so with K = fc8(conv6) they are K + K A: PCM of C + 1 maps in
place of 4,096 features. ``forward`` gives the maps [N, C + 1, h, w] and the scores [N, C] (the mean of the objects' maps over
places); ``forward_cam`` the maps.

``published`` changes nothing in the forward pass. In the losses (`losses`), "code" cuts the maps of the global network by
RoIAlign half a cell off, as released; "paper" teaches the attention itself in patches without a salient place. In the settings
"code" takes the images in the order of the list and, on VOC, the corners among its patches, and on COCO has no weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from wsss_fast import _settings, ops
from wsss_fast._settings import setting
from wsss_fast.methods import _maps, _method
from wsss_fast.methods._training import PSA_MOMENTUM, Checks, Training, TrainSettings
from wsss_fast.methods.losses import check_saliency, l2g_transfer, soft_margin
from wsss_fast.methods.roi_align import roi_align
from wsss_fast.nets.resnet38 import ResNet38
from wsss_fast.ops import _check

CROP = 448  # the side that the size of a patch is told for


def target(
    maps: Tensor,
    labels: Tensor,
    saliency: Tensor | None = None,
    threshold: float = 0.001,
    binary_background: bool = True,
    published: str | None = None,
) -> Tensor:
    """What the local network teaches about patches. From its maps, without gradient:

    1. negative values are 0, each channel of a patch is divided by its largest value + 1e-8;
    2. classes that are not in the image are 0, the background stays;
    3. at each place the largest channel keeps its value (the first of equal ones), the others are 0: T.

    Without `saliency` this is the target. With s, the saliency on the grid of the maps (nearest)::

        target_c = [T_c > threshold] s               objects
        target_C = [T_C > threshold] (1 - s)         background; T_C (1 - s) without `binary_background`

    Args:
        maps: [R, C + 1, h, w], the background last.
        labels: [R, C], of the whole image that a patch was cut from.
        saliency: [R, 1, H, W], from 0 to 1, cut as the patches.
        threshold: 0.001 on VOC, 0.1 on COCO.
        binary_background: False in the released code for COCO.
        published: "paper": a patch without a salient place (s = 0 everywhere) keeps T.
    """
    _method.check_published("l2g.target", published)
    _maps.check_maps("l2g.target", "maps", maps, "[R, C + 1, h, w]")
    _maps.check_labels("l2g.target", labels, maps.shape[0], maps.shape[1] - 1)
    t = _maps.exact(maps.detach()).relu()
    t = t / (t.amax(dim=(2, 3), keepdim=True) + 1e-8)
    t = torch.cat([_maps.keep(t[:, :-1], labels[:, :, None, None] > 0.5), t[:, -1:]], dim=1)
    value, winner = t.max(dim=1, keepdim=True)
    t = torch.zeros_like(t).scatter_(1, winner, value)
    if saliency is None:
        return t
    check_saliency("l2g.target", saliency, len(maps))
    s = functional.interpolate(saliency.to(t.dtype), t.shape[2:], mode="nearest")
    # a NaN stays one
    on = torch.where(t.isnan(), t, (t > threshold).to(t.dtype))
    shaped = torch.cat([on[:, :-1] * s, (on if binary_background else t)[:, -1:] * (1 - s)], dim=1)
    if published == "paper":
        return torch.where((s == 0).all(dim=(1, 2, 3), keepdim=True), t, shaped)
    return shaped


def losses(
    maps: Tensor,
    local: tuple[Tensor, Tensor],
    boxes: Tensor,
    labels: Tensor,
    saliency: Tensor | None = None,
    published: str | None = None,
    threshold: float = 0.001,
    binary_background: bool = True,
    weight: float = 10.0,
    stride: int = 8,
) -> dict[str, Tensor]:
    """The terms of a step, and their sum: ``classification`` (`soft_margin` of the local scores, which moves the local network) +
    ``transfer`` (`l2g_transfer` of `target`, which moves the global network).

    The scores of the global network take no part: a classification loss on it makes its maps much worse.

    Args:
        maps: [N, C + 1, h, w], of the global network on whole images.
        local: maps [R, C + 1, h', w'] and scores [R, C], of the local network on the patches.
        boxes: [R, 5], rows (image, x1, y1, x2, y2): where each patch lies in its image, in pixels.
        labels: [N, C], 1 for a class in the image, else 0; a patch has those of its image.
        saliency: [R, 1, H, W], from 0 to 1, of the patches; None for the transfer without a shape.
        published: "code" cuts `maps` by `roi_align` half a cell off, None and "paper" place by place; "paper" also see `target`.
        threshold, binary_background: of `target`. weight: of `l2g_transfer`. stride: pixels a cell of `maps`.
    """
    _method.check_published("l2g.losses", published)
    _maps.check_maps("l2g.losses", "maps", maps, "[N, C + 1, h, w]")
    _maps.check_labels("l2g.losses", labels, maps.shape[0], maps.shape[1] - 1)
    taught, scores = local
    cut = roi_align(_maps.exact(maps), boxes, tuple(taught.shape[2:]), 1 / stride, aligned=published != "code")
    if len(boxes) != len(taught):
        raise ValueError(_check.complaint("l2g.losses", "boxes", f"be one for each of {len(taught)} patches", len(boxes)))
    labels = labels[boxes[:, 0].long().to(labels.device)]
    goal = target(taught, labels, saliency, threshold, binary_background, published)
    terms = {"classification": soft_margin(scores, labels), "transfer": l2g_transfer(cut, goal, weight)}
    return {**terms, "total": sum(terms.values())}


@dataclass(frozen=True, kw_only=True)
class L2gSettings(TrainSettings):
    resize: str = setting("short", "what `sizes` bounds: the long or short side, a scale, squash (both sides), or none")
    sizes: tuple[float, ...] = setting((512.0, 512.0), "range of the resize, drawn anew for each image")
    flip: bool = setting(False, "mirror half of the images")
    epochs: int = setting(10, "passes over the training images")
    batch: int = setting(3, "images a step, over all processes")
    lr: float = setting(1e-3, "learning rate of pretrained weights; their biases have twice as much")
    momentum: float = setting(0.9, "of SGD")
    nesterov: bool = setting(True, "Nesterov's form of the momentum")
    schedule: str = setting("step", "poly: (1 - t / T)^power; step: times `decay` at the epochs `decay_epochs`")
    decay_epochs: tuple[float, ...] = setting((5.0,), "epochs (counted from 0) at which the step schedule lowers the rate")
    shape: bool = setting(True, "learn the shape of objects from saliency maps")
    patch: int = setting(320, "side of the patches that the local network sees, of a crop of 448 pixels; of others in proportion")
    patches: int = setting(4, "patches an image")
    corners: bool = setting(False, "the first four patches are the corners; the others are drawn")
    threshold: float = setting(0.001, "attention above which a place of a patch belongs to a class (with `shape`)")
    binary_background: bool = setting(True, "the background of the target is 0 or 1 too (with `shape`)")
    weight: float = setting(10.0, "of the transfer")

    def __post_init__(self) -> None:
        super().__post_init__()
        check = Checks(self)
        for name in ("shape", "corners", "binary_background"):
            check.boolean(name)
        check.whole("patch", 8, CROP)
        check.whole("patches", 1, 1000)
        check.number("threshold", 0, 1)
        check.number("weight", 0, 1e6)
        if self.corners and self.patches < 4:
            _settings.fail("train", "patches", "be 4 or more with the corners among them", self.patches)


def settings(published: str | None, dataset: str) -> L2gSettings:
    code = {"shuffle": False} if published == "code" else {}
    if dataset == "voc":
        return L2gSettings(**code, **({"patches": 6, "corners": True} if code else {}))
    rates = {"lr": 0.1, "momentum": PSA_MOMENTUM["code"] if code else 0.0, "nesterov": False, "schedule": "poly", "power": 0.7}
    taught = {"threshold": 0.1, "binary_background": False, "weight": 30.0}
    size = {"resize": "squash", "sizes": (448.0, 448.0), "batch": 12, "epochs": 15}
    return L2gSettings(**size, **rates, **taught, **code, weight_decay=0.0 if code else 5e-4)


class L2gTraining(Training):
    """``model`` is the global network; ``local``, of the same kind, is trained along and needed by nobody afterwards."""

    def __init__(self, model: L2g, settings: L2gSettings) -> None:
        local = type(model)(model.num_classes, model.published, **model.options)
        local.options = model.options
        super().__init__(model, settings, local=local)
        self.wants = ("saliency",) if settings.shape else ()

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        chosen, image = self.settings, self.image(batch)
        boxes = self.boxes(len(image), *image.shape[2:])
        saliency = None
        if chosen.shape:
            whole = batch["saliency"].float()
            # 0 / 1 where nothing is salient
            saliency = cut(whole / whole.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1), boxes)
        local = self.local(cut(image, boxes))
        return losses(
            self.model.forward_cam(image),
            local,
            boxes,
            batch["labels"],
            saliency,
            self.model.published,
            chosen.threshold,
            chosen.binary_background,
            chosen.weight,
            self.model.output_stride,
        )

    def boxes(self, images: int, height: int, width: int) -> Tensor:
        """Int64 [R, 5] on the CPU, rows (image, x1, y1, x2, y2), those of an image together; drawn by torch's own generator.

        The side is a multiple of the network's stride where the image allows. As released, the last place of each direction
        is never drawn with "code".
        """
        chosen, stride = self.settings, self.model.output_stride
        shorter = min(height, width)
        side = min(shorter, stride * max(1, round(chosen.patch * shorter / CROP / stride)))
        room = torch.tensor([width - side, height - side])
        last = (room - 1).clamp(min=0) if self.model.published == "code" else room
        drawn = (torch.rand(images, chosen.patches, 2, dtype=torch.float64) * (last + 1)).long()
        if chosen.corners:
            drawn[:, :4] = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]]) * room
        image = torch.arange(images).repeat_interleave(chosen.patches)[:, None]
        return torch.cat([image, drawn.flatten(0, 1), drawn.flatten(0, 1) + side], dim=1)


def cut(image: Tensor, boxes: Tensor) -> Tensor:
    """[N, C, H, W] -> [R, C, h, w], the pixels of boxes of one size."""
    return torch.stack([image[i, :, y1:y2, x1:x2] for i, x1, y1, x2, y2 in boxes.tolist()])


class L2g(_method.Method, ResNet38):
    name = "l2g"
    new_layers = ("fc8.*", "f8_3.*", "f8_4.*", "f9.*")
    merge = "l2g"
    background = "last"
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


TRAINING = L2gTraining
BACKBONES = {"resnet38": L2g}
