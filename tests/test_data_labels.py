"""Image-level labels: every form they come in, joined by name, and what is wrong with them said in words."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from wsss_fast.data import npy_labels
from wsss_fast.data._problems import DataError
from wsss_fast.data.labels import ImageLabels, image_name, read_classes, read_labels

HOT = {"2007_000032": [0, 2], "2007_000039": [1], "2011_003271": [2]}


def vector(places, count=3, dtype=np.float32):
    row = np.zeros(count, dtype)
    row[places] = 1
    return row


def save_npy(path: Path, content: object, protocol: int | None = None) -> Path:
    """As numpy.save does it; with a protocol, as older releases did."""
    if protocol is None:
        np.save(path, content, allow_pickle=True)
        return path
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(np.array(content, dtype=object), file, protocol=protocol)
    return path


def raw_npy(path: Path, pickled: bytes) -> Path:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(pickled)
    return path


@pytest.mark.parametrize("protocol", [None, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["f4", ">f4", "u1", "i8", "?"])
def test_npy(tmp_path, protocol, dtype):
    path = save_npy(tmp_path / "cls_labels.npy", {key: vector(places, dtype=dtype) for key, places in HOT.items()}, protocol)
    labels = read_labels(path, classes=["a", "b", "c"])
    assert {key: list(places) for key, places in labels.indices.items()} == HOT
    assert labels.vector("2007_000032").tolist() == [1, 0, 1] and labels.vector("2007_000032").dtype == np.float32


@pytest.mark.parametrize("kind", [int, np.int32, np.int64])
def test_npy_with_the_whole_numbers_of_irn(tmp_path, kind):
    labels = read_labels(save_npy(tmp_path / "x.npy", {kind(2007000032): vector([1])}))
    assert dict(labels.indices) == {"2007_000032": (1,)}
    assert labels.classes == ("0", "1", "2") and not labels.named


class Bomb:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("place", ["alone", "value", "key", "in an array"])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_npy_that_would_run_code(tmp_path, place, protocol):
    bomb = Bomb(tmp_path / "canary")
    content = {
        "alone": bomb,
        "value": {"a": bomb},
        "key": {bomb: vector([0])},
        "in an array": {"a": np.array([bomb], dtype=object)},
    }[place]
    path = save_npy(tmp_path / "x.npy", content, protocol)
    with pytest.raises(DataError, match="nothing in the file was run"):
        npy_labels.read(path)
    assert not (tmp_path / "canary").exists()
    np.load(path, allow_pickle=True)  # the test can fail: NumPy does run it
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(np.zeros(3)),
        pickle.dumps({"a": np.zeros(3)}),
        pickle.dumps(np.array([{"a": 1}], dtype=object)),
        pickle.dumps(np.array({"a": np.zeros((2, 2))}, dtype=object)),
        pickle.dumps(np.array({("a",): np.zeros(2)}, dtype=object)),
        pickle.dumps(np.array({"a": [0, 1]}, dtype=object)),
        pickle.dumps(np.array({"a": np.array(["x"])}, dtype=object)),
        pickle.dumps(np.array({"a": np.zeros(2, "M8[s]")}, dtype=object)),
        pickle.dumps(np.array({"a": np.zeros(2)}, dtype=object))[:-20],
        b"\x80\x02r\xff\xff\xff\x7f.",  # a memo place of two thousand millions
        b"\x80\x02(((.",
        b"\x80\x02}(]]s.",
        b"\x80\x02" + b"}" + b"(" * 50_000 + b"u" * 50_000 + b".",
        b"\x80\x02)" + b"\x86" * 3 + b".",
        b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b"}h\x00Ns.",  # a tuple with 2**60 leaves as a key
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes longer than the file
        b"",
    ],
)
def test_npy_of_other_things(tmp_path, content):
    with pytest.raises(DataError, match=r"is no cls_labels\.npy"):
        npy_labels.read(raw_npy(tmp_path / "x.npy", content))


def test_npy_header(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    (tmp_path / "b.npy").write_bytes(b"hello")
    for name in "ab":
        with pytest.raises(DataError, match=r"is no cls_labels\.npy"):
            read_labels(tmp_path / f"{name}.npy")


def test_npy_cut_anywhere(tmp_path):
    whole = save_npy(tmp_path / "x.npy", {"a": vector([0]), "b": vector([1])}).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "y.npy").write_bytes(whole[:length])
        with pytest.raises(DataError):
            npy_labels.read(tmp_path / "y.npy")


def test_npy_rows_that_do_not_fit(tmp_path):
    path = save_npy(tmp_path / "x.npy", {"a": vector([0]), "b": vector([0], 4)})
    with pytest.raises(DataError, match=r"do not have 3 classes \(1: b has 4\)"):
        read_labels(path)
    with pytest.raises(DataError, match="other than 0 and 1"):
        read_labels(save_npy(tmp_path / "y.npy", {"a": np.array([0.5, 1])}))
    with pytest.raises(DataError, match=r"images twice in z.npy \(1: 2007_000032\)"):
        read_labels(save_npy(tmp_path / "z.npy", {"2007_000032": vector([0]), 2007000032: vector([1])}))


def xml(*objects: tuple[str, int]) -> str:
    inner = "".join(
        f"<object><name>{name}</name><difficult>{hard}</difficult><part><name>head</name></part></object>"
        for name, hard in objects
    )
    return f"<annotation><filename>x.jpg</filename>{inner}</annotation>"


def test_xml(tmp_path):
    (tmp_path / "2007_000001.xml").write_text(xml(("person", 0), ("dog", 1), ("person", 0)))
    (tmp_path / "2007_000002.xml").write_text(xml(("dog", 1)))
    labels = read_labels(tmp_path)
    assert labels.classes == ("dog", "person")
    assert dict(labels.indices) == {"2007_000001": (0, 1), "2007_000002": (0,)}
    dropped = read_labels(tmp_path, difficult="drop", classes=["dog", "person"])
    assert dict(dropped.indices) == {"2007_000001": (1,), "2007_000002": ()} and dropped.empty == ["2007_000002"]
    assert list(read_labels(tmp_path, images=["JPEGImages/2007_000002.jpg"]).indices) == ["2007_000002"]
    with pytest.raises(DataError, match="annotations are missing"):
        read_labels(tmp_path, images=["2007_000003"])


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>',
        '<!DOCTYPE x SYSTEM "secret"><annotation/>',
        "<annotation><object>",
        "",
    ],
)
def test_xml_that_is_refused(tmp_path, text):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError, match="is no XML annotation"):
        read_labels(tmp_path)


def coco(**changed) -> dict:
    whole = {
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}],
        "images": [{"id": 7, "file_name": "COCO_train2014_000000000007.jpg"}, {"id": 9, "file_name": "nine.jpg"}],
        "annotations": [
            {"image_id": 7, "category_id": 18},
            {"image_id": 7, "category_id": 1},
            {"image_id": 7, "category_id": 18, "iscrowd": 1},
        ],
    }
    return {**whole, **changed}


def test_coco(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(coco()))
    labels = read_labels(path)
    assert labels.classes == ("person", "stop sign", "dog")
    assert dict(labels.indices) == {"COCO_train2014_000000000007.jpg": (0, 2), "nine.jpg": ()}
    joined, missing = labels.join(["COCO_train2014_000000000007", "ten"])
    assert joined == {"COCO_train2014_000000000007": (0, 2)} and missing == ["ten"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"annotations": [{"image_id": 8, "category_id": 18}]}, "annotations of unknown images"),
        ({"annotations": [{"image_id": 7, "category_id": 2}]}, "unknown categories"),
        ({"annotations": [{"category_id": 2}]}, "is no COCO file"),
        ({"annotations": 3}, "is no COCO file"),
        ({"images": [{"id": 7, "file_name": "a"}, {"id": 8, "file_name": "a"}]}, "images twice"),
        ({"images": [{"id": 7, "file_name": "a"}, {"id": 7, "file_name": "b"}]}, "image ids twice"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 18, "name": "a"}]}, "classes twice"),
    ],
)
def test_coco_that_is_wrong(tmp_path, changed, message):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(coco(**changed)))
    with pytest.raises(DataError, match=message):
        read_labels(path)


def test_folders(tmp_path):
    for name in ("cat/1.jpg", "cat/deep/2.png", "dog/1.jpg", "dog/notes.txt", "loose.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    labels = read_labels(tmp_path)
    assert labels.classes == ("cat", "dog")
    assert dict(labels.indices) == {"cat/1.jpg": (0,), "cat/deep/2.png": (0,), "dog/1.jpg": (1,)}


@pytest.mark.parametrize("header", ["", "image,classes\n"])
def test_csv(tmp_path, header):
    path = tmp_path / "x.csv"
    path.write_text("\ufeff" + header + 'b.jpg,dog;cat\n\n"a, b.jpg",cat\nsub/c.png,\n', encoding="utf-8")
    labels = read_labels(path)
    assert labels.classes == ("cat", "dog")
    assert dict(labels.indices) == {"b.jpg": (0, 1), "a, b.jpg": (0,), "sub/c.png": ()} and labels.empty == ["sub/c.png"]


def test_json(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"b.jpg": ["dog", "cat"], "a.jpg": "cat", "c.jpg": []}')
    assert dict(read_labels(path).indices) == {"b.jpg": (0, 1), "a.jpg": (0,), "c.jpg": ()}
    path.write_text('{"b.jpg": ["dog"], "b.jpg": ["cat"]}')
    with pytest.raises(DataError, match=r"'b\.jpg' stands there twice"):
        read_labels(path)
    path.write_text('{"b.jpg": {"dog": 1}}')
    with pytest.raises(DataError, match="without a list of classes"):
        read_labels(path)
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match="nested too deeply"):
        read_labels(path)


def test_list(tmp_path):
    path = tmp_path / "train_cls.txt"
    path.write_text("2007_000032 0 2\n2007000039 1\n")
    labels = read_labels(path, classes=["a", "b", "c", "d"])
    assert dict(labels.indices) == {"2007_000032": (0, 2), "2007_000039": (1,)} and len(labels.vector("2007_000039")) == 4
    assert read_labels(path).classes == ("0", "1", "2")
    path.write_text("x dog\ny cat dog\n")
    assert dict(read_labels(path).indices) == {"x": (1,), "y": (0, 1)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 0\nb 3\nc 4", r"out of range in x.txt \(2: 3 of b, 4 of c\). Hint: there are 3 classes"),
        ("a cat\nb dgo", r"unknown classes in x.txt:\n  'dgo' of b: did you mean 'dog'\?\nHint: known are cat, dog, cow"),
        ("a -1\nb 0", r"unknown classes in x.txt"),
        ("a 0\na 1", r"images twice in x.txt \(1: a\)"),
        ("./a 0\n/a 1", r"images twice in x.txt \(1: a\)"),
        ("", "has no rows"),
        ("\n".join(f"{i} 9" for i in range(7)), r"\(7: 9 of 0, 9 of 1, 9 of 2, 9 of 3, 9 of 4, …\)"),
    ],
)
def test_rows_that_are_wrong(tmp_path, text, message):
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path / "x.txt", classes=["cat", "dog", "cow"])


def test_a_name_cannot_steer_the_terminal(tmp_path):
    (tmp_path / "x.txt").write_text("a \x1b[31mred\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_labels(tmp_path / "x.txt", classes=["cat"])
    assert "\x1b" not in str(caught.value)


def test_classes_file(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("background\ncat\n dog \n\n")
    assert read_classes(path) == ("cat", "dog")
    (tmp_path / "x.txt").write_text("a dog")
    assert dict(read_labels(tmp_path / "x.txt", classes=path).indices) == {"a": (1,)}
    path.write_text("cat\ncat\n")
    with pytest.raises(DataError, match=r"names classes twice \(1: cat\)"):
        read_classes(path)


@pytest.mark.parametrize("name", ["absent.npy", "absent.csv", "absent"])
def test_absent_file(tmp_path, name):
    with pytest.raises(DataError, match="there is no file"):
        read_labels(tmp_path / name)


def test_kind_unknown(tmp_path):
    (tmp_path / "x.bin").touch()
    with pytest.raises(DataError, match="cannot tell what kind"):
        read_labels(tmp_path / "x.bin")
    with pytest.raises(DataError, match="'kind' must be one of"):
        read_labels(tmp_path / "x.bin", kind="yaml")


@pytest.mark.parametrize(
    ("rows", "images", "joined"),
    [
        (["b", "a"], ["a", "b"], {"a": "a", "b": "b"}),  # never by line
        (["JPEGImages/X.jpg"], ["X"], {"X": "JPEGImages/X.jpg"}),
        (["X"], ["JPEGImages/X.jpg"], {"JPEGImages/X.jpg": "X"}),
        (["X.jpg"], ["X.PNG"], {"X.PNG": "X.jpg"}),
        (["a/1.jpg", "b/1.jpg"], ["a/1.jpg", "c/1.jpg"], {"a/1.jpg": "a/1.jpg"}),
        (["1"], ["1.jpg", "x/1.jpg"], {"1.jpg": "1"}),
        (["a.jpg", "a.png"], ["a.png", "a.jpg"], {"a.png": "a.png", "a.jpg": "a.jpg"}),
        (["v1.2"], ["v1", "v1.2"], {"v1.2": "v1.2"}),
    ],
)
def test_join(rows, images, joined):
    labels = ImageLabels(("c",) * len(rows), {row: (i,) for i, row in enumerate(rows)}, "x")
    found, missing = labels.join(images)
    assert found == {image: labels.indices[row] for image, row in joined.items()}
    assert missing == [image for image in images if image not in joined]


@pytest.mark.parametrize(
    ("rows", "images", "message"),
    [
        (["a/1", "b/1"], ["1.jpg"], "more than one row"),
        (["1"], ["a/1.jpg", "b/1.jpg"], "fit more than one image"),
        (["1"], ["1.jpg", "1.png"], "fit more than one image"),
    ],
)
def test_join_that_could_be_two(rows, images, message):
    labels = ImageLabels(("c",), dict.fromkeys(rows, (0,)), "x")
    with pytest.raises(DataError, match=message):
        labels.join(images)


@pytest.mark.parametrize(
    ("text", "name"),
    [("/JPEGImages/X.jpg", "JPEGImages/X.jpg"), ("./a\\b.png", "a/b.png"), ("2007000032", "2007_000032"), ("123", "123")],
)
def test_image_name(text, name):
    assert image_name(text) == name
