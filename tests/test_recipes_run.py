"""`wsss run` on a tiny data set: stages are made, skipped, gone on with, and refused when something was changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import data_worlds
import numpy as np
import pytest
import yaml
from recipe_runs import TRAIN, TWO, edited, go, stage
from training import same_weights

from wsss_fast import cli
from wsss_fast.cli import exit_codes
from wsss_fast.data import DataError
from wsss_fast.evaluate import read_maps, read_mask
from wsss_fast.recipes import RecipeError, record, stages
from wsss_fast.recipes.run import Options, Told

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return data_worlds.voc(tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="module")
def finished(voc, tmp_path_factory):
    """A run of the two stages. Tests take a copy."""
    out = tmp_path_factory.mktemp("finished") / "out"
    return out, go(voc, out)


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "out")
    return tmp_path / "out"


def times(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(out.rglob("*")) if path.is_file() and path.name != "report.md"}


# ---- done and skipped ------------------------------------------------------------------------------------------------------


def test_two_stages(finished, voc):
    out, result = finished
    assert [path.name for path in sorted(out.iterdir())] == ["01-cam", "02-maps", "report.md"]
    assert result.stopped is None and [row.skipped for row in result.rows] == [False, False]
    told = json.loads((out / "02-maps" / "stage.json").read_text())
    assert told["identity"]["inputs"] == {"model": json.loads((out / "01-cam" / "stage.json").read_text())["contents"]["sha256"]}
    assert told["contents"]["files"] == len(list((out / "02-maps").glob("*.npz"))) == 6
    # the mIoU, counted once more by hand at the threshold that was told
    threshold, shares = told["outcome"]["threshold"], []
    values = []
    for name in data_worlds.IDS[:6]:
        classes, maps = read_maps(out / "02-maps" / f"{name}.npz")
        assert classes.tolist() == list(data_worlds.labels_of(data_worlds.IDS.index(name)))
        scores = maps / np.float32(255)
        mask = np.where(scores.max(0) > np.float32(threshold), classes[scores.argmax(0)] + 1, 0)
        truth = read_mask(voc / "SegmentationClassAug" / f"{name}.png")
        values.append((mask[truth != 255], truth[truth != 255]))
    mask, truth = (np.concatenate(part) for part in zip(*values, strict=True))
    for value in range(3):
        shares.append(((mask == value) & (truth == value)).sum() / ((mask == value) | (truth == value)).sum())
    assert told["outcome"]["miou"] == pytest.approx(np.mean(shares), abs=1e-9)
    assert f"| maps | maps | {100 * np.mean(shares):.1f} (the data set) |" in (out / "report.md").read_text()


def test_a_second_time_everything_is_there(copy, voc):
    before = times(copy)
    result = go(voc, copy)
    assert times(copy) == before and [row.skipped for row in result.rows] == [True, True]


def test_copied_files_are_the_same_files(copy, voc):
    for path in copy.rglob("*"):
        os.utime(path)
    assert all(row.skipped for row in go(voc, copy).rows)


def test_from_a_stage_on(copy, voc):
    before = times(copy / "01-cam")
    result = go(voc, copy, start_from="maps")
    assert [row.skipped for row in result.rows] == [True, False] and times(copy / "01-cam") == before


def test_bad_input_costs_no_finished_stage(copy, tmp_path):
    before = times(copy)
    with pytest.raises(DataError):
        go(tmp_path / "nowhere", copy, start_from="cam")
    assert times(copy) == before


def test_only_one_stage(voc, tmp_path):
    assert [row.stage for row in go(voc, tmp_path, only=["cam"]).rows] == ["cam"]
    assert not list(tmp_path.glob("*-maps"))
    with pytest.raises(RecipeError, match="did you mean 'maps'"):
        go(voc, tmp_path, only=["mops"])


def test_only_a_stage_whose_input_is_missing(voc, tmp_path):
    with pytest.raises(RecipeError, match="stage maps needs cam, which is not done"):
        go(voc, tmp_path, only=["maps"])


def test_a_dry_run_makes_nothing(voc, tmp_path):
    assert go(voc, tmp_path, dry_run=True).rows == [] and not list(tmp_path.iterdir())
    assert go(voc, tmp_path / "new", dry_run=True).rows == [] and not list(tmp_path.iterdir())


# ---- changed ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda all: all[0]["settings"].update(lr=0.5), "settings.lr: 0.01 before, 0.5 now"),
        (lambda all: all[1]["settings"].update(scales=[1, 2]), r"settings.scales: \[1.0\] before, \[1.0, 2.0\] now"),
        (lambda all: all[0].update(method="eps"), 'network.method: "cam" before, "eps" now'),
    ],
)
def test_a_changed_setting(copy, voc, change, says):
    before = times(copy)
    with pytest.raises(RecipeError, match=says) as error:
        go(voc, copy, edited(change), saliency=str(voc / "saliency"))
    assert "Hint: --from" in str(error.value) and times(copy) == before


def test_another_seed(copy, voc):
    with pytest.raises(RecipeError, match="seed: 0 before, 1 now"):
        go(voc, copy, options=Options(seed=1, workers=0))


def test_changed_files_of_a_stage(copy, voc):
    model = copy / "01-cam" / "model.safetensors"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(bytes(data))
    with pytest.raises(RecipeError, match="files of 01-cam are not those that the stage made"):
        go(voc, copy)
    result = go(voc, copy, start_from="cam")
    assert [row.skipped for row in result.rows] == [False, False]


def test_a_file_that_was_removed(copy, voc):
    next((copy / "02-maps").glob("*.npz")).unlink()
    with pytest.raises(RecipeError, match=r"6 files .* 5 files .* Hint: --from maps"):
        go(voc, copy)


def test_changed_labels(copy, voc, tmp_path):
    other = shutil.copytree(voc, tmp_path / "voc")
    rows = (other / "labels.txt").read_text().replace("2007_000001 1", "2007_000001 0")
    (other / "labels.txt").write_text(rows)
    with pytest.raises(RecipeError, match=r"data\.sha256"):
        go(other, copy)


def test_a_changed_image(copy, voc, tmp_path):
    """Its file as long as before."""
    other = shutil.copytree(voc, tmp_path / "voc")
    image = other / "JPEGImages" / f"{data_worlds.IDS[2]}.jpg"
    data = bytearray(image.read_bytes())
    data[-5] ^= 1
    image.write_bytes(bytes(data))
    with pytest.raises(RecipeError, match=r"01-cam was made otherwise:\n  data\.sha256"):
        go(other, copy)


def test_a_changed_truth(copy, voc, tmp_path):
    other = shutil.copytree(voc, tmp_path / "voc")
    mask = other / "SegmentationClassAug" / f"{data_worlds.IDS[2]}.png"
    data_worlds.repaint(mask, 1)
    with pytest.raises(RecipeError, match=r"02-maps was made otherwise:\n  judge\.sha256") as error:
        go(other, copy)
    assert "Hint: --from maps" in str(error.value)


def test_changed_saliency_maps(voc, tmp_path):
    """Of a stage that is done and of one that was stopped; the size of the file is the same."""
    other = shutil.copytree(voc, tmp_path / "voc")
    saliency = other / "saliency" / f"{data_worlds.IDS[2]}.png"
    data_worlds.repaint(saliency, 0)
    values = {**TWO, "stages": [{"name": "eps", "method": "eps", **TRAIN}]}
    for name, stop, value in (("done", 99, 77), ("stopped", 0, 78)):
        go(other, tmp_path / name, values, saliency="saliency", told=Told(stop=After(stop)))
        data_worlds.repaint(saliency, value)
        with pytest.raises(RecipeError, match=r"01-eps was made otherwise:\n  data\.sha256"):
            go(other, tmp_path / name, values, saliency="saliency")


def test_an_input_that_was_made_anew_elsewhere(copy, voc):
    shutil.rmtree(copy / "01-cam")
    with pytest.raises(RecipeError, match="02-maps is done, and cam, which it was made of, is not"):
        go(voc, copy)


def test_a_damaged_record(copy, voc):
    (copy / "02-maps" / "stage.json").write_text("{")
    with pytest.raises(RecipeError, match=r"damaged\. Hint: --from maps"):
        go(voc, copy)
    assert go(voc, copy, start_from="maps").rows[1].skipped is False


# ---- stopped ---------------------------------------------------------------------------------------------------------------


class After:
    """Says stop when it was asked so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_stopped_in_a_training(voc, finished, tmp_path):
    result = go(voc, tmp_path, told=Told(stop=After(0)))
    assert result.stopped == "cam" and result.rows == []
    assert not (tmp_path / "01-cam" / "stage.json").exists() and (tmp_path / "01-cam" / "checkpoint.safetensors").exists()
    go(voc, tmp_path)
    assert same_weights(tmp_path / "01-cam", finished[0] / "01-cam")
    assert record.read(stage(tmp_path, "maps")).contents.sha256 == record.read(stage(finished[0], "maps")).contents.sha256


