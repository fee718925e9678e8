"""A run as a table: what each stage reached, what the paper reached, and how long it took."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from wsss_fast.files.names import printable
from wsss_fast.recipes.schema import Recipe, Stage

_HEADINGS = ("stage", "kind", "our mIoU", "paper's mIoU", "time")


@dataclass(frozen=True)
class Row:
    """A finished stage. `miou` in per cent, on the split `on`; None where nothing was measured."""

    stage: str
    kind: str
    folder: str
    miou: float | None
    on: str | None
    paper: float | None
    paper_on: str | None
    paper_verified: bool | None
    source: str | None
    seconds: float
    skipped: bool  # done by an earlier run
    outcome: dict[str, Any]


def row(recipe: Recipe, stage: Stage, folder: str, outcome: dict[str, Any], seconds: float, skipped: bool) -> Row:
    miou, paper = outcome.get("miou"), stage.paper
    return Row(
        stage.name,
        stage.kind,
        folder,
        None if miou is None else 100 * miou,
        None if miou is None else recipe.split(stage.judge) or "the data set",
        paper and paper.miou,
        paper and paper.split,
        paper and paper.verified,
        paper and paper.source,
        seconds,
        skipped,
        outcome,
    )


def as_text(rows: list[Row]) -> str:
    """Aligned columns, for a terminal."""
    table = [_HEADINGS, *(_cells(entry) for entry in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(_HEADINGS))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in table
    )


def as_markdown(recipe: Recipe, rows: list[Row], about: dict[str, Any]) -> str:
    lines = [
        f"# {recipe.title}",
        "",
        f"Recipe `{recipe.name}`. " + "; ".join(f"{key} {value}" for key, value in about.items()) + ".",
    ]
    if recipe.note:
        lines += ["", " ".join(recipe.note.split())]
    lines += ["", f"| {' | '.join(_HEADINGS)} |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(_cells(entry))} |" for entry in rows]
    lines += ["", "mIoU in per cent, background included; of soft maps at their best constant score of the background."]
    for entry in rows:
        for what, told in (
            ("missing", "no pattern, so they are never found"),
            ("ambiguous", "the sign of the pattern is doubtful"),
        ):
            if classes := entry.outcome.get(what):
                lines += ["", f"{entry.stage}: {told}: {printable(', '.join(classes))}."]
    sources = [entry for entry in rows if entry.source]
    lines += ["", "Figures of the papers:", ""] if sources else []
    lines += [f"- {entry.stage}: {entry.source}{'' if entry.paper_verified else ' (not verified)'}" for entry in sources]
    return "\n".join(lines) + "\n"


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    return [asdict(entry) for entry in rows]


def _cells(entry: Row) -> tuple[str, ...]:
    ours = "" if entry.miou is None else f"{entry.miou:.1f} ({entry.on})"
    paper = (
        "" if entry.paper is None else f"{entry.paper:.1f} ({entry.paper_on}{'' if entry.paper_verified else ', not verified'})"
    )
    return (entry.stage, entry.kind, ours, paper, str(timedelta(seconds=round(entry.seconds))))
