"""The number of torch's threads is part of a job: any machine gives the bytes of any other, however many cores each has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
import torch
from exported import SMALLEST, onnx_file
from helpers import threads
from label_standins import BrightEngine, five_pictures, label, tree

import wsss_fast
from wsss_fast.export import load_engine
from wsss_fast.label.manifest import ManifestError, read_header
from wsss_fast.label.settings import LabelSettings, SettingsError

# At this size a pixel of the first photo differs between one thread of torch 2.13 and two.
SIZE = {"scales": (1.0,), "base_side": 96}
PHOTOS = ("motorcycle_left.png", "motorcycle_right.png", "coffee.png", "camera.png")


class Counting(BrightEngine):
    def __init__(self):
        super().__init__()
        self.seen = []

    def predict(self, pixels):
        self.seen.append(torch.get_num_threads())
        return super().predict(pixels)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in PHOTOS:
        shutil.copy(Path(skimage.data.__file__).parent / name, folder)
    return folder


def lite0(photos, out, **settings):
    return wsss_fast.label(photos, out=out, workers=0, batch=1, **SIZE, **settings)


def masks(out):
    return {name: digest for name, digest in tree(out).items() if name.endswith(".png")}


@pytest.mark.parametrize("asked", [None, 3])
def test_a_network_has_the_threads_of_the_job_and_the_process_its_own_afterwards(tmp_path, asked):
    images = five_pictures(tmp_path)
    for own in (1, 2):
        engine = Counting()
        with threads(own):
            label(images, tmp_path / f"out{own}", engine, **({} if asked is None else {"threads": asked}))
            assert torch.get_num_threads() == own
        assert set(engine.seen) == {asked or LabelSettings.threads}
    assert tree(tmp_path / "out1") == tree(tmp_path / "out2")


def test_the_process_has_its_own_threads_after_a_job_that_broke(tmp_path):
    engine = BrightEngine()
    engine.fail_at = 2
    with threads(1):
        with pytest.raises(KeyboardInterrupt):
            label(five_pictures(tmp_path), tmp_path / "out", engine)
        assert torch.get_num_threads() == 1


def test_machines_of_one_core_and_two_give_the_same_bytes(photos, tmp_path):
    """A whole job, one that goes on elsewhere, and shards."""
    one, two, moved, shards = (tmp_path / name for name in ("one", "two", "moved", "shards"))
    with threads(1):
        lite0(photos, one)
        lite0(photos, shards, shard="0/2")
        assert lite0(photos, moved).labelled == len(PHOTOS)
        for name in ("coffee.png", "motorcycle_left.png"):
            (moved / name).unlink()
    with threads(2):
        lite0(photos, two)
        lite0(photos, shards, shard="1/2")
        assert lite0(photos, moved).labelled == 2
    assert tree(one) == tree(two)
    assert masks(one) == masks(moved) == masks(shards)


ON_ONE_CORE = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from wsss_fast.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_command_that_may_use_one_core_gives_the_same_bytes(photos, tmp_path):
    with threads(2):
        lite0(photos, tmp_path / "many")
    size = ["--scales", "1", "--base-side", "96", "--batch", "1", "--workers", "0", "--quiet"]
    arguments = ["label", str(photos), "--out", str(tmp_path / "one"), *size]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run([sys.executable, "-c", ON_ONE_CORE, *arguments], check=True, env=environment, timeout=120)
    assert tree(tmp_path / "one") == tree(tmp_path / "many")


def test_another_number_is_another_job(tmp_path):
    images, out = five_pictures(tmp_path), tmp_path / "out"
    label(images, out, threads=2)
    assert read_header(out)["settings"]["threads"] == 2
    with pytest.raises(ManifestError, match=r"settings\.threads: 2 before, 4 now"):
        label(images, out)
    label(images, tmp_path / "shards", threads=2, shard="0/2")
    with pytest.raises(ManifestError, match=r"settings\.threads: 2 before, 1 now"):
        label(images, tmp_path / "shards", threads=1, shard="1/2")


@pytest.mark.parametrize("count", [0, 1025, 2.0, True, "2"])
def test_numbers_that_are_none(count):
    with pytest.raises(SettingsError, match="'threads' must be a whole number from 1 to 1024, got "):
        LabelSettings(threads=count)


def test_onnx_runtime_has_the_threads_of_the_job(photos, tmp_path):
    """An engine that was made before the job keeps its own, and the job says so."""
    exported_cam = onnx_file(SMALLEST)
    for number in (1, 2):
        with threads(number):
            wsss_fast.label(photos, str(exported_cam), tmp_path / f"file{number}", **ort_settings(tmp_path), workers=0)
    assert tree(tmp_path / "file1") == tree(tmp_path / "file2")
    assert read_header(tmp_path / "file1")["model"]["threads"] == LabelSettings.threads
    wsss_fast.label(photos, load_engine(exported_cam, threads=3), tmp_path / "own", **ort_settings(tmp_path), workers=0)
    with pytest.raises(ManifestError, match=r"model\.threads: 3 before, 2 now"):
        own = load_engine(exported_cam, threads=2)
        wsss_fast.label(photos, own, tmp_path / "own", **ort_settings(tmp_path), workers=0)


def ort_settings(folder):
    labels = folder / "labels.csv"
    labels.write_text("".join(f"{name},cat\n" for name in PHOTOS))
    return {"labels": str(labels), "scales": (1.0,), "max_side": 64}


@pytest.mark.parametrize("shard", [None, "1/2"])
def test_other_versions_or_another_processor_are_said_once(tmp_path, caplog, shard):
    images, out = five_pictures(tmp_path), tmp_path / "out"
    label(images, out, shard=shard and "0/2")
    if shard:
        label(images, out, shard="1/2")
    assert not caplog.records
    for path in out.glob("manifest*.jsonl"):
        first, *rest = path.read_text().splitlines(keepends=True)
        header = json.loads(first)
        header["made_with"] |= {"torch": "2.6.0", "processor": "AVX512 of old"}
        path.write_text(json.dumps(header) + "\n" + "".join(rest))
    label(images, out, shard=shard)
    (record,) = caplog.records
    assert "a few pixels may differ" in record.message
    assert 'made_with.processor: "AVX512 of old" before' in record.message and 'made_with.torch: "2.6.0" before' in record.message
