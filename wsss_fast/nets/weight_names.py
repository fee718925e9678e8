"""How published files name parameters, and what those are called in our networks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")

_STATISTICS = {"moving_mean": "running_mean", "mean": "running_mean", "moving_var": "running_var", "var": "running_var"}
_BATCH_NORM = {"gamma": "weight", "beta": "bias", **_STATISTICS}


def resnet38_from_mxnet(name: str) -> str | None:
    """Names of ilsvrc-cls_rna-a1_cls1000_ep-0001.params: "arg:res3b1_branch2a_weight" → "b3_1.conv_branch2a.weight".

    None for the ImageNet classifier, which no network here has.
    """
    name = name.removeprefix("arg:").removeprefix("aux:")
    if name.startswith("linear1000"):
        return None
    if name == "conv1a_weight":
        return "conv1a.weight"
    if found := re.fullmatch(r"(res|bn)(\d)(?:a|b(\d+))_(branch\w+?)_(weight|gamma|beta|(?:moving_)?(?:mean|var))", name):
        kind, stage, block, branch, what = found.groups()
        layer = f"b{stage}_{block}" if block else f"b{stage}"
        return f"{layer}.{'conv' if kind == 'res' else 'bn'}_{branch}.{_BATCH_NORM.get(what, what)}"
    if found := re.fullmatch(r"bn7_(gamma|beta|(?:moving_)?(?:mean|var))", name):
        return f"bn7.{_BATCH_NORM[found.group(1)]}"
    return name


_BRANCHES = {"1": "shortcut", "2a": "reduce", "2b": "conv3x3", "2c": "increase"}


def deeplab_from_caffe(name: str) -> str | None:
    """Names of the Caffe ResNet-101 of DeepLab: "res4b22_branch2a.weight" → "layer4.block23.reduce.conv.weight".

    "bn..." layers hold the statistics and "scale..." layers weight and bias of one batch norm; heads are "fc1_..._c0" to "_c3".
    """
    layer, _, what = name.partition(".")
    if found := re.fullmatch(r"fc1_\w+?_c(\d)", layer):
        return f"aspp.c{found.group(1)}.{what}"
    part = {"conv": "conv", "res": "conv", "bn": "bn", "scale": "bn"}
    if found := re.fullmatch(r"(conv|bn_conv|scale_conv)1", layer):
        return f"layer1.conv1.{part[found.group(1).removesuffix('_conv')]}.{what}"
    if found := re.fullmatch(r"(res|bn|scale)(\d)(?:([a-z])|b(\d+))_branch(1|2[abc])", layer):
        kind, stage, letter, number, branch = found.groups()
        block = ord(letter) - ord("a") + 1 if letter else int(number) + 1
        return f"layer{stage}.block{block}.{_BRANCHES[branch]}.{part[kind]}.{what}"
    return name


Rename = Callable[[str], str | None]

# What to try, in this order: the first that gives the module's own names wins. Wrappers add prefixes; DeepLab's base network is
# published with and without "base.".
LAYOUTS: dict[str, Rename] = {
    "published": lambda name: name,
    "torch.nn.DataParallel": lambda name: name.removeprefix("module."),
    "MXNet ResNet38": resnet38_from_mxnet,
    "DeepLab base network": lambda name: f"base.{name.removeprefix('module.')}",
    "Caffe DeepLab ResNet-101": deeplab_from_caffe,
    "Caffe DeepLab ResNet-101, as base network": lambda name: (
        f"base.{translated}" if (translated := deeplab_from_caffe(name)) else None
    ),
}


def renamed(values: Mapping[str, Value], rename: Rename) -> dict[str, Value]:
    result: dict[str, Value] = {}
    for name, value in values.items():
        target = rename(name)
        if target in result:
            raise ValueError(f"load_checkpoint: two entries of the file stand for '{target}', the second is '{name}'")
        if target is not None:
            result[target] = value
    return result


def best_layout(names: Iterable[str], wanted: Iterable[str]) -> str:
    """The layout under which most of the wanted names are found."""
    names, wanted = list(names), set(wanted)
    return max(LAYOUTS, key=lambda layout: len(wanted & {LAYOUTS[layout](name) for name in names}))
