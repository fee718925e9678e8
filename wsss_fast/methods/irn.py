"""IRN: learns where class boundaries are and which way the centre of an object lies, for a random walk on class maps.

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations". Everything is at stride 4.
``forward`` gives the edge logits [N, 1, h, w] and the displacement (dy, dx) [N, 2, h, w]; ``forward_cam`` the edge as a
probability, for ``ops.edge_affinity``, and the displacement. The backbone (output stride 16, no dilation) is not trained.

It is trained on labels that ``methods.pair_labels.irn_labels`` makes of class maps. `class_maps` gives these at the two
sizes that IRN needs, `walk` spreads them up to the edges.

``published`` changes nothing in the forward pass. In the loss "code" takes the pairs of `ops.affinity_pairs` alone. In the walk
"code" pads the image to 512 x 512 before the network sees it; the released code cuts off what is larger, here it stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsss_fast import _settings, ops
from wsss_fast._settings import setting
from wsss_fast.methods import _walk
from wsss_fast.methods._infer import infer_maps
from wsss_fast.methods._method import Method, check_published
from wsss_fast.methods._training import Training, TrainSettings
from wsss_fast.methods.losses import affinitynet_pairs, irn_displacement
from wsss_fast.nets.resnet import TAPS, ResNet
from wsss_fast.ops.affinity import MAX_RADIUS

EDGE_CHANNELS, EDGE_GROUPS = 32, 4
# of fc_dp1 to fc_dp5, one a tap: channels and groups
DISPLACEMENT = ((64, 8), (128, 16), (256, 16), (256, 16), (256, 16))


STRIDE, RADIUS = 4, 10  # of the grid that edges and displacement stand on; of the pairs in training
PUBLISHED_SIDE = 512


def losses(
    edge: Tensor, displacement: Tensor, labels: Tensor, published: str | None = None, radius: int = RADIUS
) -> dict[str, Tensor]:
    """The terms of a step, and their sum::

        pairs = affinitynet_pairs(ops.edge_affinity(sigmoid(edge))),
              that is ((background + foreground) / 2 + different) / 2, each the mean of -log of how right the affinity is
        displacement = irn_displacement(displacement)
        total = pairs + displacement

    Args:
        edge: logits [N, 1, h, w], of ``forward``.
        displacement: [N, 2, h, w], of ``forward``.
        labels: integers [N, h, w] on their grid; 0 is the background, 255 is ignored.
        published: "code" leaves out pairs near the border, as released.
        radius: of the pairs.

    `pairs` moves the layers of the edge, `displacement` those of the displacement.
    """
    check_published("irn.losses", published)
    border = "published" if published == "code" else "full"
    planes = ops.edge_affinity(edge.float().sigmoid() if edge.dtype != torch.float64 else edge.sigmoid(), radius)
    terms = {
        "pairs": affinitynet_pairs(planes, labels, radius, border),
        "displacement": irn_displacement(displacement, labels, radius, border),
    }
    return {**terms, "total": sum(terms.values())}


@dataclass(frozen=True, kw_only=True)
class IrnSettings(TrainSettings):
    resize: str = setting("scale", "what `sizes` bounds: the long or short side, a scale, squash (both sides), or none")
    sizes: tuple[float, ...] = setting((0.5, 1.5), "range of the resize, drawn anew for each image")
    crop: int = setting(512, "side of the square cut out at random, zero-padded where the image is smaller")
    jitter: tuple[float, ...] = setting((0.0, 0.0, 0.0, 0.0), "strength of brightness, contrast, saturation and hue changes")
    epochs: int = setting(3, "passes over the training images")
    batch: int = setting(32, "images a step, over all processes")
    lr: float = setting(0.1, "learning rate of the layers of the edge")
    new_rate: float = setting(10.0, "learning rate of the layers of the displacement, times `lr`")
    weight_decay: float = setting(1e-4, "of weights; biases and normalisation have none")
    radius: int = setting(RADIUS, "how far the pairs that are learned from reach, in cells of 4 pixels")
    affinity_stride: ClassVar[int] = STRIDE  # of the grid that the labels are made for

    def __post_init__(self) -> None:
        super().__post_init__()
        _settings.whole("train", "radius", self.radius, 2, MAX_RADIUS)


def settings(published: str | None, dataset: str) -> IrnSettings:
    """Released for VOC alone."""
    return IrnSettings(momentum={None: 0.0, "paper": 0.9, "code": 1e-4}[published])


class IrnTraining(Training):
    wants = ("affinity",)

    def __init__(self, model: Irn, settings: IrnSettings) -> None:
        super().__init__(model, settings)
        model.backbone.requires_grad_(False)  # `freeze` or not: nothing teaches it

    def new_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the displacement, which learn faster than those of the edge; both are as new."""
        return (value for key, value in self.model.named_parameters() if key.startswith("fc_dp"))

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return losses(*self.model(self.image(batch)), batch["affinity"], self.model.published, self.settings.radius)


