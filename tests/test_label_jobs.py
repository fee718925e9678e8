"""Jobs of several processes and machines: decoders that die, shards, kills, signals, other sources than folders."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from label_standins import BrightEngine, five_pictures, label, picture, tree
from PIL import Image

import wsss_fast
from wsss_fast.cli import main
from wsss_fast.label import decode, plan, sources
from wsss_fast.label.decode import Decoders
from wsss_fast.label.lock import LockedError
from wsss_fast.label.manifest import ManifestError, read_rows
from wsss_fast.label.plan import Location, PlanError
from wsss_fast.label.read import ImageError, Limits
from wsss_fast.label.settings import LabelSettings
from wsss_fast.label.verify import verify
from wsss_fast.label.write import OutputStoppedError

LIMITS = Limits(80_000_000, 1 << 30, max_side=1024)


@pytest.fixture
def folder(tmp_path):
    return five_pictures(tmp_path)


def twenty(parent):
    images = parent / "twenty"
    images.mkdir()
    for index in range(20):
        picture(index).save(images / f"{index}.png")
    return images


# Decoding processes


def test_processes_read_what_the_caller_reads(folder):
    picture(7, (3000, 20)).save(folder / "wide.png")
    places = [(path.name, Location(str(path))) for path in sorted(folder.iterdir())]
    found = {}
    for workers in (0, 2):
        decoders = Decoders(LIMITS, workers, 60)
        try:
            found[workers] = [(name, outcome()) for name, outcome in decoders.ahead(places)]
        finally:
            decoders.close()
    for (name, mine), (again, theirs) in zip(found[0], found[2], strict=True):
        assert name == again and np.array_equal(mine.pixels, theirs.pixels)
        assert (mine.height, mine.width, mine.stamp, mine.kind) == (theirs.height, theirs.width, theirs.stamp, theirs.kind)
    assert found[2][-1][1].pixels.shape == (7, 1024, 3) and found[2][-1][1].width == 3000


FAULTY = """
import json, os, signal, sys, time
sys.path[:] = json.loads(sys.argv[1])
from wsss_fast.label import decode, read
real = read.read_image
def faulty(location, **limits):
    name = os.path.basename(location.path)
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("hang"):
        time.sleep(1000)
    if name.startswith("once") and not os.path.exists(location.path + ".tried"):
        open(location.path + ".tried", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("print"):
        os.write(1, b"nonsense")
    return real(location, **limits)
decode.read_image = faulty
decode.serve()
"""


def test_a_decoder_that_dies_or_hangs_costs_one_image(folder, tmp_path, monkeypatch):
    label(folder, tmp_path / "clean")
    for index, name in enumerate(("crash.png", "hang.png", "once.png", "print.png")):
        picture(20 + index).save(folder / name)
    monkeypatch.setattr(decode, "_START", FAULTY)
    summary = label(folder, tmp_path / "out", workers=2, timeout=2.0)
    assert (summary.labelled, summary.failed) == (7, 2)
    reasons = {failure.image: failure.reason for failure in summary.failures}
    assert reasons["crash.png"] == "its decoder died of SIGSEGV, 2 times"
    assert reasons["hang.png"] == "its decoder took more than 2 seconds, 2 times"
    for name in ("img8.png", "img12.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()
    assert not _children()


def _children() -> list[str]:
    listed = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True, check=False)
    return [line for line in listed.stdout.splitlines() if "decode" in line]


def test_a_job_that_is_stopped_leaves_no_process(folder, tmp_path):
    engine = BrightEngine()
    engine.fail_at = 2
    with pytest.raises(KeyboardInterrupt):
        label(folder, tmp_path / "out", engine, workers=2)
    assert not _children()


def test_no_file_stops_a_decoder_for_long(tmp_path):
    """A picture whose text chunk inflates to gigabytes, and files cut anywhere."""
    import zlib

    from test_label_files import header_only_png

    whole = io.BytesIO()
    picture(1).save(whole, "PNG")
    data = whole.getvalue()
    text = b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9)
    chunk = len(text).to_bytes(4, "big") + b"zTXt" + text + zlib.crc32(b"zTXt" + text).to_bytes(4, "big")
    (tmp_path / "text.png").write_bytes(data[:33] + chunk + data[33:])
    (tmp_path / "bomb.png").write_bytes(header_only_png(50_000, 50_000))
    decoders = Decoders(LIMITS, 1, 20)
    started = time.monotonic()
    try:
        for _, outcome in decoders.ahead((name, Location(str(tmp_path / name))) for name in ("text.png", "bomb.png")):
            with pytest.raises(ImageError):
                outcome()
    finally:
        decoders.close()
    assert time.monotonic() - started < 10


# Results do not depend on how the work is done


def test_workers_and_shards_give_the_same_bytes(tmp_path):
    images = twenty(tmp_path)
    label(images, tmp_path / "one", batch=3)
    label(images, tmp_path / "many", batch=3, workers=3)
    assert tree(tmp_path / "one") == tree(tmp_path / "many")
    for i in (2, 0, 1):
        summary = label(images, tmp_path / "shards", batch=3, shard=f"{i}/3", workers=i)
        assert summary.total == summary.labelled
    one, shards = tree(tmp_path / "one"), tree(tmp_path / "shards")
    assert {name for name in shards if "manifest" in name} == {f"manifest-{i}-of-3.jsonl" for i in range(3)}
    assert {name: one[name] for name in one if name.endswith(".png")} == {
        name: shards[name] for name in shards if name.endswith(".png")
    }
    rows, alone = read_rows(tmp_path / "shards"), read_rows(tmp_path / "one")
    assert rows == alone and verify(tmp_path / "shards").files == 20
    with pytest.raises(ManifestError, match="labelled by 3 shards, not by 4 shards"):
        label(images, tmp_path / "shards", batch=3, shard="0/4")
    with pytest.raises(ManifestError, match="labelled by 3 shards, not by one job"):
        label(images, tmp_path / "shards", batch=3)
    with pytest.raises(ManifestError, match="planned from other images or batches"):
        label(images, tmp_path / "shards", batch=4, shard="0/3")
    (tmp_path / "shards" / "manifest-0-of-3.jsonl").unlink()
    with pytest.raises(ManifestError, match=r"settings\.background"):
        label(images, tmp_path / "shards", batch=3, shard="0/3", background=0.7)


CODES = [errno.ENOSPC, errno.EIO, errno.EACCES]


@pytest.mark.parametrize("code", CODES)
def test_failing_calls_of_a_threaded_job(folder, tmp_path, monkeypatch, code):
    """As test_label_resume does for every n without threads: the n-th call of any thread fails, for a sixth of all n each."""
    fail_at_some(folder, tmp_path, monkeypatch, code, range(1 + CODES.index(code), 100, 6))


@pytest.mark.soak
@pytest.mark.parametrize("code", CODES)
def test_every_failing_call_of_a_threaded_job(folder, tmp_path, monkeypatch, code):
    fail_at_some(folder, tmp_path, monkeypatch, code, range(1, 100))


def fail_at_some(folder, tmp_path, monkeypatch, code, numbers):
    label(folder, tmp_path / "whole", batch=2)
    real = {name: getattr(os, name) for name in ("write", "fsync", "replace", "mkdir", "ftruncate")}
    ordinary = os.getpid()
    for n in numbers:
        out, count = tmp_path / f"out{n}", [0]

        def failing(name, count=count, n=n):
            def call(*args, **options):
                count[0] += 1
                if count[0] == n and os.getpid() == ordinary:
                    raise OSError(code, os.strerror(code))
                return real[name](*args, **options)

            return call

        out.mkdir()
        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, failing(name))
            try:
                wsss_fast.label(folder, BrightEngine(), out, batch=2, workers=1)
            except OutputStoppedError as error:
                assert os.strerror(code) in str(error)
            else:  # the folder that is there already is not missed
                if count[0] < n:
                    break
        for path in out.rglob("*.png"):
            with Image.open(path) as image:
                image.load()
        label(folder, out, batch=2)
        assert tree(out) == tree(tmp_path / "whole"), n
    else:
        pytest.fail("a run of five images should need fewer than 100 calls")


# Live processes

JOB = """
import sys, time
sys.path[:0] = [{tests!r}]
from label_standins import BrightEngine
import wsss_fast
from wsss_fast.cli import main
from wsss_fast.label import pipeline
class Slow(BrightEngine):
    def predict(self, pixels):
        time.sleep({pause})
        return super().predict(pixels)
pipeline.load_model = lambda model, settings: Slow()
print("ready", flush=True)
sys.exit(main(["label", {images!r}, "--out", {out!r}, "--batch", "3", "--quiet", *sys.argv[1:]]))
"""


def start(images, out, *arguments, pause=0.01):
    text = JOB.format(tests=os.path.dirname(__file__), images=str(images), out=str(out), pause=pause)  # noqa: PTH120
    process = subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def kills_and_resumes(tmp_path, count, seed):
    """Kills the whole process group at random moments, then resumes: the same bytes every time."""
    images = twenty(tmp_path)
    label(images, tmp_path / "whole", batch=3)
    whole, random = tree(tmp_path / "whole"), np.random.default_rng(seed)
    process, started = start(images, tmp_path / "timed"), time.monotonic()
    finish(process)
    length = time.monotonic() - started
    interrupted = 0
    for n in range(count):
        out = tmp_path / f"killed{n}"
        process = start(images, out)
        time.sleep(random.uniform(0, length))
        os.killpg(process.pid, signal.SIGKILL)
        finish(process)
        interrupted += not (out / "19.png").exists()
        for path in out.rglob("*.png"):
            with Image.open(path) as image:
                image.load()
        label(images, out, batch=3)
        assert tree(out) == whole, f"seed {seed}, kill {n}"
    return interrupted


def test_killed_jobs_resume_to_the_same_bytes(tmp_path):
    assert kills_and_resumes(tmp_path, 1, seed=1) > 0


@pytest.mark.soak
def test_a_hundred_kills(tmp_path):
    assert kills_and_resumes(tmp_path, 100, seed=2) > 50


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_within_seconds_and_the_job_goes_on(tmp_path, number, status):
    images = twenty(tmp_path)
    label(images, tmp_path / "whole", batch=3)
    out = tmp_path / "out"
    process = start(images, out, pause=0.2)
    deadline = time.monotonic() + 30
    while not (out / "3.png").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(LockedError, match=f"process {process.pid} on "):  # and nobody else may write there meanwhile
        label(images, out)
    os.killpg(process.pid, number)  # as a terminal does: decoders get it too
    sent = time.monotonic()
    code, text = finish(process)
    assert code == status and time.monotonic() - sent < 5, text
    summary = label(images, out, batch=3)
    assert 0 < summary.skipped < 20 and tree(out) == tree(tmp_path / "whole")


# Where images come from


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
    """Seconds and bytes of resident memory that a list of many names costs, measured in a process of its own."""
    names = tmp_path / "names.txt"
    with names.open("w") as file:
        for i in range(count):
            file.write(f"part{i % 1000:03d}/photo_{(i * 7919) % count:07d}.jpg\n")
    code = (
        "import sys, time, resource\nimport numpy\nfrom pathlib import Path\n"
        "from wsss_fast.label.sources import make_plan\nfrom wsss_fast.label.settings import LabelSettings\n"
        "from wsss_fast.label.done import DoneTable\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nstarted = time.monotonic()\n"
        f"plan = make_plan({str(names)!r}, Path({str(tmp_path / 'out')!r}), LabelSettings())\n"
        "plan.digest(); table = DoneTable(plan); count = sum(1 for _ in plan.batches())\n"
        "print(time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, len(plan), count)\n"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    seconds, kilobytes, images, batches = done.stdout.split()
    assert int(images) == count and int(batches) == -(-count // 8)
    return float(seconds), 1024 * int(kilobytes)


def test_a_hundred_thousand_names_start_quickly(tmp_path):
    seconds, memory = plan_of(100_000, tmp_path)
    assert seconds < 15 and memory < 40e6, (seconds, memory)


@pytest.mark.soak
def test_a_million_names_start_in_a_minute(tmp_path):
    seconds, memory = plan_of(1_000_000, tmp_path)
    assert seconds < 60 and memory < 200e6, (seconds, memory)


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
