"""The published systems, each in a file of its own: how it is assembled, its defaults, its ``published`` switches.

    model = methods.create("seam", num_classes=20).eval()
    maps = methods.infer_cam(model, image)                 # image: uint8 RGB [N, 3, H, W]

Parameter names equal those of the published checkpoints.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from torch import nn

from wsss_fast.methods import losses
from wsss_fast.methods._infer import infer_cam

__all__ = ["NAMES", "backbones", "create", "infer_cam", "losses"]

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


def backbones(name: str) -> tuple[str, ...]:
    """The backbones that a method is assembled on; the first is the default."""
    return tuple(_classes(name))


def _classes(name: str) -> dict[str, type[nn.Module]]:
    if name not in NAMES:
        raise ValueError(_unknown("name", name, NAMES))
    return import_module(f"wsss_fast.methods.{name}").BACKBONES


def _unknown(argument: str, got: object, known: Iterable[str], where: str = "") -> str:
    known = list(known)
    close = difflib.get_close_matches(str(got), known, 1)
    hint = f". Hint: did you mean '{close[0]}'?" if close else ""
    return f"create: '{argument}'{where} must be one of {', '.join(known)}, got {got!r}{hint}"