# ---- the walk --------------------------------------------------------------------------------------------------------------


def class_maps(model: Method, pixels: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The maps of a classifier at the two sizes that IRN needs, from one pass.

    Args:
        model: "cam", in eval mode.
        pixels, present: as in ``infer_cam``.

    Returns:
        [N, C, ceil(H / 4), ceil(W / 4)] for `walk`, and [N, C, H, W] for ``pair_labels.irn_labels``.
    """
    maps, flipped = infer_maps(model, pixels)
    size = tuple(pixels.shape[2:])
    preset = ops.CAM_MERGE["irn"]
    return (
        ops.cam_merge(maps, flipped, _grid(size), present, **preset),
        ops.cam_merge(maps, flipped, size, present, multiple=16, **preset),
    )


@torch.inference_mode()
def walk(
    model: Irn,
    pixels: Tensor,
    cam: Tensor,
    *,
    beta: float = 10.0,
    steps: int = 256,
    radius: int = 5,
    background: float = 0.25,
    mode: str = "exact",
    impl: str | None = None,
) -> Tensor:
    """Class maps spread up to the edges that the network sees in the image.

    Maps times (1 - edge) walk over the affinities of the edges, are enlarged by 4 (bilinear) and divided by their largest value
    in the image, over all classes.

    Args:
        model: in eval mode.
        pixels: uint8 RGB [N, 3, H, W], of any size.
        cam: [N, K, ceil(H / 4), ceil(W / 4)], the classes of the images alone (the first of `class_maps`); K may be 0.
        beta, steps, radius, mode, impl: of ``ops.random_walk``.
        background: the score of the background everywhere.

    Returns:
        [N, 1 + K, H, W], background first; its ``argmax(1)`` is the label, 0 for the background.
    """
    size = tuple(pixels.shape[2:])
    _walk.check("irn.walk", model, pixels, cam, _grid(size))
    edge = _edge(model, pixels)
    # the released code pads the edges by `radius` so that no pixel lacks a pair: those are the pairs of border="full"
    rows = _walk.by_edge(cam.float(), edge, STRIDE, size, radius, beta, steps, mode, impl)
    return torch.cat([rows.new_full((len(rows), 1, *size), background), rows], dim=1)


def _edge(model: Irn, pixels: Tensor) -> Tensor:
    image = model.normalise(pixels)
    if model.published != "code":
        return model.forward_mirrored(image)[0].float()
    h, w = image.shape[2:]
    beyond = (0, max(PUBLISHED_SIDE - w, 0), 0, max(PUBLISHED_SIDE - h, 0))
    rows, columns = _grid((h, w))
    edge, mirrored = (model(functional.pad(view, beyond))[0][..., :rows, :columns] for view in (image, image.flip(3)))
    return ((edge + mirrored.flip(3)) / 2).sigmoid().float()


def _grid(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // STRIDE), -(-size[1] // STRIDE)


class MeanShift(nn.Module):
    """In eval mode takes off the running mean, which training gathers: the mean displacement means nothing."""

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))  # in published checkpoints; not used
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x - self.running_mean.view(1, -1, 1, 1)
        with torch.no_grad():
            self.running_mean.lerp_(x.mean(dim=(0, 2, 3)).to(self.running_mean.dtype), self.momentum)
            self.num_batches_tracked += 1
        return x


class Irn(Method, nn.Module):
    name = "irn"
    outputs = ("edge", "displacement")
    cam_stride = 4
    new_layers = ("fc_edge*", "fc_dp*")
    # the published module holds its layers a second time in lists, and its pair indices as parameters
    unused = ("stage*", "backbone.*", "edge_layers.*", "dp_layers.*", "path_indices*", "ind_from", "ind_to", "disp_target")

    def __init__(
        self,
        num_classes: int,
        published: str | None = None,
        *,
        backbone: str = "resnet50",
        output_stride: int = 16,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self._describe(backbone, num_classes, published)
        self.output_stride = output_stride
        network = ResNet(int(backbone.removeprefix("resnet")), output_stride, dilate=False, width=width)
        self.normalise = network.normalise
        self.add_module(self.backbone_name, network.requires_grad_(False))
        for number, (tap, (channels, groups)) in enumerate(zip(TAPS, DISPLACEMENT, strict=True), 1):
            inputs = network.channels[tap]
            self.add_module(f"fc_edge{number}", _normed(inputs, EDGE_CHANNELS, EDGE_GROUPS))
            self.add_module(f"fc_dp{number}", _normed(inputs, channels, groups))
        self.fc_edge6 = nn.Conv2d(5 * EDGE_CHANNELS, 1, 1)
        self.fc_dp6 = _normed(3 * 256, 256, 16)
        self.fc_dp7 = _normed(64 + 128 + 256, 256, 16)
        self.fc_dp7.extend([nn.ReLU(), nn.Conv2d(256, 2, 1, bias=False), MeanShift(2)])

    def train(self, mode: bool = True) -> Irn:
        super().train(mode)
        self.backbone.eval()
        return self

    @property
    def backbone(self) -> nn.Module:
        return self.get_submodule(self.backbone_name)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        taps = tuple(tap.detach() for tap in self.backbone.features(image, *TAPS))
        return self._edge(taps), self._displacement(taps)

    def forward_cam(self, image: Tensor) -> tuple[Tensor, Tensor]:
        edge, displacement = self.forward(image)
        return edge.sigmoid(), displacement

    def forward_mirrored(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As the published inference: the edge is the sigmoid of the mean logit of the image and its mirror image."""
        edge, displacement = self.forward(image)
        mirrored, _ = self.forward(image.flip(3))
        return ((edge + mirrored.flip(3)) / 2).sigmoid(), displacement

    def _edge(self, taps: tuple[Tensor, ...]) -> Tensor:
        size = taps[1].shape[2:]
        # the published code enlarges by 1, 1, 2, 4 and 4 and then cuts
        factors = (1, 1, 2, 4, 4)
        edges = [
            _enlarged(getattr(self, f"fc_edge{number}")(tap), factor, size).relu()
            for number, (tap, factor) in enumerate(zip(taps, factors, strict=True), 1)
        ]
        return self.fc_edge6(torch.cat(edges, dim=1))

    def _displacement(self, taps: tuple[Tensor, ...]) -> Tensor:
        size, half = taps[1].shape[2:], taps[2].shape[2:]
        parts = [getattr(self, f"fc_dp{number}")(tap) for number, tap in enumerate(taps, 1)]
        deep = [_enlarged(part, factor, half).relu() for part, factor in zip(parts[2:], (1, 2, 2), strict=True)]
        joined = _enlarged(self.fc_dp6(torch.cat(deep, dim=1)), 2, size).relu()
        return self.fc_dp7(torch.cat([parts[0].relu(), parts[1].relu(), joined], dim=1))


def _normed(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(groups, outputs))


def _enlarged(x: Tensor, factor: int, size: torch.Size) -> Tensor:
    """By `factor`, cut to `size`."""
    if factor == 1:
        return x
    if torch.onnx.is_in_onnx_export():  # ONNX enlarges by a factor or to a size
        return functional.interpolate(x, scale_factor=factor, mode="bilinear")[..., : size[0], : size[1]]
    # the same numbers in one operator; a slice would tie a network that torch.export traces to sizes that it cuts from
    return torch.ops.aten.upsample_bilinear2d(x, size, align_corners=False, scales_h=factor, scales_w=factor)


TRAINING = IrnTraining
BACKBONES = {"resnet50": Irn, "resnet101": Irn}
