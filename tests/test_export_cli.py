"""`wsss export`: builds, tries, puts in place; a failure leaves what was there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from exported import SMALLEST, onnx_file
from test_export_verify import photos, tampered

from wsss_fast.cli import main, main_export
from wsss_fast.export import load_engine
from wsss_fast.export.build import VerificationError, export
from wsss_fast.export.settings import ExportSettings
from wsss_fast.nets import weights


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "cam.safetensors"
    model = SMALLEST.network()
    weights.save_checkpoint(path, model, {**model.description(), "classes": ["cat", "dog", "owl"]})
    return path


def test_a_checkpoint_is_exported_and_verified(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, masks = photos(tmp_path, SMALLEST.network())
    out = tmp_path / "cam.onnx"
    arguments = [str(checkpoint), "--engine", "ort", "--device", "cpu", "--out", str(out), "--verify", str(images)]
    assert main_export([*arguments, "--masks", str(masks), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verified"]["passed"] and told["network"]["classes"] == ["cat", "dog", "owl"] and told["not_verified"] == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cam.onnx", "cam.onnx.verify.json", "cam.onnx.verify.md", "images", "masks",
    ]  # fmt: skip
    assert load_engine(out, device="cpu").meta.classes == ("cat", "dog", "owl")
    assert main(["export", "--inspect", str(out)]) == 0
    assert "method: cam" in capsys.readouterr().out
    sized = ["--device", "cpu", "--size", "1x64x80", "--json"]
    assert main(["export", str(checkpoint), "--bench", str(out), *sized]) == 0
    measured = json.loads(capsys.readouterr().out)["measured"]
    assert 0 < measured["ort"]["p50_ms"] <= measured["ort"]["p99_ms"] and measured["eager"]["engine_is_faster"] > 0


def test_what_fails_its_verification_is_not_put_in_place(checkpoint: Path, tmp_path: Path) -> None:
    images, _ = photos(tmp_path, SMALLEST.network())
    out = tmp_path / "out.onnx"
    out.write_text("old")
    wrong = tampered(SMALLEST, tmp_path, "conv4_2")
    settings = ExportSettings(verify=str(images), device="cpu")
    with pytest.raises(VerificationError, match=r"first node that diverges: .*layer conv4_2") as caught:
        export(checkpoint, out, settings, onnx=wrong)
    assert out.read_text() == "old" and not caught.value.report.passed
    assert "FAILED" in (tmp_path / "out.onnx.verify.md").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".wsss")]


def test_a_file_without_its_network_is_checked_and_said_not_to_be_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b.onnx"
    assert main(["export", "--onnx", str(onnx_file(SMALLEST)), "--out", str(out)]) == 0
    assert "NOT verified: there is nothing to hold it against" in capsys.readouterr().out
    assert out.read_bytes() == onnx_file(SMALLEST).read_bytes()


REFUSED = {
    "class count of a checkpoint": (["{checkpoint}", "--num-classes", "4", "--out", "{out}"], 1, "shapes differ"),
    "class count of a file": (["--onnx", "{onnx}", "--num-classes", "4", "--out", "{out}"], 1, "has 3 classes, asked for 4"),
    "no folder": (["{checkpoint}", "--out", "{folder}/none/a.onnx"], 1, "export: cannot write"),
    "a folder": (["{checkpoint}", "--out", "{folder}/images.onnx"], 1, "it is a folder"),
    "suffix": (["{checkpoint}", "--engine", "aoti", "--out", "{out}"], 1, "'--out' must end in .pt2 for aoti"),
    "aoti of a file": (
        ["--onnx", "{onnx}", "--engine", "aoti", "--out", "{folder}/a.pt2"],
        1,
        "compiled from a network, not from an ONNX file",
    ),
    "precision of a file": (["--onnx", "{onnx}", "--precision", "fp16", "--out", "{out}"], 1, "is fp32, asked for fp16"),
    "other weights": (
        ["efficientnet-lite0", "--onnx", "{onnx}", "--out", "{out}"],
        1,
        "was not made of the weights of the model",
    ),
    "no file": (["gone.safetensors", "--out", "{out}"], 1, "got 'gone.safetensors', which does not exist"),
    "no images": (["{checkpoint}", "--verify", "{folder}/none", "--out", "{out}"], 1, "must be an image or a folder of images"),
    "no model": (["--out", "{out}"], 2, "required: MODEL, --onnx FILE"),
    "nothing to do": (["{checkpoint}"], 2, "required: one of --out FILE, --inspect FILE and --bench FILE"),
    "unknown engine": (["{checkpoint}", "--engine", "tflite", "--out", "{out}"], 2, "'engine' must be one of onnx, ort"),
    "unknown option": (["{checkpoint}", "--precission", "fp16"], 2, "did you mean '--precision'"),
    "seed without method": (["--random-weights", "0", "--out", "{out}"], 2, "needs a method"),
    "masks without images": (["{checkpoint}", "--masks", "x", "--out", "{out}"], 2, "needs images"),
    "a size": (["--bench", "{onnx}", "--size", "448"], 2, "expected batch x height x width"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_leave_the_old_file(name: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, status, message = REFUSED[name]
    out = tmp_path / "a.onnx"
    out.write_text("old")
    (tmp_path / "images.onnx").mkdir()
    places = {"checkpoint": checkpoint, "out": out, "folder": tmp_path, "onnx": onnx_file(SMALLEST)}
    assert main(["export", *(part.format(**places) for part in arguments)]) == status
    assert message in capsys.readouterr().err
    assert out.read_text() == "old" and sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "images.onnx"]


def test_random_weights(tmp_path: Path) -> None:
    settings = ExportSettings(method="cam", backbone="efficientnet-lite0", random_weights=3, num_classes=2, precision="bf16")
    exported = export(None, tmp_path / "a.onnx", settings)
    assert exported.meta.num_classes == 2 and exported.report is None and "bfloat16" in exported.not_verified
    assert not torch.is_inference_mode_enabled() and exported.path.stat().st_size > 1_000_000