def test_stopped_among_images(voc, finished, copy, monkeypatch):
    shutil.rmtree(copy / "02-maps")
    result = go(voc, copy, told=Told(stop=After(2)))
    assert result.stopped == "maps" and len(list((copy / "02-maps").glob("*.npz"))) == 3
    made = []
    infer = stages.methods.infer_cam
    monkeypatch.setattr(stages.methods, "infer_cam", lambda *given, **more: made.append(1) or infer(*given, **more))
    result = go(voc, copy)
    assert len(made) == 3 and result.rows[1].seconds > 0
    assert record.read(copy / "02-maps").contents.sha256 == record.read(finished[0] / "02-maps").contents.sha256


KILLED = """
import os, signal, sys
from pathlib import Path
from recipe_runs import go
from wsss_fast.files import folder

replaced, real = [], os.replace

def deadly(source, target, **options):
    if str(target).endswith(".npz"):
        replaced.append(target)
        if len(replaced) == 3:  # the third file is written, and has not got its name
            os.kill(os.getpid(), signal.SIGKILL)
    return real(source, target, **options)

folder.os.replace = deadly
go(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_killed_among_images(voc, finished, copy):
    """No handler runs, as in a power cut: what has its name is whole, and the rest is made."""
    shutil.rmtree(copy / "02-maps")
    paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", KILLED, str(voc), str(copy)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list((copy / "02-maps").glob("*.npz"))) == 2 and not (copy / "02-maps" / "stage.json").exists()
    result = go(voc, copy)
    assert [row.skipped for row in result.rows] == [True, False]
    assert record.read(copy / "02-maps").contents.sha256 == record.read(finished[0] / "02-maps").contents.sha256
    assert not [path.name for path in (copy / "02-maps").iterdir() if path.suffix not in (".npz", ".json")]


def test_a_stopped_stage_is_not_gone_on_with_otherwise(voc, copy):
    shutil.rmtree(copy / "02-maps")
    go(voc, copy, told=Told(stop=After(2)))
    with pytest.raises(RecipeError, match=r"settings\.scales"):
        go(voc, copy, edited(lambda all: all[1]["settings"].update(scales=[2])))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals(voc, copy, tmp_path, capsys, monkeypatch, number, status):
    shutil.rmtree(copy / "02-maps")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(TWO))
    command = ["run", str(tmp_path / "mine.yaml"), "--data", str(voc), "--out", str(copy), "--init", "none", "--workers", "0"]
    infer, asked = stages.methods.infer_cam, []

    def stopping(*given, **more):
        asked.append(1)
        if len(asked) == 3:
            os.kill(os.getpid(), number)
        return infer(*given, **more)

    monkeypatch.setattr(stages.methods, "infer_cam", stopping)
    assert cli.main(command) == status
    assert "stopped in stage maps: the same command goes on" in capsys.readouterr().err
    assert cli.main(command) == exit_codes.DONE and len(asked) == 6
    told = capsys.readouterr()
    assert "01-cam: was done already" in told.err and "report.md has this table" in told.out


# ---- what cannot work is told first ----------------------------------------------------------------------------------------


def refused(data, out, says, values=TWO, error=RecipeError, **more):
    with pytest.raises(error, match=says):
        go(data, out, values, **more)
    assert not list(out.glob("[0-9][0-9]-*"))


def test_no_weights_to_start_from(voc, tmp_path):
    refused(voc, tmp_path, r"pretrained weights of resnet38, and none are given. Hint: --init resnet38=FILE", init=None)
    refused(voc, tmp_path, "'init' must be a file", init={"resnet38": str(tmp_path / "none")})


def test_weights_of_another_network(voc, tmp_path, finished):
    model = str(finished[0] / "01-cam" / "model.safetensors")
    values = edited(lambda all: all[0]["options"].update(width=0.04))
    refused(voc, tmp_path, "does not fit the network", values, ValueError, init=model)


def test_saliency_of_a_later_stage(voc, tmp_path):
    values = edited(lambda all: all.append({"name": "eps", "method": "eps", **TRAIN}))
    refused(voc, tmp_path, "saliency maps are wanted", values, DataError)


def test_no_truth_to_choose_a_threshold_by(voc, tmp_path):
    other = shutil.copytree(voc, tmp_path / "voc")
    shutil.rmtree(other / "SegmentationClassAug")
    values = edited(lambda all: all.append({"name": "masks", "kind": "masks", "maps": "maps"}))
    refused(other, tmp_path / "out", "no image of the data set has a mask to measure by", values)
    values["stages"][2]["settings"] = {"threshold": 0.2}
    result = go(other, tmp_path / "out", values)
    assert [row.miou for row in result.rows] == [None, None, None]


def test_an_image_that_cannot_be_read(voc, tmp_path):
    other = shutil.copytree(voc, tmp_path / "voc")
    (other / "JPEGImages" / f"{data_worlds.IDS[3]}.jpg").write_bytes(b"no picture")
    refused(other, tmp_path / "out", "images that cannot be read", error=DataError)


def test_a_folder_of_somebody_else(voc, tmp_path):
    (tmp_path / "01-cam").mkdir()
    (tmp_path / "01-cam" / "letter.txt").write_text("dear")
    with pytest.raises(RecipeError, match="holds files that no recipe wrote"):
        go(voc, tmp_path)
    with pytest.raises(RecipeError, match="holds files that no recipe wrote"):
        go(voc, tmp_path, start_from="cam")
    assert (tmp_path / "01-cam" / "letter.txt").read_text() == "dear"


def test_a_class_with_no_image(voc, tmp_path):
    other = shutil.copytree(voc, tmp_path / "voc")
    (other / "classes.txt").write_text("cat\ndog\nunicorn\n")
    result = go(other, tmp_path / "out")
    assert result.rows[1].miou is not None
    assert read_maps(next((tmp_path / "out" / "02-maps").glob("*.npz")))[1].shape[0] <= 2


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "required: NAME, --data, --out"),
        (["seem", "--data", "x", "--out", "y"], "did you mean 'seam'"),
        (["seam", "--data", "x", "--out", "y", "--init", "a", "b"], "BACKBONE=FILE with each backbone once"),
        (["seam", "--data", "x", "--out", "y", "--sead", "1"], "unknown option '--sead'. Hint: did you mean '--seed'?"),
    ],
)
def test_wrong_usage(argv, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", *argv]) == exit_codes.USAGE
    assert says in capsys.readouterr().err and not list(tmp_path.iterdir())
