"""Links that somebody planted in an output folder: no command writes through one to what lies outside."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import data_worlds
import numpy as np
import pytest
import yaml
from exported import SMALLEST
from recipe_runs import TWO
from test_train_command import SMALL

from wsss_fast import cli
from wsss_fast.cli import bench, exit_codes
from wsss_fast.nets import weights


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return data_worlds.voc(tmp_path_factory.mktemp("voc"))


def command(*arguments: object) -> int:
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as ended:
        return int(ended.code or 0)


class Outside:
    """A folder with a file that is nobody's to change, and links to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "folder").mkdir(parents=True)
        (root / "file").write_text("years of work")
        (root / "folder" / "file").write_text("years of work")
        (root / "empty").mkdir()

    def plant(self, place: Path, kind: str) -> None:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(self.root / {"dangling": "nowhere"}.get(kind, kind))

    def untouched(self) -> bool:
        found = {path.relative_to(self.root).as_posix() for path in self.root.rglob("*")}
        texts = [(self.root / name).read_text() for name in ("file", "folder/file")]
        return found == {"file", "folder", "folder/file", "empty"} and texts == ["years of work"] * 2


@pytest.fixture
def outside(tmp_path):
    return Outside(tmp_path / "outside")


KINDS = ["file", "folder", "empty", "dangling"]
FILES = ["checkpoint.safetensors", "model.safetensors", "losses.jsonl", "settings.yaml", "run.json"]


@pytest.fixture(scope="module")
def trained(voc, tmp_path_factory):
    """A training that stopped half way, and the command that goes on with it."""
    run = tmp_path_factory.mktemp("trained") / "run"
    arguments = ["train", "cam", "--data", voc, *SMALL, "--tensorboard", "true", "--pictures", "1 step", "--keep", "2"]
    assert command(*arguments, "--checkpoint-every", "1 step", "--max-steps", "2", "--out", run) == exit_codes.DONE
    return run, [*arguments, "--max-steps", "3"]


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_a_training(trained, tmp_path, outside, kind):
    stopped, arguments = trained
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    for name in FILES:
        outside.plant(run / name, kind)
    assert command(*arguments, "--out", run) == exit_codes.USAGE  # without a run.json nothing here is a training's
    assert outside.untouched()
    (run / "run.json").unlink()
    shutil.copy(stopped / "run.json", run)
    assert command(*arguments, "--out", run) == exit_codes.DONE
    assert outside.untouched() and not any((run / name).is_symlink() for name in FILES)


@pytest.mark.parametrize("kind", ["folder", "empty", "dangling"])
@pytest.mark.parametrize("name", ["tensorboard", "pictures", "models"])
def test_folders_of_a_training(trained, tmp_path, outside, name, kind):
    stopped, arguments = trained
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    outside.plant(run / name, kind)
    assert command(*arguments, "--out", run) == exit_codes.ERROR and outside.untouched()


@pytest.mark.parametrize("restart", [False, True])
def test_training_says_what_is_in_the_way(trained, tmp_path, outside, capsys, restart):
    stopped, arguments = trained
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    outside.plant(run / "tensorboard", "folder")
    (outside.root / "folder" / "events.out").write_text("years of work")
    assert command(*arguments, *(["--restart"] if restart else []), "--out", run) == exit_codes.ERROR
    assert "a link or a file stands where tensorboard/events" in capsys.readouterr().err
    assert (outside.root / "folder" / "events.out").exists()


def recipe(voc, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(TWO))
    return ["run", tmp_path / "mine.yaml", "--data", voc, "--out", tmp_path / "out", "--init", "none", "--workers", "0"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["01-cam", "02-maps"])
