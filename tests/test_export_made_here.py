"""Files that run code when they are loaded are loaded with a warning, unless this user's own export wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest
from exported import SMALLEST, onnx_file
from label_standins import five_pictures

from wsss_fast import cli
from wsss_fast.cli import exit_codes
from wsss_fast.export import aoti, load_engine, made_here
from wsss_fast.export.trt.cache import cache_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WSSS_CACHE", str(tmp_path / "cache"))
    return cache_folder()


@pytest.fixture
def loads(monkeypatch, caplog):
    """What is loaded, and how many warnings came before it; nothing is run."""
    loaded: list[tuple[str, int]] = []
    monkeypatch.setattr(aoti, "load", lambda path, device, threads: loaded.append((path.name, len(caplog.records))))
    return loaded


@pytest.fixture
def compiler(monkeypatch):
    """Compiling takes a minute: here a package is a few bytes."""
    monkeypatch.setattr(aoti, "_compile", lambda module, device, path, meta: path.write_bytes(b"code"))


def strange(folder: Path) -> Path:
    path = folder / "network\x1b[31m.pt2"
    path.write_bytes(b"code of somebody")
    return path


def test_a_package_of_strangers_is_loaded_with_a_warning(tmp_path, loads, caplog, cache):
    path = strange(tmp_path)
    load_engine(path, device="cpu")
    (warning,) = caplog.messages
    assert "runs with all your rights" in warning and "trust" in warning and "\x1b" not in warning
    assert loads == [(path.name, 1)]  # the warning comes before the code
    assert not cache.exists()  # whoever loads writes nothing there
    load_engine(path, device="cpu")
    assert len(caplog.records) == 2  # once a load


def test_what_was_exported_here_and_is_unchanged_gives_no_warning(tmp_path, loads, caplog, compiler, cache):
    path = tmp_path / "own.pt2"
    aoti.write_aoti(SMALLEST.network(), path)
    moved = path.rename(tmp_path / "moved.pt2")
    load_engine(moved, device="cpu")
    assert loads == [("moved.pt2", 0)] and not caplog.records
    assert cache.stat().st_mode & 0o077 == 0
    moved.write_bytes(b"Code")
    load_engine(moved, device="cpu")
    assert len(caplog.records) == 1


def test_a_network_compiled_for_one_job_leaves_no_note(loads, caplog, compiler, cache):
    load_engine(SMALLEST.network(), "aoti", "cpu")
    assert loads == [("network.pt2", 0)] and not caplog.records and not cache.exists()


def test_notes_that_others_could_have_written_do_not_count(tmp_path, loads, caplog, cache):
    path = strange(tmp_path)
    made_here.remember(path)
    assert made_here.known(path)
    cache.chmod(0o777)
    load_engine(path, device="cpu")
    assert len(caplog.records) == 1


def test_an_export_without_a_cache_succeeds_and_says_what_follows(tmp_path, compiler, caplog, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("WSSS_CACHE", str(tmp_path / "file"))
    aoti.write_aoti(SMALLEST.network(), tmp_path / "own.pt2")
    assert (tmp_path / "own.pt2").read_bytes() == b"code"
    assert "nothing can be noted in" in caplog.text and "own.pt2" in caplog.text


def test_files_that_run_no_code_give_no_warning(caplog):
    load_engine(onnx_file(SMALLEST), device="cpu")
    assert not [record for record in caplog.records if record.name == "wsss_fast.export"]


def test_the_command_warns_once_and_its_help_says_so(tmp_path, capsys, caplog):
    path, images = strange(tmp_path), five_pictures(tmp_path)
    assert cli.main(["label", str(images), "--model", str(path), "--out", str(tmp_path / "out")]) == exit_codes.ERROR
    assert "cannot be opened as an AOTInductor package" in capsys.readouterr().err
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "wsss_fast.export"]
    assert "machine code" in warning and "trust" in warning
    for command in ("label", "export"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert "machine code" in " ".join(capsys.readouterr().out.split())
