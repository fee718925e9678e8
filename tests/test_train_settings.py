"""Settings of a run, and pretrained weights to start from."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from networks import lively
from safetensors.torch import save_file
from training import narrow

from wsss_fast import methods
from wsss_fast._settings import SettingsError
from wsss_fast.nets import weights
from wsss_fast.train import initial
from wsss_fast.train.job import Plan
from wsss_fast.train.settings import DataSettings, NetworkSettings, RunSettings, every


@pytest.mark.parametrize(
    ("text", "steps"), [("0", 0), ("500", 500), ("500 steps", 500), ("1 step", 1), ("2 epochs", 14), ("1epoch", 7), (3, 3)]
)
def test_intervals(text, steps):
    assert every("pictures", text, 7) == steps


@pytest.mark.parametrize("text", ["", "-1", "two epochs", "1.5 epochs", "1 day", "1 epochs later", "9" * 12])
def test_intervals_that_are_none(text):
    with pytest.raises(SettingsError, match=r"'pictures' must be a number of steps or epochs, or 0.*for example '500 steps'"):
        RunSettings(pictures=text)


@pytest.mark.parametrize(
    ("text", "options"),
    [("", {}), ("width=0.25", {"width": 0.25}), ("width=0.25, output_stride=16", {"width": 0.25, "output_stride": 16}),
     ("dilate=true head=aspp", {"dilate": True, "head": "aspp"})],
)  # fmt: skip
def test_options_of_the_network(text, options):
    assert NetworkSettings(options=text).network_options() == options


@pytest.mark.parametrize("text", ["width", "=3", "a=1,a=2", "a b=3", "a=[1"])
def test_options_that_are_none(text):
    with pytest.raises(SettingsError, match="'options' must"):
        NetworkSettings(options=text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"device": "gpu"}, "'device' must be one of auto, cpu, cuda"),
        ({"precision": "fp8"}, "'precision'"),
        ({"workers": -1}, "'workers' must be a whole number from 0"),
        ({"threads": 0}, "'threads'"),
        ({"max_steps": 0}, "'max_steps'"),
        ({"seed": -1}, "'seed'"),
        ({"log_every": 0}, "'log_every'"),
        ({"keep": True}, "'keep'"),
        ({"compile": 1}, "'compile' must be True or False"),
        ({"unreadable": "ignore"}, "'unreadable' must be one of stop, skip"),
    ],
)
def test_values_that_cannot_work(values, message):
    with pytest.raises(SettingsError, match=message):
        RunSettings(**values)


def test_names_of_settings_are_unique_across_their_groups():
    """They share one flat file and one command line."""
    parts = [DataSettings, NetworkSettings, RunSettings]
    for method in ("cam", "seam", "cpn", "eps", "l2g"):
        names = [item.name for part in [*parts, methods.settings(method)] for item in dataclasses.fields(part)]
        assert len(names) == len(set(names))
        assert not {"out", "restart", "dry_run", "json", "quiet", "config"} & set(names)


def test_a_plan_takes_the_published_settings():
    network = NetworkSettings(published="paper")
    assert Plan("cam", DataSettings(data="x"), network).train_settings() == methods.settings("cam", "paper")


def backbone_file(folder, width=1 / 64):
    """What a classifier of other classes saved."""
    torch.manual_seed(9)
    source = lively(methods.create("cam", 7, width=width))
    weights.save_checkpoint(folder / "cam.safetensors", source, source.description())
    return source.state_dict(), str(folder / "cam.safetensors")


@pytest.mark.parametrize("method", ["seam", "cpn", "eps"])
def test_a_backbone_fills_a_method_but_for_its_new_layers(tmp_path, method):
    state, file = backbone_file(tmp_path)
    training = narrow(method)
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    told = initial.initialise(training, file)
    after = training.model.state_dict()
    shared = [name for name in after if name in state and not name.startswith("fc8")]
    assert len(shared) > 200 and all(torch.equal(after[name], state[name]) for name in shared)
    rest = [name for name in after if name not in shared]
    assert rest and all(torch.equal(after[name], before[name]) for name in rest)
    layers = {name.rpartition(".")[0] for name in rest}
    assert told.endswith("; new: " + ", ".join(sorted(layers)))


def test_both_networks_of_l2g_are_filled(tmp_path):
    state, file = backbone_file(tmp_path)
    training = narrow("l2g", crop=64)
    initial.initialise(training, file)
    networks = [network.state_dict() for network in training.children()]
    assert len(networks) == 2
    assert all(torch.equal(network["b7.conv_branch1.weight"], state["b7.conv_branch1.weight"]) for network in networks)


def test_a_head_goes_on_only_with_the_classes_that_it_knows(tmp_path):
    training = narrow()
    lively(training.model)
    classes = [f"class {index}" for index in range(training.model.num_classes)]
    file = str(tmp_path / "a.safetensors")
    weights.save_checkpoint(file, training.model, {"classes": classes})
    other = narrow(seed=4)
    assert "; new" not in initial.initialise(other, file, classes)
    assert torch.equal(other.model.fc8.weight, training.model.fc8.weight)
    for given in (classes[::-1], classes[1:], ()):
        another = narrow(seed=5)
        assert initial.initialise(another, file, given).endswith("; new: fc8")
        assert not torch.equal(another.model.fc8.weight, training.model.fc8.weight)


def test_names_of_torchvision_fill_the_backbone_inside_a_method(tmp_path):
    settings = methods.settings("cam", crop=32)
    training = methods.training("cam", 3, "resnet50", settings=settings, width=1 / 8)
    state = {name: torch.randn_like(value.float()) for name, value in training.model.resnet50.state_dict().items()}
    state |= {"fc.weight": torch.zeros(1000, 8), "fc.bias": torch.zeros(1000)}
    save_file(state, tmp_path / "resnet50.safetensors")
    told = initial.initialise(training, str(tmp_path / "resnet50.safetensors"))
    assert told.endswith("; new: classifier")
    assert torch.equal(training.model.resnet50.conv1.weight, state["conv1.weight"])


def test_the_built_in_weights_fill_efficientnet():
    training = methods.training("cam", 3, "efficientnet-lite0", settings=methods.settings("cam"))
    told = initial.initialise(training, "efficientnet-lite0")
    assert told.endswith("; new: _fc") and "from efficientnet-lite0" in told
    segmentation = methods.training("deeplab", 3, "efficientnet-lite0", settings=methods.settings("deeplab"))
    told = initial.initialise(segmentation, "efficientnet-lite0")
    assert told.endswith("; new: " + ", ".join(f"aspp.c{branch}" for branch in range(4)))
    blocks = segmentation.model.backbone._blocks, training.model._blocks
    assert torch.equal(blocks[0][15]._expand_conv.weight, blocks[1][15]._expand_conv.weight)
    with pytest.raises(ValueError, match=r"train: 'init': 'efficientnet-lite0' does not fit the network"):
        initial.initialise(narrow(), "efficientnet-lite0")


@pytest.mark.parametrize("damage", ["missing", "shape", "stranger"])
def test_a_partial_backbone_is_refused_and_changes_nothing(tmp_path, damage):
    state, _ = backbone_file(tmp_path)
    if damage == "missing":
        del state["b5.conv_branch2a.weight"]
    elif damage == "shape":
        state["b5.conv_branch2a.weight"] = torch.zeros(3, 3)
    else:
        state["b9.conv.weight"] = torch.zeros(3)
    save_file(state, tmp_path / "damaged.safetensors")
    training = narrow("seam")
    before = {name: value.clone() for name, value in training.state_dict().items()}
    with pytest.raises(ValueError, match=r"train: 'init': .*damaged.safetensors' does not fit.*(b5.conv_branch2a|b9.conv)"):
        initial.initialise(training, str(tmp_path / "damaged.safetensors"))
    assert all(torch.equal(value, before[name]) for name, value in training.state_dict().items())


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        initial.initialise(narrow(), str(tmp_path / "no.safetensors"))