def test_a_stage_folder(voc, tmp_path, outside, capsys, name, kind):
    outside.plant(tmp_path / "out" / name, kind)
    assert command(*recipe(voc, tmp_path)) == exit_codes.ERROR
    assert f"{name} is a link" in capsys.readouterr().err and outside.untouched()


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_a_stage(voc, tmp_path, outside, kind):
    arguments = recipe(voc, tmp_path)
    assert command(*arguments) == exit_codes.DONE
    maps = tmp_path / "out" / "02-maps"
    (maps / "stage.json").unlink()
    for path in [*maps.glob("*.npz"), maps / ".wsss-begun.json", maps.parent / "report.md"]:
        if path.name != ".wsss-begun.json":
            outside.plant(path, kind)
    assert command(*arguments) == exit_codes.DONE and outside.untouched()
    assert not [path for path in maps.parent.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_made_again(voc, tmp_path, outside, kind):
    """--from removes what an earlier run made; not what a link leads to."""
    arguments = recipe(voc, tmp_path)
    assert command(*arguments) == exit_codes.DONE
    shutil.rmtree(tmp_path / "out" / "02-maps")
    outside.plant(tmp_path / "out" / "02-maps", kind)
    assert command(*arguments, "--from", "maps") == exit_codes.ERROR and outside.untouched()


@pytest.mark.parametrize("kind", KINDS)
def test_the_synthetic_world(tmp_path, outside, kind):
    outside.plant(tmp_path / "out" / "world", kind)
    assert command("run", "irn", "--data", "scenes", "--out", tmp_path / "out") == exit_codes.ERROR
    assert command("demo", "scenes", "--out", tmp_path / "out" / "world", "--train", "1", "--test", "1") == exit_codes.ERROR
    assert outside.untouched() and [path.name for path in (tmp_path / "out").iterdir()] == ["world"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "cam.safetensors"
    model = SMALLEST.network()
    weights.save_checkpoint(path, model, {**model.description(), "classes": ["cat", "dog", "owl"]})
    return path


def replaced_or_refused(outside: Outside, places: list[Path], status: int) -> bool:
    """Every link became a file, or stands there still because the command refused."""
    return outside.untouched() and (status == exit_codes.ERROR or not any(place.is_symlink() for place in places))


@pytest.mark.parametrize("kind", ["file", "empty", "dangling"])
def test_export(checkpoint, tmp_path, outside, kind):
    data_worlds.save(tmp_path / "images" / "a.png", data_worlds.photo(1))
    places = [tmp_path / f"cam.onnx{suffix}" for suffix in ("", ".verify.json", ".verify.md")]
    for place in places:
        outside.plant(place, kind)
    arguments = ["export", checkpoint, "--engine", "ort", "--device", "cpu", "--verify", tmp_path / "images"]
    status = command(*arguments, "--out", places[0])
    assert replaced_or_refused(outside, places, status) and (status == exit_codes.DONE) == (kind in ("file", "dangling"))


@pytest.mark.parametrize("name", ["cam", "cam/1", "cam/1/model.onnx", "cam/config.pbtxt", "cam/README.md"])
@pytest.mark.parametrize("kind", ["file", "empty"])
def test_a_model_repository(checkpoint, tmp_path, outside, capsys, kind, name):
    outside.plant(tmp_path / "models" / name, kind)
    arguments = ["export", checkpoint, "--engine", "ort", "--device", "cpu", "--out", tmp_path / "cam.onnx"]
    assert command(*arguments, "--triton", tmp_path / "models") == exit_codes.ERROR
    assert "would replace" in capsys.readouterr().err and outside.untouched()


@pytest.mark.parametrize("kind", KINDS)
def test_single_files(checkpoint, tmp_path, outside, kind):
    """What `wsss bench`, `wsss convert` and `wsss eval` write."""
    truth = np.zeros((4, 4), np.uint8)
    data_worlds.save(tmp_path / "truth" / "a.png", truth)
    (tmp_path / "maps").mkdir()
    np.savez(tmp_path / "maps" / "a.npz", classes=np.array([0]), maps=np.full((1, 4, 4), 200, np.uint8))
    outside.plant(tmp_path / "bench.json", kind)
    with contextlib.suppress(OSError):
        bench._write_json(str(tmp_path / "bench.json"), [])
    assert outside.untouched() and (tmp_path / "bench.json").is_symlink() == (kind in ("folder", "empty"))
    commands = {
        "cam.safetensors": ["convert", checkpoint, "--out"],
        "curve.png": ["eval", tmp_path / "maps", "--truth", tmp_path / "truth", "--classes", 1, "--curve"],
    }
    for name, arguments in commands.items():
        outside.plant(tmp_path / name, kind)
        status = command(*arguments, tmp_path / name)
        assert replaced_or_refused(outside, [tmp_path / name], status), name
        assert status == exit_codes.DONE or kind in ("folder", "empty"), name
