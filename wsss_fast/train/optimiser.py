"""The optimiser of a training: groups of parameters with rates of their own, and a schedule that scales all of them.

    optimiser = make_optimiser(training)
    for step in range(steps):
        set_rates(optimiser, learning_rate(training.settings, step, steps, steps_per_epoch))
        ...

The rate of a group is that of `TrainSettings.lr` times:

==================  ==========  ==============
parameters          pretrained  new layers
==================  ==========  ==============
weights             1           ``new_rate``
biases              2           2 ``new_rate``
==================  ==========  ==============

Weights alone decay. Biases do not, and neither do gain and bias of a normalisation. Frozen parameters are in no group. All
published systems take SGD but DCP, which takes Adam: there biases learn at the rate of weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wsss_fast.methods._training import Training, TrainSettings

_NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(training: Training) -> list[dict[str, Any]]:
    """The groups of an optimiser, each with its ``name``, ``lr``, ``initial_lr`` (which `set_rates` scales) and
    ``weight_decay``. Groups without parameters are left out."""
    settings = training.settings
    bias_rate = 2.0 if settings.optimiser == "sgd" else 1.0
    new = {id(parameter) for parameter in training.new_parameters()}
    groups: dict[str, dict[str, Any]] = {}
    seen: set[int] = set()
    for module in training.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            bias = name == "bias"
            norm = isinstance(module, _NORMALISATIONS)
            rate = settings.lr * (settings.new_rate if id(parameter) in new else 1.0) * (bias_rate if bias else 1.0)
            title = ("new " if id(parameter) in new else "") + ("biases" if bias else "gains" if norm else "weights")
            decay = 0.0 if bias or norm else settings.weight_decay
            group = {"name": title, "params": [], "lr": rate, "initial_lr": rate, "weight_decay": decay}
            groups.setdefault(title, group)["params"].append(parameter)
    if not groups:
        raise ValueError(f"train: {training.model.name} has no parameter to train, all are frozen. Hint: freeze=False")
    return list(groups.values())


def make_optimiser(training: Training) -> torch.optim.Optimizer:
    """SGD or Adam over `parameter_groups`, with the settings' rate and momentum; `set_rates` moves the rates."""
    settings = training.settings
    if settings.optimiser == "adam":
        return torch.optim.Adam(parameter_groups(training), lr=settings.lr)
    return torch.optim.SGD(parameter_groups(training), lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov)


def learning_rate(settings: TrainSettings, step: int, steps: int, steps_per_epoch: float) -> float:
    """The factor of all rates in a step, counted from 0: each step moves the weights once.

    poly: ``(1 - step / steps) ** power``, from ``steps`` on that of the last step; moved every ``rate_every`` updates.
    step: ``decay`` to the power of the number of ``decay_epochs`` that have been reached.
    """
    if settings.schedule == "step":
        reached = sum(step >= epoch * steps_per_epoch for epoch in settings.decay_epochs)
        return float(settings.decay**reached)
    step = min(step, steps - 1)
    if settings.rate_every > 1:
        step -= step % (settings.rate_every * settings.accumulate)
    return float((1 - step / steps) ** settings.power)


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Each group learns at `factor` times the rate it began with; `learning_rate` gives the factor."""
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * factor
