"""`wsss classes`: the classes of a model with their mask values."""

import json

import pytest
from exported import SMALLEST, onnx_file

from wsss_fast import cli
from wsss_fast.classes.groups import imagenet_groups
from wsss_fast.label.class_list import class_list
from wsss_fast.nets import weights


def printed(capsys, *arguments: str) -> list[str]:
    assert cli.main(["classes", *arguments]) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_the_built_in_model_lists_its_groups(capsys):
    lines = printed(capsys, "efficientnet-lite0")
    assert len(lines) == len(imagenet_groups()) and lines[0] == "1 aeroplane" and lines[19] == "20 tvmonitor"
    place = class_list("efficientnet-lite0").names.index("hot dog") + 1
    assert printed(capsys, "efficientnet-lite0", "Hot_Dog") == [f"{place} hot dog"]
    assert cli.main(["classes", "efficientnet-lite0", "big cat", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["named"] and [entry["name"] for entry in told["classes"]] == ["big cat"]


def test_files_that_describe_themselves(tmp_path, capsys):
    model = SMALLEST.network()
    weights.save_checkpoint(tmp_path / "named.safetensors", model, {**model.description(), "classes": ["cat", "dog", "owl"]})
    weights.save_checkpoint(tmp_path / "plain.safetensors", model, model.description())
    assert printed(capsys, str(tmp_path / "named.safetensors")) == ["1 cat", "2 dog", "3 owl"]
    assert printed(capsys, str(onnx_file(SMALLEST)), "OW") == ["3 owl"]
    assert cli.main(["classes", str(tmp_path / "plain.safetensors")]) == 0
    streams = capsys.readouterr()
    assert streams.out.split() == ["1", "class", "1", "2", "class", "2", "3", "class", "3"]
    assert "nobody named these classes. Hint: `wsss label --classes FILE`" in streams.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["efficientnet-lit0"], "got 'efficientnet-lit0', which does not exist. Hint: did you mean 'efficientnet-lite0'?"),
        (["."], "got '.', which is a folder"),
        (["a.pth"], "Hint: `wsss convert --classes A,B,…` makes a file of it that describes itself"),
        (["a.engine"], "Hint: an engine has the classes of the .onnx file beside it"),
        (["a.safetensors"], "'a.safetensors' does not say which classes it has"),
        (["efficientnet-lite0", "aeroplan"], ""),
        (["efficientnet-lite0", "aeropalne"], "no class has 'aeropalne' in its name. Hint: did you mean 'aeroplane'?"),
        (["efficientnet-lite0", "xyzzy"], "no class has 'xyzzy' in its name. Hint: the command without a word lists all"),
    ],
)
def test_what_it_cannot_list(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a.pth", "a.engine"):
        (tmp_path / name).touch()
    model = SMALLEST.network()
    weights.save_checkpoint(tmp_path / "a.safetensors", model, {})
    assert cli.main(["classes", *arguments]) == (1 if message else 0)
    assert message in capsys.readouterr().err
