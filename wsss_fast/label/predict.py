"""Networks behind one small interface: an image goes in, class maps at several scales and class scores come out.

Nothing behind this stage knows which network or engine ran.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from wsss_fast.label.classes import IMAGENET_CLASSES, imagenet_groups, read_groups
from wsss_fast.label.settings import LabelSettings, SettingsError

if TYPE_CHECKING:
    from torch import Tensor

BUILT_IN = "efficientnet-lite0"
BACKGROUND = 0.3
ALPHA = 6.0
STEPS, IMAGE_STEPS = 256, 16  # of the walk: published; along the image's edges, where many would flood it


@dataclass(frozen=True)
class Prediction:
    scores: Tensor | None  # [C] probability that each class is in the image, on the CPU; None: the network does not tell
    maps: tuple[Tensor, ...]  # one [C, h, w] a scale and flip, any sign
    flipped: tuple[bool, ...] = ()  # which of them are mirrored; empty: none
    guide: Any = None  # what the walk's network says, see walk.py
    image: Tensor | None = None  # uint8 [1, 3, H, W] on the device of the maps, where a model has put it there already
    mark: Any = None  # of `device.Device`, behind all of this


@runtime_checkable
class Model(Protocol):
    """A model whose maps are on a GPU has a ``device`` too (`label.device.Device`)."""

    class_names: tuple[str, ...]
    identity: dict[str, Any]  # what the manifest records, and what must be equal when a job is resumed

    def predict(self, pixels: np.ndarray) -> Prediction:
        """``pixels`` is uint8 [H, W, 3], at most ``max_side`` long."""
        ...


@dataclass(frozen=True)
class Defaults:
    """What a model decides where the settings leave it open. A model without ``defaults`` has these."""

    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5)
    merge: str | None = "psa"  # None: the maps are logits, background first
    background: float = BACKGROUND
    alpha: float = ALPHA


def load_model(model: Any, settings: LabelSettings) -> Model:
    loaded = _loaded(model, settings)
    if not settings.grouped or isinstance(loaded, Lite0Model):
        return loaded
    from wsss_fast.label.grouped import GroupedModel

    return GroupedModel(loaded, settings.classes)


def _loaded(model: Any, settings: LabelSettings) -> Model:
    if isinstance(model, str | os.PathLike):
        name = os.fspath(model)
        if name == BUILT_IN and settings.method is None:
            return Lite0Model(settings)
        from wsss_fast.label.network import load_network

        return load_network(name, settings)
    if isinstance(model, Model):
        _refuse_names(settings)
        return model
    from torch import nn

    from wsss_fast.export.engine import Engine
    from wsss_fast.label.network import load_network

    if not isinstance(model, nn.Module | Engine):
        raise TypeError(f"label: 'model' must be a name, a file, a network or an engine, got {type(model).__name__}")
    return load_network(model, settings)


def _refuse_names(settings: LabelSettings) -> None:
    if settings.classes is not None and not settings.grouped:
        raise SettingsError("label: 'classes' must be a .yaml file of groups for a model whose classes have names")


def resolved(model: Model, settings: LabelSettings) -> LabelSettings:
    """The settings with the model's defaults in the open places: what is computed, and what the manifest records."""
    defaults: Defaults = getattr(model, "defaults", Defaults())
    if settings.merge is not None and defaults.merge is None:
        raise SettingsError("label: 'merge' is for class maps, and the model gives scores of classes and background")
    if settings.format == "alpha" and defaults.merge is None:
        raise SettingsError("label: format alpha is made of class maps, and the model gives scores of classes and background")
    values: dict[str, Any] = {
        "scales": settings.scales or defaults.scales,
        "merge": settings.merge or defaults.merge,
        "background": defaults.background if settings.background is None else settings.background,
    }
    if settings.alpha is None and settings.walk == "image":
        # the published ones were chosen for trained affinities
        from wsss_fast.methods._maps import exponent_of

        values["alpha"] = exponent_of(values["background"])
    elif settings.alpha is None and settings.walk is not None:
        values["alpha"] = defaults.alpha
    if settings.walk_steps is None and settings.walk is not None:
        values["walk_steps"] = IMAGE_STEPS if settings.walk == "image" else STEPS
    return dataclasses.replace(settings, **values)


