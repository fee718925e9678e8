"""`wsss train`, `wsss run` and `wsss export`, killed at random moments: files are old or new, and whole; the same command again
gives the bytes of a job that nobody killed. `wsss label`: test_label_jobs.py."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import data_worlds
import numpy as np
import onnx
import pytest
import yaml
from exported import SMALLEST
from kills import Jobs
from recipe_runs import TWO
from safetensors import safe_open

from wsss_fast.nets import weights

NARROW = ["--options", "width=0.02", "--crop", "32", "--sizes", "20,40", "--batch", "2", "--epochs", "2", "--freeze", "false"]
OFTEN = ["--checkpoint-every", "1 step", "--pictures", "2 steps", "--log-every", "1", "--keep", "2"]
IMPORTS = "import torch._dynamo, wsss_fast.train, wsss_fast.recipes.run, wsss_fast.export.build, onnxruntime, onnxscript"
PASSING = {"seconds", "images_per_second", "stamp"}  # what no two jobs share


@pytest.fixture(scope="module")
def jobs():
    with Jobs(IMPORTS) as found:
        yield found


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return data_worlds.voc(tmp_path_factory.mktemp("voc"))


def tree(folder: Path) -> dict[str, bytes]:
    """Names and bytes of all files, without times."""
    return {path.relative_to(folder).as_posix(): _timeless(path) for path in folder.rglob("*") if path.is_file()}


def _timeless(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".md":
        return b""  # a table of a run has seconds
    if path.suffix not in (".json", ".jsonl"):
        return data
    rows = [json.loads(text) for text in (data.splitlines() if path.suffix == ".jsonl" else [data])]
    return json.dumps([_without_times(row) for row in rows]).encode()


def _without_times(told):
    if isinstance(told, dict):
        return {name: _without_times(value) for name, value in told.items() if name not in PASSING}
    return told


def whole(folder: Path) -> int:
    """Reads every file that has its name; what has not begins with a dot."""
    count = 0
    for path in folder.rglob("*"):
        if not path.is_file() or path.name.startswith("."):
            continue
        count += 1
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                assert [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - it is no mapping
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".npz":
            with np.load(path) as file:
                assert {name: file[name] for name in file}
        elif path.suffix == ".png":
            assert data_worlds.Image.open(path).load()
        elif path.suffix == ".onnx":
            onnx.checker.check_model(onnx.load(path), full_check=True)
    return count


def kills(
    jobs: Jobs, count: int, command: Callable[[Path], list[object]], folder: Path, prepare: Callable[[Path], None] = Path.mkdir
) -> list[int]:
    """Kills the command at random moments and runs it again; how many files each kill found."""
    prepare(folder / "wanted")
    longest = jobs.run(command(folder / "wanted"))
    wanted, random, found = tree(folder / "wanted"), np.random.default_rng(4), []
    for number in range(count):
        out = folder / f"killed-{number}"
        prepare(out)
        before = tree(out)
        group = jobs.begin(command(out))
        time.sleep(random.uniform(0, longest))
        status = jobs.kill(group)
        assert status in (0, -signal.SIGKILL)
        found.append(whole(out))
        for name, data in before.items():
            assert tree(out)[name] in (data, wanted[name]), name
        jobs.run(command(out))
        resumed = tree(out)
        assert {name for name in resumed.keys() ^ wanted.keys() if not is_left_behind(name)} == set(), number
        assert [name for name in wanted if resumed[name] != wanted[name]] == [], number
    return found


def is_left_behind(name: str) -> bool:
    """An unfinished file of a killed job, under a name that nobody reads."""
    return any(part.startswith(".wsss-") and part != ".wsss-begun.json" for part in Path(name).parts)


def kill_training(jobs, voc, tmp_path, count):
    arguments = ["train", "cam", "--data", voc, *NARROW, *OFTEN, "--workers", "0", "--tensorboard", "false", "--quiet"]
    return kills(jobs, count, lambda out: [*arguments, "--out", out], tmp_path)


def kill_recipe(jobs, voc, tmp_path, count):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(TWO))
    arguments = ["run", tmp_path / "mine.yaml", "--data", voc, "--init", "none", "--workers", "0", "--quiet"]
    return kills(jobs, count, lambda out: [*arguments, "--out", out], tmp_path)


def kill_export(jobs, tmp_path, count):
    """Over an older export, which stays where the new one is not there."""
    model = SMALLEST.network()
    weights.save_checkpoint(tmp_path / "cam.safetensors", model, {**model.description(), "classes": ["cat", "dog", "owl"]})
    data_worlds.save(tmp_path / "images" / "a.png", data_worlds.photo(1))
    arguments = ["export", tmp_path / "cam.safetensors", "--engine", "ort", "--device", "cpu", "--verify", tmp_path / "images"]

    def prepare(out: Path) -> None:
        out.mkdir()
        if (tmp_path / "old.onnx").exists():
            (out / "cam.onnx").write_bytes((tmp_path / "old.onnx").read_bytes())

    older = ["export", "--method", "cam", "--backbone", "vgg16-psa", "--random-weights", "5", "--num-classes", "2"]
    jobs.run([*older, "--engine", "onnx", "--out", tmp_path / "old.onnx"])
    return kills(jobs, count, lambda out: [*arguments, "--out", out / "cam.onnx"], tmp_path, prepare)


def test_training_killed_at_random_moments(jobs, voc, tmp_path):
    kill_training(jobs, voc, tmp_path, 2)


def test_a_recipe_killed_at_random_moments(jobs, voc, tmp_path):
    kill_recipe(jobs, voc, tmp_path, 1)


@pytest.mark.soak
def test_training_killed_a_hundred_times(jobs, voc, tmp_path):
    found = kill_training(jobs, voc, tmp_path, 100)
    assert len(set(found)) > 5, found  # in many states


@pytest.mark.soak
def test_a_recipe_killed_a_hundred_times(jobs, voc, tmp_path):
    found = kill_recipe(jobs, voc, tmp_path, 100)
    assert len(set(found)) > 5, found


@pytest.mark.soak
def test_an_export_killed_a_hundred_times(jobs, tmp_path):
    found = kill_export(jobs, tmp_path, 100)
    assert len(set(found)) > 1, found
