"""Whatever a file of labels, a list, a tar file or a manifest holds: it is read, or one of our errors says why not."""

from __future__ import annotations

import random
import shutil
import time
import tracemalloc
from pathlib import Path

import hostile_files as files
import pytest
from label_standins import five_pictures, label

from wsss_fast._settings import SettingsError
from wsss_fast.classes.groups import read_groups
from wsss_fast.data import DataError
from wsss_fast.data.dataset import read_list
from wsss_fast.data.labels import read_classes, read_labels
from wsss_fast.files.images import ImageError, read_image
from wsss_fast.files.names import harmless
from wsss_fast.label import manifest
from wsss_fast.label.verify import verify
from wsss_fast.listing.plan import PlanError
from wsss_fast.listing.sources import make_plan

OURS = (DataError, PlanError, manifest.ManifestError, SettingsError)
SECONDS, BYTES = 5.0, 200 << 20  # of one file, which has a megabyte at most


def labels(path: Path) -> None:
    found = read_labels(path)
    found.join([*files.NAMES[:3], "other.png"])
    for name in found.indices:
        found.vector(name)


def annotations(path: Path) -> None:
    read_labels(path.parent, kind="xml")


def plan(path: Path) -> None:
    made = make_plan(path, path.parent / "out", operation="label")
    made.digest()
    for image in made.images():
        try:
            read_image(made.location(image), 10_000, 10_000)
        except ImageError as error:
            assert harmless(str(error)) == str(error)


def voc(path: Path) -> None:
    root = path.parent / "voc"
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    shutil.copy(path, root / "ImageSets" / "Main" / "train.txt")
    plan_of_split = make_plan(root, operation="label", split="train")
    plan_of_split.digest()


def tars(path: Path) -> None:
    folder = path.parent / "x.tar"
    folder.mkdir()
    shutil.copy(path, folder / "S.TAR")
    plan(folder)
    plan(path)


def job(path: Path) -> None:
    """All readers of a manifest, then a job that would go on from it."""
    out = path.parent
    for read in (manifest.read_header, manifest.read_rows, manifest.read_files, manifest.classes_of_job, verify):
        try:
            read(out)
        except OURS as error:
            assert str(error) and harmless(str(error)) == str(error)
    label(IMAGES[0], out, report=random.Random(path.stat().st_size).random() < 0.1)


HEADER: dict = {}  # of a job on the pictures below, for manifests that could be gone on from
IMAGES: list[Path] = []
KINDS = {
    "csv": ("labels.csv", files.csv_text, labels),
    "lines of labels": ("labels.txt", files.lines, labels),
    "json": ("labels.json", files._json({"a.png": ["cat"], "sub/c.png": ["cat", "dog"], "b.png": []}), labels),
    "numbers in json": ("labels.json", files._json({"a.png": [0], "sub/c.png": [1, 2], "b.png": []}), labels),
    "coco labels": ("labels.json", files._json(files.COCO), labels),
    "npy": ("cls_labels.npy", files.npy, labels),
    "xml": ("a.xml", files.xml, annotations),
    "classes": ("classes.txt", files.lines, read_classes),
    "groups": ("groups.yaml", files.yaml, lambda path: read_groups(str(path), {"cat": [0], "dog": [1, 2]}, 3)),
    "list": ("list.txt", files.lines, plan),
    "zeros": ("list.lst", files.zeros, plan),
    "list of data": ("list.txt", files.lines, read_list),
    "coco": ("coco.json", files._json(files.COCO), plan),
    "split": ("train.txt", files.lines, voc),
    "tar": ("s.tar", files.tar, tars),
    "manifest": ("manifest.jsonl", lambda draw: files.manifest_of(HEADER)(draw), job),
}


def fuzz(folder: Path, seconds: float, first: int = 0) -> int:
    images = five_pictures(folder)
    IMAGES[:] = [images]
    HEADER.update(manifest.read_header(label(images, folder / "whole").out))
    HEADER.pop("kind")
    until = time.monotonic() + seconds
    number = first
    while time.monotonic() < until or number - first < len(KINDS):
        try_one(folder / "now", number)
        number += 1
    return number - first


def try_one(folder: Path, number: int) -> None:
    kind = list(KINDS)[number % len(KINDS)]
    name, make, read = KINDS[kind]
    draw = random.Random(number)
    data = files.bent(draw, make(draw))
    folder.mkdir()
    (folder / name).write_bytes(data)
    tracemalloc.start()
    started = time.process_time()
    try:
        read(folder / name)
    except OURS as error:
        assert str(error), (number, kind)
        assert harmless(str(error)) == str(error), (number, kind, str(error))
        assert len(str(error)) < 10_000, (number, kind, len(str(error)))
    except BaseException as error:
        raise AssertionError(f"file {number} ({kind}): {type(error).__name__}: {error}; it holds {data[:500]!r}") from error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    shutil.rmtree(folder)
    assert time.process_time() - started < SECONDS, (number, kind)
    assert peak < BYTES, (number, kind, peak)


def test_hostile_files_for_two_seconds(tmp_path: Path) -> None:
    assert fuzz(tmp_path, 2) >= len(KINDS)


@pytest.mark.soak
def test_hostile_files_for_a_minute(tmp_path: Path) -> None:
    assert fuzz(tmp_path, 60, first=1_000_000) > 1000


def test_the_files_are_not_all_refused() -> None:
    """A fuzzer of files that are refused at their first byte would find nothing: of each kind, some are bent and some whole."""
    for _, make, _ in KINDS.values():
        if make is KINDS["manifest"][1]:
            continue
        made = [make(random.Random(number)) for number in range(20)]
        bent = [files.bent(random.Random(number), data) for number, data in enumerate(made)]
        assert 2 < sum(a == b for a, b in zip(made, bent, strict=True)) < 18
