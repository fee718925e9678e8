"""Where images come from, and plans of very many of them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile

import pytest
from label_standins import five_pictures, label, picture

from wsss_fast.cli import main
from wsss_fast.label import plan, sources
from wsss_fast.label.manifest import read_rows
from wsss_fast.label.plan import PlanError
from wsss_fast.label.settings import LabelSettings


@pytest.fixture
def folder(tmp_path):
    return five_pictures(tmp_path)


def test_lists_voc_coco_and_tar_files(folder, tmp_path):
    names = [f"img{n}.png" for n in (12, 8)]
    (folder / "list.txt").write_text("\n".join([*names, str(folder / "img9.png"), ""]))
    assert set(read_rows(label(folder / "list.txt", tmp_path / "a").out)) == {"img8.png", "img9.png", "img12.png"}
    (tmp_path / "zeros.txt").write_bytes(b"img8.png\0img9.png\0")
    assert label(tmp_path / "zeros.txt", tmp_path / "b", root=str(folder)).labelled == 2
    coco = {"images": [{"id": 1, "file_name": name} for name in names]}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    assert label(tmp_path / "coco.json", tmp_path / "c", root=str(folder)).labelled == 2
    voc = tmp_path / "VOC"
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    (voc / "JPEGImages").mkdir()
    for name in ("2007_1", "2007_2", "2007_3"):
        picture(5).save(voc / "JPEGImages" / f"{name}.jpg")
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text("2007_3\n2007_1\n")
    assert label(voc, tmp_path / "d").labelled == 3
    assert sorted(read_rows(label(voc, tmp_path / "e", split="train").out)) == ["2007_1.jpg", "2007_3.jpg"]
    with tarfile.open(tmp_path / "s-0.tar", "w") as tar:
        for name in names:
            tar.add(folder / name, f"./inner/{name}")
        tar.add(tmp_path / "coco.json", "notes.json")
    summary = label(tmp_path / "s-0.tar", tmp_path / "f", workers=1)
    assert summary.labelled == 2
    assert (tmp_path / "f" / "s-0.tar" / "inner" / "img8.png").read_bytes() == (tmp_path / "a" / "img8.png").read_bytes()
    assert label(tmp_path / "s-0.tar", tmp_path / "f").skipped == 2
    shards = tmp_path / "shards"
    shards.mkdir()
    for n in range(2):
        (shards / f"{n}.tar").write_bytes((tmp_path / "s-0.tar").read_bytes())
    assert label(shards, tmp_path / "g").labelled == 4


@pytest.mark.parametrize("name", ["../img8.png", "a/../../x.png", "/etc/x.png", "\0.png"])
def test_names_that_would_leave_are_refused(folder, tmp_path, name):
    (tmp_path / "coco.json").write_text(json.dumps({"images": [{"file_name": name}]}))
    with pytest.raises(PlanError, match=r"would leave|is not in"):
        label(tmp_path / "coco.json", tmp_path / "out", root=str(folder))
    data = b"x"
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        info = tarfile.TarInfo(name if "\0" not in name else "../y.png")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    with pytest.raises(PlanError, match="would leave"):
        label(tmp_path / "evil.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lists_that_name_an_image_twice_or_nothing(folder, tmp_path):
    (folder / "twice.txt").write_text("img8.png\n./img8.png\n")
    with pytest.raises(PlanError, match="listed twice"):
        label(folder / "twice.txt", tmp_path / "out")
    for text, suffix in (("", "txt"), ("{}", "json"), ("[1", "json")):
        (folder / f"bad.{suffix}").write_text(text)
        with pytest.raises(PlanError):
            label(folder / f"bad.{suffix}", tmp_path / "out")
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.add(folder / "img8.png", "img8.png")
    with pytest.raises(PlanError, match="must not be compressed"):
        label(tmp_path / "packed.tar", tmp_path / "out")


def test_verify_from_the_command_line(folder, tmp_path, capsys):
    label(folder, tmp_path / "out")
    assert main(["label", "--verify", str(tmp_path / "out")]) == 0
    (tmp_path / "out" / "img9.png").write_bytes(b"")
    assert main(["label", "--verify", str(tmp_path / "out"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bad"] == 1
    assert main(["label", str(folder)]) == 2 and "required: --out" in capsys.readouterr().err


def plan_of(count, tmp_path):
    """Processor seconds and bytes of resident memory that a list of many names costs, measured in a process of its own."""
    names = tmp_path / "names.txt"
    with names.open("w") as file:
        for i in range(count):
            file.write(f"part{i % 1000:03d}/photo_{(i * 7919) % count:07d}.jpg\n")
    code = f"""
import sys, time
import numpy
from pathlib import Path
from wsss_fast.label.sources import make_plan
from wsss_fast.label.settings import LabelSettings
from wsss_fast.label.done import DoneTable

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: a child inherits its parent's
before, started = peak(), time.process_time()
plan = make_plan({str(names)!r}, Path({str(tmp_path / "out")!r}), LabelSettings())
plan.digest()
table = DoneTable(plan)
count = sum(1 for _ in plan.batches())
print(time.process_time() - started, peak() - before, len(plan), count)
"""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    seconds, kilobytes, images, batches = done.stdout.split()
    assert int(images) == count and int(batches) == -(-count // 8)
    return float(seconds), 1024 * int(kilobytes)


def test_a_hundred_thousand_names_take_little_memory(tmp_path):
    _, memory = plan_of(100_000, tmp_path)
    assert 1e6 < memory < 40e6, memory


@pytest.mark.soak
def test_a_million_names_start_in_a_minute(tmp_path):
    seconds, memory = plan_of(1_000_000, tmp_path)
    assert seconds < 60 and 1e7 < memory < 200e6, (seconds, memory)


def test_places_of_names_are_found():
    names = plan.Names([plan.sort_key(f"a{i}/b{i % 7}.png") for i in range(500)])
    for i in range(0, 500, 37):
        assert names.find(names[i]) == i == names.find(names[i], near=i)
    assert names.find("nowhere.png") is None and names.find("zzz") is None


def test_a_folder_of_images_is_planned_as_a_list_of_them(folder):
    made = sources.make_plan(folder, None, LabelSettings(batch=2))
    assert [image.name for image in made.images()] == [f"img{n}.png" for n in range(8, 13)]
    assert [len(made) for made in (sources.make_plan(folder, None, LabelSettings(batch=2, shard=f"{i}/2")) for i in (0, 1))] == [
        3,
        2,
    ]
