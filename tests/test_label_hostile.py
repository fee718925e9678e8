"""What is no file fails alone and hangs nobody; what passes is not held against an image."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading

import pytest
from label_standins import BrightEngine, five_pictures, label, picture
from PIL import Image
from test_label_jobs import FAULTY

from wsss_fast import evaluate
from wsss_fast.cli import main
from wsss_fast.files import images
from wsss_fast.files.folder import OutputRefusedError, OutputStoppedError
from wsss_fast.files.images import ImageError, read_image
from wsss_fast.label import decode
from wsss_fast.label.manifest import ManifestError, read_rows
from wsss_fast.label.verify import verify
from wsss_fast.listing.plan import PlanError
from wsss_fast.methods import pair_labels


@pytest.fixture
def folder(tmp_path):
    return five_pictures(tmp_path)


@pytest.fixture(autouse=True)
def no_waiting():
    """Whoever opens a pipe waits for its other end: here not for ever."""

    def late(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# Stamps of the bytes that were read


def test_an_image_that_is_copied_while_the_job_runs_is_not_given_up(folder, tmp_path, monkeypatch):
    whole = (folder / "img9.png").read_bytes()
    (folder / "img9.png").write_bytes(whole[:-30])
    read, complete = decode.Decoders._read, threading.Event()

    class Waiting(BrightEngine):
        def predict(self, pixels):
            assert complete.wait(30)  # the decoders read ahead of the network
            return super().predict(pixels)

    def and_then_complete(self, location):
        try:
            return read(self, location)
        finally:
            if location.path.endswith("img9.png"):
                (folder / "img9.png").write_bytes(whole)
                complete.set()

    with monkeypatch.context() as patch:
        patch.setattr(decode.Decoders, "_read", and_then_complete)
        assert label(folder, tmp_path / "out", Waiting(), workers=1).failed == 1
    assert label(folder, tmp_path / "out").failed == 0


@pytest.mark.parametrize("whole", [True, False])
def test_bytes_that_change_while_they_are_read(folder, monkeypatch, whole):
    path = folder / "img9.png"
    path.write_bytes(path.read_bytes() if whole else path.read_bytes()[:-30])
    convert = images._to_rgb

    def and_meanwhile_more(image):
        with path.open("ab") as file:
            file.write(b"more")
        return convert(image)

    monkeypatch.setattr(images, "_to_rgb", and_meanwhile_more)
    with pytest.raises(ImageError, match="changed while it was read") as caught:
        read_image(path, 1 << 20, 1 << 20)
    assert not caught.value.lasting
    monkeypatch.undo()
    if whole:
        read_image(path, 1 << 20, 1 << 20)
    else:
        with pytest.raises(ImageError, match="cannot be decoded") as caught:
            read_image(path, 1 << 20, 1 << 20)
        assert caught.value.lasting and caught.value.stamp == images.stamp_of(images.Location(str(path)))


# Trouble that passes


def test_what_is_wrong_with_the_bytes_lasts(folder, tmp_path):
    (folder / "img9.png").write_bytes((folder / "img9.png").read_bytes()[:-30])
    for workers in (1, 0):
        label(folder, tmp_path / "out", workers=workers)
        (failure,) = label(folder, tmp_path / "out", workers=workers).failures
        assert failure.reason.startswith("as before: cannot be decoded") and read_rows(tmp_path / "out")["img9.png"]["lasting"]


PASSING = [OSError(code, os.strerror(code)) for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)]
PASSING += [MemoryError(), OSError("out of memory error when reading image file")]


@pytest.mark.parametrize("trouble", PASSING, ids=repr)
@pytest.mark.parametrize("where", ["open", "getexif"])
def test_trouble_of_the_machine_passes(folder, tmp_path, monkeypatch, trouble, where):
    """Nor does an image lose its orientation over it."""

    def failing(*_, **__):
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(Image if where == "open" else Image.Image, where, failing)
        if where == "getexif":
            patch.setattr(images.Image.Image, "getexif", failing)
            for path in folder.iterdir():
                Image.new("RGB", (8, 8)).save(path.with_suffix(".bmp"))
                path.unlink()
        assert label(folder, tmp_path / "out").failed == 5
    assert label(folder, tmp_path / "out").labelled == 5


SHORT = """
import resource, sys
from pathlib import Path
from wsss_fast.files.images import ImageError, read_image
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 24_000_000, -1))
for path in sys.argv[1:]:
    try:
        read_image(Path(path), 1 << 27, 1 << 30)
    except ImageError as error:
        assert not error.lasting, str(error)
        print("passes")
