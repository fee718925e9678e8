"""Timing caches: what an earlier build left behind may help a build and can never break one."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from wsss_fast.export.trt import build, timing
from wsss_fast.files import whole


class Config:
    """Of a library that measures: `reads` says which times it can use."""

    def __init__(self, reads: bytes = b"good", answer: object = None) -> None:
        self.reads, self.answer, self.given = reads, answer, []

    def create_timing_cache(self, times: bytes) -> object:
        self.given.append(times)
        if times in (b"", self.reads):
            return times or b"empty"
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def set_timing_cache(self, cache: object, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return cache in (b"empty", self.reads)


def used(config: object, path: Path, **abilities: object) -> tuple[bool, list[str]]:
    said: list[str] = []
    library = SimpleNamespace(__name__="tensorrt", IBuilderConfig=SimpleNamespace(**abilities))
    return timing.use(library, config, path, said.append), said


def test_times_are_kept_from_build_to_build(tmp_path: Path) -> None:
    path, config = tmp_path / "timing.cache", Config()
    assert used(config, path) == (True, []) and config.given == [b""]
    timing.write(path, b"good")
    config = Config()
    assert used(config, path) == (True, []) and config.given == [b"good"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["timing.cache"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "of something else"])
def test_a_damaged_file_never_reaches_tensorrt(damage: str, tmp_path: Path) -> None:
    path, config = tmp_path / "timing.cache", Config()
    timing.write(path, b"good")
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[-1] ^= 1
    path.write_bytes({"flipped": bytes(flipped), "cut": data[:-1], "empty": b"", "of something else": b"good"}[damage])
    done, (warning,) = used(config, path)
    assert done and config.given == [b""] and "'timing.cache' is damaged, and is begun anew" in warning


@pytest.mark.parametrize("answer", [None, b"of another GPU", RuntimeError("bad header"), ValueError("bad")])
def test_one_that_tensorrt_refuses_is_begun_anew(answer: object, tmp_path: Path) -> None:
    path, config = tmp_path / "timing.cache", Config(answer=answer)
    timing.write(path, b"old")
    done, (warning,) = used(config, path)
    assert done and config.given == [b"old", b""] and "tensorrt refuses the timing cache 'timing.cache'" in warning


def test_a_file_that_cannot_be_read_is_begun_anew(tmp_path: Path) -> None:
    done, (warning,) = used(Config(), tmp_path)
    assert done and "cannot be read" in warning


def test_libraries_that_measure_nothing_are_left_alone(tmp_path: Path) -> None:
    timing.write(tmp_path / "timing.cache", b"good")
    config = Config()
    assert used(config, tmp_path / "timing.cache", set_compute_capability=None) == (False, []) and not config.given
    assert used(SimpleNamespace(), tmp_path / "timing.cache") == (False, [])


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "timing.cache"
    timing.write(path, b"good")
    synced: list[int] = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(whole.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        timing.write(path, b"new")
    assert synced and used(Config(), path)[1] == [] and [entry.name for entry in tmp_path.iterdir()] == ["timing.cache"]


def test_a_warning_of_the_building_process_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    steps = []
    for line in ('{"warning": "the timing cache is damaged"}', '{"phase": "a", "step": 1, "steps": 2}', "TensorRT says", "[1]"):
        build._hear(line, lambda *step: steps.append(step))
    assert steps == [("a", 1, 2)]
    assert [(entry.levelno, entry.getMessage()) for entry in caplog.records] == [
        (logging.WARNING, "export: the timing cache is damaged")
    ]
