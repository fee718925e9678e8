"""IRN: learns where class boundaries are and which way the centre of an object lies, for a random walk on class maps.

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations". Everything is at stride 4.
``forward`` gives the edge logits [N, 1, h, w] and the displacement (dy, dx) [N, 2, h, w]; ``forward_cam`` the edge as a
probability, for ``ops.edge_affinity``, and the displacement. The backbone (output stride 16, no dilation) is not trained.

``published`` changes nothing in the forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsss_fast.methods._method import Method
from wsss_fast.nets.resnet import TAPS, ResNet

EDGE_CHANNELS, EDGE_GROUPS = 32, 4
# of fc_dp1 to fc_dp5, one a tap: channels and groups
DISPLACEMENT = ((64, 8), (128, 16), (256, 16), (256, 16), (256, 16))


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
        self.get_submodule(self.backbone_name).eval()
        return self

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        taps = tuple(tap.detach() for tap in self.get_submodule(self.backbone_name).features(image, *TAPS))
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
    if factor == 1:
        return x
    x = functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    return x[..., : size[0], : size[1]]


BACKBONES = {"resnet50": Irn, "resnet101": Irn}
