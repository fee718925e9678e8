"""Files of labels that would take all memory or time, or lose an image without a word."""

from __future__ import annotations

import io
import json
import pickle
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from wsss_fast.data import DataError, npy_labels
from wsss_fast.data.labels import read_labels


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def shared_row(rows: int, length: int) -> bytes:
    """An npy file of many images with one and the same array, which pickle writes once."""
    array = np.ones(length, np.uint8)
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    pickle.dump(np.array({f"i{i}": array for i in range(rows)}, dtype=object), file, protocol=4)
    return file.getvalue()


def test_a_large_class_number_costs_nothing(tmp_path: Path) -> None:
    for name, text in (("a.csv", "a.jpg,999999999\n"), ("a.json", '{"a.jpg": [999999999]}'), ("a.txt", "a.jpg 999999999\n")):
        tracemalloc.start()
        with pytest.raises(DataError, match="has the class number 999999999; at most 65535 classes"):
            read_labels(written(tmp_path / name, text))
        assert tracemalloc.get_traced_memory()[1] < 5e6
        tracemalloc.stop()
    assert len(read_labels(written(tmp_path / "b.csv", "a.jpg,65534\n")).classes) == 65535


def test_small_npy_files_that_mean_a_lot(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than 67108864 numbers"):
        npy_labels.read(written(tmp_path / "a.npy", shared_row(70_000, 1000)))
    with pytest.raises(DataError, match="has 65536 classes; at most 65535"):
        read_labels(written(tmp_path / "b.npy", shared_row(1, 65536)))


def test_a_name_that_stands_in_json_twice_is_found_at_once(tmp_path: Path) -> None:
    text = json.dumps({f"i{i}": ["cat"] for i in range(30_000)})[:-1] + ', "i29999": []}'
    started = time.process_time()
    with pytest.raises(DataError, match="'i29999' stands there twice"):
        read_labels(written(tmp_path / "a.json", text))
    assert time.process_time() - started < 5


@pytest.mark.parametrize("first", ["id,cat", "image,3;4", "name,", "id.jpg,classes", '"id",cat'])
def test_an_image_may_be_called_like_a_header(tmp_path: Path, first: str) -> None:
    entry = "3" if "3" in first else "cat"
    labels = read_labels(written(tmp_path / "a.csv", f"{first}\nb.jpg,{entry}\n"))
    assert len(labels) == 2 and next(iter(labels.indices)) == first.split(",")[0].strip('"')


@pytest.mark.parametrize("header", ["image,classes", "ID , Label", '"file_name","category"'])
def test_headers(tmp_path: Path, header: str) -> None:
    assert list(read_labels(written(tmp_path / "a.csv", f"{header}\nb.jpg,cat\n")).indices) == ["b.jpg"]


def coco(**changes: object) -> dict:
    whole = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 1}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    return {**whole, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1.0, "file_name": "b.jpg"}]}, "images of .* whose id is neither"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": True, "file_name": "b.jpg"}]}, "images of .* whose id is neither"),
        ({"images": [{"id": 1, "file_name": None}, {"id": 2, "file_name": "b.jpg"}]}, "whose file_name is no text"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1.0, "name": "b"}]}, "categories of .* whose id is neither"),
        ({"categories": [{"id": 1, "name": 7}]}, "at least one class name"),
        ({"categories": [{"id": 1, "name": "\ud800"}]}, r"class names that are no text \(1: \\ud800\)"),
        ({"categories": [{"id": [], "name": "a"}]}, "categories of .* whose id is neither"),
        ({"images": {"id": 1}}, "is no COCO file"),
    ],
)
def test_coco_of_odd_ids_and_names(tmp_path: Path, changes: dict, message: str) -> None:
    path = written(tmp_path / "a.json", json.dumps(coco(**changes)))
    with pytest.raises(DataError, match=message) as caught:
        read_labels(path)
    str(caught.value).encode()


@pytest.mark.parametrize("entry", ['""', '" "', "true", '"\\ud800"', "1.0", "null"])
def test_classes_that_are_no_names(tmp_path: Path, entry: str) -> None:
    with pytest.raises(DataError):
        read_labels(written(tmp_path / "a.json", f'{{"a.jpg": ["cat", {entry}]}}'))
