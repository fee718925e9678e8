"""The command `wsss`: a table of commands. Only the module of the asked command is imported: help comes at once."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence

from wsss_fast.cli import _streams, _terminal, exit_codes
from wsss_fast.files.folder import OutputStoppedError

# command → one line of help. Its module is wsss_fast.cli.COMMAND with `run(argv, prog) -> int`.
COMMANDS = {
    "label": "label a folder of images: one palette PNG an image",
    "classes": "list the classes of a model with their mask values",
    "train": "train a method on images with image-level labels",
    "run": "run a published row from data set to segmentation network, stage by stage",
    "eval": "compare masks or soft maps with the truth: IoU a class, mIoU, threshold curve",
    "demo": "label three real photos offline; demo scenes: write a synthetic dataset with its truth",
    "bench": "measure an operation against its peers",
    "export": "turn a network into an ONNX file or an engine, and try it",
    "saliency": "make saliency maps for a folder of images",
    "convert": "turn a published checkpoint into one file that describes itself",
    "doctor": "show what this installation has, lacks and can use",
}

_DEBUG = "--debug"


class Terminated(BaseException):
    """SIGTERM: unwinds like Ctrl-C, so that files are closed and locks given back."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    arguments, debug = _take_debug(arguments)
    with _streams.guarded() as (out, _), _terminal.guarded():
        try:
            status = _status(arguments, debug)
        except SystemExit:  # of a parser, after --help
            if _delivered(exit_codes.DONE, out) == exit_codes.DONE:
                raise
            return exit_codes.ERROR
        return _delivered(status, out)


def _status(arguments: list[str], debug: bool) -> int:
    try:
        with _sigterm_unwinds():
            return _dispatch(arguments)
    except KeyboardInterrupt:
        return _say("interrupted", exit_codes.INTERRUPTED)
    except Terminated:
        return _say("terminated", exit_codes.TERMINATED)
    except OutputStoppedError as error:
        return _say(f"stopped: {error}", exit_codes.STOPPED)
    except Exception as error:
        if debug:
            sys.stderr.write(traceback.format_exc())
        return _say(_describe(error), exit_codes.ERROR)


def _delivered(status: int, out: _streams.Outlet) -> int:
    """A command is not done if what it prints reaches nobody, though files that it wrote are whole."""
    out.flush()
    if out.failure is None:
        return status
    if not isinstance(out.failure, BrokenPipeError):  # whoever read our output left, and wants to hear no more
        reason = out.failure.strerror or str(out.failure)
        hint = "files that the command was to write are there, only what it prints is lost"
        done = f". Hint: {hint}" if status == exit_codes.DONE else ""
        _say(f"error: cannot write to standard output: {reason}{done}", status)
    return status or exit_codes.ERROR


def main_label(argv: Sequence[str] | None = None) -> int:
    """The console script `wsss-label`: the verb named most, without the space."""
    return main(["label", *(sys.argv[1:] if argv is None else argv)])


def main_export(argv: Sequence[str] | None = None) -> int:
    """The console script `wsss-export`."""
    return main(["export", *(sys.argv[1:] if argv is None else argv)])


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        if len(arguments) > 1 and arguments[0] == "help":
            return _dispatch([arguments[1], "--help"])
        (sys.stdout if arguments else sys.stderr).write(_help())
        return exit_codes.DONE if arguments else exit_codes.USAGE
    command = arguments[0]
    if command in ("--version", "-V", "version"):
        from wsss_fast._version import __version__

        sys.stdout.write(f"wsss_fast {__version__}\n")
        return exit_codes.DONE
    if command not in COMMANDS:
        return _unknown(command)
    module = importlib.import_module(f"wsss_fast.cli.{command}")
    return module.run(arguments[1:])


def _help() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [
        "usage: wsss COMMAND [OPTIONS]",
        "",
        "Weakly supervised semantic segmentation: from image-level labels to masks.",
        "",
        "commands:",
        *(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()),
        "",
        "options:",
        "  -h, --help  this text; `wsss COMMAND --help` explains a command",
        "  --version   the installed version",
        "  --debug     show the traceback of an error (also WSSS_DEBUG=1)",
        "",
        exit_codes.sentence(),
    ]
    return "\n".join(lines) + "\n"


def _unknown(command: str) -> int:
    from wsss_fast._nearest import did_you_mean
    from wsss_fast.files.names import printable

    kind = "option" if command.startswith("-") else "command"
    hint = did_you_mean(command, [*COMMANDS, "--help", "--version", _DEBUG], "`wsss --help` lists the commands")
    return _say(f"error: unknown {kind} '{printable(command)}'. Hint: {hint}", exit_codes.USAGE)


def _take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [item for item in arguments[:end] if item != _DEBUG] + arguments[end:]
    asked = len(kept) != len(arguments) or os.environ.get("WSSS_DEBUG", "") not in ("", "0")
    return kept, asked


def _describe(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, ValueError | TypeError | RuntimeError | OSError | ImportError | FloatingPointError):
        return f"error: {text}"
    return f"error: {type(error).__name__}: {text}. Hint: --debug shows where"


def _say(message: str, status: int) -> int:
    sys.stderr.write(f"wsss: {message}\n")
    return status


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    def unwind(number: int, frame: object) -> None:
        raise Terminated

    try:
        previous = signal.signal(signal.SIGTERM, unwind)
    except ValueError:
        # Not the main thread: the program around us handles signals.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
