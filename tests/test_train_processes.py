"""Two processes on one machine train as one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import close, fit, losses, narrow, same_weights, still, weights

from wsss_fast._settings import SettingsError
from wsss_fast.train.processes import Processes, joined

HERE = Path(__file__).parent


def in_two_processes(folder: Path, part: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    script = [str(HERE / "train_in_two_processes.py"), str(folder), part]
    return subprocess.run([*command, *script], env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    done = in_two_processes(folder, "main")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "done-0.txt").read_text() == (folder / "done-1.txt").read_text() == "2"
    return folder


def test_no_thread_of_the_group_outlives_it(together):
    """One that still had to drop a tensor would abort the process as Python ends, in one run of many."""
    assert [(together / f"threads-{rank}.txt").read_text() for rank in (0, 1)] == ["0", "0"]


def test_where_one_process_fails_the_other_ends_with_an_error(tmp_path):
    done = in_two_processes(tmp_path, "one_fails")
    assert done.returncode != 0
    assert "SIGABRT" not in done.stderr, done.stderr[-3000:]
    assert (tmp_path / "failed-1.txt").read_text() == "ZeroDivisionError: on purpose"
    assert (tmp_path / "failed-0.txt").read_text().startswith("RuntimeError: ")  # that the connection is closed
    assert [(tmp_path / f"failed-threads-{rank}.txt").read_text() for rank in (0, 1)] == ["0", "0"]


def test_two_processes_with_half_a_batch_are_one_with_the_whole(together, tmp_path):
    fit(tmp_path, still(narrow()))
    assert close(weights(together / "same"), weights(tmp_path), 1e-5)
    ours, theirs = losses(tmp_path), losses(together / "same")
    assert [row["total"] for row in theirs] == pytest.approx([row["total"] for row in ours], rel=1e-5)
    # the bound can fail: the weights moved by far more
    assert not close(narrow().model.state_dict(), weights(tmp_path), 1e-3)


def test_accumulation_in_two_processes(together, tmp_path):
    fit(tmp_path, still(narrow(accumulate=2)))
    assert close(weights(together / "accumulated"), weights(tmp_path), 1e-5)


def test_one_that_is_asked_to_stop_stops_both_and_going_on_gives_the_same_bits(together):
    assert losses(together / "cut") == losses(together / "whole")
    assert same_weights(together / "cut", together / "whole")


def test_a_loss_that_is_no_number_in_one_stops_both(together):
    assert "in another process" in (together / "broken-0.txt").read_text()
    assert "0-0-2, 0-0-3" in (together / "broken-1.txt").read_text()  # the second half of the batch


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(SettingsError, match=r"'batch' must divide among 3 processes, got 16. Hint: a multiple, such as 18"):
        Processes(torch.device("cpu"), 0, 3).share(16)
    assert Processes(torch.device("cpu"), 0, 3).share(18) == 6


def test_a_device_that_is_not_here_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="'device' must be one that is here"), joined("cuda"):
        pass
    with joined("auto") as alone:
        assert (alone.device.type, alone.rank, alone.size, alone.first) == ("cpu", 0, 1, True)
