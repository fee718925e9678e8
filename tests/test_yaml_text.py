"""YAML from strangers: what it means is bounded, wherever it is read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from wsss_fast.cli import main
from wsss_fast.files import yaml_text
from wsss_fast.recipes import schema

NINE = "[" + ", ".join(["{}"] * 9) + "]"
ALIASES = "a0: &a0 [x, y]\n" + "".join(f"a{i}: &a{i} {NINE}\n".replace("{}", f"*a{i - 1}") for i in range(1, 14))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: {NINE}}}\n".replace("{}", f"*a{i - 1}") for i in range(1, 14))
HOSTILE = {
    "aliases of aliases": (ALIASES, "means more than 100000 values"),
    "merges of merges": (MERGES, "means more than 100000 values"),
    "itself": ("a: &a [*a]", "contains itself"),
    "a number in base 60": ("x: 1" + ":59" * 30_000, "a number of 90001 characters"),
    "a long number": ("x: " + "9" * 5000, "a number of 5000 characters"),
    "deep lists": ("[" * 900, "nested too deeply"),
    "deep lines": ("- " * 3000, "nested too deeply"),
    "a month of its own": ("2001-99-99", "month must be in"),
    "a program": ("!!python/object/apply:os.system [x]", "could not determine a constructor"),
    "an empty number": ("!!int ''", "index out of range"),
    "too much": ("#" * (1 << 20) + "\n", "longer than 1 MiB"),
    "an escape sequence": ("a: \x1b[2J", "special characters are not allowed"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_text_is_one_message_and_no_wait(name: str) -> None:
    text, message = HOSTILE[name]
    started = time.process_time()
    with pytest.raises(yaml_text.YamlError, match=message) as caught:
        yaml_text.load(text)
    assert time.process_time() - started < 5 and "\n" not in str(caught.value)


def test_aliases_of_people_are_read() -> None:
    assert yaml_text.load("\ufeffa: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}
    assert yaml_text.load("") is None


def test_every_reader_of_yaml_is_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(ALIASES)
    with pytest.raises(schema.RecipeError, match="means more than"):
        schema.load(path)
    for command in (
        ["label", "x", "--out", "y", "--config", str(path)],
        ["train", "cam", "--out", "y", "--config", str(path)],
        ["label", str(tmp_path), "--out", str(tmp_path / "y"), "--classes", str(path), "--model", "efficientnet-lite0"],
    ):
        (tmp_path / "a.png").touch()
        started = time.process_time()
        assert main(command) == 2
        assert time.process_time() - started < 20
        assert "means more than 100000 values" in capsys.readouterr().err


def test_no_other_reader() -> None:
    """The package reads YAML in `files/yaml_text.py` alone; `cli/_parser.py` passes it on to jsonargparse."""
    root = Path(yaml_text.__file__).parents[1]
    using = {path.name for path in root.rglob("*.py") if "yaml.safe_load(" in (text := path.read_text()) or "yaml.load(" in text}
    assert not using
