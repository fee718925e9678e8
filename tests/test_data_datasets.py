"""Data sets in the layouts of VOC, COCO and plain folders, and what is found wrong with them before training."""

from __future__ import annotations

import json

import numpy as np
import pytest
from data_worlds import IDS, labels_of, photo, save, voc, write_list
from PIL import Image

from wsss_fast.data import DataError, coco, open_dataset
from wsss_fast.data.verify import verify
from wsss_fast.data.voc import CLASSES


@pytest.fixture
def world(tmp_path):
    return voc(tmp_path / "world")


def indices(dataset):
    return [tuple(np.flatnonzero(dataset.labels(name))) for name in dataset.ids]


def test_voc(world):
    dataset = open_dataset(world, split="train", saliency="saliency")
    assert dataset.kind == "voc" and dataset.classes == ["cat", "dog"] and dataset.ids == IDS[:6] and len(dataset) == 6
    assert indices(dataset) == [labels_of(number) for number in range(6)]
    assert dataset.image_path(IDS[0]) == world / "JPEGImages" / f"{IDS[0]}.jpg"
    assert dataset.mask_path(IDS[0]) == world / "SegmentationClassAug" / f"{IDS[0]}.png"
    assert dataset.saliency_path(IDS[0]) == world / "saliency" / f"{IDS[0]}.png"
    assert dataset.labels(IDS[0]).dtype == np.float32
    assert dataset.provenance == {"labels": "labels.txt", "saliency": {"model": "unknown"}}
    assert open_dataset(world).ids == IDS


@pytest.mark.parametrize(
    "row",
    ["/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png", "/JPEGImages/{0}.jpg", "{0}", "{1}"],
    ids=["PSA", "EPS test", "plain", "IRN"],
)
def test_lists(world, row):
    write_list(world, "mine", [row.format(name, int(name.replace("_", ""))) for name in (IDS[3], IDS[0])])
    dataset = open_dataset(world, split="mine")
    assert dataset.ids == [IDS[3], IDS[0]]
    assert indices(dataset) == [labels_of(3), labels_of(0)]
    assert dataset.mask_path(IDS[3]) == world / "SegmentationClassAug" / f"{IDS[3]}.png"
    assert verify(dataset, ["mask"])[1].problems == []


def test_lists_with_classes_and_with_masks_of_their_own(world, tmp_path):
    (world / "labels.txt").unlink()
    (tmp_path / "train_cls.txt").write_text(f"{IDS[5]} 0 1\n{IDS[2]} 1\n")
    dataset = open_dataset(world, split=tmp_path / "train_cls.txt")
    assert dataset.ids == [IDS[5], IDS[2]] and indices(dataset) == [(0, 1), (1,)]
    (tmp_path / "pseudo.txt").write_text(f"/JPEGImages/{IDS[1]}.jpg /pseudo/{IDS[1]}.png\n")
    dataset = open_dataset(world, split=tmp_path / "pseudo.txt", labels="none")
    assert dataset.mask_path(IDS[1]) == world / "pseudo" / f"{IDS[1]}.png"


