"""What the losses share: checks of their inputs, and what is done to class maps before they are compared.

Maps are [N, 1 + C, H, W] with the background first unless said. A class is in the image where its label is above one half.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wsss_fast.ops import _check


def check_maps(op: str, argument: str, value: Tensor, layout: str = "[N, 1 + C, H, W]") -> None:
    """Real numbers of at least one image, place and channel (two channels where the layout has a background)."""
    _check.tensor(op, argument, value, layout)
    if not value.is_floating_point():
        raise TypeError(_check.complaint(op, argument, "be of a float type", _check.short(value.dtype)))
    if value.numel() == 0 or ("1" in layout and value.shape[1] < 2):
        raise ValueError(_check.complaint(op, argument, f"have shape {layout}, none of them empty", list(value.shape)))


def check_like(op: str, argument: str, value: Tensor, other: str, model: Tensor) -> None:
    if not isinstance(value, Tensor) or value.shape != model.shape:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(_check.complaint(op, argument, f"have the shape of '{other}', {list(model.shape)}", got))


def check_labels(op: str, labels: Tensor, images: int, classes: int) -> None:
    _check.tensor(op, "labels", labels, "[N, C]")
    if list(labels.shape) != [images, classes]:
        hint = "the background has no label" if labels.shape[1] == classes + 1 else ""
        raise ValueError(_check.complaint(op, "labels", f"have shape [N, C] = {[images, classes]}", list(labels.shape), hint))


def check_pair(op: str, argument: str, value: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The raw and refined maps that a network gives, in float32 at least."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(_check.complaint(op, argument, "be the raw and the refined maps", type(value).__name__))
    check_maps(op, argument, value[0])
    check_like(op, argument, value[1], argument, value[0])
    return exact(value[0]), exact(value[1])


def exact(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32: their sums over places would overflow or stop growing."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def with_background(labels: Tensor) -> Tensor:
    """[N, C] -> bool [N, 1 + C, 1, 1]: which channels belong to the image; the background always does."""
    present = torch.cat([labels.new_ones(len(labels), 1), labels], dim=1) > 0.5
    return present[:, :, None, None]


def keep(maps: Tensor, present: Tensor) -> Tensor:
    """Channels that are not in the image are 0, whatever they held."""
    return torch.where(present, maps, 0.0)


def max_norm(maps: Tensor, eps: float = 1e-5) -> Tensor:
    """Each channel of each image between 0 and almost 1, with gradients through its least and largest place::

    z = max(maps, 0)
    out = max(z - min z - eps, 0) / (max z - min z + eps)
    """
    z = maps.relu()
    places = z.flatten(2)
    # of equal places one takes the gradient: amin and amax would divide it
    least, largest = places.min(dim=2).values[:, :, None, None], places.max(dim=2).values[:, :, None, None]
    return (z - least - eps).relu() / (largest - least + eps)


def background(maps: Tensor) -> Tensor:
    """What the strongest object leaves of 1: [N, 1, H, W]."""
    return 1 - maps[:, 1:].max(dim=1, keepdim=True).values


def set_background(maps: Tensor) -> Tensor:
    """The background channel replaced by `background`."""
    return torch.cat([background(maps), maps[:, 1:]], dim=1)


def keep_strongest(maps: Tensor) -> Tensor:
    """At each place the channels that are largest keep their value; the others are 0."""
    # not `==`: a NaN stays one
    return torch.where(maps < maps.amax(dim=1, keepdim=True), 0.0, maps)


def add_background(cam: Tensor, alpha: float) -> Tensor:
    """Maps [..., K, H, W] from 0 to 1 -> [..., 1 + K, H, W] with (1 - max)^alpha in front. K may be 0: all is background."""
    if not (_check.is_number(alpha) and 0 < alpha < math.inf):
        raise ValueError(_check.complaint("background", "alpha", "be a number above 0", repr(alpha)))
    *batch, k, h, w = cam.shape
    strongest = cam.amax(dim=-3, keepdim=True) if k else cam.new_zeros((*batch, 1, h, w))
    return torch.cat([(1 - strongest).clamp_(min=0) ** alpha, cam], dim=-3)


def exponent_of(threshold: float) -> float:
    """The background (1 - m)^alpha that a map meets at the same value as the constant `threshold`."""
    inside = min(max(threshold, 0.01), 0.99)
    return math.log(inside) / math.log(1 - inside)