"""


def test_decoders_short_of_memory_do_not_blame_the_image(tmp_path):
    """Some of them say that the data are broken."""
    paths = [str(tmp_path / f"large.{suffix}") for suffix in ("jpg", "png", "webp", "tif", "gif")]
    for path in paths:
        Image.new("RGB", (4000, 3000), (90, 40, 10)).save(path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run([sys.executable, "-c", SHORT, *paths], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.split() == ["passes"] * len(paths), done.stderr[-2000:]


def test_a_decoder_that_dies_or_hangs_is_tried_in_the_next_run(folder, tmp_path, monkeypatch):
    picture(20).save(folder / "crash.png")
    picture(21).save(folder / "hang.png")
    with monkeypatch.context() as patch:
        patch.setattr(decode, "_START", FAULTY)
        assert label(folder, tmp_path / "out", workers=1, timeout=1.0).failed == 2
    assert label(folder, tmp_path / "out", workers=1).failed == 0


def test_the_start_of_a_decoder_does_not_count_as_reading(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "_START", "import time; time.sleep(2.5); " + decode._START)
    assert label(folder, tmp_path / "out", workers=1, timeout=2.0).failed == 0


@pytest.mark.parametrize("how", ["dies", "no handles"])
def test_a_decoder_that_cannot_start_stops_the_job(folder, tmp_path, monkeypatch, how):
    """No image is at fault, and a million failures would help nobody."""

    def no_handles(*_, **__):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        if how == "dies":
            patch.setattr(decode, "_START", "raise SystemExit(3)")
        else:
            patch.setattr(subprocess, "Popen", no_handles)
        reason = "ended with status 3" if how == "dies" else "Too many open files"
        with pytest.raises(OutputStoppedError, match=f"a process that decodes images cannot start: .*{reason}.*goes on"):
            label(folder, tmp_path / "out", workers=2)
    assert label(folder, tmp_path / "out", workers=1).labelled == 5


def test_a_job_short_of_memory_stops_and_goes_on(folder, tmp_path, monkeypatch):
    from wsss_fast.label import job

    for trouble in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")):

        def failing(*_, trouble=trouble):
            raise trouble

        with monkeypatch.context() as patch:
            patch.setattr(job, "make_mask", failing)
            with pytest.raises(OutputStoppedError, match="not enough memory"):
                label(folder, tmp_path / "out")
    assert label(folder, tmp_path / "out").labelled == 5


# What is no file


@pytest.fixture
def odd(folder, tmp_path):
    """Names in the image folder that are no images, and a part of the reason for each."""
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "nowhere.png").symlink_to(folder / "missing")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "to_folder.png").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(folder):
        listening.bind("socket.png")
    return {
        "folder.png": "a folder",
        "pipe.png": "a named pipe",
        "device.png": "a device",
        "nowhere.png": "No such file",
        "loop.png": "symbolic links",
        "to_folder.png": "a folder",
        "socket.png": "a socket",
        "img8.png/inner.png": "Not a directory",
        "x" * 300 + ".png": "name too long",
    }


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("source", ["list", "coco", "voc", "paths", "folder"])
def test_what_is_no_file_fails_alone(folder, tmp_path, odd, capfd, workers, source):
    names = [*odd, "img8.png", "img12.png"]
    given, settings = tmp_path / "names.txt", {"root": str(folder)}
    if source == "list":
        given.write_text("\n".join(names))
    elif source == "coco":
        given = tmp_path / "names.json"
        given.write_text(json.dumps({"images": [{"file_name": name} for name in names]}))
    elif source == "voc":
        given, settings = tmp_path / "VOC", {"split": "train"}
        (given / "ImageSets" / "Segmentation").mkdir(parents=True)
        for path in sorted(folder.iterdir()):
            path.rename(path.with_suffix(".jpg"))
        folder.rename(given / "JPEGImages")
        odd = {name.replace(".png", ".jpg"): reason for name, reason in odd.items()}
        names = [name.replace(".png", ".jpg") for name in names]
        (given / "ImageSets" / "Segmentation" / "train.txt").write_text("".join(f"{name[:-4]}\n" for name in names))
        odd["loop.jpg"] = "No such file"  # it leads to its old name
    elif source == "paths":
        given, settings = [folder / name for name in names], {}
    else:
        given, settings = folder, {}
        odd = {name: odd[name] for name in ("pipe.png", "device.png", "nowhere.png", "loop.png", "socket.png")}
    summary = label(given, tmp_path / "out", workers=workers, **settings)
    assert summary.labelled == (5 if source == "folder" else 2)
    reasons = {failure.image: failure.reason for failure in summary.failures}
    assert reasons.keys() == odd.keys()
    for name, reason in odd.items():
        assert reason in reasons[name], name
    assert not any(row["lasting"] for row in read_rows(tmp_path / "out").values() if row["status"] == "failed")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("code", [errno.EACCES, errno.EMFILE, errno.ENFILE])
def test_images_that_cannot_be_opened_fail_for_now(folder, tmp_path, monkeypatch, code):
    real = os.open

    def refusing(path, *arguments, **options):
        if str(path).endswith("images/img9.png"):
            raise OSError(code, os.strerror(code), path)
        return real(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refusing)
        (failure,) = label(folder, tmp_path / "out").failures
    assert failure.reason == f"cannot be opened: {os.strerror(code)}"
    assert label(folder, tmp_path / "out").failed == 0


def test_a_disk_that_fails_under_a_tar_file_costs_one_image(folder, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("img8.png", "img9.png"):
            tar.add(folder / name, name)
    real, calls = os.pread, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", failing)
        summary = label(tmp_path / "s.tar", tmp_path / "out")
    assert (summary.labelled, summary.failed) == (1, 1) and "Input/output error" in summary.failures[0].reason
    assert label(tmp_path / "s.tar", tmp_path / "out").failed == 0


def test_a_folder_that_cannot_be_read_is_an_error_that_says_so(folder, tmp_path, monkeypatch):
    (folder / "sub").mkdir()
    real = os.scandir

    def refusing(path):
        if str(path).endswith("sub"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PlanError, match=r"cannot read the folder .*sub: Permission denied\. Hint: "):
        label(folder, tmp_path / "out")


# Pipes in place of files


def _pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def test_a_pipe_in_place_of_a_manifest_is_an_error(folder, tmp_path, capsys):
    out = tmp_path / "out"
    label(folder, out)
    _pipe(out / "manifest.jsonl")
    for attempt in (
        lambda: label(folder, out),
        lambda: label(folder, out, shard="0/2"),
        lambda: verify(out),
        lambda: read_rows(out),
        lambda: evaluate.folder(out, out),
    ):
        with pytest.raises(ManifestError, match=r"manifest|labelled by one job"):
            attempt()
    assert main(["label", "--verify", str(out)]) == 1
    assert "manifest.jsonl: a regular file is expected, and it is a named pipe" in capsys.readouterr().err
    _pipe(out / "manifest-1-of-2.jsonl")
    (out / "manifest.jsonl").unlink()
    for place in ("0/2", "1/2"):
        with pytest.raises(ManifestError, match=r"manifest-1-of-2\.jsonl: a regular file is expected"):
            label(folder, out, shard=place)
    assert label(folder, out, restart=True).labelled == 5  # it replaces a pipe, too
    assert label(folder, out).skipped == 5


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "link"])
@pytest.mark.parametrize("name", [".wsss-lock", "manifest.jsonl"])
def test_other_things_in_place_of_our_files(folder, tmp_path, name, kind):
    out = tmp_path / "out"
    out.mkdir()
    if kind == "pipe":
        os.mkfifo(out / name)
    elif kind == "folder":
        (out / name).mkdir()
    elif kind == "link":
        (out / name).symlink_to(tmp_path / "victim")
    else:
        with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(out):
            listening.bind(name)
    expected = {"pipe": "a named pipe", "link": "a link, which is not followed here"}.get(kind, f"a {kind}")
    with pytest.raises((OutputRefusedError, ManifestError), match=f"{name}: a regular file is expected, and it is {expected}"):
        label(folder, out)
    assert not (tmp_path / "victim").exists()


def test_pipes_in_place_of_what_is_read(folder, tmp_path):
    out = tmp_path / "out"
    label(folder, out)
    truth = tmp_path / "truth"
    label(folder, truth)
    _pipe(tmp_path / "list.txt")
    (tmp_path / "tars").mkdir()
    _pipe(tmp_path / "tars" / "x.tar")
    _pipe(truth / "img9.png")
    maps = tmp_path / "maps"
    label(folder, maps, format="npz")
    _pipe(maps / "img9.npz")
    attempts = {
        "neither a folder nor a regular file": lambda: label(tmp_path / "list.txt", tmp_path / "a"),
        r"x\.tar": lambda: label(tmp_path / "tars", tmp_path / "b"),
        r"truth/img9\.png.*a named pipe": lambda: evaluate.read_mask(truth / "img9.png"),
        "1 of 5 images have no truth": lambda: evaluate.folder(out, truth),
        r"maps/img9\.npz.*a named pipe": lambda: evaluate.read_maps(maps / "img9.npz"),
        "list.txt.*a named pipe": lambda: label(folder, tmp_path / "c", labels=str(tmp_path / "list.txt")),
        r"img9\.npz.*a named pipe": lambda: pair_labels.read(maps / "img9.npz"),
    }
    for message, attempt in attempts.items():
        with pytest.raises(ValueError, match=message):
            attempt()
