"""Groups, rates and schedules, by values worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wsss_fast import methods
from wsss_fast._settings import SettingsError
from wsss_fast.methods._training import TrainSettings
from wsss_fast.train.optimiser import learning_rate, make_optimiser, parameter_groups, set_rates

SMALL = {"width": 1 / 16}


def by_name(training: nn.Module) -> dict[str, dict]:
    """Group → its rate, decay and the names of its parameters."""
    names = {id(parameter): name for name, parameter in training.named_parameters()}
    groups = {}
    for group in parameter_groups(training):
        assert group["lr"] == group["initial_lr"] and group["name"] not in groups
        groups[group["name"]] = (group["lr"], group["weight_decay"], {names[id(p)] for p in group["params"]})
    return groups


def test_groups_of_a_frozen_network() -> None:
    training = methods.training("seam", 3, **SMALL)
    groups = by_name(training)
    assert set(groups) == {"weights", "new weights"}  # ResNet38 has biases in its normalisation alone, which is frozen
    assert groups["weights"][:2] == (0.01, 5e-4) and groups["new weights"][:2] == (0.1, 5e-4)
    assert groups["new weights"][2] == {f"model.{name}.weight" for name in ("fc8", "f8_3", "f8_4", "f9")}
    trained = {name for name, parameter in training.named_parameters() if parameter.requires_grad}
    assert groups["weights"][2] == trained - groups["new weights"][2]
    assert not any(name.startswith(("model.conv1a", "model.b2")) or "bn" in name for name in trained)


def test_groups_of_a_whole_network() -> None:
    """Rates 1, 2, 10 and 20; normalisation and biases do not decay; every parameter is in one group."""
    settings = methods.settings("cam", lr=0.5, weight_decay=0.25, new_rate=10.0, freeze=False)
    training = methods.training("cam", 3, "vgg16-psa", settings=settings, **SMALL)
    training.model.fc8.bias = nn.Parameter(torch.zeros(3))
    training.model.norm = nn.GroupNorm(2, 4)
    groups = by_name(training)
    told = {name: group[:2] for name, group in groups.items()}
    assert told == {
        "weights": (0.5, 0.25),
        "biases": (1.0, 0.0),
        "new weights": (5.0, 0.25),
        "new biases": (10.0, 0.0),
        "gains": (0.5, 0.0),
    }
    assert groups["new biases"][2] == {"model.fc8.bias"} and groups["gains"][2] == {"model.norm.weight"}
    every = [name for group in groups.values() for name in group[2]]
    assert sorted(every) == sorted(name for name, _ in training.named_parameters())
    assert "model.norm.bias" in groups["biases"][2] and "model.conv1_1.weight" in groups["weights"][2]


def test_new_layers_of_each_method() -> None:
    new = {"cam": {"fc8"}, "eps": {"fc8"}, "seam": {"fc8", "f8_3", "f8_4", "f9"}}
    new |= {"cpn": new["seam"] | {"f10"}, "l2g": new["seam"]}
    for name, layers in new.items():
        networks = ("model", "local") if name == "l2g" else ("model",)
        found = by_name(methods.training(name, 3, **SMALL))["new weights"][2]
        assert found == {f"{network}.{layer}.weight" for network in networks for layer in layers}


def test_new_rate_is_that_of_the_settings() -> None:
    training = methods.training("cam", 3, settings=methods.settings("cam", lr=1.0, new_rate=3.0), **SMALL)
    assert by_name(training)["new weights"][0] == 3.0


def test_nothing_to_train() -> None:
    training = methods.training("cam", 3, **SMALL).requires_grad_(False)
    with pytest.raises(ValueError, match=r"train: cam has no parameter to train, all are frozen. Hint: freeze=False"):
        make_optimiser(training)


def test_poly_by_hand() -> None:
    settings = TrainSettings(power=0.9)
    assert learning_rate(settings, 0, 100, 10) == 1.0
    assert learning_rate(settings, 50, 100, 10) == pytest.approx(0.5358867312681466, rel=1e-12)  # 2^-0.9
    assert learning_rate(settings, 99, 100, 10) == pytest.approx(0.015848931924611134, rel=1e-12)  # 10^-1.8
    for beyond in (100, 101, 10_000):
        assert learning_rate(settings, beyond, 100, 10) == learning_rate(settings, 99, 100, 10)
    assert learning_rate(TrainSettings(power=0.7), 75, 100, 10) == pytest.approx(0.37892914162759955, rel=1e-12)  # 4^-0.7
    assert learning_rate(TrainSettings(power=0.0), 75, 100, 10) == 1.0


def test_poly_that_moves_now_and_then() -> None:
    """Every 10 updates of 2 steps: the factor of steps 0, 20, 40, ..."""
    settings = TrainSettings(power=1.0, accumulate=2, rate_every=10)
    expected = {0: 1.0, 19: 1.0, 20: 0.8, 39: 0.8, 40: 0.6, 99: 0.2, 1000: 0.2}
    assert {step: learning_rate(settings, step, 100, 10) for step in expected} == pytest.approx(expected, rel=1e-12)


def test_steps_by_hand() -> None:
    settings = TrainSettings(schedule="step", decay_epochs=(5, 7.5), decay=0.1)
    expected = {0: 1.0, 49: 1.0, 50: 0.1, 74: 0.1, 75: 0.01, 1000: 0.01}
    assert {step: learning_rate(settings, step, 100, 10) for step in expected} == pytest.approx(expected, rel=1e-12)
    assert learning_rate(TrainSettings(schedule="step"), 1000, 10, 10) == 1.0


def test_rates_are_set_from_the_first_ones() -> None:
    optimiser = make_optimiser(methods.training("seam", 3, **SMALL))
    for factor in (0.5, 0.25):
        set_rates(optimiser, factor)
        assert [group["lr"] for group in optimiser.param_groups] == [0.01 * factor, 0.1 * factor]


def test_a_step_of_the_optimiser_by_hand() -> None:
    """Momentum, decay and Nesterov's form reach the weights: w = 1, gradient 2, twice."""
    settings = methods.settings("cam", lr=0.1, new_rate=10.0, momentum=0.5, nesterov=True, weight_decay=0.25)
    training = methods.training("cam", 3, settings=settings, **SMALL)
    weight = training.model.fc8.weight
    optimiser = make_optimiser(training)
    with torch.no_grad():
        weight.fill_(1.0)
    moved, velocity = 1.0, None
    for factor in (1.0, 0.5):
        set_rates(optimiser, factor)
        optimiser.zero_grad()
        weight.grad = torch.full_like(weight, 2.0)
        optimiser.step()
        gradient = 2.0 + 0.25 * moved
        velocity = gradient if velocity is None else 0.5 * velocity + gradient
        moved -= 0.1 * 10 * factor * (gradient + 0.5 * velocity)
        assert torch.allclose(weight, torch.full_like(weight, moved), rtol=1e-6)


