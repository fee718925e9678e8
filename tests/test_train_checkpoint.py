"""Checkpoints: whole or not at all, whatever happens while they are written; refused when they do not belong."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import RandomFeed, fit, losses, narrow, same_weights

from wsss_fast.files import folder as files_folder
from wsss_fast.files.folder import OutputFolder, OutputRefusedError, OutputStoppedError
from wsss_fast.train import checkpoint
from wsss_fast.train.optimiser import make_optimiser

HERE = Path(__file__).parent


@pytest.fixture
def state():
    """A training with an optimiser that remembers, and a scaler that has changed."""
    training = narrow()
    optimiser = make_optimiser(training)
    training(next(iter(RandomFeed().batches(0, 0))))["total"].backward()
    optimiser.step()
    return training, optimiser, torch.amp.GradScaler("cpu", init_scale=1024.0)


def save(folder, state, step):
    out = OutputFolder(folder, "train")
    try:
        checkpoint.save(out, *state, {"step": step, "identity": {"lr": 0.1}})
    finally:
        out.close()


def test_everything_comes_back(tmp_path, state):
    save(tmp_path, state, 7)
    training, optimiser, _ = state
    saved = checkpoint.read(tmp_path / checkpoint.NAME)
    assert saved.told["step"] == 7 and saved.told["identity"] == {"lr": 0.1}
    other = narrow(seed=3)
    memory, scale = make_optimiser(other), torch.amp.GradScaler("cpu")
    checkpoint.restore(tmp_path / checkpoint.NAME, saved, other, memory, scale)
    ours, theirs = optimiser.state_dict()["state"], memory.state_dict()["state"]
    assert ours.keys() == theirs.keys() and len(ours) > 100
    assert all(torch.equal(ours[index]["momentum_buffer"], theirs[index]["momentum_buffer"]) for index in ours)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in training.state_dict().items())
    assert scale.get_scale() == 1024.0
    assert checkpoint.read(tmp_path / "other.safetensors") is None


def test_a_second_network_of_a_training_is_saved_too(tmp_path):
    training = narrow("l2g", crop=64)
    save(tmp_path, (training, make_optimiser(training), torch.amp.GradScaler("cpu")), 1)
    names = checkpoint.read(tmp_path / checkpoint.NAME).tensors.keys()
    networks = {name.split(".")[1] for name in names if name.startswith("training.")}
    assert len(networks) == 2 and "model" in networks


def test_a_disk_that_is_full_at_any_write_leaves_the_old_checkpoint(tmp_path, state, monkeypatch):
    """Whatever call fails, and however much was written before."""
    save(tmp_path, state, 1)
    before = (tmp_path / checkpoint.NAME).read_bytes()
    real = {name: getattr(os, name) for name in ("write", "fsync", "replace", "open")}
    piece = len(before) // 12
    for failing in range(100):
        calls = []

        def counted(name, *arguments, failing=failing, calls=calls, **options):
            calls.append(name)
            if len(calls) == failing + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if name == "write":
                arguments = (arguments[0], bytes(arguments[1][:piece]))
            return real[name](*arguments, **options)

        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(files_folder.os, name, lambda *a, _name=name, **o: counted(_name, *a, **o))
            try:
                save(tmp_path, state, 2)
            except (OutputStoppedError, OutputRefusedError) as error:
                assert "No space left" in str(error)
            else:
                break
        now = (tmp_path / checkpoint.NAME).read_bytes()
        # after the rename only the folder's fsync is left: the new one is whole then
        assert now == before or calls[-2:] == ["replace", "fsync"]
        assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME]
    assert failing > 12 and checkpoint.read(tmp_path / checkpoint.NAME).told["step"] == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from training import fit, narrow
from wsss_fast.files import folder as files_folder
from wsss_fast.train import checkpoint

folder, call = Path(sys.argv[1]), sys.argv[2]
real = getattr(os, call)

def deadly(*arguments, **options):
    if (folder / checkpoint.NAME).exists() and on:
        if call == "write" and len(arguments[1]) > 10000:
            real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        if call == "replace" and arguments[1] == checkpoint.NAME:
            os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)

on = True
setattr(files_folder.os, call, deadly)
fit(folder, narrow(), checkpoint_every="2 steps")
"""


@pytest.mark.parametrize("call", ["write", "replace"])
def test_killed_while_saving_the_old_checkpoint_goes_on_to_the_same_bits(tmp_path, call):
    folder = tmp_path / "killed"
    paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), call], env=environment, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert checkpoint.read(folder / checkpoint.NAME).told["step"] == 2
    assert [row["step"] for row in losses(folder)] == [1, 2, 3, 4]
    assert fit(folder, narrow(seed=8)).started == 2
    fit(tmp_path / "whole")
    assert losses(folder) == losses(tmp_path / "whole") and same_weights(folder, tmp_path / "whole")
    assert not list(folder.glob(".wsss-*"))  # what the killed one left behind is replaced


def test_a_full_disk_in_the_logs_stops_the_training_too(tmp_path, monkeypatch):
    fit(tmp_path, max_steps=2)

    def full(handle, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("wsss_fast.train.logs.write_all", full)
        with pytest.raises(OutputStoppedError, match=r"cannot write .*losses.jsonl: No space left"):
            fit(tmp_path)
    assert fit(tmp_path).started == 2
    fit(tmp_path / "whole")
    assert losses(tmp_path) == losses(tmp_path / "whole")


def test_other_settings_are_refused_with_the_difference(tmp_path):
    fit(tmp_path, max_steps=1, identity={"settings": {"lr": 0.1, "crop": 32}, "init": None})
    message = r"was trained otherwise:\n  init: null before, \"a.pth\" now\n  settings.lr: 0.1 before, 0.2 now\nHint: .*--restart"
    with pytest.raises(checkpoint.CheckpointError, match=message):
        fit(tmp_path, identity={"settings": {"lr": 0.2, "crop": 32}, "init": "a.pth"})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("cut", "."),
        ("empty", "."),
        ("text", "."),
        ("model", "not one of this version"),
        ("tensor", "Missing key.*fc8.weight"),
        ("optimiser", "invalid literal"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_stays(tmp_path, damage, reason, state):
    path = tmp_path / checkpoint.NAME
    save(tmp_path, state, 1)
    content, saved = path.read_bytes(), checkpoint.read(path)
    header = {checkpoint.HEADER: json.dumps({**saved.told, "identity": {"lr": 0.1}})}
    if damage == "model":
        fit(tmp_path / "run")
        path.write_bytes((tmp_path / "run" / "model.safetensors").read_bytes())
    elif damage == "tensor":
        del saved.tensors["training.model.fc8.weight"]
        path.write_bytes(checkpoint.packed(saved.tensors, header))
    elif damage == "optimiser":
        path.write_bytes(checkpoint.packed({**saved.tensors, "optimiser.x.y": torch.zeros(1)}, header))
    else:
        path.write_bytes({"cut": content[:-100], "empty": b"", "text": b"no tensors at all"}[damage])
    left = path.read_bytes()
    with pytest.raises(checkpoint.CheckpointError, match=rf"cannot be gone on from \(.*({reason}).*--restart begins again"):
        fit(tmp_path, identity={"lr": 0.1})
    assert path.read_bytes() == left
