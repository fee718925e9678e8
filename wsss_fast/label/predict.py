"""Networks behind one small interface: an image goes in, scores and class maps at several scales come out.

Nothing behind this stage knows which engine ran.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from wsss_fast.label.classes import imagenet_groups
from wsss_fast.label.settings import LabelSettings, SettingsError

if TYPE_CHECKING:
    from torch import Tensor

BUILT_IN = "efficientnet-lite0"


@dataclass(frozen=True)
class Prediction:
    scores: Tensor  # [C] probability that each class is in the image, on the CPU
    maps: tuple[Tensor, ...]  # one [C, h, w] a scale and flip, not mirrored any more, any sign


@runtime_checkable
class Engine(Protocol):
    class_names: tuple[str, ...]
    identity: dict[str, Any]  # what the manifest records, and what must be equal when a job is resumed

    def predict(self, pixels: np.ndarray) -> Prediction:
        """``pixels`` is uint8 [H, W, 3], at most ``max_side`` long."""
        ...


def load_engine(model: Any, settings: LabelSettings) -> Engine:
    if isinstance(model, str | os.PathLike):
        name = os.fspath(model)
        if name == BUILT_IN:
            return Lite0Engine(settings)
        close = difflib.get_close_matches(str(name), [BUILT_IN], 1)
        hint = f"did you mean '{close[0]}'?" if close else f"the built-in model is '{BUILT_IN}'"
        raise SettingsError(f"label: 'model' must be a model that this version knows, got {str(name)!r}. Hint: {hint}")
    if isinstance(model, Engine):
        if not 1 <= len(model.class_names) <= 254:
            raise SettingsError(f"label: 'model' must have 1 to 254 classes, got {len(model.class_names)}")
        return model
    raise TypeError(f"label: 'model' must be a name or an engine, got {type(model).__name__}")


class Lite0Engine:
    """EfficientNet-Lite0 on ImageNet, its 1,000 classes gathered into everyday groups.

    The probability of a group is the sum over its classes. Its map is the class activation map of the classes' weights,
    averaged with the probability that each class has within the group: for a tabby, mostly the tabby's map.
    """

    BASE_SIDE = 448
    # The weights were trained on 224-pixel crops; at other sizes their probabilities mean less.
    SCORING_SIDE = 224

    def __init__(self, settings: LabelSettings) -> None:
        import torch

        from wsss_fast.nets import efficientnet

        device = _device(settings.device)
        network, digest = efficientnet.load_pretrained(output_stride=16)
        self._network = network.to(device)
        self._device = device
        self._flip = settings.flip
        sides = _sides(settings, self.BASE_SIDE)
        # The scoring pass goes first: the maps of all scales use the weights that it chooses.
        self._sides = sorted(sides, key=lambda side: (abs(side - self.SCORING_SIDE), side))
        self._mean, self._std = efficientnet.MEAN[0], efficientnet.STD[0]
        groups = imagenet_groups()
        self.class_names = tuple(group.name for group in groups)
        membership = torch.zeros(len(groups), network.num_classes)
        for index, group in enumerate(groups):
            membership[index, list(group.classes)] = 1
        self._membership = membership.to(device)
        self.identity = {"name": BUILT_IN, "sha256": digest, "engine": "torch", "device": device.type}

    def predict(self, pixels: np.ndarray) -> Prediction:
        import torch

        with torch.inference_mode():
            scores = weights = None
            maps: list[Tensor] = []
            for side in self._sides:
                features = self._features(pixels, side)
                if scores is None:
                    probability = self._network.scores(features).softmax(1).mean(0)
                    scores = self._membership @ probability
                    weights = self._group_weights(probability, scores)
                for index, one in enumerate(features):
                    plane = torch.nn.functional.conv2d(one[None], weights)[0]
                    maps.append(plane.flip(2) if index == 1 else plane)
            return Prediction(scores.cpu(), tuple(maps))

    def _features(self, pixels: np.ndarray, side: int) -> Tensor:
        import torch

        small = torch.from_numpy(resize_to_side(pixels, side, multiple=16)).to(self._device)
        image = (small.permute(2, 0, 1)[None].float() - self._mean) / self._std
        if self._flip:
            image = torch.cat([image, image.flip(3)])
        return self._network.features(image)

    def _group_weights(self, probability: Tensor, scores: Tensor) -> Tensor:
        share = self._membership * probability / scores.clamp_min(1e-30)[:, None]
        return (share @ self._network._fc.weight)[:, :, None, None]


def resize_to_side(pixels: np.ndarray, side: int, multiple: int = 1) -> np.ndarray:
    """The longest side becomes ``side``, both sides multiples of ``multiple`` (at least one)."""
    height, width = pixels.shape[:2]
    ratio = side / max(height, width)
    new_width, new_height = (max(1, round(old * ratio / multiple)) * multiple for old in (width, height))
    if (new_width, new_height) == (width, height):
        return pixels
    # The filter widens with the reduction, so that fine texture does not alias.
    resized = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BICUBIC)
    return np.array(resized)


def _sides(settings: LabelSettings, own_base: int) -> list[int]:
    base = min(settings.base_side or own_base, settings.max_side)
    sides = {max(16, round(base * scale / 16) * 16) for scale in settings.scales}
    return sorted(sides)


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            "label: 'device' must be a device of this machine, got 'cuda'. Hint: `wsss doctor` shows what torch sees"
        )
    return torch.device(name)
