"""The code blocks of README.md, CONTRIBUTING.md and docs/ run, or are checked: tests/documents_table.py says which."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import documents
import pytest
import yaml
from documents import ROOT, Block, blocks, check_command, command_lines, run_commands, run_python, small_networks, words_of
from documents_table import (
    AFRESH,
    CHECK,
    FURNITURE,
    ONLY_CHECKED,
    PAGES,
    REPLACED,
    RUN,
    SAVE,
    SHOWN,
    SOAK,
    STAND_INS,
    TABLE,
    make_world,
    replaced,
    treatment,
)

from wsss_fast import evaluate
from wsss_fast.cli._parser import UsageError

LOG = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents") / "world"
    make_world(folder)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_treatment(page: str) -> None:
    found = blocks(page)
    assert not [str(block) for block in found if treatment(block) is None], "add them to TABLE in tests/documents_table.py"
    assert not [str(block) for block in found if block.language == "text" and hides_code(block.text)], "sh or python, not text"
    spoken_of = [*TABLE.get(page, {}), *AFRESH.get(page, ())]
    assert not [start for start in spoken_of if not any(block.start.startswith(start) for block in found)], "no such block"
    text = "\n".join(block.text for block in found)
    assert not [old for old in REPLACED.get(page, {}) if old not in text], "REPLACED speaks of what no block says"


def hides_code(text: str) -> bool:
    return re.search(r"^\s*(wsss(-\w+)? [a-z]+ |pip install|import \w+$|from \w+ import)", text, re.MULTILINE) is not None


def test_the_tables_name_pages_that_exist() -> None:
    assert set(TABLE) | set(REPLACED) | set(AFRESH) | set(FURNITURE) <= set(PAGES)


@pytest.mark.parametrize(
    "line",
    [
        "wsss frobnicate",
        "wsss label PHOTOS --out MASKS --crff",
        "wsss train cam --data A --out B --epochs three",
        "torchrun --nproc-per-node 2 --no-python wsss train seem --out B",
        "make frobnicate",
        "pip install .[frobs]",
        "python benchmarks/frobnicate.py",
        "cmake -S nowhere -B build",
        "WSSS_FROBS=1 make test",
        "frobnicate --all",
    ],
)
def test_wrong_commands_are_found(line: str) -> None:
    with pytest.raises((AssertionError, UsageError, ValueError)):
        check_command(words_of(line))


def test_blocks_are_found_in_all_their_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (
        "a",
        "```python\nx = 1\n```",
        "    wsss doctor   # why",
        "- b",
        "  ```sh\n  wsss \\\n    demo && make y\n  ```",
        "    y = 2\n",
    )
    page = "\n\n".join(parts)
    (tmp_path / "page.md").write_text(page)
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    found = documents.blocks("page.md")
    assert [(block.line, block.language) for block in found] == [(3, "python"), (7, "sh"), (11, "sh"), (16, "text")]
    assert [words_of(line) for line in command_lines(found[2].text)] == [["wsss", "demo"], ["make", "y"]]
    assert words_of(command_lines(found[1].text)[0]) == ["wsss", "doctor"]


def test_stand_ins_are_added_and_taken_away() -> None:
    table = {"train": "--a 1", "train cam": "-init --b 2"}
    assert documents.with_stand_ins(["train", "cam", "--init", "X", "--c"], table) == ["train", "cam", "--c", "--b", "2"]
    assert documents.with_stand_ins(["train", "seam"], table) == ["train", "seam", "--a", "1"]
    assert documents.with_stand_ins(["doctor"], table) == ["doctor"]


@pytest.mark.parametrize("page", PAGES)
def test_blocks(page: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work_through(page, world, tmp_path, monkeypatch, soak=False)


@pytest.mark.soak
@pytest.mark.parametrize("page", [page for page in PAGES if SOAK in TABLE.get(page, {}).values()])
def test_all_blocks(page: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work_through(page, world, tmp_path, monkeypatch, soak=True)


@pytest.mark.soak
def test_the_tutorial_as_it_is_written(tmp_path: Path) -> None:
    """In a shell, in an empty folder; what it prints is what the page shows, but for the numbers."""
    scripts = tmp_path / "bin"
    scripts.mkdir()
    start = f"#!{sys.executable}\nimport sys\nfrom wsss_fast.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    (scripts / "wsss").write_text(start)
    (scripts / "wsss").chmod(0o755)
    path = os.pathsep.join([str(scripts), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    work = tmp_path / "work"
    work.mkdir()
    said = ""
    started = time.monotonic()
    for block in blocks("docs/tutorial.md"):
        if block.language == "sh":
            command = ["bash", "-euo", "pipefail", "-c", block.text]
            done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=3600, check=False)
            assert done.returncode == 0, f"{block}\n{done.stderr[-3000:]}"
            said = done.stdout
        elif said:
            missing = [line for line in block.text.splitlines() if without_numbers(line) not in without_numbers(said)]
            assert not missing, f"{block} was not printed:\n{said}"
            said = ""
    LOG.info("the tutorial took %.1f minutes", (time.monotonic() - started) / 60)
    figures = mask_miou(work / "masks"), mask_miou(work / "predicted")
    assert min(figures) > 0.3, f"{figures}: of the masks, and of the network on new pictures; empty ones have 0.09"


def without_numbers(text: str) -> str:
    return re.sub(r"\d[\d.:]*(e-\d+)?", "#", text)


def mask_miou(masks: Path) -> float:
    return evaluate.folder(masks, masks.parent / "scenes" / "SegmentationClass", ids_of(masks), classes=8).miou


def ids_of(masks: Path) -> list[str]:
    return sorted(path.stem for path in masks.glob("*.png"))


def work_through(page: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soak: bool) -> None:
    names = {"__name__": "page"}
    folder = None
    with small_networks():
        for number, block in enumerate(blocks(page)):
            if folder is None or block.start.startswith(AFRESH.get(page, ("no block begins so",))):
                folder = tmp_path / f"from{number}"
                shutil.copytree(world, folder)
                monkeypatch.chdir(folder)
                for furnish in FURNITURE.get(page, ()):
                    furnish(folder)
            what = treatment(block)
            carry_out(replaced(block), (RUN if soak else CHECK) if what == SOAK else what, names)


def carry_out(block: Block, what: str | None, names: dict) -> None:
    if what is None or what == SHOWN:
        return
    if what.startswith(SAVE):
        Path(what.removeprefix(SAVE)).write_text(block.text + "\n", encoding="utf-8")
    elif block.language == "python":
        run_python(block, names) if what == RUN else ast.parse(block.text)
    elif block.language == "sh":
        if what == RUN:
            run_commands(block, ONLY_CHECKED, STAND_INS)
        else:
            for line in command_lines(block.text):
                check_command(words_of(line))
    elif block.language == "yaml":
        assert list(yaml.safe_load_all(block.text))
    elif block.language == "json":
        json.loads(block.text)
    else:
        pytest.fail(f"{block}: {what} is not defined for {block.language}")
