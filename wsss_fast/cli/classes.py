"""`wsss classes MODEL [WORD]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from wsss_fast.cli import _parser, exit_codes
from wsss_fast.files.names import printable

PROG = "wsss classes"
_EPILOG = (
    "In masks, value 0 is background and 255 is to be ignored. Labels name these classes, whatever their case, with spaces, "
    "underscores or hyphens. Nothing is run."
)


def run(argv: Sequence[str]) -> int:
    parser = _parser.new_parser(PROG, "List the classes of a model with their mask values.", _EPILOG)
    parser.add_argument(
        "model",
        type=str,
        metavar="MODEL",
        help="efficientnet-lite0, a .safetensors checkpoint, or an exported .onnx or .pt2 file",
    )
    parser.add_argument("word", type=str, nargs="?", default=None, metavar="WORD", help="only classes with this in their name")
    parser.add_argument("--json", action="store_true", help="print the list for machines")
    try:
        given = _parser.parse(parser, argv)
    except _parser.UsageError as error:
        return _parser.usage_failure(PROG, str(error))
    from wsss_fast.label.class_list import class_list

    classes = class_list(given.model)
    rows = classes.matching(given.word)
    if given.json:
        listed = [{"value": value, "name": name} for value, name in rows]
        sys.stdout.write(json.dumps({"model": given.model, "named": classes.named, "classes": listed}) + "\n")
        return exit_codes.DONE
    for value, name in rows:
        sys.stdout.write(f"{value:>5}  {printable(name)}\n")
    if not classes.named:
        sys.stderr.write(f"{PROG}: nobody named these classes. Hint: `wsss label --classes FILE` does, one name a line\n")
    return exit_codes.DONE
