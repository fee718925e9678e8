"""Networks behind one small interface: an image goes in, class maps at several scales and class scores come out.

Nothing behind this stage knows which network or engine ran.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

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
    """A model whose maps are on a GPU has a ``device`` too (`label.device.Device`); one that gathers its classes into the groups
    of the settings itself has ``gathers``, which is true.
    """

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
    if not settings.grouped or getattr(loaded, "gathers", False):
        return loaded
    from wsss_fast.label.grouped import GroupedModel

    return GroupedModel(loaded, settings.classes)


def _loaded(model: Any, settings: LabelSettings) -> Model:
    if isinstance(model, str | os.PathLike):
        name = os.fspath(model)
        if name == BUILT_IN and settings.method is None:
            from wsss_fast.label.built_in import load_built_in

            return load_built_in(settings)
        from wsss_fast.label.network import load_network

        return load_network(name, settings)
    if isinstance(model, Model):
        refuse_names(settings)
        return model
    from torch import nn

    from wsss_fast.export.engine import Engine
    from wsss_fast.label.network import load_network

    if not isinstance(model, nn.Module | Engine):
        raise TypeError(f"label: 'model' must be a name, a file, a network or an engine, got {type(model).__name__}")
    return load_network(model, settings)


def refuse_names(settings: LabelSettings) -> None:
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


def chosen_device(name: str) -> Any:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            "label: 'device' must be a device of this machine, got 'cuda'. Hint: `wsss doctor` shows what torch sees"
        )
    return torch.device(name)
