"""The pages build without a warning, the reference is that of the parsers and docstrings, and options in the text exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import reference
from documents import ROOT, blocks, pages

from wsss_fast import cli
from wsss_fast.cli.train import METHODS

WORDS = [[name] for name in cli.COMMANDS if name != "train"] + [["train", method] for method in METHODS] + [["demo", "scenes"]]
# Options of other programs that the pages speak of.
OTHERS = {
    "--impl",
    "--nproc-per-node",
    "--no-python",
    "--list",
    "--force-reinstall",
    "--array",
    "--gpus",
    "--shm-size",
    "--help",
    "--version",
}
OTHERS |= {"--debug", "--target", "--fast_math", "--no-index", "--torch"}


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Strict: a link, an anchor or a page without a place in the navigation fails it."""
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert done.returncode == 0 and not warnings, done.stderr[-3000:]
    built = {path.stem for path in (tmp_path / "site").glob("*.html")} - {"404", "search"}
    assert built == {path.stem for path in (ROOT / "docs").glob("*.md")}
    fetched = [
        address
        for page in (tmp_path / "site").glob("*.html")
        for address in re.findall(r"<(?:script|link|img)\b[^>]*(?:src|href)=\"(https?:[^\"]+)", page.read_text(encoding="utf-8"))
    ]
    assert not fetched, "pages fetch nothing from other hosts"


def test_links_of_the_front_page_lead_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if not target.startswith("http")]
        assert not [target for target in targets if not (ROOT / target).exists()], page


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_reference_is_up_to_date(name: str) -> None:
    page = ROOT / "docs" / name
    assert page.read_text(encoding="utf-8") == reference.PAGES[name](), "python docs/reference.py"


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_every_option_says_what_it_does(words: list[str]) -> None:
    parser, _ = reference.parser_of(words)
    described = reference.options(parser)
    assert described and parser.description
    for option, text in described:
        assert len(text.split()) >= 2, f"{option}: {text!r}"


def test_every_public_function_says_what_it_does() -> None:
    silent = [f"{module}.{name}" for module in reference.MODULES for name, thing in reference.public(module) if not thing.__doc__]
    assert not silent


def test_options_in_the_text_exist() -> None:
    known = set(OTHERS)
    for words in WORDS:
        known |= {text for action in reference.parser_of(words)[0]._actions for text in action.option_strings}
    for page in [page for page in pages() if page != "CONTRIBUTING.md"]:
        text = (ROOT / page).read_text(encoding="utf-8")
        for block in blocks(page):
            text = text.replace(block.text, "")
        used = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+[a-z]", text))
        assert not used - known, page
