"""`evaluate` against counting by hand: one class and one threshold at a time, with sets of pixels."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from wsss_fast import cli, evaluate
from wsss_fast.curve_picture import curve_png
from wsss_fast.evaluate import THRESHOLDS, Confusion, Curve
from wsss_fast.files.png import mask_png


def iou_by_sets(pairs: list, values: int) -> list[float]:
    """IoU of each class from the definition: pixels in both over pixels in either, none of them ignored."""
    found = []
    for value in range(values):
        both = either = 0
        for prediction, truth in pairs:
            here, there = prediction == value, truth == value
            both += int((here & there).sum())
            either += int(((here | there) & (truth != 255)).sum())
        found.append(both / either if either else float("nan"))
    return found


def random_pair(generator: np.random.Generator, values: int) -> tuple[np.ndarray, np.ndarray]:
    size = tuple(generator.integers(1, 12, 2))
    used = generator.permutation(values)[: generator.integers(1, values + 1)]
    prediction, truth = (generator.choice(np.append(used, 255), size).astype(np.uint8) for _ in range(2))
    return prediction, truth


def test_a_thousand_pairs_equal_the_definition_exactly():
    generator = np.random.default_rng(0)
    total, all_pairs = Confusion(21), []
    for index in range(1000):
        values = int(generator.integers(1, 22))
        pair = random_pair(generator, values)
        alone = Confusion(values)
        alone.add(*pair)
        expected = iou_by_sets([pair], values)
        np.testing.assert_array_equal(alone.iou(), expected)
        assert alone.miou() == np.nanmean(expected) if not np.isnan(expected).all() else np.isnan(alone.miou())
        total.add(*pair, name=str(index))
        all_pairs.append(pair)
    assert total.counts.dtype == np.int64
    np.testing.assert_array_equal(total.iou(), iou_by_sets(all_pairs, 21))


def test_counts_pass_32_bits():
    confusion = Confusion(2)
    confusion.counts[1, 1] = 2**40
    confusion.add(np.ones((2, 2), np.uint8), np.array([[1, 1], [0, 255]], np.uint8))
    assert confusion.counts[1, 1] == 2**40 + 2
    assert confusion.iou()[1] == (2**40 + 2) / (2**40 + 3)


def test_255_in_the_prediction_is_a_miss_and_no_false_alarm():
    confusion = Confusion(["background", "cat"])
    confusion.add(np.array([[255, 1, 0, 255]], np.uint8), np.array([[1, 1, 0, 255]], np.uint8))
    assert confusion.iou().tolist() == [1.0, 0.5]


def test_more_than_255_values_are_ignored_at_65535():
    confusion = Confusion(400)
    confusion.add(np.array([[255, 399, 0]], np.uint16), np.array([[255, 398, 65535]], np.uint16))
    assert (confusion.iou()[255], confusion.counts.sum()) == (1.0, 2)


def soft_pair(generator: np.random.Generator, objects: int, kind: str):
    size = tuple(generator.integers(1, 9, 2))
    classes = generator.permutation(objects)[: generator.integers(0, objects + 1)]
    # Many equal scores, and many that lie on a threshold: the places where one could go wrong.
    if kind == "uint8":
        maps = generator.integers(0, 256, (len(classes), *size)).astype(np.uint8)
    else:
        maps = (generator.integers(0, 101, (len(classes), *size)) / 100).astype(kind)
    return classes, maps, generator.choice([*range(objects + 1), 255], size).astype(np.uint8)


def brute_force(classes: np.ndarray, maps: np.ndarray, threshold: np.float32) -> np.ndarray:
    scores = np.float32(maps) / np.float32(255) if maps.dtype == np.uint8 else np.float32(maps)
    full = np.full((21, *maps.shape[1:]), -1, np.float32)
    full[0] = threshold
    full[classes + 1] = scores
    return full.argmax(0)


@pytest.mark.parametrize("kind", ["uint8", "float16", "float32", "float64"])
def test_curve_equals_brute_force(kind):
    generator = np.random.default_rng(1)
    curve, slow = Curve(6), [Confusion(6) for _ in THRESHOLDS]
    for _ in range(25):
        classes, maps, truth = soft_pair(generator, 5, kind)
        curve.add(classes, maps, truth)
        for threshold, confusion in zip(THRESHOLDS, slow, strict=True):
            confusion.add(brute_force(classes, maps, threshold), truth)
    np.testing.assert_array_equal(curve.iou(), [confusion.iou() for confusion in slow])
    np.testing.assert_array_equal(curve.miou(), [confusion.miou() for confusion in slow])
    assert curve.best() == int(np.argmax([confusion.miou() for confusion in slow]))


def test_a_class_absent_at_a_high_threshold_leaves_the_mean():
    curve = Curve(3)
    curve.add(np.array([1]), np.array([[[0.5, 0.2]]]), np.zeros((1, 2), np.uint8))
    assert curve.iou()[0].tolist()[::2] == [0.0, 0.0] and np.isnan(curve.iou()[0, 1])
    assert curve.miou()[0] == 0 and curve.miou()[60] == 1


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), r"of a must have the same size .* got \[2, 3\] and \[3, 2\]"),
        (np.full((2, 2), 3, np.uint8), np.zeros((2, 2), np.uint8), r"the prediction of a must hold 0..2 or 255, got 3"),
        (np.full((2, 2), -1), np.zeros((2, 2), np.uint8), r"prediction of a must hold 0..2 or 255, got -1"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 254, np.uint8), r"truth of a must hold 0..2 or 255, got 254"),
        (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8), r"must be whole numbers \[H, W\], got uint8 \[2, 2, 3\]"),
        (np.zeros((2, 2)), np.zeros((2, 2), np.uint8), r"prediction of a must be whole numbers"),
    ],
)
def test_bad_masks_are_refused_and_change_nothing(prediction, truth, message):
    confusion = Confusion(3)
    with pytest.raises(ValueError, match=message):
        confusion.add(prediction, truth, "a")
    assert not confusion.counts.any()


@pytest.mark.parametrize(
    ("classes", "maps", "message"),
    [
        ([0], np.full((1, 2, 2), 1.5), "must be from 0 to 1, got 1.5 to 1.5. Hint: divide each map"),
        ([0], np.full((1, 2, 2), np.nan), "must be from 0 to 1, got nan"),
        ([2], np.zeros((1, 2, 2)), r"'classes' of a must be from 0 to 1, got \[2\]"),
        ([0, 0], np.zeros((2, 2, 2)), r"must differ, got \[0, 0\]"),
        ([0], np.zeros((2, 2, 2)), r"got int64 \[1\] and \[2, 2, 2\]"),
        ([0], np.zeros((1, 2, 2), np.int32), "must be float or uint8, got int32"),
        ([0], np.zeros((1, 2, 3)), r"same size .* got \[2, 3\] and \[2, 2\]"),
    ],
)
def test_bad_maps_are_refused(classes, maps, message):
    with pytest.raises(ValueError, match=message):
        Curve(3).add(np.array(classes), maps, np.zeros((2, 2), np.uint8), "a")


# ---- folders ----------------------------------------------------------------------------------------------------------------

TRUTH = np.array([[0, 1, 1], [2, 2, 255]], np.uint8)


@pytest.fixture
def data(tmp_path):
    """Three images; the predictions are right but for one pixel of `b`."""
    for folder in ("truth", "masks", "soft"):
        (tmp_path / folder).mkdir()
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    for name in "abc":
        (tmp_path / "truth" / f"{name}.png").write_bytes(mask_png(TRUTH))
        mask = TRUTH.copy()
        mask[0, 0] = 1 if name == "b" else 0
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
        maps = np.stack([(mask == value) * np.float32(0.5) for value in (1, 2)])
        np.savez(tmp_path / "soft" / f"{name}.npz", classes=np.array([0, 1]), maps=maps)
    return tmp_path


def test_folder_of_masks(data):
    result = evaluate.folder(data / "masks", data / "truth")
    assert (result.images, result.names, result.threshold) == (3, ["background", "cat", "dog"], None)
    assert result.iou.tolist() == [2 / 3, 6 / 7, 1.0]
    assert evaluate.folder(data / "masks", data / "truth", ids=["a", "c", "a"]).miou == 1.0


def test_folder_of_soft_maps_and_the_curve(data, capsys):
    arguments = ["eval", str(data / "soft"), "--truth", str(data / "truth")]
    assert cli.main([*arguments, "--json", "--curve", str(data / "curve.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["threshold"] == 0.0 and found["iou"] == {"background": 2 / 3, "cat": 6 / 7, "dog": 1.0}
    assert len(found["curve"]) == 100 and found["curve"][49] == found["miou"] > found["curve"][50]
    with Image.open(data / "curve.png") as picture:
        assert picture.size == (720, 440)
    assert cli.main(arguments) == 0
    assert "mIoU 84.13 (over 3 classes in prediction or truth, background included, at background threshold 0.00" in (
        capsys.readouterr().out
    )


def test_the_table(data, capsys):
    listed = data / "val.txt"
    listed.write_text("\nb\n/JPEGImages/c.jpg /SegmentationClassAug/c.png\n")
    assert cli.main(["eval", str(data / "masks"), "--truth", str(data / "truth"), "--list", str(listed), "--classes", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "split val.txt: 2 images",
        "",
        "  background   50.00",
        "  class 1      80.00",
        "  class 2     100.00",
        "",
        "mIoU 76.67 (over 3 classes in prediction or truth, background included)",
        "classes in neither: 1; --all lists them too",
    ]
    assert cli.main(["eval", str(data / "masks"), "--truth", str(data / "truth"), "--classes", "3", "--all"]) == 0
    assert "  class 3     absent" in capsys.readouterr().out


def test_names_come_from_the_manifest(data):
    (data / "classes.txt").unlink()
    (data / "masks" / "manifest.jsonl").write_text('{"kind": "header", "classes": ["x", "y", "z"]}\n')
    assert evaluate.folder(data / "masks", data / "truth").names == ["background", "x", "y", "z"]


def test_masks_of_16_bits(data):
    Image.fromarray(TRUTH.astype(np.uint16)).save(data / "masks" / "b.png")
    assert evaluate.folder(data / "masks", data / "truth").miou == 1.0


def test_missing_predictions(data):
    for name in "defghi":
        (data / "truth" / f"{name}.png").write_bytes(mask_png(TRUTH))
    with pytest.raises(ValueError, match=r"6 of 9 images have no prediction in .*: d.png, e.png, f.png, g.png, h.png, \.\.\."):
        evaluate.folder(data / "masks", data / "truth")
    result = evaluate.folder(data / "masks", data / "truth", allow_missing=True)
    assert (result.images, result.missing) == (3, list("defghi"))
    with pytest.raises(ValueError, match="1 of 1 images have no prediction"):
        evaluate.folder(data / "masks", data / "truth", ids=["d"], allow_missing=True)
    (data / "masks" / "j.png").write_bytes(mask_png(TRUTH))
    with pytest.raises(ValueError, match=r"1 of 2 images have no truth in .*: j.png"):
        evaluate.folder(data / "masks", data / "truth", ids=["a", "j"])


def test_pictures_are_no_masks(data):
    Image.open(data / "truth" / "b.png").convert("RGB").save(data / "truth" / "b.png")
    with pytest.raises(ValueError, match=r"b.png must be an index mask .* 3 channels \(RGB\). Hint: turn its colours"):
        evaluate.folder(data / "masks", data / "truth")


ARRAY = io.BytesIO()
np.save(ARRAY, np.zeros(3))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"no zip", ARRAY.getvalue()])
def test_damaged_files_are_named(data, content):
    (data / "soft" / "b.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"b.npz must be an .npz file with 'classes' and 'maps'"):
        evaluate.folder(data / "soft", data / "truth")
    (data / "masks" / "b.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"b.png must be a PNG mask"):
        evaluate.folder(data / "masks", data / "truth")


def test_pickles_and_other_keys_are_refused(data):
    np.savez(data / "soft" / "b.npz", classes=np.array([0]), maps=np.array([object()]))
    with pytest.raises(ValueError, match=r"b.npz must be .*allow_pickle=False"):
        evaluate.folder(data / "soft", data / "truth")
    np.savez(data / "soft" / "b.npz", cams=np.zeros(3))
    with pytest.raises(ValueError, match=r"b.npz must be .*classes"):
        evaluate.folder(data / "soft", data / "truth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: (data / "classes.txt").unlink(), "the classes are unknown"),
        (lambda data: (data / "masks" / "a.npz").touch(), "has both masks"),
        (lambda data: [path.unlink() for path in (data / "masks").iterdir()], "has neither masks"),
        (lambda data: [path.unlink() for path in (data / "truth").iterdir()], "no image to compare"),
        (lambda data: (data / "classes.txt").write_text("cat\n"), "prediction of a must hold 0..1|truth of a must hold 0..1"),
    ],
)
def test_what_cannot_be_compared_is_said(data, change, message):
    change(data)
    with pytest.raises(ValueError, match=message):
        evaluate.folder(data / "masks", data / "truth")


def test_bad_command_lines(data, capsys):
    truth = ["--truth", str(data / "truth")]
    assert cli.main(["eval", str(data / "nothing"), *truth]) == 1
    error = capsys.readouterr().err
    assert "'predictions' must be a folder, got '" in error and "nothing', which does not exist" in error
    assert cli.main(["eval", str(data / "masks"), *truth, "--curve", str(data / "c.png")]) == 1
    assert "must go with soft maps" in capsys.readouterr().err and not (data / "c.png").exists()
    assert cli.main(["eval", str(data / "soft"), *truth, "--curve", "c.jpg"]) == 2
    assert "must end in .png" in capsys.readouterr().err
    assert cli.main(["eval", str(data / "masks"), *truth, "--list", str(data / "none.txt")]) == 1


def test_a_curve_with_gaps_is_drawn():
    for miou in (np.full(100, np.nan), np.where(np.arange(100) < 50, 0.5, np.nan), np.ones(100)):
        assert Image.open(io.BytesIO(curve_png(THRESHOLDS, miou, "x"))).size == (720, 440)
