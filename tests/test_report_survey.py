"""What a report tells of a manifest: which rows count, which images are chosen, and in how much memory."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from wsss_fast.label import manifest
from wsss_fast.label.report.survey import OTHER_REASONS, take_survey
from wsss_fast.listing import plan


def plan_of(names: list[str]) -> plan.Plan:
    return plan.Plan(Path("unused"), plan.Names([plan.sort_key(name) for name in names]), {}, 8)


def write_manifest(out: Path, rows, name: str = "manifest.jsonl") -> None:
    out.mkdir(exist_ok=True)
    with (out / name).open("w", encoding="ascii") as file:
        file.write(json.dumps({"kind": "header", "classes": ["a", "b", "c"]}) + "\n")
        file.writelines(json.dumps({"kind": "image", **row}) + "\n" for row in rows)


def ok(name, classes=(), scores=(), share=(), width=10, height=10):
    sizes = {"width": width, "height": height}
    return {"image": name, "status": "ok", "classes": classes, "scores": scores, "share": share, **sizes}


def test_least_certain_and_largest_images_are_chosen(tmp_path):
    names = [f"i{n}.png" for n in range(40)]
    scores = np.random.default_rng(0).permutation(40) / 100 + 0.5
    sides = np.random.default_rng(1).permutation(40) + 10
    rows = [
        ok(name, ["a", "b"], [0.99, score], [0.25, 0.5], int(side))
        for name, score, side in zip(names, scores, sides, strict=True)
    ]
    # overtaken rows do not count, nor do images that are gone from the plan
    rows = [ok(names[3], ["c"], [0.01], [1.0], 9999), *rows, ok("gone.png", ["c"], [0.0], [1.0])]
    rows[1 + 7] = ok(names[7])
    write_manifest(tmp_path / "out", rows)
    told = take_survey(tmp_path / "out", plan_of(names), ("a", "b", "c"), 12)
    assert told.labelled == 40 and told.without_class == 1 and told.class_images == [39, 39, 0]
    kept = [n for n in range(40) if n != 7]
    by_score = sorted(kept, key=lambda n: scores[n])[:3]
    assert [image.name for image in told.groups["uncertain"]] == [names[n] for n in by_score]
    assert told.groups["uncertain"][0].certainty == pytest.approx(min(scores[kept]))
    areas = {n: sides[n] if n != 7 else 10 for n in range(40)}
    by_size = sorted(range(40), key=lambda n: -areas[n])[:3]
    assert [image.name for image in told.groups["largest"]] == [names[n] for n in by_size]
    assert [image.name for image in told.groups["without"]] == [names[7]]
    assert len(told.images()) == 12 and len({image.number for image in told.images()}) == 12
    assert take_survey(tmp_path / "out", plan_of(names), ("a", "b", "c"), 0).images() == []


def test_damaged_rows_are_named(tmp_path):
    names = ["i.png"]
    good = ok("i.png", ["a"], [0.5], [0.5])
    nan = float("nan")
    for change in (
        {"classes": ["unknown"]},
        {"share": [nan]},
        {"share": [2]},
        {"width": -1},
        {"width": "x"},
        {"scores": [0.1, 0.2]},
    ):
        write_manifest(tmp_path / "out", [{**good, **change}])
        with pytest.raises(manifest.ManifestError, match="is damaged"):
            take_survey(tmp_path / "out", plan_of(names), ("a", "b", "c"), 5)
    failures = [{"image": "i.png", "status": "failed", "reason": "x"}]
    write_manifest(tmp_path / "out", failures)
    assert take_survey(tmp_path / "out", plan_of(names), ("a",), 5).failed == 1


def test_reasons_are_bounded(tmp_path):
    names = [f"i{n}.png" for n in range(1500)]
    write_manifest(tmp_path / "out", ({"image": name, "status": "failed", "reason": f"because of {name}"} for name in names))
    told = take_survey(tmp_path / "out", plan_of(names), ("a",), 5)
    assert told.failed == 1500 and len(told.failures) == 200 and len(told.reasons) == 1001
    assert told.reasons[OTHER_REASONS] == 500 and sum(told.reasons.values()) == 1500


def _cost(out: Path, count: int) -> tuple[int, float]:
    """Peak bytes and seconds of a survey of so many images."""
    names = [f"folder/image{n:07d}.jpg" for n in range(count)]
    write_manifest(
        out, (ok(name, ["a", "c"], [0.9, 0.1 + n % 89 / 100], [0.25, 0.5], 500, 300 + n % 97) for n, name in enumerate(names))
    )
    planned = plan_of(names)
    del names
    tracemalloc.start()
    started = time.monotonic()
    assert take_survey(out, planned, ("a", "b", "c"), 60).labelled == count
    seconds = time.monotonic() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak, seconds


def test_memory_grows_by_eight_bytes_an_image(tmp_path):
    few, _ = _cost(tmp_path / "few", 2000)
    many, _ = _cost(tmp_path / "many", 7000)
    assert many - few < 5000 * 8 * 1.5


@pytest.mark.soak
def test_a_million_images(tmp_path):
    peak, seconds = _cost(tmp_path / "out", 1_000_000)
    assert peak < 16e6 and seconds < 600  # tracemalloc takes most of the time