def test_adam_by_hand() -> None:
    """The published Adam, with the rates of DCP: 5e-6, new layers 1e-4, biases alike. Gradients 2 and -1, decay 0.25."""
    given = {"optimiser": "adam", "lr": 5e-6, "new_rate": 20.0, "weight_decay": 0.25, "schedule": "step"}
    training = methods.training("deeplab", 3, "vgg16", settings=methods.settings("deeplab", momentum=0, **given), **SMALL)
    rates = {name: group[:2] for name, group in by_name(training).items()}
    assert rates == {
        "weights": (5e-6, 0.25),
        "biases": (5e-6, 0.0),
        "new weights": (pytest.approx(1e-4), 0.25),
        "new biases": (pytest.approx(1e-4), 0.0),
    }
    weight = training.model.base.aspp.c0[0].weight
    optimiser = make_optimiser(training)
    with torch.no_grad():
        weight.fill_(1.0)
    moved, mean, square = 1.0, 0.0, 0.0
    for step, gradient in enumerate((2.0, -1.0), 1):
        weight.grad = torch.full_like(weight, gradient)
        optimiser.step()
        gradient += 0.25 * moved
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        moved -= 1e-4 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)) ** 0.5 + 1e-8)
        assert torch.allclose(weight, torch.full_like(weight, moved), rtol=1e-7)


def test_settings_of_the_optimiser() -> None:
    with pytest.raises(SettingsError, match=r"'optimiser' must be one of sgd, adam, got 'adamw'\. Hint"):
        TrainSettings(optimiser="adamw")
    with pytest.raises(SettingsError, match="'momentum' must be 0 with adam"):
        TrainSettings(optimiser="adam", momentum=0.9)
