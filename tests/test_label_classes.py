"""`--classes FILE.yaml`: groups of a model's classes. Which files are taken, and what a group's map and score are."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
import torch
from label_on_ray import FakeRay, MortalWorker
from label_standins import BrightEngine, five_pictures, label, tree
from PIL import Image
from test_label_networks import pixels, run, small

import wsss_fast
from wsss_fast import evaluate
from wsss_fast.classes.groups import ClassGroup, imagenet_groups, numbers_of, read_groups
from wsss_fast.cli import main
from wsss_fast.label import ray_cluster
from wsss_fast.label.manifest import ManifestError, read_header, read_rows
from wsss_fast.label.predict import Defaults, Prediction, load_model
from wsss_fast.label.settings import LabelSettings, SettingsError
from wsss_fast.nets import efficientnet, weights

NAMES = ("cat", "dog", "cow", "van")
PETS = "- {name: pet, classes: [cat, dog]}\n- {name: thing, classes: van}\n"


def written(folder, text, name="groups.yaml"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


class FourEngine(BrightEngine):
    """Says of every image what it was told to."""

    class_names = NAMES

    def __init__(self, maps, scores=None, logits=False):
        super().__init__()
        self.prediction = Prediction(scores, (maps,))
        if logits:
            self.defaults = Defaults((1.0,), None)

    def predict(self, pixels):
        return self.prediction


def planes(count, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 3, (count, 5, 7)).astype(np.float32))


# Files


def test_a_file_names_numbers_and_ranges(tmp_path):
    text = '# mine\n- {name: a, classes: [3, cat]}\n- {name: "9", classes: "1 5-7"}\n- name: c\n  classes:\n  - van\n'
    groups = read_groups(written(tmp_path, text), {**numbers_of(NAMES), "van": [8, 9]}, 10)
    assert groups == (ClassGroup("a", (0, 3)), ClassGroup("9", (1, 5, 6, 7)), ClassGroup("c", (8, 9)))


def test_the_committed_list_is_such_a_file():
    with resources.as_file(resources.files("wsss_fast.classes") / "class_groups.yaml") as path:
        assert read_groups(str(path), {}, 1000) == imagenet_groups()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {name: a, classes: [catt]}", "group 'a' of FILE has the unknown class 'catt'. Hint: did you mean 'cat'?"),
        ("- {name: a, classes: cat dog}", "unknown class 'cat dog'. Hint: "),
        ("- {name: a, classes: 4}", "classes of group 'a' of FILE must be numbers from 0 to 3, got 4"),
        ("- {name: a, classes: '0 0-999999999'}", "from 0 to 3, got 0-999999999"),
        ("- {name: a, classes: 3-1}", "from 0 to 3, got 3-1"),
        ("- {name: a, classes: cat}\n- {name: b, classes: 0-1}", "class 0 'cat' of group 'b' of FILE is in 'a' too"),
        ("- {name: a, classes: [cat, 0]}", "class 0 'cat' of group 'a' of FILE is twice in it"),
        ("- {name: a, classes: cat}\n- {name: a, classes: dog}", "two groups of FILE have the name 'a'"),
        ("- {name: a, classes: []}", "group 'a' of FILE is empty"),
        ("- {name: a, classes: }", "group 'a' of FILE is empty"),
        ("- {name: a, classes: [[cat]]}", "must be names or numbers, got ['cat']"),
        ("- {name: yes, classes: cat}", "name of group 1 of FILE must be text, got True. Hint: quotes"),
        ("- {name: a, class: cat}", "group 1 of FILE must have a 'name' and 'classes', and nothing else"),
        ("a: [cat]", "FILE must hold a list of groups"),
        ("", "FILE must hold a list of groups"),
        ("- {name: a", "FILE is no YAML"),
        ("[" * 1000, "FILE is no YAML"),
        ("- !!python/object/apply:os.getcwd []", "FILE is no YAML"),
        (b"- {name: \xff, classes: cat}", "FILE is no text in UTF-8. Hint: save it as UTF-8"),
        (None, "there is no file FILE"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, message):
    path = str(tmp_path / "groups.yaml") if text is None else written(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_model(FourEngine(planes(4)), LabelSettings(classes=path))
    assert message.replace("FILE", path) in str(caught.value)


def test_classes_without_names_are_numbered(tmp_path):
    with pytest.raises(SettingsError, match=r"classes have no names; their numbers are 0 to 2"):
        load_model(small("cam"), LabelSettings(classes=written(tmp_path, PETS), labels="given"))
    path = written(tmp_path, "- {name: b, classes: 2}\n- {name: a, classes: 0-1}")
    model = load_model(small("cam"), LabelSettings(classes=path, labels="given"))
    assert model.class_names == ("b", "a") and model.identity["groups"] == {"b": [2], "a": [0, 1]}


def test_a_list_of_names_is_for_models_without(tmp_path):
    names = written(tmp_path, "a\nb\n", "names.txt")
    for model in (FourEngine(planes(4)), "efficientnet-lite0"):
        with pytest.raises(SettingsError, match=r"must be a \.yaml file of groups for a model whose classes have names"):
            load_model(model, LabelSettings(classes=names))
    with pytest.raises(SettingsError, match=r"must name 3 classes, got 2\. Hint: groups of classes stand in a \.yaml file"):
        load_model(small("cam"), LabelSettings(classes=names))


# Maps and scores


def grouped(engine, tmp_path, text=PETS):
    found = load_model(engine, LabelSettings(classes=written(tmp_path, text))).predict(pixels())
    return found.scores, found.maps[0].double().numpy()


def test_maps_are_weighted_by_their_scores(tmp_path):
    maps = planes(4)
    scores, got = grouped(FourEngine(maps, torch.tensor([0.6, 0.2, 0.9, 0.3])), tmp_path)
    expected = maps.double().numpy()
    np.testing.assert_allclose(got, [0.75 * expected[0] + 0.25 * expected[1], expected[3]], atol=1e-5)
    assert torch.equal(scores, torch.tensor([0.6, 0.3]))


def test_without_scores_a_map_is_the_largest(tmp_path):
    maps = planes(4)
    scores, got = grouped(FourEngine(maps), tmp_path)
    assert scores is None and np.array_equal(got, np.stack([torch.maximum(maps[0], maps[1]), maps[3]]))


def test_probabilities_of_a_segmentation_network_are_summed(tmp_path):
    """Dog and cat together win where neither does alone; the cow, of no group, is background."""
    logits = planes(5) / 3
    _, got = grouped(FourEngine(logits, logits=True), tmp_path)
    exponentials = np.exp(logits.double().numpy())
    expected = np.stack([exponentials[0] + exponentials[3], exponentials[1] + exponentials[2], exponentials[4]])
    probabilities = np.exp(got) / np.exp(got).sum(0)
    np.testing.assert_allclose(probabilities, expected / expected.sum(0), atol=1e-6)
    assert (expected.argmax(0) != np.array([0, 1, 1, 0, 2])[exponentials.argmax(0)]).any()


def test_masks_of_a_segmentation_network(tmp_path):
    model, image = small("deeplab", backbone="resnet50", head="aspp"), pixels(2)
    path = written(tmp_path, "- {name: second, classes: 2}\n- {name: first, classes: 0}")
    mask = run(model, image, flip=False, scales=(1.0,), classes=path)
    with torch.no_grad():
        logits = model.forward_cam(model.normalise(torch.from_numpy(image).permute(2, 0, 1)[None])).double()[0].exp()
    joined = torch.stack([logits[0] + logits[2], logits[3], logits[1]]).log()[None]
    full = torch.nn.functional.interpolate(joined, image.shape[:2], mode="bilinear", align_corners=False)
    assert (mask.values != full[0].argmax(0).numpy()).mean() < 1e-3


def test_the_built_in_model_sums_the_probabilities_of_a_group(tmp_path, monkeypatch, one_thread):
    network = efficientnet.EfficientNetLite0(output_stride=16).eval()
    monkeypatch.setattr(efficientnet, "load_pretrained", lambda output_stride: (network, "random"))
    given = {"scales": (1.0,), "base_side": 64, "flip": False}
    own = load_model("efficientnet-lite0", LabelSettings(**given)).predict(pixels())
    path = written(tmp_path, "- {name: pet, classes: [dog, cat]}\n- {name: pie, classes: [963]}\n- {name: ox, classes: cow}")
    model = load_model("efficientnet-lite0", LabelSettings(classes=path, **given))
    found = model.predict(pixels())
    names = [group.name for group in imagenet_groups()]
    cat, dog, pie, ox = (names.index(name) for name in ("cat", "dog", "pizza", "cow"))
    torch.testing.assert_close(found.scores, own.scores[[cat, pie, ox]] + torch.stack([own.scores[dog], *torch.zeros(2)]))
    torch.testing.assert_close(found.maps[0][1:], own.maps[0][[pie, ox]])
    share = own.scores[cat] / found.scores[0]
    torch.testing.assert_close(found.maps[0][0], share * own.maps[0][cat] + (1 - share) * own.maps[0][dog], rtol=1e-4, atol=1e-5)
    assert model.class_names == ("pet", "pie", "ox") and model.identity["groups"]["pie"] == [963]


# Jobs


@pytest.fixture
def images(tmp_path):
    return five_pictures(tmp_path)


def test_a_job_with_groups(images, tmp_path):
    """Labels, walk, CRF and report see groups alone; the file is part of what the job is."""
    path, out = written(tmp_path, PETS), tmp_path / "out"
    written(tmp_path, "".join(f"img{n}.png,pet\n" for n in range(8, 12)) + "img12.png,pet;thing\n", "labels.csv")
    given = {"classes": path, "labels": str(tmp_path / "labels.csv"), "walk": "image", "crf": True, "report": True}
    engine = FourEngine(planes(4))
    summary = label(images, out, engine, **given)
    rows = read_rows(out)
    assert summary.labelled == 5 and summary.report_failure is None and rows["img8.png"]["classes"] == ["pet"]
    assert sorted(rows["img12.png"]["classes"]) == ["pet", "thing"] and rows["img12.png"]["labels"] == [0, 1]
    assert read_header(out)["classes"] == ["pet", "thing"]
    assert "thing" in (out / "report" / "index.html").read_text()
    with Image.open(out / "img12.png") as mask:
        assert set(np.unique(np.array(mask))) <= {0, 1, 2}
    assert evaluate.folder(out, out, ["img8"]).names[1:] == ["pet", "thing"]
    assert label(images, out, engine, **given).skipped == 5
    written(tmp_path, PETS.replace(", dog", ""))
    with pytest.raises(ManifestError, match=r"model\.groups\.pet: \[0, 1\] before, \[0\] now"):
        label(images, out, engine, **given)
    written(tmp_path, "img8.png,cat\n", "labels.csv")
    with pytest.raises(ValueError, match="unknown classes"):
        label(images, out, engine, **given)


def test_more_groups_than_an_8_bit_mask_holds(images, tmp_path):
    engine = FourEngine(planes(300), torch.zeros(300))
    engine.class_names = tuple(f"c{i}" for i in range(300))
    with pytest.raises(SettingsError, match=r"must have 1 to 254 classes, got 300\. Hint: .*--classes FILE\.yaml"):
        label(images, None, engine)
    path = written(tmp_path, "".join(f"- {{name: g{i}, classes: {i}}}\n" for i in range(255)))
    with pytest.raises(SettingsError, match=r"'classes' must hold 1 to 254 groups, got 255\. Hint: --format index"):
        label(images, None, engine, classes=path)
    assert label(images, None, engine, classes=path, format="index").empty == 5
    path = written(tmp_path, "".join(f"- {{name: g{i}, classes: {i}}}\n" for i in range(254)))
    assert label(images, None, engine, classes=path).empty == 5


def test_workers_of_a_cluster_gather_too(images, tmp_path, monkeypatch):
    model = small("cam", 4, backbone="vgg16-psa")
    weights.save_checkpoint(tmp_path / "cam.safetensors", model, {**model.description(), "classes": NAMES})
    written(tmp_path, PETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_cluster, "_connected", lambda address: (FakeRay(MortalWorker, ("a", "b")), False))
    given = {"classes": "groups.yaml", "scales": (1.0,), "present": 0.0, "workers": 0}
    wsss_fast.label(images, "cam.safetensors", "one", **given)
    wsss_fast.label(images, "cam.safetensors", "many", ray="auto", **given)
    assert tree(tmp_path / "many") == tree(tmp_path / "one")
    written(tmp_path, "- {name: pet, classes: caat}")
    with pytest.raises(SettingsError, match=r"unknown class 'caat'\. Hint: did you mean 'cat'\? \(on a\)"):
        wsss_fast.label(images, "cam.safetensors", "many", ray="auto", **given)


def test_the_command(images, tmp_path, capsys):
    command = ["label", str(images), "--out", str(tmp_path / "out"), "--classes", written(tmp_path, "- {name: a, classes: catt}")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "unknown class 'catt'. Hint: did you mean 'cat'?" in error and "Traceback" not in error
