"""`wsss eval PREDICTIONS --truth DIR`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wsss_fast.cli import _parser, exit_codes
from wsss_fast.cli._progress import ProgressLine
from wsss_fast.files.names import printable

if TYPE_CHECKING:
    from wsss_fast.evaluate import Result

PROG = "wsss eval"
_EPILOG = (
    "PREDICTIONS holds masks <id>.png (palette, grey or 16 bit; as `wsss label` writes them) or soft maps <id>.npz with "
    "'classes' [K], 0-based, and 'maps' [K, H, W]; soft maps are measured at 100 background thresholds. Truth 255 is not counted."
)


def run(argv: Sequence[str]) -> int:
    parser = _parser.new_parser(PROG, "Compare masks, or soft maps, with the truth.", _EPILOG)
    parser.add_argument("predictions", type=str, metavar="PREDICTIONS", help="folder of masks or of soft maps")
    parser.add_argument("--truth", type=str, required=True, metavar="DIR", help="folder of index masks <id>.png")
    parser.add_argument(
        "--list", type=str, default=None, metavar="FILE", help="the images, one a line (default: all of the truth)"
    )
    parser.add_argument(
        "--classes",
        type=str,
        default=None,
        metavar="FILE|voc|N",
        help="object classes of the truth, one a line in the order of its values (default: classes.txt beside it), or how many",
    )
    parser.add_argument("--all", action="store_true", help="also list the classes that are in no mask and not in the truth")
    parser.add_argument("--allow-missing", action="store_true", help="leave images without a prediction out")
    parser.add_argument("--curve", type=str, default=None, metavar="FILE.png", help="write the threshold curve (soft maps only)")
    parser.add_argument("--json", action="store_true", help="print the result for machines")
    try:
        given = _parser.parse(parser, argv)
        if given.curve is not None and not given.curve.lower().endswith(".png"):
            raise _parser.UsageError(f"--curve: must end in .png, got '{printable(given.curve)}'")
    except _parser.UsageError as error:
        return _parser.usage_failure(PROG, str(error))
    from wsss_fast import evaluate
    from wsss_fast.data.labels import read_classes
    from wsss_fast.data.voc import CLASSES

    ids = None if given.list is None else evaluate.read_ids(given.list)
    classes = given.classes
    if classes is not None:
        classes = int(classes) if classes.isdecimal() else CLASSES if classes == "voc" else read_classes(classes)
    with ProgressLine("comparing", hidden=given.json) as progress:
        result = evaluate.folder(given.predictions, given.truth, ids, classes, given.allow_missing, progress.update)
    split = Path(given.list).name if given.list else "all of the truth"
    if given.curve is not None:
        if result.curve is None:
            raise ValueError("eval: '--curve' must go with soft maps (.npz), got masks, which have no threshold")
        _write_curve(Path(given.curve), result, split)
    sys.stdout.write(json.dumps(_for_machines(result, split)) + "\n" if given.json else _for_people(result, split, given.all))
    return exit_codes.DONE


def _write_curve(path: Path, result: Result, split: str) -> None:
    from wsss_fast.curve_picture import curve_png
    from wsss_fast.evaluate import THRESHOLDS
    from wsss_fast.files.folder import OutputFolder

    assert result.curve is not None
    folder = OutputFolder(path.parent, "eval")
    try:
        folder.write(path.name, curve_png(THRESHOLDS, result.curve, f"{printable(split)}, {result.images} images"))
    finally:
        folder.close()


def _for_machines(result: Result, split: str) -> dict:
    def number(value: float) -> float | None:
        return None if math.isnan(value) else float(value)

    found = {
        "split": split,
        "images": result.images,
        "missing": result.missing,
        "miou": number(result.miou),
        "iou": {name: number(value) for name, value in zip(result.names, result.iou, strict=True)},
        "notes": list(result.notes),
    }
    if result.curve is not None:
        found |= {"threshold": result.threshold, "curve": [number(value) for value in result.curve]}
    return found


def _for_people(result: Result, split: str, every: bool) -> str:
    rows = [(printable(name), value) for name, value in zip(result.names, result.iou, strict=True)]
    shown = [(name, value) for name, value in rows if every or not math.isnan(value)]
    width = max((len(name) for name, _ in shown), default=0)
    missing = f", {len(result.missing)} left out for want of a prediction" if result.missing else ""
    lines = [f"split {printable(split)}: {result.images} images{missing}", ""]
    lines += [f"  {name:<{width}}  {'absent' if math.isnan(value) else f'{100 * value:6.2f}'}" for name, value in shown]
    present = sum(not math.isnan(value) for value in result.iou)
    at = "" if result.threshold is None else f", at background threshold {result.threshold:.2f}, the best of 0.00..0.99"
    score = "unknown: no pixel was counted" if math.isnan(result.miou) else f"{100 * result.miou:.2f}"
    lines += ["", f"mIoU {score} (over {present} classes in prediction or truth, background included{at})"]
    if len(shown) < len(rows):
        lines.append(f"classes in neither: {len(rows) - len(shown)}; --all lists them too")
    lines += [f"note: {note}" for note in result.notes]
    if result.curve is not None:
        lines += ["", "threshold  mIoU"]
        lines += [f"     {step / 100:.2f}  {100 * result.curve[step]:5.2f}" for step in range(0, 100, 5)]
        lines.append("--json and --curve FILE.png give all 100 thresholds")
    return "\n".join(lines) + "\n"