def test_voc_with_annotations_and_its_own_classes(world):
    (world / "labels.txt").unlink()
    (world / "classes.txt").unlink()
    (world / "Annotations").mkdir()
    for number, name in enumerate(IDS):
        text = "".join(f"<object><name>{('cat', 'dog')[place]}</name></object>" for place in labels_of(number))
        (world / "Annotations" / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
    dataset = open_dataset(world, split="val")
    assert dataset.classes == ["cat", "dog"] and indices(dataset) == [labels_of(6), labels_of(7)]
    np.save(world / "cls_labels.npy", {name: np.eye(20, dtype="f4")[3] for name in IDS}, allow_pickle=True)
    dataset = open_dataset(world)
    assert dataset.classes == list(CLASSES) and indices(dataset) == [(3,)] * 8
    assert dataset.provenance["labels"] == "cls_labels.npy"
    np.save(world / "cls_labels.npy", {name: np.eye(3, dtype="f4")[2] for name in IDS}, allow_pickle=True)
    assert open_dataset(world).classes == ["0", "1", "2"]


def test_labels_of_masks_only_when_asked(world):
    (world / "labels.txt").unlink()
    with pytest.raises(DataError, match="there are no image-level labels"):
        open_dataset(world)
    dataset = open_dataset(world, labels="masks")
    assert indices(dataset) == [labels_of(number) for number in range(8)] and dataset.provenance["labels"] == "the masks"
    with pytest.raises(DataError, match="values above 1, the number of classes"):
        open_dataset(world, labels="masks", classes=["cat"])


def test_several_files_of_labels(world):
    (world / "labels.csv").write_text(f"{IDS[0]},cat\n")
    with pytest.raises(DataError, match=r"several files of labels \(labels.csv, labels.txt\)"):
        open_dataset(world)
    write_list(world, "one", IDS[:1])
    assert open_dataset(world, labels="labels.csv", split="one").ids == IDS[:1]


def test_provenance_of_saliency_maps(world):
    (world / "saliency" / "provenance.json").write_text('{"model": "classical"}')
    assert open_dataset(world, saliency="saliency").provenance["saliency"] == {"model": "classical"}
    with pytest.raises(DataError, match="'saliency' must name a folder"):
        open_dataset(world, saliency="nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda world: write_list(world, "train", ["2007_000009"]), "images without a row of labels"),
        (lambda world: write_list(world, "train", [IDS[0], IDS[0]]), "images twice"),
        (lambda world: write_list(world, "train", ["../secret"]), "leads out of the folder"),
        (lambda world: write_list(world, "train", ["/JPEGImages/../../x.jpg"]), "leads out of the folder"),
        (lambda world: write_list(world, "train", ["/JPEGImages/a.jpg ../../x/y.png"]), "leads out of the folder"),
        (lambda world: write_list(world, "train", []), "is empty"),
        (lambda world: (world / "labels.txt").write_text(f"{IDS[0]} 2"), "class numbers out of range"),
        (lambda world: (world / "labels.txt").write_bytes(b"\xff\xfe\x00"), "no text in UTF-8"),
        (lambda world: save(world / "JPEGImages" / f"{IDS[0]}.png", photo(1)), "differ in their extension alone"),
    ],
)
def test_voc_that_is_wrong(world, change, message):
    change(world)
    with pytest.raises(DataError, match=message):
        open_dataset(world, split="train")


def test_split_that_is_not_there(world):
    with pytest.raises(DataError, match=r"there is no list 'trian'.*are train, val"):
        open_dataset(world, split="trian")


def test_images_without_a_class(world, caplog):
    rows = (world / "labels.txt").read_text().splitlines()
    (world / "labels.txt").write_text("\n".join([IDS[0], *rows[1:]]))
    with pytest.raises(DataError, match=f"images without any class \\(1: {IDS[0]}\\). Hint: empty='drop'"):
        open_dataset(world)
    assert open_dataset(world, empty="drop").ids == IDS[1:]
    assert "left out (1: " in caplog.text
    kept = open_dataset(world, empty="keep")
    assert kept.ids == IDS and kept.labels(IDS[0]).sum() == 0
    assert "of no class" in verify(kept)[1].notes[0]


