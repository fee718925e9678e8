"""The built-in model: EfficientNet-Lite0 on ImageNet, its 1,000 classes gathered into everyday groups, run by any engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wsss_fast.classes.groups import IMAGENET_CLASSES, ClassGroup, imagenet_groups, read_groups
from wsss_fast.export.engine import Engine, load_engine
from wsss_fast.label.device import Device
from wsss_fast.label.graphs import Graphs
from wsss_fast.label.predict import BUILT_IN, Defaults, Prediction, chosen_device, refuse_names
from wsss_fast.label.settings import LabelSettings
from wsss_fast.methods._infer import resized_to
from wsss_fast.nets import efficientnet
from wsss_fast.nets.fold import fold


def load_built_in(settings: LabelSettings) -> BuiltInModel:
    device = chosen_device(settings.device)
    if settings.engine not in (None, "torch"):
        return BuiltInModel(EngineClassifier(load_engine(BUILT_IN, settings.engine, device)), settings)
    return BuiltInModel(TorchClassifier(device, settings.graphs), settings)


class Classifier(Protocol):
    """A network that judges whole images, and of which each class's map can be made."""

    identity: dict[str, Any]
    device: torch.device
    groups: Sequence[ClassGroup]
    classes: int

    def look(self, image: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] → what the rest is made of."""
        ...

    def scores(self, seen: Tensor) -> Tensor:
        """[N, C], before the softmax."""
        ...

    def maps(self, seen: Tensor, parts: Tensor) -> Tensor:
        """Maps [N, G, h, w] of groups, to which each class contributes as ``parts`` [G, C] says."""
        ...


class TorchClassifier:
    """The network itself: the weights of a group's classes are joined first, so that a group costs as much as a class."""

    classes = IMAGENET_CLASSES

    def __init__(self, device: torch.device, graphs: bool) -> None:
        network, digest = efficientnet.load_pretrained(output_stride=16)
        self.device = device
        self.groups = imagenet_groups()
        self.identity = {"name": BUILT_IN, "sha256": digest, "engine": "torch", "device": device.type}
        self._network = fold(network, inplace=True).to(device, memory_format=torch.channels_last)
        features = self._network.features
        self.look = Graphs(features) if graphs and device.type == "cuda" else features

    def scores(self, seen: Tensor) -> Tensor:
        return self._network.scores(seen)

    def maps(self, seen: Tensor, parts: Tensor) -> Tensor:
        return functional.conv2d(seen, (parts @ self._network._fc.weight)[:, :, None, None])


class EngineClassifier:
    """An exported file of it, which gives the maps of all classes. The mean of a map is the score of its class."""

    def __init__(self, engine: Engine) -> None:
        meta = engine.meta
        self.device = engine.device
        self.groups = tuple(ClassGroup(name, numbers) for name, numbers in meta.groups)
        self.classes = meta.num_classes
        self.identity = {"name": meta.backbone, **engine.identity}
        self._engine = engine
        self._bias = torch.tensor(meta.bias, device=engine.device)

    def look(self, image: Tensor) -> Tensor:
        from wsss_fast.label.network import check_size

        check_size(self._engine, image)
        return self._engine.forward_cam(image)

    def scores(self, seen: Tensor) -> Tensor:
        return seen.mean(dim=(2, 3))

    def maps(self, seen: Tensor, parts: Tensor) -> Tensor:
        return torch.einsum("gc,nchw->nghw", parts, seen) - (parts @ self._bias)[:, None, None]


class BuiltInModel:
    """The probability of a group is the sum over its classes. Its map is the class activation map of the classes' weights,
    averaged with the probability that each class has within the group: for a tabby, mostly the tabby's map.
    """

    gathers = True
    BASE_SIDE = 448
    # The weights were trained on 224-pixel crops; at other sizes their probabilities mean less.
    SCORING_SIDE = 224

    def __init__(self, classifier: Classifier, settings: LabelSettings) -> None:
        refuse_names(settings)
        groups = classifier.groups
        if settings.grouped:
            groups = read_groups(settings.classes, {group.name: group.classes for group in groups}, classifier.classes)
        self._classifier = classifier
        self.device = Device(classifier.device)
        self._flip = settings.flip
        self.defaults = Defaults()
        sides = _sides(settings, self.BASE_SIDE, self.defaults.scales)
        # The scoring pass goes first: the maps of all scales use the weights that it chooses.
        self._sides = sorted(sides, key=lambda side: (abs(side - self.SCORING_SIDE), side))
        self._mean, self._std = efficientnet.MEAN[0], efficientnet.STD[0]
        self.class_names = tuple(group.name for group in groups)
        membership = torch.zeros(len(groups), classifier.classes)
        for index, group in enumerate(groups):
            membership[index, list(group.classes)] = 1
        self._membership = membership.to(classifier.device)
        self.identity = dict(classifier.identity)
        if settings.grouped:
            self.identity["groups"] = {group.name: list(group.classes) for group in groups}

    def predict(self, pixels: np.ndarray) -> Prediction:
        with torch.inference_mode():
            image = self.device.upload(pixels)
            scores = parts = None
            maps: list[Tensor] = []
            for side in self._sides:
                seen = self._classifier.look(self._input(image, side))
                if scores is None:
                    probability = self._classifier.scores(seen).softmax(1).mean(0)
                    scores = self._membership @ probability
                    parts = self._membership * probability / scores.clamp_min(1e-30)[:, None]
                maps.extend(self._classifier.maps(seen, parts).unbind(0))
            flipped = (False, True) if self._flip else (False,)
            return Prediction(scores.cpu(), tuple(maps), flipped * len(self._sides), image=image)

    def _input(self, image: Tensor, side: int) -> Tensor:
        """The image, and its mirror image, with a longest side of ``side`` and both sides multiples of 16."""
        longest = max(image.shape[2:])
        size = [max(1, round(old * side / longest / 16)) * 16 for old in image.shape[2:]]
        small = (resized_to(image, size).float() - self._mean) / self._std
        both = torch.cat([small, small.flip(3)]) if self._flip else small
        return both.contiguous(memory_format=torch.channels_last)


def _sides(settings: LabelSettings, own_base: int, own_scales: tuple[float, ...]) -> list[int]:
    base = min(settings.base_side or own_base, settings.max_side)
    sides = {max(16, round(base * scale / 16) * 16) for scale in settings.scales or own_scales}
    return sorted(sides)
