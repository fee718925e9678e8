"""Parsers built from settings dataclasses, and errors that name the closest option."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jsonargparse
import yaml

from wsss_fast._nearest import did_you_mean
from wsss_fast.files import yaml_text
from wsss_fast.files.names import printable

_own_yaml = jsonargparse.get_loader("yaml")  # knows 1e-3, which YAML takes for text
_MODE = "wsss"


class UsageError(Exception):
    """Wrong usage: exit status 2."""


def _load(text: str) -> Any:
    yaml_text.load(text)  # refuses what would take all time and memory below
    return _own_yaml(text)


jsonargparse.set_loader(_MODE, _load, exceptions=(yaml_text.YamlError, yaml.YAMLError))
jsonargparse.set_dumper(_MODE, lambda data: yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=110)


def new_parser(prog: str, description: str, epilog: str = "") -> jsonargparse.ArgumentParser:
    return jsonargparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        exit_on_error=False,
        parser_mode=_MODE,
        allow_abbrev=False,
        formatter_class=_Formatter,
    )


def add_settings(parser: Any, settings: Any, skip: Sequence[str] = (), config: bool = True) -> None:
    """One option a field: `max_side` → `--max-side`, with the field's help, default and metavar; False → a plain switch.

    `settings` is a dataclass, or an object of one whose values are the defaults. `config`: also the option for a YAML file.
    """
    if config:
        parser.add_argument("--config", action=jsonargparse.ActionConfigFile, metavar="FILE", help="settings from a YAML file")
        # It comes with --config; its own text is long.
        parser._option_string_actions["--print_config"].help = "print all settings as a YAML file for --config, and stop"
    hints = typing.get_type_hints(settings if isinstance(settings, type) else type(settings))
    for item in dataclasses.fields(settings):
        if item.name in skip:
            continue
        option = "--" + item.name.replace("_", "-")
        text = item.metadata.get("help", "")
        default = item.default if isinstance(settings, type) else getattr(settings, item.name)
        if hints[item.name] is bool and item.default is False and default is False:
            parser.add_argument(option, action="store_true", help=text)
            continue
        convert, metavar = _converter(hints[item.name])
        metavar = item.metadata.get("metavar", metavar)
        shown = _shown_default(default)
        parser.add_argument(option, type=convert, default=default, metavar=metavar, help=f"{text} ({shown})" if shown else text)


def parse(parser: jsonargparse.ArgumentParser, argv: Sequence[str]) -> jsonargparse.Namespace:
    try:
        return parser.parse_args(list(argv))
    except (argparse.ArgumentError, argparse.ArgumentTypeError, ValueError) as error:
        raise UsageError(_explain(parser, str(error))) from None


def names(text: str) -> tuple[str, ...]:
    """Of an option that takes `A,B,…`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def usage_failure(prog: str, message: str) -> int:
    from wsss_fast.cli import exit_codes

    sys.stderr.write(f"{prog}: error: {message}\n{prog} --help explains the options\n")
    return exit_codes.USAGE


def _explain(parser: jsonargparse.ArgumentParser, text: str) -> str:
    options = [option for action in parser._actions for option in action.option_strings]
    message = " ".join(text.split())
    if found := re.search(r"unrecognized arguments: (.*)", message, re.IGNORECASE):
        unknown = found.group(1).split(" ")[0].split("=")[0]
        message = f"unknown option '{unknown}'" if unknown.startswith("-") else f"unexpected argument '{unknown}'"
        return printable(message) + _closest(unknown, options)
    if found := re.search(r"Option '([^']*)' is not accepted|Key '([^']*)' is not expected", message):
        unknown = found.group(1) or found.group(2)
        return f"unknown setting '{printable(unknown)}'" + _closest("--" + unknown.replace("_", "-"), options)
    if found := re.search(r"arguments are required: (.*)", message):
        known = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
        missing = [known.get(name, name.upper()) for name in re.split(r"[, ]+", found.group(1))]
        return "required: " + ", ".join(missing)
    message = re.sub(r"^argument (--?[\w-]+): ", r"\1: ", message)
    if found := re.match(r'Parser key "([^"]*)": (.*)', message):
        return f"--{found.group(1).replace('_', '-')}: {printable(found.group(2))}"
    return printable(message)


def _closest(unknown: str, options: list[str]) -> str:
    hint = did_you_mean(unknown, options)
    return f". Hint: {hint}" if hint else ""


def _shown_default(value: Any) -> str:
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, tuple):
        return "default " + ",".join(f"{entry:g}" if isinstance(entry, float) else str(entry) for entry in value)
    return f"default {str(value).lower() if isinstance(value, bool) else value}"


def _converter(hint: Any) -> tuple[Callable[[Any], Any], str]:
    """Type hint → (a function that accepts command-line text and YAML values, the name shown in help)."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        inner = next(entry for entry in typing.get_args(hint) if entry is not type(None))
        convert, metavar = _converter(inner)
        return (lambda value: None if value in (None, "none", "null") else convert(value)), metavar
    if typing.get_origin(hint) is tuple:
        single, _ = _converter(typing.get_args(hint)[0])
        return (lambda value: () if value in (None, "none") else tuple(single(part) for part in _parts(value))), "A,B,…"
    return {bool: (_yes_no, "BOOL"), int: (_whole, "N"), float: (_number, "X"), str: (str, "NAME")}[hint]


def _parts(value: Any) -> Sequence[Any]:
    parts = value.strip("[]() ").split(",") if isinstance(value, str) else value
    return parts if isinstance(parts, list | tuple) else [parts]


def _number(value: Any) -> float:
    if not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    raise argparse.ArgumentTypeError(f"expected a number, got {value!r}")


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
        return int(value)
    raise argparse.ArgumentTypeError(f"expected a whole number, got {value!r}")


def _yes_no(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if str(value).lower() in known:
        return known[str(value).lower()]
    raise argparse.ArgumentTypeError(f"expected true or false, got {value!r}")
