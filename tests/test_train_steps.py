"""Whole training steps: what is moved and what is not, what bad input is told, and that every method learns."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from helpers import relative_error, threads
from torch import nn
from training_cases import NAMES, padded, shapes, small

from wsss_fast import methods
from wsss_fast._settings import SettingsError
from wsss_fast.methods._training import Training, check_finite
from wsss_fast.train.optimiser import make_optimiser

BRANCHES = {"f8_3", "f8_4", "f9"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


# ---- which parameters a step moves -----------------------------------------------------------------------------------


def reached(training: Training, term: torch.Tensor) -> dict[str, set[str]]:
    """Network → names of its parts that get a gradient; the others get none, not zeros."""
    parameters = dict(training.named_parameters())
    trained = {name: value for name, value in parameters.items() if value.requires_grad}
    gradients = torch.autograd.grad(term, list(trained.values()), retain_graph=True, allow_unused=True)
    parts: dict[str, set[str]] = {network: set() for network in dict(training.named_children())}
    for name, gradient in zip(trained, gradients, strict=True):
        if gradient is not None:
            network, part, *_ = name.split(".")
            parts[network].add(part)
    return parts


def trained_parts(training: Training) -> set[str]:
    return {name.split(".")[0] for name, value in training.model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("name", NAMES)
def test_routes(name: str) -> None:
    training = small(name)
    terms = training(padded())
    every, branches = trained_parts(training), BRANCHES | {"f10"} & trained_parts(training)
    assert every > {"b3", "b7", "fc8"} and not every & {"conv1a", "b2", "b2_1", "b2_2", "bn7"}
    if name == "l2g":
        expected = {"classification": ("local", every), "transfer": ("model", every)}
    else:
        direct = every - branches
        expected = {
            key: ("model", direct if key in ("classification", "er", "tcp_raw", "saliency") else branches) for key in terms
        }
        expected.pop("total")
    assert terms.keys() - {"total"} == expected.keys()
    for key, (network, parts) in expected.items():
        found = reached(training, terms[key])
        assert found.pop(network) == parts, key
        assert not any(found.values()), key
    terms["total"].backward()
    for parameter in training.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad


BACKBONES = [(name, None) for name in NAMES] + [
    ("cam", "vgg16-psa"),
    ("cam", "resnet50"),
    ("cam", "efficientnet-lite0"),
]
STEMS = {
    None: ("conv1a.", "b2.", "b2_1.", "b2_2."),
    "vgg16-psa": ("conv1_", "conv2_"),
    "resnet50": ("resnet50.conv1.", "resnet50.bn1.", "resnet50.layer1.", "resnet50.layer2."),
    "efficientnet-lite0": ("_conv_stem.", "_bn0."),
}


def stepped(training: Training) -> set[str]:
    """The entries that differ after two steps."""
    before = {name: value.clone() for name, value in training.state_dict().items()}
    optimiser = make_optimiser(training)
    for _ in range(2):
        optimiser.zero_grad()
        training(padded())["total"].backward()
        optimiser.step()
    return {name for name, value in training.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(("name", "backbone"), BACKBONES)
def test_frozen_layers_stay_bit_by_bit(name: str, backbone: str | None) -> None:
    torch.manual_seed(0)
    training = small(name, backbone=backbone)
    changed = stepped(training)
    frozen = {key for key, value in training.named_parameters() if not value.requires_grad}
    stem = {key for key in training.state_dict() if key.partition(".")[2].startswith(STEMS[backbone])}
    assert stem and not changed & (stem | frozen)
    assert not any("running" in key or "tracked" in key for key in changed)
    assert {key for key, value in training.named_parameters() if value.requires_grad and value.dim() == 4} <= changed


@pytest.mark.parametrize(("name", "backbone"), BACKBONES)
def test_unfrozen_layers_change(name: str, backbone: str | None) -> None:
    """From the first step on, also in a network whose mode nobody has set since it was made."""
    torch.manual_seed(0)
    settings = methods.settings(name, freeze=False)
    options = {} if backbone == "efficientnet-lite0" else {"width": 1 / 16}
    training = methods.training(name, 3, backbone, settings=settings, **options)
    assert all(parameter.requires_grad for parameter in training.parameters())
    changed = stepped(training)
    statistics = {key for key in training.state_dict() if "running" in key or "tracked" in key}
    stem = {f"{network}.{key}" for network, model in training.named_children() for key, value in model.named_parameters()
            if key.startswith(STEMS[backbone]) and value.dim() == 4}  # fmt: skip
    assert stem and stem | statistics <= changed
    assert bool(statistics) == (backbone != "vgg16-psa")
    training.eval()
    assert not any(layer.training for layer in training.modules())


def test_frozen_networks_are_so_from_the_start() -> None:
    for name, backbone in BACKBONES:
        if name != "l2g":
            model = methods.create(name, 3, backbone, **({} if backbone == "efficientnet-lite0" else {"width": 1 / 16}))
            assert model.training and not any(layer.training for layer in model.modules() if isinstance(layer, nn.BatchNorm2d))


@pytest.mark.parametrize("name", ["cam", "seam", "eps"])
def test_gradients_of_parts_of_a_batch_add_up(name: str) -> None:
    """Terms that are means over images: two halves, each divided by two, are the whole."""
    training = small(name).double()
    for layer in training.modules():
        if isinstance(layer, nn.Dropout2d):
            layer.p = 0.0
    single = training.image
    training.image = lambda batch: single(batch).double()
    batch = padded(images=4)
    training(batch)["total"].backward()
    whole = {key: value.grad.clone() for key, value in training.named_parameters() if value.grad is not None}
    training.zero_grad()
    for half in (slice(0, 2), slice(2, 4)):
        (training({key: value[half] for key, value in batch.items()})["total"] / 2).backward()
    assert whole
    for key, value in training.named_parameters():
        assert (value.grad is None) == (key not in whole)
        # what is left of a sum that is 0 has no relative error
        if value.grad is not None and whole[key].abs().max() > 1e-12:
            assert relative_error(value.grad, whole[key]) < 1e-6, key


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(name: str) -> None:
    training = small(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = training(padded())
    terms["total"].backward()
    assert all(term.isfinite() and term.dtype == torch.float32 for term in terms.values())
    assert all(value.grad.isfinite().all() for value in training.parameters() if value.requires_grad)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_repeats_from_the_seed(name: str) -> None:
    batch, totals = padded(), []
    training = small(name)
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        totals.append(training(batch)["total"].item())
    assert totals[0] == totals[1] != totals[2]  # dropout, and what is drawn


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_labels_of_every_kind(name: str) -> None:
    """No class, all classes, and maps of a class that are 0 everywhere."""
    training, batch = small(name), padded()
    row = -1 if name in ("seam", "cpn") else 0
    for rows in ([[0, 0, 0], [1, 1, 1]], [[0, 0, 0]] * 2):
        for silent in (False, True):
            with torch.no_grad():
                for network in training.networks():
                    if silent:
                        network.fc8.weight[row].zero_()
            training.zero_grad()
            terms = training({**batch, "labels": torch.tensor(rows)})
            terms["total"].backward()
            assert all(term.isfinite() for term in terms.values())
            assert all(value.grad.isfinite().all() for value in training.parameters() if value.requires_grad)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": torch.zeros(2, 4)}, ValueError, r"'labels' must have shape \[N, C\] = \[2, 3\], got \[2, 4\]. Hint: the num"),
        ({"labels": torch.zeros(3, 3)}, ValueError, r"'labels' must have shape \[N, C\] = \[2, 3\], got \[3, 3\]"),
        ({"labels": [[0, 1, 0]] * 2}, ValueError, "'labels' must be a tensor in the batch, got list"),
        ({"saliency": None}, ValueError, "'saliency' must be a tensor in the batch, got NoneType. Hint: this method learns from"),
        ({"saliency": torch.zeros(2, 1, 30, 32, dtype=torch.uint8)}, ValueError, r"'saliency' must have shape \[2, 1, 32, 32\]"),
        ({"saliency": torch.zeros(2, 1, 32, 32)}, TypeError, "'saliency' must be of type uint8, got float32"),
        ({"pixels": torch.zeros(2, 3, 32, 32)}, ValueError, "'pixels' must be uint8 RGB of shape .*, got float32"),
        ({"pixels": torch.zeros(2, 4, 32, 32, dtype=torch.uint8)}, ValueError, "'pixels' must be uint8 RGB of shape"),
        ({"inside": torch.ones(2, 32, 32, dtype=torch.uint8)}, TypeError, "'inside' must be of type bool, got uint8"),
        ({"inside": torch.ones(2, 32, 31, dtype=torch.bool)}, ValueError, r"'inside' must have shape \[2, 32, 32\]"),
        ({"segments": torch.ones(2, 16, 32, dtype=torch.int32)}, ValueError, r"'segments' must have shape \[2, 32, 32\]"),
    ],
)  # fmt: skip
def test_bad_batches(change: dict, error: type[Exception], message: str) -> None:
    for name in ("eps", "l2g"):
        with pytest.raises(error, match=f"train {name}: {message}"):
            small(name)({**padded(), **change})


def test_a_loss_that_is_no_number_names_the_batch() -> None:
    training, batch = small("eps"), padded()
    check_finite(training(batch), batch["names"])
    with torch.no_grad():
        training.model.fc8.weight[-1, 0] = math.nan
    with pytest.raises(
        FloatingPointError, match=r"not finite \(saliency = nan, total = nan\) in the batch of picture 1, picture 2"
    ):
        check_finite(training(batch), batch["names"])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("cpn", {"patches": "segments"}, "'patches' must be one of superpixels, grid, got 'segments'"),
        ("cpn", {"segments": 200}, "'segments' must be a list of whole numbers, one at least, got 200"),
        ("cpn", {"segments": (0,)}, "'segments' must be a whole number from 1"),
        ("cpn", {"patches": "grid", "crop": 64}, r"'grid' must have cells of at most the crop's side, 64, got \(56, 112\)"),
        ("cpn", {"hide": 1.5}, "'hide' must be a number from 0 to 1, got 1.5"),
        ("eps", {"tau": -0.1}, "'tau' must be a number from 0 to 1"),
        ("eps", {"lam": math.nan}, "'lam' must be a number from 0 to 1, got nan"),
        ("l2g", {"corners": True, "patches": 3}, "'patches' must be 4 or more with the corners among them, got 3"),
        ("l2g", {"patch": 449}, "'patch' must be a whole number from 8 to 448, got 449"),
        ("l2g", {"momentum": 0.0}, "'nesterov' must go with a momentum above 0"),
        ("cam", {"decay_epochs": (-1,)}, "'decay_epochs' must be a number from 0"),
        ("cam", {"sizes": (512, 256)}, r"'sizes' must be \(lowest, highest\)"),
        ("cam", {"tau": 0.4}, "settings of cam: unknown setting 'tau'"),
    ],
)
def test_bad_settings(name: str, changes: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        methods.settings(name, **changes)


def test_settings_of_another_method() -> None:
    with pytest.raises(
        TypeError, match=r"training: 'settings' must be those of cpn, got SeamSettings. Hint: methods.settings\('cpn'\)"
    ):
        methods.training("cpn", 3, settings=methods.settings("seam"), width=1 / 16)


# ---- it learns -------------------------------------------------------------------------------------------------------

FIT = {"seam": {"second_scale": 0.75}, "l2g": {"patches": 2, "patch": 384, "nesterov": False}}


@pytest.mark.parametrize("name", NAMES)
def test_classification_loss_falls_by_nine_tenths(name: str) -> None:
    """From random weights, nothing frozen. L2G classifies by its local network."""
    changes = {"lr": 0.02, "new_rate": 3.0, "momentum": 0.9, "freeze": False, **FIT.get(name, {})}
    torch.manual_seed(0)
    training = methods.training(name, 3, settings=methods.settings(name, **changes), width=1 / 8).train()
    optimiser, batch, losses = make_optimiser(training), shapes(48), []
    while len(losses) < 5 or sum(losses[-5:]) / 5 > 0.1 * losses[0]:
        assert len(losses) < 150, f"{losses[0]:.2f} fell to {sum(losses[-5:]) / 5:.2f} only"
        optimiser.zero_grad()
        terms = training(batch)
        assert all(term.isfinite() for term in terms.values())
        terms["total"].backward()
        optimiser.step()
        losses.append(terms["classification"].item())
