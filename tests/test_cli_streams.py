"""Standard streams that are closed, full, or left by their reader: the work is done, and the exit status says what was not."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest
from label_standins import BrightEngine, five_pictures, tree
from PIL import Image

from wsss_fast import cli, doctor
from wsss_fast.cli import exit_codes
from wsss_fast.doctor import Finding
from wsss_fast.label import pipeline

LOST = "wsss: error: cannot write to standard output: No space left on device. Hint: files that the command was to write are"
LABEL = """
import sys
sys.path[:0] = [{tests!r}]
from label_standins import BrightEngine
from wsss_fast.cli import main
from wsss_fast.label import pipeline
pipeline.load_model = lambda model, settings: BrightEngine()
sys.exit(main())
"""


@pytest.fixture
def images(tmp_path):
    folder = five_pictures(tmp_path)
    (folder / "img10.png").write_bytes(b"broken")
    return folder


@pytest.fixture
def bright(monkeypatch):
    monkeypatch.setattr(pipeline, "load_model", lambda model, settings: BrightEngine())


@contextlib.contextmanager
def stream(monkeypatch, name, file):
    """The standard stream goes into `file`, which must not raise when it is closed with text in its buffer."""
    with monkeypatch.context() as patch, file:
        patch.setattr(sys, name, file)
        yield


def full():
    return open("/dev/full", "w")  # noqa: PTH123 - whoever uses it closes it


def unread():
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def status_of(arguments):
    try:
        return cli.main(arguments)
    except SystemExit as ended:
        return ended.code


def shell(redirections, images, out, *options):
    """A shell starts the command, for Python's own `subprocess` cannot close a standard stream."""
    program = LABEL.format(tests=os.path.dirname(__file__))  # noqa: PTH120
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-c", program, "label", str(images)]
    return subprocess.run([*command, "--out", str(out), *options], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_change_neither_masks_nor_status(images, tmp_path, bright, closed, capsys):
    assert cli.main(["label", str(images), "--out", str(tmp_path / "open")]) == exit_codes.SOME_FAILED
    answer = shell(closed, images, tmp_path / "closed")
    assert answer.returncode == exit_codes.SOME_FAILED, answer
    assert tree(tmp_path / "closed") == tree(tmp_path / "open")  # and nothing was printed into a file
    assert answer.stdout == "" if ">&-" in closed.split() else "4 labelled, 1 failed" in answer.stdout
    assert answer.stderr == "" if "2>&-" in closed else answer.stderr.startswith("img10.png: ")


def test_a_full_disk_behind_standard_output_ends_a_real_process_with_1(images, tmp_path):
    (images / "img10.png").unlink()
    answer = shell("> /dev/full", images, tmp_path / "out")
    assert (answer.returncode, answer.stderr.startswith(LOST)) == (exit_codes.ERROR, True), answer
    assert len(answer.stderr.splitlines()) == 1, answer.stderr  # none of Python's own, at exit
    answer = shell("2> /dev/full", images, tmp_path / "out")
    assert (answer.returncode, answer.stderr) == (exit_codes.DONE, "") and "4 were there already" in answer.stdout


def test_standard_error_that_cannot_be_written_changes_nothing(images, tmp_path, bright, capsys, monkeypatch):
    for name, file in (("full", full()), ("unread", unread())):
        with stream(monkeypatch, "stderr", file):
            assert cli.main(["label", str(images), "--out", str(tmp_path / name)]) == exit_codes.SOME_FAILED
        assert "4 labelled, 1 failed" in capsys.readouterr().out
    assert tree(tmp_path / "full") == tree(tmp_path / "unread")


@pytest.mark.parametrize("broken", [True, False], ids=["some failed", "all labelled"])
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_labels_are_kept_where_nobody_reads_the_summary(images, tmp_path, bright, capsys, monkeypatch, broken, options):
    if not broken:
        (images / "img10.png").unlink()
    status = exit_codes.SOME_FAILED if broken else exit_codes.ERROR  # the more telling one of the two stays
    arguments = ["label", str(images), *options, "--out"]
    with stream(monkeypatch, "stdout", full()):
        assert cli.main([*arguments, str(tmp_path / "full")]) == status
    assert "cannot write to standard output: No space left on device" in capsys.readouterr().err
    with stream(monkeypatch, "stdout", unread()):
        assert cli.main([*arguments, str(tmp_path / "unread")]) == status
    assert "standard output" not in capsys.readouterr().err
    assert len(list((tmp_path / "full").glob("*.png"))) == 4
    assert cli.main([*arguments, str(tmp_path / "full")]) == (exit_codes.SOME_FAILED if broken else exit_codes.DONE)


def scenes(folder):
    return ["demo", "scenes", "--out", str(folder / "scenes"), "--train", "1", "--test", "1"]


def evaluation(folder):
    for name in ("masks", "truth"):
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(np.ones((4, 4), np.uint8)).save(folder / name / "a.png")
    return ["eval", str(folder / "masks"), "--truth", str(folder / "truth"), "--classes", "1"]


PRINTING = {
    **{f"{name} --help": lambda folder, name=name: [name, "--help"] for name in cli.COMMANDS},
    "help": lambda folder: ["--help"],
    "version": lambda folder: ["--version"],
    "doctor": lambda folder: ["doctor"],
    "scenes": scenes,
    "eval": evaluation,
}


@pytest.mark.parametrize("command", PRINTING)
def test_what_a_command_prints_must_arrive(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "PROBES", [("good", lambda: Finding("good", doctor.OK, "fine"), 5.0)])
    arguments = PRINTING[command](tmp_path)
    with stream(monkeypatch, "stdout", full()):
        assert status_of(arguments) == exit_codes.ERROR
    assert capsys.readouterr().err.startswith(LOST)
    if command == "scenes":
        assert (tmp_path / "scenes" / "world.json").is_file()
        return
    with stream(monkeypatch, "stdout", unread()):
        assert status_of(arguments) == exit_codes.ERROR
    assert capsys.readouterr().err == ""
    assert status_of(arguments) == exit_codes.DONE and capsys.readouterr().out


def test_a_failing_command_keeps_its_own_status_and_message(tmp_path, capsys, monkeypatch):
    with stream(monkeypatch, "stdout", full()):
        assert cli.main(["label", "x", "--out", "y", "--overly"]) == exit_codes.USAGE
    assert "did you mean '--overlay'?" in capsys.readouterr().err
    for file in (full(), unread()):
        with stream(monkeypatch, "stderr", file):
            assert cli.main(["label", "x", "--out", "y", "--overly"]) == exit_codes.USAGE
            assert cli.main(["eval", str(tmp_path / "no"), "--truth", str(tmp_path / "no")]) == exit_codes.ERROR


def test_streams_are_what_they_were_afterwards(capsys):
    before = sys.stdout, sys.stderr
    cli.main(["--version"])
    assert (sys.stdout, sys.stderr) == before
