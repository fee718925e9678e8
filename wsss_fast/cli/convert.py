"""`wsss convert FILE --method METHOD --out FILE.safetensors`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from wsss_fast.cli import _parser, exit_codes

PROG = "wsss convert"
_EPILOG = (
    "Reads .pth, .pt (tensors only), .safetensors and MXNet .params, with the names of the published code. Every parameter must "
    "be there and fit; --absent allows what a file may lack, as in --absent 'fc8.*' for a backbone without its head."
)


def run(argv: Sequence[str]) -> int:
    parser = _parser.new_parser(PROG, "Turn a published checkpoint into one safetensors file that describes itself.", _EPILOG)
    parser.add_argument("file", type=str, metavar="FILE", help="the checkpoint")
    parser.add_argument("--out", type=str, required=True, metavar="FILE", help="the .safetensors file to write")
    parser.add_argument(
        "--method", type=str, default=None, metavar="METHOD", help="cam, seam, cpn, eps, l2g, affinitynet, irn, deeplab"
    )
    parser.add_argument("--backbone", type=str, default=None, metavar="NAME", help="default: the method's first")
    parser.add_argument("--num-classes", type=int, default=None, metavar="N", help="object classes (default: as the file has)")
    parser.add_argument("--published", type=str, default=None, metavar="NAME", help="paper or code, as for training")
    parser.add_argument("--classes", type=str, default="", metavar="A,B,…", help="names of the object classes, kept in the file")
    parser.add_argument("--absent", type=str, default="", metavar="PATTERN,…", help="parameters that the file may lack")
    parser.add_argument("--json", action="store_true", help="print the description for machines")
    try:
        given = _parser.parse(parser, argv)
    except _parser.UsageError as error:
        return _parser.usage_failure(PROG, str(error))
    from wsss_fast.methods import checkpoint

    description = checkpoint.convert(
        given.file,
        given.out,
        classes=_parser.names(given.classes),
        method=given.method,
        num_classes=given.num_classes,
        backbone=given.backbone,
        published=given.published,
        absent=_parser.names(given.absent),
    )
    if given.json:
        sys.stdout.write(json.dumps({"out": given.out, **description}) + "\n")
    else:
        of = f"{description['method']} on {description['backbone']}, {description['num_classes']} classes"
        sys.stdout.write(f"{given.out}: {of}\n")
    return exit_codes.DONE