def coco_world(root):
    names = [f"COCO_train2014_{number:012d}.jpg" for number in (9, 4)]
    for number, name in enumerate(names):
        save(root / "train2014" / name, photo(number, (20, 10)))
    square = [[2, 2, 8, 2, 8, 8, 2, 8]]
    inner = {"size": [10, 20], "counts": [43, 2, 8, 2, 145]}  # columns first: 2x2 from (row 3, column 4)
    whole = {
        "categories": [{"id": 90, "name": "cat"}, {"id": 3, "name": "dog"}],
        "images": [{"id": i, "file_name": name, "width": 20, "height": 10} for i, name in enumerate(names)],
        "annotations": [
            {"image_id": 0, "category_id": 90, "segmentation": inner, "area": 4, "iscrowd": 1},
            {"image_id": 0, "category_id": 3, "segmentation": square, "area": 36, "iscrowd": 0},
            {"image_id": 1, "category_id": 3, "segmentation": square, "area": 36, "iscrowd": 0},
        ],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2014.json").write_text(json.dumps(whole))
    return root


def test_coco(tmp_path):
    root = coco_world(tmp_path)
    for path, split in ((root, "train2014"), (root, None), (root / "annotations" / "instances_train2014.json", None)):
        dataset = open_dataset(path, split=split)
        assert dataset.kind == "coco" and dataset.classes == ["dog", "cat"]
        assert dataset.ids == ["COCO_train2014_000000000009", "COCO_train2014_000000000004"]
        assert indices(dataset) == [(0, 1), (0,)] and dataset.mask_path(dataset.ids[0]) is None
        verify(dataset)
    with pytest.raises(DataError, match=r"no single file of instances for split 'val2014'\. Hint: splits are train2014"):
        open_dataset(root, split="val2014")
    with pytest.raises(DataError, match="there is no file val2014"):
        open_dataset(root / "annotations" / "instances_train2014.json", split="val2014")
    (tmp_path / "mine.txt").write_text("COCO_train2014_000000000004\n")
    assert open_dataset(root, split=tmp_path / "mine.txt").ids == ["COCO_train2014_000000000004"]


def test_coco_masks(tmp_path):
    root = coco_world(tmp_path)
    out = root / "SegmentationClass" / "train2014"
    assert coco.write_masks(root / "annotations" / "instances_train2014.json", out) == 2
    dataset = open_dataset(root, split="train2014")
    verify(dataset, ["mask"])
    mask = np.asarray(Image.open(dataset.mask_path(dataset.ids[0])))
    expected = np.zeros((10, 20), np.uint8)
    expected[2:8, 2:8] = 1
    expected[3:5, 4:6] = 2  # the smaller object in front
    assert np.array_equal(mask, expected)


def test_coco_name_that_leads_out(tmp_path):
    root = coco_world(tmp_path)
    path = root / "annotations" / "instances_train2014.json"
    path.write_text(path.read_text().replace("COCO_train2014_000000000009.jpg", "../../secret.jpg"))
    with pytest.raises(DataError, match="leads out of the folder"):
        open_dataset(root)
    with pytest.raises(DataError, match="leads out of the folder"):
        coco.write_masks(path, tmp_path / "out")


def test_folders(tmp_path):
    for name in ("cat/1.jpg", "cat/10.jpg", "cat/2.jpg", "dog/1.jpg", "dog/1.png", "loose.png"):
        save(tmp_path / name, photo(0))
    dataset = open_dataset(tmp_path)
    assert dataset.kind == "folders" and dataset.classes == ["cat", "dog"]
    assert dataset.ids == ["cat/1", "cat/2", "cat/10", "dog/1.jpg", "dog/1.png"]
    assert indices(dataset) == [(0,), (0,), (0,), (1,), (1,)]
    verify(dataset)
    for name in ("cat/1", "cat/2", "cat/10", "dog/1.jpg", "dog/1.png"):
        save(tmp_path / "sal" / f"{name}.png", photo(0)[..., 0])
    assert open_dataset(tmp_path, saliency="sal").ids == dataset.ids  # a folder of maps is no class
    with pytest.raises(DataError, match=r"unknown classes in the folders:\n  'dog' of 2 images\nHint: known are cat"):
        open_dataset(tmp_path, saliency="sal", classes=["cat"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "image,classes\nb.png,dog;cat\nsub/a.jpg,cat\n"),
        ("labels.json", '{"b.png": ["dog", "cat"], "sub/a.jpg": "cat"}'),
    ],
)
def test_folder_and_table(tmp_path, name, content):
    for image in ("sub/a.jpg", "b.png", "unlisted.png"):
        save(tmp_path / image, photo(0))
        save(tmp_path / "sal" / f"{image[:-4]}.png", photo(0)[..., 0])
    (tmp_path / name).write_text(content)
    dataset = open_dataset(tmp_path, saliency="sal")
    assert dataset.kind == "images" and dataset.ids == ["b", "sub/a"] and indices(dataset) == [(0, 1), (0,)]
    assert verify(dataset, ["saliency"])[1].problems == []
    assert open_dataset(tmp_path).ids == ["b", "sub/a"]  # names that are equal go before tails
    (tmp_path / "part.txt").write_text("sub/a.jpg\n")
    assert open_dataset(tmp_path, split="part", saliency="sal").ids == ["sub/a"]
    (tmp_path / "sub" / "a.jpg").rename(tmp_path / "a.jpg")
    (tmp_path / "other").mkdir()
    (tmp_path / "a.jpg").rename(tmp_path / "other" / "a.jpg")
    with pytest.raises(DataError, match=r"images of labels\.\w+ that are missing \(1: sub/a"):
        open_dataset(tmp_path, saliency="sal")
    (tmp_path / "other" / "a.jpg").rename(tmp_path / "sub" / "a.jpg")
    (tmp_path / "b.png").unlink()
    with pytest.raises(DataError, match=r"images of labels\.\w+ that are missing \(1: b"):
        open_dataset(tmp_path, saliency="sal")


