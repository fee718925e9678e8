"""Where images come from, and plans of very many of them."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from label_standins import five_pictures, label, picture

from wsss_fast.cli import main
from wsss_fast.label.manifest import read_rows
from wsss_fast.listing import plan, sources
from wsss_fast.listing.plan import PlanError


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
    with pytest.raises(PlanError, match=r"^look: cannot read .*packed\.tar"):  # in the words of whoever asks
        sources.make_plan(tmp_path / "packed.tar", operation="look")


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
from wsss_fast.listing.sources import make_plan
from wsss_fast.label.done import DoneTable

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: a child inherits its parent's
before, started = peak(), time.process_time()
plan = make_plan({str(names)!r}, Path({str(tmp_path / "out")!r}), operation="label", batch=8)
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
    made = sources.make_plan(folder, operation="label", batch=2)
    assert [image.name for image in made.images()] == [f"img{n}.png" for n in range(8, 13)]
    assert [len(made) for made in (sources.make_plan(folder, operation="label", batch=2, shard=(i, 2)) for i in (0, 1))] == [
        3,
        2,
    ]


def tar_of(path, names=("a", "b", "c", "d"), form=tarfile.GNU_FORMAT):
    """Where the header of each member stands."""
    with tarfile.open(path, "w", format=form) as tar:
        for seed, name in enumerate(names):
            buffer = io.BytesIO()
            picture(seed).save(buffer, "PNG")
            info = tarfile.TarInfo(f"{name}.png")
            info.size = len(buffer.getvalue())
            buffer.seek(0)
            tar.addfile(info, buffer)
    with tarfile.open(path) as tar:
        return [member.offset for member in tar]


def changed(path, change):
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data) or data)


def overwritten(at, with_what):
    def change(data):
        data[at : at + len(with_what)] = with_what

    return change


DAMAGE = {
    "a header of noise": (lambda at: overwritten(at[2], b"\xff" * 512), 2),
    "a header of zeros": (lambda at: overwritten(at[2], bytes(512)), 2),
    "a wrong checksum": (lambda at: overwritten(at[2] + 148, b"0000000"), 2),
    "a size beyond the file": (lambda at: overwritten(at[2] + 124, b"\x80" + b"\x00" * 3 + b"\x7f" * 8), 2),
    "a negative size": (lambda at: overwritten(at[2] + 124, b"\xff" * 12), 2),
    "cut in a header": (lambda at: lambda data: data[: at[3] + 100], 3),
    "cut behind a header": (lambda at: lambda data: data[: at[3] + 512], 3),
    "cut in a member": (lambda at: lambda data: data[: at[3] + 700], 3),
    "another archive behind it": (lambda at: lambda data: data + data, 4),
}


def with_checksum(data, at):
    """So that only what a header says is wrong."""
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return data


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_tar_file_is_one_failure_and_its_readable_part_is_labelled(tmp_path, name):
    make, readable = DAMAGE[name]
    path = tmp_path / "s.tar"
    at = tar_of(path)
    changed(path, make(at))
    if "size" in name:
        changed(path, lambda data: with_checksum(data, at[2]))
    summary = label(path, tmp_path / "out")
    assert (summary.total, summary.labelled, summary.failed) == (readable + 1, readable, 1)
    rows = read_rows(summary.out)
    end = at[readable] if readable < len(at) else end_of_members(path)
    assert rows["s.tar"]["status"] == "failed" and f"damaged at byte {end} of {path.stat().st_size}" in rows["s.tar"]["reason"]
    assert f"the {readable} members before it are read" in rows["s.tar"]["reason"]
    again = label(path, tmp_path / "out")
    assert (again.skipped, again.failed) == (readable, 1)  # the failure stays as long as the file does
    tar_of(path)
    mended = label(path, tmp_path / "out")
    assert (mended.total, mended.failed) == (4, 0)


def end_of_members(path):
    with tarfile.open(path) as tar:
        tar.getmembers()
        return tar.offset


def test_the_command_says_that_a_tar_file_is_damaged(tmp_path, capsys):
    shards = tmp_path / "shards"
    shards.mkdir()
    at = tar_of(shards / "0.tar")
    changed(shards / "0.tar", overwritten(at[1], b"\xff" * 512))
    (shards / "1.tar").write_bytes(b"not a tar file at all" * 100)
    command = ["label", str(shards), "--random-weights", "0", "--method", "cam", "--backbone", "resnet50", "--scales", "1"]
    assert main([*command, "--out", str(tmp_path / "out"), "--base-side", "64", "--workers", "0"]) == 3
    told = capsys.readouterr().err
    assert f"0.tar: the tar file is damaged at byte {at[1]} of" in told and "the 1 members before it are read" in told
    assert "1.tar: the tar file is damaged at byte 0 of 2100" in told
    assert (tmp_path / "out" / "0.tar" / "a.png").is_file()


def test_whole_tar_files_of_every_form(tmp_path):
    long = "x" * 120 + "/" + "y" * 120
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{form}.tar"
        tar_of(path, ("a", "b" if form == tarfile.USTAR_FORMAT else long), form)
        assert len(sources.make_plan(path, operation="label")) == 2
        end = end_of_members(path)
        changed(path, lambda data, end=end: data[:end])  # without an end mark, at a member's end
        assert len(sources.make_plan(path, operation="label")) == 2


def test_tar_files_with_headers_without_end(tmp_path):
    """Chains of headers about headers, and a header as large as the file, end at once."""
    path = tmp_path / "s.tar"
    for size, count in ((1, 20_000), (1 << 20, 1)):
        tar_of(path, ("a",))
        info = tarfile.TarInfo("pax")
        info.type, info.size = tarfile.XHDTYPE, size
        block = info.tobuf(tarfile.USTAR_FORMAT) + bytes(-(-size // 512) * 512)
        path.write_bytes(path.read_bytes()[: end_of_members(path)] + block * count)
        plan_ = sources.make_plan(path, operation="label")
        assert [image.name for image in plan_.images()] == ["s.tar", "s.tar/a.png"]


@pytest.mark.parametrize("name", ["S.TAR", "x.tar/y.tar", "x.tar/Y.TAR"])
def test_tar_files_whatever_they_and_their_folders_are_called(tmp_path, name):
    path = tmp_path / "shards" / name
    path.parent.mkdir(parents=True)
    tar_of(path, ("a", "in.tar/b"))
    for source in (path, tmp_path / "shards"):
        summary = label(source, tmp_path / f"out-{source.name}", workers=1)
        assert summary.labelled == 2 and not summary.failed, summary.failures


def test_names_that_no_file_has(folder, tmp_path):
    for name, message in (("1" * 70_000 + ".png", "a name has 70004 bytes"), ("\ud800.png", "is no text"), (5, "which is text")):
        (tmp_path / "coco.json").write_text(json.dumps({"images": [{"file_name": name}]}))
        with pytest.raises(PlanError, match=message):
            label(tmp_path / "coco.json", tmp_path / "out", root=str(folder))
    (folder / "long.txt").write_text("1" * 70_000)
    with pytest.raises(PlanError, match="a name has 70000 bytes"):
        label(folder / "long.txt", tmp_path / "out")
    (folder / "endless.txt").write_text("1" * (1 << 21))
    with pytest.raises(PlanError, match="a line of more than"):
        label(folder / "endless.txt", tmp_path / "out")


def test_lists_as_other_systems_write_them(folder, tmp_path):
    (folder / "list.txt").write_bytes(b"\xef\xbb\xbfimg8.png\r\n  \r\n\r\nimg9.png")
    (folder / "zeros.txt").write_bytes(b"\xef\xbb\xbfimg8.png\0img9.png\0")
    for name in ("list.txt", "zeros.txt"):
        assert set(read_rows(label(folder / name, tmp_path / name).out)) == {"img8.png", "img9.png"}
    (folder / "wide.txt").write_text("img8.png\n", encoding="utf-16")
    with pytest.raises(PlanError, match=r"UTF-16\. Hint: save it as UTF-8"):
        label(folder / "wide.txt", tmp_path / "out")
    voc = tmp_path / "VOC"
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    (voc / "JPEGImages").mkdir()
    picture(5).save(voc / "JPEGImages" / "2007_1.jpg")
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_bytes(b"\xef\xbb\xbf2007_1 1\n \n\t\n")
    assert label(voc, tmp_path / "voc", split="train").labelled == 1


def test_a_loop_of_links_as_output_folder(folder, tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    assert main(["label", str(folder), "--out", str(tmp_path / "loop"), "--random-weights", "0", "--method", "cam"]) == 1
    assert "'out' must be a folder" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(errno.EROFS, 4), (errno.ENOSPC, 4), (errno.ELOOP, 1)])
def test_an_output_folder_that_cannot_be_made(folder, tmp_path, capsys, monkeypatch, number, status):
    def mkdir(path, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    command = ["label", str(folder), "--out", str(tmp_path / "new"), "--random-weights", "0", "--method", "cam"]
    assert main(command) == status
    assert os.strerror(number) in capsys.readouterr().err
