"""Every kind of stage on tiny images, and runs that share what they make."""

from __future__ import annotations

import json

import data_worlds
import numpy as np
import pytest
import torch
from recipe_runs import NARROW, TRAIN, edited, go, stage

from wsss_fast.evaluate import read_maps, read_mask

CRF = {"iterations": 2, "bilateral": [8, 13, 10]}
LEARN = {**NARROW, "resize": "none"}
ALL = {
    "title": "everything",
    "dataset": "voc",
    "train": "train",
    "judge": "train",
    "test": "val",
    "stages": [
        {"name": "cam", "method": "cam", "backbone": "resnet50", **TRAIN},
        {"name": "maps", "kind": "maps", "model": "cam", "settings": {"sizes": "irn"}},
        {"name": "single", "kind": "eval", "of": "maps", "settings": {"images": "single"}},
        {"name": "masks", "kind": "masks", "maps": "maps", "settings": {"threshold": 0.5}},
        {"name": "refined", "kind": "crf", "maps": "maps", "settings": {**CRF, "alpha": 4}},
        {"name": "pairs", "kind": "pair_labels", "maps": "maps", "settings": {"crf": CRF}},
        {"name": "affinity", "method": "affinitynet", "pairs": "pairs", **TRAIN, "settings": LEARN},
        {"name": "walk", "kind": "walk", "model": "affinity", "maps": "maps", "settings": {"steps": 16}},
        {"name": "walk-refined", "kind": "crf", "scores": "walk", "settings": CRF},
        {"name": "walk-of-masks", "kind": "walk", "model": "affinity", "masks": "masks"},
        {"name": "labels", "kind": "pair_labels", "maps": "maps", "settings": {"style": "thresholds", "crf": CRF}},
        {"name": "edges", "method": "irn", "pairs": "labels", **TRAIN, "settings": {**LEARN, "radius": 4}},
        {"name": "irn-walk", "kind": "walk", "model": "edges", "maps": "maps", "settings": {"radius": 3}},
        {"name": "patterns", "kind": "patterns", "model": "cam"},
        {"name": "dcp", "kind": "masks", "patterns": "patterns", "model": "cam", "settings": {"crf": CRF}},
        {"name": "deeplab", "method": "deeplab", "backbone": "resnet38", "masks": "walk", **TRAIN, "settings": LEARN},
        {"name": "end", "kind": "segment", "model": "deeplab", "split": "test", "settings": {"scales": [1], "crf": CRF}},
    ],
}


@pytest.fixture(scope="module")
def small_images(tmp_path_factory):
    """Among them one smaller than the radius of the walks, and one that is a single line."""
    root = data_worlds.voc(tmp_path_factory.mktemp("small"))
    for number, size in ((1, (7, 5)), (4, (9, 1))):
        name = data_worlds.IDS[number]
        data_worlds.save(root / "JPEGImages" / f"{name}.jpg", data_worlds.photo(number, size))
        mask = np.full(size[::-1], data_worlds.labels_of(number)[0] + 1, np.uint8)
        data_worlds.save(root / "SegmentationClassAug" / f"{name}.png", mask)
    return root


def test_every_kind(small_images, tmp_path):
    torch.manual_seed(0)
    values = json.loads(json.dumps(ALL))
    values["stages"][0]["options"]["width"] = 0.05
    values["stages"][11]["options"]["width"] = 0.05
    result = go(small_images, tmp_path, values)
    rows = {row.stage: row for row in result.rows}
    assert list(rows) == [entry["name"] for entry in ALL["stages"]]
    measured = {name for name, row in rows.items() if row.miou is not None}
    assert measured == {"maps", "single", "masks", "refined", "walk", "walk-refined", "walk-of-masks", "irn-walk", "dcp", "end"}
    assert rows["maps"].outcome["images"] == 6 and rows["single"].outcome["images"] == 5 and rows["end"].on == "val"
    for name in measured - {"maps", "single"}:
        split = data_worlds.IDS[6:] if name == "end" else data_worlds.IDS[:6]
        for image in split:
            mask = read_mask(stage(tmp_path, name) / f"{image}.png")
            truth = read_mask(small_images / "SegmentationClassAug" / f"{image}.png")
            assert mask.shape == truth.shape and set(np.unique(mask)) <= {0, 1, 2, 255}
            if name != "end":  # masks hold the classes of the image alone
                allowed = {0, 255, *(place + 1 for place in data_worlds.labels_of(data_worlds.IDS.index(image)))}
                assert set(np.unique(mask)) <= allowed
    assert all(row.skipped for row in go(small_images, tmp_path, values).rows)
    classes, maps = read_maps(stage(tmp_path, "maps") / f"{data_worlds.IDS[0]}.npz")
    expected = np.where(maps.max(0) > 127.5, classes[maps.argmax(0)] + 1, 0)
    assert (read_mask(stage(tmp_path, "masks") / f"{data_worlds.IDS[0]}.png") == expected).all()


def test_patterns_that_cannot_be_trusted_are_told(tmp_path):
    """A class without an image, in a data set that names it."""
    voc = data_worlds.voc(tmp_path / "voc")
    (voc / "classes.txt").write_text("cat\ndog\nunicorn\n")
    chosen = [entry for entry in ALL["stages"] if entry["name"] in ("cam", "patterns", "dcp")]
    row = go(voc, tmp_path / "out", {**ALL, "stages": chosen}).rows[1]
    assert row.outcome["missing"] == ["unicorn"] and set(row.outcome["ambiguous"]) <= {"cat", "dog"}
    told = (tmp_path / "out" / "report.md").read_text()
    assert "patterns: no pattern, so they are never found: unicorn." in told
    assert ("the sign of the pattern is doubtful" in told) == bool(row.outcome["ambiguous"])


def test_runs_that_share(tmp_path):
    """Another recipe with a stage of the same settings and inputs takes what is there."""
    voc = data_worlds.voc(tmp_path / "voc")
    one = go(voc, tmp_path / "a", shared=tmp_path / "shared")
    renamed = edited(lambda all: (all[0].update(name="first"), all[1].update(model="first")))
    other = go(voc, tmp_path / "b", renamed, shared=tmp_path / "shared")
    assert [row.skipped for row in one.rows] == [False, False] and [row.skipped for row in other.rows] == [True, True]
    third = go(voc, tmp_path / "c", edited(lambda all: all[1]["settings"].update(scales=[2])), shared=tmp_path / "shared")
    assert [row.skipped for row in third.rows] == [True, False]
