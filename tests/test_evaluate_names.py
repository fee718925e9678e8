"""Masks and truth whose classes have other numbers are joined by their names, and never compared as they are without a word."""

import json

import numpy as np
import pytest
from PIL import Image

from wsss_fast import cli, evaluate
from wsss_fast.classes.groups import imagenet_groups
from wsss_fast.data.voc import CLASSES
from wsss_fast.truth_classes import join

GROUPS = [group.name for group in imagenet_groups()]
CAT, DOG, CUP = (GROUPS.index(name) + 1 for name in ("cat", "dog", "cup"))
TRUTH = np.array([[0, 1, 1], [2, 2, 255], [0, 0, 0]], np.uint8)
MASK = np.array([[0, CAT, CAT], [DOG, CAT, DOG], [CUP, 0, 0]], np.uint8)
WITHOUT_CUP = np.where(MASK == CUP, 0, MASK).astype(np.uint8)


def record(folder, *names: str) -> None:
    """As `wsss label` records the classes of its masks."""
    (folder / "manifest.jsonl").write_text(json.dumps({"kind": "header", "classes": names}) + "\n")


def save(mask, path) -> None:
    Image.fromarray(mask).save(path)


@pytest.fixture
def data(tmp_path):
    """Masks of the built-in model, soft maps that give the same masks, and a truth of cats (1) and dogs (2)."""
    for folder in ("truth", "masks", "soft"):
        (tmp_path / folder).mkdir()
    save(TRUTH, tmp_path / "truth" / "a.png")
    save(MASK, tmp_path / "masks" / "a.png")
    maps = np.stack([(value == MASK) * np.float32(0.5) for value in (CAT, DOG, CUP)])
    np.savez(tmp_path / "soft" / "a.npz", classes=np.array([CAT, DOG, CUP]) - 1, maps=maps)
    for folder in ("masks", "soft"):
        record(tmp_path / folder, *GROUPS)
    (tmp_path / "classes.txt").write_text("Cat\ndog\n")
    return tmp_path


@pytest.mark.parametrize("kind", ["masks", "soft"])
def test_classes_are_joined_by_name(data, kind):
    result = evaluate.folder(data / kind, data / "truth")
    assert result.names == ["background", "Cat", "dog"]
    # the cup is background; one of two dog pixels was taken for a cat
    assert result.iou.tolist() == [1.0, 2 / 3, 1 / 2]
    assert result.notes == ("classes that the truth does not have count as its background (12.5% of the pixels): cup",)
    if kind == "soft":
        assert result.threshold == 0 and result.curve[60] < result.miou


def test_the_table_shows_the_classes_that_occur(data, capsys):
    (data / "classes.txt").write_text("cow\ndog\ncat\n")
    save(np.array([0, 3, 2], np.uint8)[np.minimum(TRUTH, 2)], data / "truth" / "a.png")
    arguments = ["eval", str(data / "masks"), "--truth", str(data / "truth")]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["background", "dog", "cat"] and "absent" not in "".join(lines)
    assert "classes in neither: 1; --all lists them too" in lines
    assert lines[-1].startswith("note: classes that the truth does not have")
    assert cli.main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["iou"]["cow"] is None and "cup" in told["notes"][0]


def test_a_truth_without_names_is_not_scored_as_other_classes(data):
    (data / "classes.txt").unlink()
    message = r"its values \(1, 2\) do not occur in the masks \(8 \(cat\), 12 \(dog\), 21 \(cup\)\)\. Hint: --classes FILE"
    with pytest.raises(ValueError, match=message):
        evaluate.folder(data / "masks", data / "truth")
    assert evaluate.folder(data / "masks", data / "truth", classes=228).iou[CAT] == 0  # the numbers as they are: asked for
    assert evaluate.folder(data / "masks", data / "truth", classes=["cat", "dog"]).iou.tolist() == [1.0, 2 / 3, 1 / 2]
    save(MASK, data / "truth" / "a.png")
    (note,) = evaluate.folder(data / "masks", data / "truth").notes
    assert note.startswith("the truth names no classes: its values were taken for those of the masks. Hint: --classes FILE")


def test_the_layout_of_voc_names_its_classes(data, capsys):
    masks = data / "VOC2012" / "SegmentationClass"
    for name in ("SegmentationClass", "JPEGImages", "ImageSets"):
        (data / "VOC2012" / name).mkdir(parents=True)
    save(MASK, masks / "a.png")
    with pytest.raises(ValueError, match=r"truth of a must hold 0\.\.20"):
        evaluate.folder(data / "masks", masks)
    save(WITHOUT_CUP, masks / "a.png")
    assert cli.main(["eval", str(data / "masks"), "--truth", str(masks), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["iou"]) == ["background", *CLASSES] and told["iou"]["cat"] == told["iou"]["background"] == 1
    save(WITHOUT_CUP, data / "truth" / "a.png")
    assert cli.main(["eval", str(data / "masks"), "--truth", str(data / "truth"), "--classes", "voc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["iou"] == told["iou"]
    # classes of its own, whose numbers nobody tells
    (data / "VOC2012" / "labels.csv").write_text("a.jpg,rabbit\n")
    assert evaluate.folder(data / "masks", masks).names[1:] == GROUPS


def test_what_the_model_does_not_have_is_missed_and_told(data):
    (data / "classes.txt").write_text("cat\ndogg\n")
    result = evaluate.folder(data / "masks", data / "truth")
    missed = "classes of the truth that the model of the masks does not have count as missed: dogg (did you mean 'dog'?)"
    assert result.iou[2] == 0 and result.notes[1] == missed
    (data / "classes.txt").write_text("unicorn\ngriffin\n")
    message = "no class in common: the masks have aeroplane, .* and 218 more; the truth has unicorn, griffin"
    with pytest.raises(ValueError, match=message):
        evaluate.folder(data / "masks", data / "truth")


@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (("cat", "Cat"), ("Cat", "cat"), [0, 2, 1]),
        (("cat", "Cat"), ("Cat",), [0, 0, 1]),
        (("cat", "dog"), ("CAT", "cat"), [0, 2, 0]),
        (("hot_dog", "cat"), ("Hot Dog", "hot-dog", "cat"), [0, 1, 3]),
        (("class 1", "class 2"), ("cat", "dog"), [0, 1, 2]),
    ],
)
def test_one_class_means_one_other(data, ours, theirs, values):
    record(data / "masks", *ours)
    (data / "classes.txt").write_text("\n".join(theirs))
    assert join(data / "masks", data / "truth").values.tolist() == values


def test_many_classes_against_few(data):
    """A model with more classes than 8 bits hold, and a truth whose 255 still is to be ignored."""
    record(data / "masks", *(f"c{i}" for i in range(1, 300)), "dog")
    save(np.array([[0, 255, 255], [300, 255, 65535], [0, 0, 0]], np.uint16), data / "masks" / "a.png")
    assert evaluate.folder(data / "masks", data / "truth").iou.tolist() == [4 / 7, 0.0, 1 / 2]
