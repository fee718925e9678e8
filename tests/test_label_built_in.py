"""The built-in model as an exported file: it carries its groups, and any engine makes of it what the network itself makes."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from label_standins import five_pictures
from networks import lively

import wsss_fast
from wsss_fast._settings import SettingsError
from wsss_fast.classes.groups import imagenet_groups
from wsss_fast.export.built_in import built_in
from wsss_fast.export.engine import EngineMeta, load_engine
from wsss_fast.export.onnx import write_onnx
from wsss_fast.label import built_in as label_built_in
from wsss_fast.label.class_list import class_list
from wsss_fast.label.manifest import read_header
from wsss_fast.label.predict import load_model
from wsss_fast.label.settings import LabelSettings
from wsss_fast.nets import efficientnet

SMALL = {"scales": (0.5, 1.0), "base_side": 192}  # exported networks take sides of 33 pixels or more


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """With random weights, whose classes' biases matter."""
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        network = lively(efficientnet.EfficientNetLite0(output_stride=16))
        torch.nn.init.normal_(network._fc.bias)
        patch.setattr("wsss_fast.export.built_in.load_pretrained", lambda output_stride: (network, "random"))
        path = tmp_path_factory.mktemp("built_in") / "lite.onnx"
        write_onnx(built_in(), path)
    return path, network


def photo() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (96, 80, 3), dtype=np.uint8)


@pytest.mark.parametrize("flip", [True, False])
def test_the_file_gives_what_the_network_gives(exported, monkeypatch, one_thread, flip):
    path, network = exported
    monkeypatch.setattr(efficientnet, "load_pretrained", lambda output_stride: (network, "random"))
    settings = LabelSettings(**SMALL, flip=flip)
    own = load_model("efficientnet-lite0", settings)
    ours, theirs = own.predict(photo()), (model := load_model(str(path), settings)).predict(photo())
    assert model.class_names == own.class_names == tuple(group.name for group in imagenet_groups())
    assert class_list(path).names == own.class_names
    torch.testing.assert_close(theirs.scores, ours.scores, rtol=1e-4, atol=1e-6)
    assert theirs.flipped == ours.flipped
    largest = max(float(plane.abs().max()) for plane in ours.maps)
    for got, wanted in zip(theirs.maps, ours.maps, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4 * largest)


def test_jobs_with_the_file(exported, tmp_path):
    path, _ = exported
    images = five_pictures(tmp_path)
    (tmp_path / "labels.csv").write_text("\n".join(f"img{number}.png,Cat;dog" for number in range(8, 13)))
    given = {**SMALL, "labels": str(tmp_path / "labels.csv"), "workers": 0}
    summary = wsss_fast.label(images, str(path), tmp_path / "out", **given)
    assert summary.labelled == 5
    header = read_header(tmp_path / "out")
    assert header["model"]["name"] == "efficientnet-lite0" and header["model"]["engine"] == "ort"
    assert header["classes"][7] == "cat" and len(header["classes"]) == 228
    (tmp_path / "groups.yaml").write_text("- {name: pet, classes: [cat, dog]}\n- {name: pie, classes: 963}\n")
    model = load_model(str(path), LabelSettings(**SMALL, classes=str(tmp_path / "groups.yaml")))
    assert model.class_names == ("pet", "pie") and len(model.predict(photo()).scores) == 2
    (tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(SettingsError, match=r"must be a \.yaml file of groups"):
        load_model(str(path), LabelSettings(**SMALL, classes=str(tmp_path / "names.txt")))
    long = np.zeros((20, 400, 3), np.uint8)
    with pytest.raises(Exception, match="exported networks take 33 or more"):
        load_model(str(path), LabelSettings(**SMALL)).predict(long)


def test_an_engine_by_the_models_name_is_made_for_the_job(exported, monkeypatch):
    path, _ = exported
    asked = []

    def made(model, engine, device):
        asked.append((model, engine, device.type))
        return load_engine(path, engine, device)

    monkeypatch.setattr(label_built_in, "load_engine", made)
    model = load_model("efficientnet-lite0", LabelSettings(**SMALL, engine="ort", device="cpu"))
    assert asked == [("efficientnet-lite0", "ort", "cpu")] and model.identity["engine"] == "ort"


@pytest.mark.parametrize(
    "change",
    [
        {"groups": [["cat", [281]], ["cat", [282]]]},
        {"groups": [["cat", [281]], ["dog", [281]]]},
        {"groups": [["cat", []]]},
        {"groups": [["cat", [1000]]]},
        {"groups": [["cat", [True]]]},
        {"groups": [[3, [281]]]},
        {"groups": [["cat", 281]]},
        {"groups": [["cat"]]},
        {"bias": [0.0]},
        {"bias": [float("nan")] * 1000},
        {"groups": []},
    ],
)
def test_descriptions_of_groups_that_do_not_fit_are_refused(exported, change):
    meta = load_engine(exported[0], device="cpu").meta
    assert EngineMeta.from_json(meta.to_json(), "x") == meta
    with pytest.raises(ValueError, match=r"contradicts itself|cannot be read"):
        EngineMeta.from_json(json.dumps({**json.loads(meta.to_json()), **change}), "x")


def test_descriptions_of_before_there_were_groups_are_read(exported):
    meta = load_engine(exported[0], device="cpu").meta
    told = json.loads(meta.to_json())
    del told["groups"], told["bias"]
    assert EngineMeta.from_json(json.dumps(told), "x") == dataclasses.replace(meta, groups=(), bias=())
