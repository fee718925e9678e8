"""`wsss convert` and `methods.checkpoint`: published files become files that say what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from wsss_fast import methods
from wsss_fast.cli import main
from wsss_fast.methods import checkpoint
from wsss_fast.nets import weights

SMALL = {"width": 1 / 16}


def published(tmp_path: Path, name: str = "seam", classes: int = 3, **options) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(1)
    model = methods.create(name, classes, **options).eval()
    path = tmp_path / f"{name}.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    return path, model


@pytest.mark.parametrize("name", ["cam", "seam", "eps", "l2g", "cpn", "affinitynet"])
@pytest.mark.parametrize("classes", [1, 3])
def test_a_converted_file_makes_the_network_again(tmp_path: Path, name: str, classes: int) -> None:
    path, model = published(tmp_path, name, classes, **SMALL)
    out = tmp_path / "own.safetensors"
    description = checkpoint.convert(path, out, method=name, **SMALL)
    again = checkpoint.load(out)
    assert description == again.description()
    if name != "affinitynet":  # which has no classes to read off
        assert description == model.description()
    image = torch.randn(1, 3, 40, 48)
    with torch.no_grad():
        expected, got = model.forward_cam(image), again.forward_cam(image)
    assert torch.equal(got, expected)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = methods.create("deeplab", 4, backbone="vgg16")
    torch.save(model.state_dict(), tmp_path / "a.pth")
    out = tmp_path / "a.safetensors"
    arguments = ["convert", str(tmp_path / "a.pth"), "--method", "deeplab", "--backbone", "vgg16", "--out", str(out)]
    assert main([*arguments, "--classes", "a,b,c,d", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["num_classes"] == 4 and told["classes"] == list("abcd") and weights.describe(out)["backbone"] == "vgg16"
    assert main([*arguments, "--classes", "a,b"]) == 1
    assert "'classes' must name 4 classes" in capsys.readouterr().err


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = published(tmp_path, **SMALL)
    out = tmp_path / "out.safetensors"
    with pytest.raises(ValueError, match="does not say which network it holds"):
        checkpoint.load(path)
    with pytest.raises(ValueError, match=r"parameters are missing: f8_5.*have no place in the network: fc8"):
        checkpoint.convert(path, out, method="affinitynet", **SMALL)
    with pytest.raises(ValueError, match=r"must be one of cam, seam.*did you mean 'seam'"):
        checkpoint.load(path, method="sean")
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        checkpoint.convert(path, tmp_path / "out.pth", method="seam", **SMALL)
    assert not out.exists() and not list(tmp_path.glob("*.part"))
    checkpoint.convert(path, out, method="seam", **SMALL)
    with pytest.raises(ValueError, match="'method' must be 'seam'"):
        checkpoint.load(out, method="cam")
    assert main(["convert", str(tmp_path / "none.pth"), "--method", "seam", "--out", str(out)]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_backbone_without_its_head(tmp_path: Path) -> None:
    path, model = published(tmp_path, "cam", **SMALL)
    backbone = {key: value for key, value in model.state_dict().items() if not key.startswith("fc8")}
    torch.save(backbone, path)
    with pytest.raises(ValueError, match=r"1 of \d+ parameters are missing: fc8.weight"):
        checkpoint.load(path, method="cam", num_classes=7, **SMALL)
    made = checkpoint.load(path, method="cam", num_classes=7, absent=("fc8.*",), **SMALL)
    assert made.fc8.weight.shape[0] == 7 and torch.equal(made.conv1a.weight, model.conv1a.weight)
