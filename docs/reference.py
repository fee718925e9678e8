#!/usr/bin/env python3
"""Writes docs/cli.md and docs/api.md out of the parsers and the docstrings: python docs/reference.py

With --check it writes nothing and ends with status 1 if one of the two pages is out of date.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsss_fast import cli
from wsss_fast.cli import _parser, exit_codes
from wsss_fast.cli.train import METHODS

DOCS = Path(__file__).resolve().parent
MODULES = {
    "wsss_fast": "The package",
    "wsss_fast.ops": "Operations",
    "wsss_fast.methods": "Methods",
    "wsss_fast.nets": "Networks and checkpoints",
    "wsss_fast.data": "Data",
    "wsss_fast.train": "Training",
    "wsss_fast.evaluate": "Evaluation",
    "wsss_fast.export": "Export",
    "wsss_fast.recipes": "Recipes",
}


# ---- the command line -------------------------------------------------------------------------------------------------------


class _Caught(BaseException):
    """A parser and the arguments that it was about to read."""


def parser_of(words: Sequence[str]) -> tuple[Any, list[str]]:
    """The parser that `wsss WORDS` uses, and its part of the words. Nothing is parsed and nothing runs."""

    def catch(parser: Any, argv: Sequence[str]) -> None:
        raise _Caught(parser, list(argv))

    real, _parser.parse = _parser.parse, catch
    try:
        importlib.import_module(f"wsss_fast.cli.{words[0]}").run(list(words[1:]))
    except _Caught as caught:
        return caught.args
    finally:
        _parser.parse = real
    raise ValueError(f"wsss {' '.join(words)} has no parser")


def options(parser: Any) -> list[tuple[str, str]]:
    """What is typed and what it does, in the parser's order; without --help."""
    return [(_typed(action), _one_line(action.help)) for action in parser._actions if "--help" not in action.option_strings]


def _typed(action: argparse.Action) -> str:
    metavar = action.metavar or action.dest.upper()
    if action.option_strings == ["--print_config"]:
        return "--print_config"  # what it may take besides is of no use
    if not action.option_strings:
        return f"[{metavar}]" if action.nargs in ("?", "*") else metavar
    return action.option_strings[-1] + ("" if action.nargs == 0 else f" {metavar}")


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("<", "&lt;")


def cli_page() -> str:
    lines = [
        "# The command line",
        "",
        "Made by `python docs/reference.py` of what `wsss COMMAND --help` says. `wsss-label` is `wsss label`, `wsss-export` is",
        "`wsss export`. A file for `--config` looks as `--print_config` shows; options on the command line win over it.",
        "",
        "| exit status | |",
        "|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in exit_codes.MEANINGS.items()),
        "",
        "`--debug`, or `WSSS_DEBUG=1`, shows the traceback of an error; `--version` the version.",
    ]
    for command in cli.COMMANDS:
        if command == "train":
            lines += _train()
            continue
        lines += _command([command])
        if command == "demo":
            lines += _command(["demo", "scenes"])
    return "\n".join(lines) + "\n"


def _command(words: list[str], title: str | None = None) -> list[str]:
    parser, _ = parser_of(words)
    lines = ["", f"## {title or 'wsss ' + ' '.join(words)}", "", _one_line(parser.description), ""]
    return [*lines, *_table(options(parser)), *(["", _one_line(parser.epilog)] if parser.epilog else [])]


def _train() -> list[str]:
    """The options of one method whole, of the others what is different."""
    first, *others = METHODS
    known = options(parser_of(["train", first])[0])
    names = {option.split()[0]: text for option, text in known}
    lines = [
        "",
        "## wsss train",
        "",
        f"`wsss train METHOD --data DIR --out RUN`. Defaults are those of `{first}`; below stands what others have otherwise.",
        "",
        "| METHOD | |",
        "|---|---|",
        *(f"| `{name}` | {what} |" for name, what in METHODS.items()),
        "",
        *_table(known),
        "",
        _one_line(parser_of(["train", first])[0].epilog),
    ]
    for name in others:
        own = options(parser_of(["train", name])[0])
        new = [(option, text) for option, text in own if option.split()[0] not in names]
        changed = [
            f"`{option.split()[0]}` {_default(text)}" for option, text in own if names.get(option.split()[0], text) != text
        ]
        lines += ["", f"### wsss train {name}", "", f"Defaults: {', '.join(changed)}." if changed else "Defaults as above."]
        lines += ["", *_table(new)] if new else []
    return lines


def _default(text: str) -> str:
    """What stands in `(default X)`; a switch has none, and is off."""
    found = re.search(r"\(default ([^()]*)\)$", text)
    return found[1] if found else "false"


def _table(rows: list[tuple[str, str]]) -> list[str]:
    cells = [(option.replace("|", "\\|"), text.replace("|", "\\|")) for option, text in rows]
    return ["| option | |", "|---|---|", *(f"| `{option}` | {text} |" for option, text in cells)]


# ---- Python -----------------------------------------------------------------------------------------------------------------


def api_page() -> str:
    lines = [
        "# Python",
        "",
        "Made by `python docs/reference.py` of the docstrings; `help(FUNCTION)` says more. What is computed stands on the pages",
        "of the operations and methods.",
    ]
    for module, title in MODULES.items():
        lines += ["", f"## {title}: `{module}`"]
        for name, thing in public(module):
            lines += ["", f"**`{module.removeprefix('wsss_fast.')}.{name}{_signature(thing)}`**", "", _first_paragraph(thing)]
    return "\n".join(lines) + "\n"


def public(module: str) -> list[tuple[str, Any]]:
    """The functions and classes of a module's `__all__`, or those that it defines."""
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", None) or [name for name in vars(loaded) if not name.startswith("_")]
    things = [(name, getattr(loaded, name)) for name in names]
    own = hasattr(loaded, "__all__")
    return [
        (name, thing)
        for name, thing in things
        if (inspect.isfunction(thing) or inspect.isclass(thing)) and (own or thing.__module__ == module)
    ]


def _signature(thing: Any) -> str:
    if inspect.isclass(thing):
        return ""
    plain = inspect.signature(thing)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in plain.parameters.values()]
    shown = str(plain.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return re.sub(r"<[^<>]*(<lambda>)?[^<>]*>", "...", shown)  # defaults that have no short form


def _first_paragraph(thing: Any) -> str:
    text = inspect.getdoc(thing) or ""
    if inspect.isclass(thing) and text.startswith(f"{thing.__name__}("):  # made by dataclass: the names of its fields will do
        return "Fields: " + ", ".join(f"`{name}`" for name in inspect.signature(thing).parameters) + "."
    return re.sub("::$", ".", _one_line(text.split("\n\n")[0]).replace("``", "`"))


PAGES = {"cli.md": cli_page, "api.md": api_page}


def main(argv: Sequence[str]) -> int:
    stale = 0
    for name, make in PAGES.items():
        text, path = make(), DOCS / name
        if "--check" not in argv:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"docs/{name} is out of date: python docs/reference.py\n")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