def test_bad_arguments(world, tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        open_dataset(tmp_path / "absent")
    with pytest.raises(DataError, match="'kind' must be one of"):
        open_dataset(world, kind="imagenet")
    with pytest.raises(DataError, match="'empty' must be one of"):
        open_dataset(world, empty="maybe")
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="no images in"):
        open_dataset(tmp_path / "void")


def test_verify_names_the_first_five_missing_files(world):
    for name in IDS[:7]:
        (world / "JPEGImages" / f"{name}.jpg").unlink()
        (world / "saliency" / f"{name}.png").unlink()
    dataset = open_dataset(world, split="train", saliency="saliency")
    with pytest.raises(DataError) as caught:
        verify(dataset)
    assert "files that are missing (6: " in str(caught.value)
    assert all(f"{name}.jpg" in str(caught.value) for name in IDS[:5]) and IDS[5] not in str(caught.value)
    with pytest.raises(DataError, match=r"files that are missing \(12: "):
        verify(dataset, ["saliency"])


def test_verify_finds_everything_at_once(world):
    save(world / "SegmentationClassAug" / f"{IDS[0]}.png", np.zeros((24, 31), np.uint8))
    save(world / "SegmentationClassAug" / f"{IDS[1]}.png", np.full((24, 30), 3, np.uint8))
    save(world / "SegmentationClassAug" / f"{IDS[2]}.png", photo(0))
    save(world / "saliency" / f"{IDS[3]}.png", np.zeros((30, 24), np.uint8))
    save(world / "saliency" / f"{IDS[4]}.png", np.zeros((48, 60), np.uint8))  # twice the size is no fault
    (world / "JPEGImages" / f"{IDS[5]}.jpg").write_bytes(b"<html>")
    with pytest.raises(DataError) as caught:
        verify(open_dataset(world, saliency="saliency"), ["saliency", "mask"])
    text = str(caught.value)
    assert f"images that cannot be read (1: {IDS[5]}: not an image" in text
    assert "maps that cannot be read (1: " in text and "type RGB holds no 8-bit numbers" in text
    sizes = f"(2: {IDS[0]}: image 30 x 24, mask 31 x 24, {IDS[3]}: image 30 x 24, saliency 24 x 30)"
    assert f"images and maps of different sizes {sizes}" in text
    assert f"masks with values above 2, the number of classes (1: {IDS[1]}: 3)" in text


def test_verify_skips_unreadable_images_by_choice(world):
    (world / "JPEGImages" / f"{IDS[5]}.jpg").write_bytes(b"")
    dataset = open_dataset(world)
    with pytest.raises(DataError, match=r"cannot be read \(1: .*the file is empty\). Hint: unreadable='skip'"):
        verify(dataset)
    left, report = verify(dataset, unreadable="skip")
    assert left.ids == [name for name in IDS if name != IDS[5]] and report.unreadable == {IDS[5]: "the file is empty"}
    assert report.notes and not report.problems
    calls = []
    verify(left, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (7, 7)


def test_verify_checks_labels_of_data_sets_made_by_hand(world):
    dataset = open_dataset(world)
    dataset.indices[IDS[0]] = (2,)
    del dataset.indices[IDS[1]]
    dataset.ids.append(IDS[2])
    with pytest.raises(DataError) as caught:
        verify(dataset)
    text = str(caught.value)
    assert f"labels out of range of the 2 classes (1: {IDS[0]}: 2)" in text
    assert f"images without labels (1: {IDS[1]})" in text and f"ids that come twice (1: {IDS[2]})" in text
