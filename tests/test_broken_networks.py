"""Networks that compute no numbers, descriptions that say anything, and names that would steer a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from exported import SMALLEST, onnx_file
from label_standins import BrightEngine, five_pictures, label
from onnx import numpy_helper
from safetensors.torch import save_file

from wsss_fast import methods, nets
from wsss_fast.cli import main
from wsss_fast.export import load_engine
from wsss_fast.label.manifest import read_rows
from wsss_fast.methods import checkpoint
from wsss_fast.nets.weights import describe

EVIL = "\x1b[2J\u202eevil\nwsss: all is well"


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return methods.create("cam", 2, "resnet50", width=1 / 16)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    state = small().state_dict()
    name = next(name for name in state if name.endswith("weight"))
    state[name].view(-1)[3] = value
    before = small()
    with pytest.raises(ValueError, match=rf"1 parameters hold values that are no numbers: {name}"):
        nets.load_checkpoint(before, state)
    assert torch.equal(before.state_dict()[name], small().state_dict()[name])  # nothing was changed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_onnx_file_whose_weights_are_no_numbers(tmp_path: Path, value: float) -> None:
    model = onnx.load(onnx_file(SMALLEST))
    tensor = next(entry for entry in model.graph.initializer if len(entry.dims) == 4)
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"is refused: tensor '.*' holds values that are no numbers"):
        load_engine(path, device="cpu")


class Breaking(BrightEngine):
    """No numbers from the n-th image on, counted from 1."""

    def __init__(self, first: int, what: str = "maps") -> None:
        super().__init__()
        self.first, self.what = first, what

    def predict(self, pixels):
        found = super().predict(pixels)
        if self.calls == self.first:
            (found.maps[0] if self.what == "maps" else found.scores).fill_(float("nan"))
        return found


@pytest.mark.parametrize("what", ["maps", "scores"])
def test_the_first_map_without_numbers_stops_the_job(tmp_path: Path, what: str) -> None:
    folder = five_pictures(tmp_path)
    for out in (None, tmp_path / "out"):
        with pytest.raises(ValueError, match=r'no numbers for img8\.png, the first image that it sees: {"name": "bright"}'):
            label(folder, out, Breaking(1, what))
    assert not list((tmp_path / "out").glob("*.png"))


def test_a_later_map_without_numbers_costs_its_image(tmp_path: Path) -> None:
    summary = label(five_pictures(tmp_path), tmp_path / "out", Breaking(3))
    assert (summary.labelled, summary.failed) == (4, 1)
    assert read_rows(summary.out)["img10.png"]["reason"] == "the network gives values that are no numbers for it"
    assert label(tmp_path / "images", tmp_path / "out").skipped == 4


DESCRIPTIONS = {
    "a list": "[1, 2]",
    "nothing": "null",
    "no JSON": "{",
    "deep": "[" * 100_000,
    "a list as method": '{"method": ["cam"]}',
    "very many classes": '{"method": "cam", "num_classes": 1000000000}',
    "half a class": '{"method": "cam", "num_classes": 0.5}',
    "options as text": '{"method": "cam", "num_classes": 2, "options": "width"}',
    "an option of any size": '{"method": "affinitynet", "num_classes": 2, "options": {"radius": 1000000}}',
    "classes as text": '{"method": "cam", "num_classes": 2, "classes": "ab"}',
    "half characters": '{"method": "cam", "num_classes": 1, "classes": ["\\ud800"]}',
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_descriptions_that_say_anything(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"wsss_fast": DESCRIPTIONS[name]})
    with pytest.raises(ValueError, match="describes itself in a way that cannot be read"):
        describe(path)
    with pytest.raises(ValueError, match="describes itself"):
        checkpoint.load(path)


def test_a_network_larger_than_its_file_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    told = {"method": "cam", "num_classes": 60_000, "backbone": "resnet50", "options": {"width": 4}}
    save_file({"x": torch.zeros(1)}, path, metadata={"wsss_fast": json.dumps(told)})
    made = []
    create = checkpoint.create
    monkeypatch.setattr(checkpoint, "create", lambda *args, **more: made.append(create(*args, **more)) or made[-1])
    with pytest.raises(ValueError, match="parameters are missing"):
        checkpoint.load(path)
    assert len(made) == 1 and all(value.is_meta for value in made[0].parameters())


def quiet(text: str) -> bool:
    """Only our own line feeds, and no line that a stranger began."""
    return all(letter.isprintable() or letter == "\n" for letter in text) and "\nwsss: all is well" not in text


def test_keys_and_operations_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({EVIL: torch.zeros(1)}, tmp_path / "a.pth")
    save_file({EVIL: torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"wsss_fast": json.dumps({"method": EVIL})})
    model = onnx.load(onnx_file(SMALLEST))
    model.graph.node[0].op_type = model.graph.node[0].name = EVIL
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    commands = [
        ["convert", str(tmp_path / "a.pth"), "--method", "cam", "--out", str(tmp_path / "b.safetensors")],
        ["convert", str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "b.safetensors")],
        ["export", "--inspect", str(tmp_path / "a.safetensors")],
        ["export", "--inspect", str(tmp_path / "a.onnx")],
        ["export", "--onnx", str(tmp_path / "a.onnx"), "--engine", "ort", "--out", str(tmp_path / "b.onnx")],
        [
            "label",
            str(five_pictures(tmp_path)),
            "--model",
            str(tmp_path / "a.onnx"),
            "--labels",
            "x",
            "--out",
            str(tmp_path / "o"),
        ],
    ]
    for command in commands:
        main(command)
        told = capsys.readouterr()
        assert quiet(told.out) and quiet(told.err), (command, told)
        assert r"\x1b[2J" in told.out + told.err, (command, told)


def test_what_no_command_thought_of_is_harmless_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from wsss_fast.cli import label as command

    def run(argv):
        sys.stdout.write(f"{EVIL}\n")
        sys.stderr.writelines([EVIL, "\udc80"])
        raise RuntimeError(EVIL)

    monkeypatch.setattr(command, "run", run)
    for arguments in (["label"], ["label", "--debug"]):
        assert main(arguments) == 1
        told = capsys.readouterr()
        for text in told:
            assert r"\x1b[2J" in text and all(letter.isprintable() or letter == "\n" for letter in text)
    assert not hasattr(sys.stdout, "own")
