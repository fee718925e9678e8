"""Jobs of several processes and machines: decoders that die, shards, kills, signals, other sources than folders."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from kills import Jobs
from label_standins import BrightEngine, five_pictures, label, picture, tree
from PIL import Image

import wsss_fast
from wsss_fast.files.folder import OutputStoppedError
from wsss_fast.files.images import ImageError, Limits, Location
from wsss_fast.label import decode
from wsss_fast.label.decode import Decoders
from wsss_fast.label.lock import LockedError
from wsss_fast.label.manifest import ManifestError, read_rows
from wsss_fast.label.verify import verify

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
from wsss_fast.files import images
from wsss_fast.label import decode
real = images.read_image
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
    try:
        for _, outcome in decoders.ahead((name, Location(str(tmp_path / name))) for name in ("text.png", "bomb.png")):
            with pytest.raises(ImageError) as refused:
                outcome()
            assert "took more than" not in str(refused.value)
    finally:
        decoders.close()


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
    real = {name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "mkdir", "ftruncate", "unlink")}
    ordinary = os.getpid()
    for n in numbers:
        out, count = tmp_path / f"out{n}", [0]

        def failing(name, count=count, n=n):
            def call(*args, **options):
                if name == "open" and not args[1] & os.O_CREAT:
                    return real[name](*args, **options)
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

STAND_INS = """
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
"""
RUN = """
print("ready", flush=True)
sys.exit(main(["label", {images!r}, "--out", {out!r}, "--batch", "3", "--quiet"]))
"""


def stand_ins(pause):
    return STAND_INS.format(tests=os.path.dirname(__file__), pause=pause)  # noqa: PTH120


def start(images, out, pause=0.01):
    text = stand_ins(pause) + RUN.format(images=str(images), out=str(out))
    process = subprocess.Popen(
        [sys.executable, "-c", text],
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


def resumed(images, out, whole):
    """What a killed job left has no torn mask, and resumes to the same bytes as never killed. Gives the masks that were there."""
    masks = list(out.rglob("*.png"))
    for path in masks:
        with Image.open(path) as image:
            image.load()
    label(images, out, batch=3)
    assert tree(out) == whole
    return len(masks)


def wait_for(name):
    def wait(out):
        deadline = time.monotonic() + 30
        while not (out / name).exists() and time.monotonic() < deadline:
            time.sleep(0.005)

    return wait


def test_a_killed_job_resumes_to_the_same_bytes(tmp_path):
    images, out = twenty(tmp_path), tmp_path / "out"
    label(images, tmp_path / "whole", batch=3)
    process = start(images, out)
    wait_for("7.png")(out)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    assert 0 < resumed(images, out, tree(tmp_path / "whole")) <= 20


def kills(tmp_path, count):
    """Kills the process group of a live job at random moments; gives how many masks each kill found.

    A moment is a number of masks and some time more, since on a busy machine no two jobs take the same time.
    """
    images = twenty(tmp_path)
    label(images, tmp_path / "whole", batch=3)
    whole, found, random = tree(tmp_path / "whole"), [], np.random.default_rng(2)

    def command(out):
        return ["label", images, "--out", out, "--batch", "3", "--quiet"]

    with Jobs(stand_ins(pause=0.01)) as jobs:
        longest = jobs.run(command(tmp_path / "timed"))
        assert tree(tmp_path / "timed") == whole
        for n in range(count):
            out = tmp_path / f"killed{n}"
            group, masks, deadline = jobs.begin(command(out)), int(random.integers(20)), time.monotonic() + 60
            while len(list(out.glob("*.png"))) < masks and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(random.uniform(0, longest / 20))
            jobs.kill(group)
            out.mkdir(exist_ok=True)
            found.append(resumed(images, out, whole))
    return found


def test_kills_at_random_moments(tmp_path):
    kills(tmp_path, 4)


@pytest.mark.soak
def test_a_hundred_kills_at_random_moments(tmp_path):
    found = kills(tmp_path, 100)
    assert sum(0 < masks < 20 for masks in found) > 20, found  # many of them in the middle of the work


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_a_job_and_it_goes_on(tmp_path, number, status):
    images = twenty(tmp_path)
    label(images, tmp_path / "whole", batch=3)
    out = tmp_path / "out"
    process = start(images, out, pause=0.2)
    wait_for("3.png")(out)
    with pytest.raises(LockedError, match=f"process {process.pid} on "):  # and nobody else may write there meanwhile
        label(images, out)
    os.killpg(process.pid, number)  # as a terminal does: decoders get it too
    code, text = finish(process)
    assert code == status, text
    summary = label(images, out, batch=3)
    assert 0 < summary.skipped < 20 and tree(out) == tree(tmp_path / "whole")