class Lite0Model:
    """EfficientNet-Lite0 on ImageNet, its 1,000 classes gathered into everyday groups.

    The probability of a group is the sum over its classes. Its map is the class activation map of the classes' weights,
    averaged with the probability that each class has within the group: for a tabby, mostly the tabby's map.
    """

    BASE_SIDE = 448
    # The weights were trained on 224-pixel crops; at other sizes their probabilities mean less.
    SCORING_SIDE = 224

    def __init__(self, settings: LabelSettings) -> None:
        import torch

        from wsss_fast.label.device import Device
        from wsss_fast.label.graphs import Graphs
        from wsss_fast.nets import efficientnet
        from wsss_fast.nets.fold import fold

        if settings.engine not in (None, "torch"):
            raise SettingsError(f"label: 'engine' must be torch for {BUILT_IN}, got '{settings.engine}'. Hint: export a network")
        _refuse_names(settings)
        groups = imagenet_groups()
        if settings.grouped:
            groups = read_groups(settings.classes, {group.name: group.classes for group in groups}, IMAGENET_CLASSES)
        self.device = Device(chosen_device(settings.device))
        device = self.device.torch
        network, digest = efficientnet.load_pretrained(output_stride=16)
        self._network = fold(network, inplace=True).to(device, memory_format=torch.channels_last)
        features = self._network.features
        self._features = Graphs(features) if settings.graphs and device.type == "cuda" else features
        self._flip = settings.flip
        self.defaults = Defaults()
        sides = _sides(settings, self.BASE_SIDE, self.defaults.scales)
        # The scoring pass goes first: the maps of all scales use the weights that it chooses.
        self._sides = sorted(sides, key=lambda side: (abs(side - self.SCORING_SIDE), side))
        self._mean, self._std = efficientnet.MEAN[0], efficientnet.STD[0]
        self.class_names = tuple(group.name for group in groups)
        membership = torch.zeros(len(groups), network.num_classes)
        for index, group in enumerate(groups):
            membership[index, list(group.classes)] = 1
        self._membership = membership.to(device)
        self.identity = {"name": BUILT_IN, "sha256": digest, "engine": "torch", "device": device.type}
        if settings.grouped:
            self.identity["groups"] = {group.name: list(group.classes) for group in groups}

    def predict(self, pixels: np.ndarray) -> Prediction:
        import torch

        with torch.inference_mode():
            image = self.device.upload(pixels)
            scores = weights = None
            maps: list[Tensor] = []
            for side in self._sides:
                features = self._features(self._input(image, side))
                if scores is None:
                    probability = self._network.scores(features).softmax(1).mean(0)
                    scores = self._membership @ probability
                    weights = self._group_weights(probability, scores)
                maps.extend(torch.nn.functional.conv2d(features, weights).unbind(0))
            flipped = (False, True) if self._flip else (False,)
            return Prediction(scores.cpu(), tuple(maps), flipped * len(self._sides), image=image)

    def _input(self, image: Tensor, side: int) -> Tensor:
        """The image, and its mirror image, with a longest side of ``side`` and both sides multiples of 16."""
        import torch

        from wsss_fast.methods._infer import resized_to

        longest = max(image.shape[2:])
        size = [max(1, round(old * side / longest / 16)) * 16 for old in image.shape[2:]]
        small = (resized_to(image, size).float() - self._mean) / self._std
        both = torch.cat([small, small.flip(3)]) if self._flip else small
        return both.contiguous(memory_format=torch.channels_last)

    def _group_weights(self, probability: Tensor, scores: Tensor) -> Tensor:
        share = self._membership * probability / scores.clamp_min(1e-30)[:, None]
        return (share @ self._network._fc.weight)[:, :, None, None]


def _sides(settings: LabelSettings, own_base: int, own_scales: tuple[float, ...]) -> list[int]:
    base = min(settings.base_side or own_base, settings.max_side)
    sides = {max(16, round(base * scale / 16) * 16) for scale in settings.scales or own_scales}
    return sorted(sides)


def chosen_device(name: str) -> Any:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            "label: 'device' must be a device of this machine, got 'cuda'. Hint: `wsss doctor` shows what torch sees"
        )
    return torch.device(name)
