"""The networks against what the published implementations compute, and against the names of their checkpoints."""

from __future__ import annotations

import published
import pytest
import torch
from helpers import relative_error

from wsss_fast import methods, ops

BOUND = 1e-5  # asked: 1e-4; seen: 1e-6


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cam", "cam_resnet38"),
        ("seam", "seam_resnet38"),
        ("cpn", "cpn_resnet38"),
        ("eps", "eps_resnet38"),
        ("l2g", "l2g_resnet38"),
        ("affinitynet", "affinitynet_resnet38"),
        ("deeplab", "deeplabv2_resnet101"),
    ],
)
def test_oracle_names_and_shapes(name: str, file: str) -> None:
    expected = published.shapes(file)
    with torch.device("meta"):
        model = methods.create(name, 20)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == expected


@torch.inference_mode()
def test_oracle_cam() -> None:
    oracle = published.arrays("cam_resnet38")
    model = published.create("cam", 20, published="code")
    assert relative_error(model(oracle["image"]), oracle["logits"]) < BOUND
    assert relative_error(model.forward_cam(oracle["image"]), oracle["cam"]) < BOUND


@torch.inference_mode()
def test_oracle_seam() -> None:
    oracle = published.arrays("seam_resnet38")
    model = published.create("seam", 20, published="code")
    raw, refined = model(oracle["image"])
    assert relative_error(raw, oracle["cam"]) < BOUND
    assert relative_error(refined, oracle["cam_rv"]) < BOUND


@torch.inference_mode()
def test_oracle_affinitynet() -> None:
    oracle = published.arrays("affinitynet_resnet38")
    model = published.create("affinitynet", 20, published="code")
    planes = model(oracle["image"])
    assert relative_error(ops.affinity_pairs(planes, 5), oracle["affinity_pairs"]) < BOUND


@torch.inference_mode()
def test_oracle_deeplab() -> None:
    oracle = published.arrays("deeplabv2_resnet101")
    model = published.create("deeplab", 20, published="code")
    assert relative_error(model.forward_cam(oracle["image"]), oracle["base"]) < BOUND
    assert relative_error(model(oracle["image"]), oracle["msc"]) < BOUND
