"""The published systems, each in a file of its own: how it is assembled, its defaults, its ``published`` switches.

    model = methods.create("seam", num_classes=20).eval()
    maps = methods.infer_cam(model, image)                 # image: uint8 RGB [N, 3, H, W]
    step = methods.training("seam", num_classes=20)        # step(batch)["total"].backward()

Parameter names equal those of the published checkpoints.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

from wsss_fast import _settings
from wsss_fast._nearest import did_you_mean
from wsss_fast._settings import DATASETS
from wsss_fast.methods import dcp, losses
from wsss_fast.methods._infer import infer_cam, infer_segmentation
from wsss_fast.methods._method import check_published
from wsss_fast.methods._training import Training, TrainSettings

__all__ = ["NAMES", "backbones", "create", "dcp", "infer_cam", "infer_segmentation", "losses", "settings", "training"]

NAMES = ("cam", "seam", "cpn", "eps", "l2g", "affinitynet", "irn", "deeplab")


def create(name: str, num_classes: int, backbone: str | None = None, published: str | None = None, **options: Any) -> nn.Module:
    """A network with random weights, in training mode.

    Args:
        name: cam, seam, cpn, eps, l2g, affinitynet, irn or deeplab.
        num_classes: the number of object classes, without the background.
        backbone: default the first of `backbones(name)`.
        published: None, the sound reading; "paper" or "code" where paper and released code differ from it or from each other.
        **options: of the method: output_stride, width (a narrower network, for tests), head and scales (deeplab), radius
        (affinitynet).

    Raises:
        ValueError, TypeError: naming the argument and the closest that exists.
    """
    classes = _classes(name)
    backbone = next(iter(classes)) if backbone is None else backbone
    if backbone not in classes:
        raise ValueError(_unknown("backbone", backbone, classes, f" for {name}"))
    build = classes[backbone]
    parameters = inspect.signature(build).parameters.values()
    own = {parameter.name for parameter in parameters if parameter.kind == parameter.KEYWORD_ONLY}
    known = sorted(own - {"backbone"})
    for option in options:
        if option not in known:
            raise TypeError(_unknown("option", option, known, f" of {name} on {backbone}"))
    # one class may serve several backbones
    model = build(num_classes, published, **({"backbone": backbone} if "backbone" in own else {}), **options)
    model.options = options
    return model


def settings(
    name: str, published: str | None = None, dataset: str = "voc", backbone: str | None = None, **changes: Any
) -> TrainSettings:
    """How a method is trained: a frozen dataclass of the method.

    Args:
        name: of `create`.
        published: None, the sound reading; "paper" or "code" where they differ from it (docs/methods.md has the table).
        dataset: "voc" or "coco": whose published schedule.
        backbone: of `create`; methods that are trained alike on all of theirs pass over it.
        **changes: fields of the result to set otherwise; for deeplab also ``head``, of `create`.
    """
    check_published("settings", published)
    if dataset not in DATASETS:
        raise ValueError(f"settings: 'dataset' must be one of {', '.join(DATASETS)}, got {dataset!r}")
    if backbone is not None:
        _settings.choice("settings", "backbone", backbone, _classes(name))
    network = _network_arguments(name, backbone, changes)
    chosen = _module(name).settings(published, dataset, **network)
    return _settings.changed(f"settings of {name}", chosen, {key: value for key, value in changes.items() if key not in network})


def training(
    name: str,
    num_classes: int,
    backbone: str | None = None,
    published: str | None = None,
    settings: TrainSettings | None = None,
    **options: Any,
) -> Training:
    """A method ready to be trained, with random weights.

    Args:
        name, num_classes, backbone, published, **options: of `create`.
        settings: of `settings`; default those of `published` on VOC.

    Returns:
        A module whose ``forward(batch)`` gives the terms of the loss, with their sum under "total"; its ``model`` is what is
        saved and exported. ``train.parameter_groups`` and ``train.learning_rate`` make its optimiser.
    """
    model = create(name, num_classes, backbone, published, **options)
    usual = _module(name).settings(published, "voc", **_network_arguments(name, backbone, options))
    if settings is not None and not isinstance(settings, type(usual)):
        got = type(settings).__name__
        raise TypeError(f"training: 'settings' must be those of {name}, got {got}. Hint: methods.settings({name!r})")
    return _module(name).TRAINING(model, usual if settings is None else settings)


def _network_arguments(name: str, backbone: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """What the settings of a method ask about its network."""
    asked = inspect.signature(_module(name).settings).parameters
    return {key: value for key, value in {**options, "backbone": backbone}.items() if key in asked and value is not None}


def backbones(name: str) -> tuple[str, ...]:
    """The backbones that a method is assembled on; the first is the default."""
    return tuple(_classes(name))


def _classes(name: str) -> dict[str, type[nn.Module]]:
    return _module(name).BACKBONES


def _module(name: str) -> ModuleType:
    if name not in NAMES:
        raise ValueError(_unknown("name", name, NAMES))
    return import_module(f"wsss_fast.methods.{name}")


def _unknown(argument: str, got: object, known: Iterable[str], where: str = "") -> str:
    known = list(known)
    hint = did_you_mean(str(got), known)
    return f"create: '{argument}'{where} must be one of {', '.join(known)}, got {got!r}" + (f". Hint: {hint}" if hint else "")
