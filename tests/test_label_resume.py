"""Nothing is lost when a job is interrupted, and nothing is written outside its folder."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest
from label_standins import BrightEngine, five_pictures, label, picture, tree
from PIL import Image

from wsss_fast.files.folder import OutputStoppedError
from wsss_fast.label import manifest
from wsss_fast.label.lock import LockedError
from wsss_fast.label.manifest import ManifestError, read_rows
from wsss_fast.label.verify import verify


@pytest.fixture
def folder(tmp_path):
    return five_pictures(tmp_path)


def test_resume_does_nothing_twice_and_redoes_what_changed(folder, tmp_path):
    out, engine = tmp_path / "out", BrightEngine()
    label(folder, out, engine, batch=1)
    whole = tree(out)
    summary = label(folder, out, engine, batch=1)
    assert engine.calls == 5 and summary.skipped == 5 and tree(out) == whole

    (out / "img9.png").unlink()
    picture(77).save(folder / "img10.png")
    picture(78).save(folder / "new.png")
    (folder / "img8.png").unlink()
    summary = label(folder, out, engine, batch=1)
    assert (summary.labelled, summary.skipped, engine.calls) == (3, 2, 8)
    assert set(read_rows(out)) >= {"new.png", "img9.png"}


def test_an_interrupted_job_resumes_to_the_same_bytes(folder, tmp_path):
    label(folder, tmp_path / "whole", batch=2)
    for fail_at in range(1, 6):
        out, engine = tmp_path / f"cut{fail_at}", BrightEngine()
        engine.fail_at = fail_at
        with pytest.raises(KeyboardInterrupt):
            label(folder, out, engine, batch=2)
        label(folder, out, batch=2)
        assert tree(out) == tree(tmp_path / "whole"), fail_at


def test_every_failing_write_leaves_a_resumable_job(folder, tmp_path, monkeypatch):
    """SQLite's way: the n-th call fails, for every n, until a run has fewer calls than that."""
    label(folder, tmp_path / "whole", batch=2)
    real = {name: getattr(os, name) for name in ("write", "fsync", "replace")}
    for n in range(1, 100):
        out, count = tmp_path / f"out{n}", [0]

        def failing(name, count=count, n=n):
            def call(*args, **options):
                count[0] += 1
                if count[0] == n:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real[name](*args, **options)

            return call

        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, failing(name))
            try:
                label(folder, out, batch=2)
            except OutputStoppedError as error:
                assert "No space left" in str(error) and "goes on where it stopped" in str(error)
            else:
                assert count[0] < n
                break
        for path in out.rglob("*.png"):
            Image.open(path).load()  # never a torn mask under its final name
        label(folder, out, batch=2)
        assert tree(out) == tree(tmp_path / "whole"), n
    else:
        pytest.fail("a run of five images should need fewer than 100 calls")
    assert n > 15


def test_a_mask_is_on_disk_before_it_gets_its_name_and_its_row(folder, tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace", "write"):
        real = getattr(os, name)

        def call(*args, name=name, real=real, **options):
            data = bytes(args[1][:40]) if name == "write" else b""
            calls.append("row" if b'"kind": "image"' in data else name)
            return real(*args, **options)

        monkeypatch.setattr(os, name, call)
    label(folder, tmp_path / "out", batch=5)
    one = ["write", "fsync", "replace", "fsync"]  # file, then its name in the folder
    lock, header, plan_line = ["write"], one, ["write", "fsync"]
    assert calls == lock + header + plan_line + one * 5 + ["row", "fsync"]


def test_other_settings_or_another_model_are_refused_with_the_difference(folder, tmp_path):
    out = tmp_path / "out"
    label(folder, out)
    with pytest.raises(ManifestError, match=r"settings\.background: 0\.3 before, 0\.5 now\n.*--restart"):
        label(folder, out, background=0.5)
    with pytest.raises(ManifestError, match=r'model\.sha256: null before, "ab" now'):
        label(folder, out, BrightEngine(sha256="ab"))
    assert label(folder, out, overlay=True, background=0.3).labelled == 5  # overlays do not change masks
    assert label(folder, out, background=0.5, restart=True).labelled == 5


def test_a_torn_last_line_is_dropped_and_a_damaged_one_named(folder, tmp_path):
    out = tmp_path / "out"
    label(folder, out, batch=1)
    manifest, whole = out / "manifest.jsonl", tree(out)
    data = manifest.read_bytes()
    manifest.write_bytes(data[:-20])
    assert label(folder, out, batch=1).labelled == 1
    assert tree(out) == whole
    manifest.write_bytes(data.replace(b'"image": "img9.png"', b'"image: "img9.png"'))
    with pytest.raises(ManifestError, match=r"line 4 of .* is damaged"):
        label(folder, out, batch=1)


def test_a_new_neighbour_moves_the_mask_and_leaves_no_stale_one(folder, tmp_path):
    out = tmp_path / "out"
    label(folder, out)
    picture(50).save(folder / "img8.bmp")
    label(folder, out)
    assert (out / "img8.png.png").is_file() and (out / "img8.bmp.png").is_file() and not (out / "img8.png").exists()


def test_planted_links_are_not_followed(folder, tmp_path):
    victim = tmp_path / "victim.png"
    victim.write_bytes(b"untouched")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "sub").mkdir()
    picture(9).save(folder / "sub" / "deep.png")
    out = tmp_path / "out"
    label(folder, out)
    (out / "img8.png").unlink()
    (out / "img8.png").symlink_to(victim)
    (out / "sub" / "deep.png").unlink()
    (out / "sub").rmdir()
    (out / "sub").symlink_to(elsewhere)
    summary = label(folder, out)
    assert victim.read_bytes() == b"untouched" and not (out / "img8.png").is_symlink()
    assert list(elsewhere.iterdir()) == [] and summary.failed == 1
    (out / "manifest.jsonl").unlink()
    (out / "manifest.jsonl").symlink_to(victim)
    label(folder, out, restart=True)
    assert victim.read_bytes() == b"untouched"


def test_one_labeller_a_folder(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    place = out / ".wsss-lock"
    place.write_text('{"pid": 123, "host": "elsewhere"}')
    held = os.open(place, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(LockedError, match=r"another job is writing .*process 123 on elsewhere"):
        label(folder, out)
    os.close(held)  # the process died and left its file
    assert label(folder, out).labelled == 5
    assert not place.exists()


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "image", "image": 5, "status": "ok", "size": 1, "mtime_ns": 1}',
        '{"kind": "image", "image": ["a"], "status": "ok"}',
        '{"kind": "image", "status": "ok"}',
        '{"kind": "image", "image": "img8.png", "status": "ok", "size": "1", "mtime_ns": 1}',
        '{"kind": "image", "image": "img8.png", "status": "ok", "output": "a.png", "further": ["b"]}',
        '{"kind": "file", "output": 7}',
    ],
)
def test_a_manifest_with_rows_of_other_types_is_damaged(tmp_path, line):
    folder = five_pictures(tmp_path)
    out = label(folder, tmp_path / "out").out
    with (out / "manifest.jsonl").open("a") as file:
        file.write(line + "\n")
    readers = (manifest.read_rows, manifest.read_files, verify, lambda out: label(folder, out))
    for read in readers:
        with pytest.raises(manifest.ManifestError, match=r"line 8 of .* is damaged"):
            read(out)
