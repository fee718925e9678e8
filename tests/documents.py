"""Code blocks of the documentation: found, run in a folder with stand-ins for people's data, or checked by the real parsers."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from toml import read_toml

from wsss_fast import cli, methods
from wsss_fast.cli import _parser

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^(\s*)```(\S*)\s*$")
PROGRAMS = ("wsss", "wsss-label", "wsss-export", "make", "pip")
SHELL_PROGRAMS = ("mkdir", "cp", "grep")
# about their arguments there is nothing to check
OTHER_PROGRAMS = (
    *SHELL_PROGRAMS,
    "export",
    "simt_check",
    "ray",
    "wsss_runner",
    "tritonserver",
)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    @property
    def start(self) -> str:
        """The first line that says something."""
        lines = [line.strip() for line in self.text.splitlines()]
        return next((line for line in lines if line and not line.startswith("#")), "")

    def __str__(self) -> str:
        return f"{self.page}:{self.line} [{self.language}] {self.start}"


def blocks(page: str) -> list[Block]:
    """Fenced blocks, and indented ones: commands where they begin with one of PROGRAMS, else text."""
    lines = (ROOT / page).read_text(encoding="utf-8").split("\n")
    found, at = [], 0
    while at < len(lines):
        if fence := FENCE.match(lines[at]):
            end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == "```")
            body = [line.removeprefix(fence[1]) for line in lines[at + 1 : end]]
            found.append(Block(page, at + 1, fence[2], "\n".join(body)))
            at = end + 1
        elif lines[at].startswith("    ") and lines[at - 1] == "":
            end = next((i for i in range(at, len(lines)) if lines[i] and not lines[i].startswith("    ")), len(lines))
            body = "\n".join(line[4:] for line in lines[at:end]).rstrip()
            language = "sh" if body.split(maxsplit=1)[0] in PROGRAMS else "text"
            found.append(Block(page, at + 1, language, body))
            at = end
        else:
            at += 1
    return found


def pages() -> list[str]:
    return ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]


# ---- commands ---------------------------------------------------------------------------------------------------------------


def command_lines(text: str) -> list[str]:
    """One command each: lines that end in a backslash are joined, `&&` separates."""
    joined = text.replace("\\\n", " ")
    return [part for line in joined.splitlines() for part in line.split(" && ") if words_of(part)]


def words_of(line: str) -> list[str]:
    return shlex.split(line, comments=True)


def check_wsss(argv: Sequence[str]) -> None:
    """The command's own parser takes these arguments; nothing runs."""
    assert argv and argv[0] in cli.COMMANDS, f"no command: wsss {' '.join(argv)}"
    parser, rest = reference.parser_of(argv)
    _parser.parse(parser, rest)


def check_command(words: list[str]) -> None:
    """That a program of this repository, or one that starts it, is called as it can be called."""
    for name in {found for word in words for found in re.findall(r"^WSSS_\w+", word)}:
        readers = [ROOT / "setup.py", *(ROOT / "wsss_fast").rglob("*.py"), *(ROOT / "csrc").rglob("*.cpp")]
        assert any(name in path.read_text(encoding="utf-8") for path in readers), f"nothing reads {name}"
    words = [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]
    program = words[0].rpartition("/")[2] if words else "export"
    scripts = [word for word in words if word.endswith((".py", ".sh"))]
    if "wsss" in words or program == "wsss":  # also behind torchrun
        check_wsss(words[words.index("wsss") + 1 if "wsss" in words else 1 :])
    elif program in ("wsss-label", "wsss-export"):
        check_wsss([program.removeprefix("wsss-"), *words[1:]])
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets), words
    elif program == "pip":
        known = read_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
        for asked in re.findall(r"\[([\w,]+)\]", " ".join(words)):
            assert set(asked.split(",")) <= set(known), words
    elif scripts:
        assert all((ROOT / script).is_file() for script in scripts), words
    elif program == "cmake":
        sources = [words[i + 1] for i, word in enumerate(words) if word == "-S"]
        assert all((ROOT / source / "CMakeLists.txt").is_file() for source in sources), words
    else:
        assert program in OTHER_PROGRAMS, f"unknown program: {' '.join(words)}"


def with_stand_ins(argv: list[str], stand_ins: Mapping[str, str]) -> list[str]:
    """`argv` with the options that keep a command small added; a later option wins over an earlier one.

    The longest key that begins the command counts. `-X` among the additions takes the option `--X` and its value away.
    """
    line = " ".join(argv)
    key = max((key for key in stand_ins if line.startswith(key)), key=len, default=None)
    if key is None:
        return argv
    more, kept = stand_ins[key].split(), list(argv)
    for word in [word for word in more if re.match(r"-\w", word)]:
        option = "-" + word
        if option in kept:
            at = kept.index(option)
            del kept[at : at + 2]
    return kept + [word for word in more if not re.match(r"-\w", word)]


def run_commands(block: Block, checked: Sequence[str], stand_ins: Mapping[str, str]) -> None:
    """Each `wsss` command of the block in this process; others, and those with a word of `checked`, go to their parser."""
    for line in command_lines(block.text):
        words = words_of(line)
        if words[0] in SHELL_PROGRAMS:
            subprocess.run(["bash", "-c", line], check=True, timeout=60)
            continue
        if words[0] != "wsss" or any(text in line for text in checked):
            check_command(words)
            continue
        argv = with_stand_ins(words[1:], stand_ins)
        threads = torch.get_num_threads()
        status = cli.main(argv)
        torch.set_num_threads(threads)
        assert status == 0, f"{block}: wsss {' '.join(argv)}: exit status {status}"


# ---- python -----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_networks(width: float = 1 / 16) -> Iterator[None]:
    """`methods.create` and what is built on it give narrow networks unless a width is asked for."""
    real = methods.create

    def create(name: str, num_classes: int, backbone: str | None = None, published: str | None = None, **options: Any) -> Any:
        if (backbone or methods.backbones(name)[0]) != "efficientnet-lite0":
            options.setdefault("width", width)
        return real(name, num_classes, backbone, published, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "create", create)
        yield


def run_python(block: Block, names: dict[str, Any]) -> None:
    """With the names of the page's earlier blocks; errors show the page and its line."""
    program = compile("\n" * block.line + block.text, str(ROOT / block.page), "exec")
    exec(program, names)
