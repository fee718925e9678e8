"""What a job writes and removes are its own files: in folders of others, after other shards, beside images of odd names."""

from __future__ import annotations

import io

import numpy as np
import pytest
from label_standins import five_pictures, label, picture, tree

from wsss_fast.label import claims
from wsss_fast.label.lock import Lock, LockedError
from wsss_fast.label.manifest import read_rows
from wsss_fast.label.verify import verify
from wsss_fast.listing import plan
from wsss_fast.listing.plan import PlanError


@pytest.fixture
def folder(tmp_path):
    return five_pictures(tmp_path)


# Files of somebody else

THEIRS = [
    ({}, "failures.jsonl"),
    ({}, "img9.png"),
    ({"format": "index"}, "img9.png"),
    ({"format": "npz"}, "img9.npz"),
    ({"format": "alpha"}, "pairs/img9.npz"),
    ({"format": "coco"}, "coco.json"),
    ({"format": "panoptic"}, "panoptic.json"),
    ({"format": "panoptic"}, "panoptic/img9.png"),
    ({"format": "cvat"}, "cvat.zip"),
    ({"format": "labelstudio"}, "labelstudio.json"),
    ({"overlay": True}, "overlays/img9.jpg"),
    ({"report": True}, "report/index.html"),
    ({"report": True}, "report/pictures-0123456789abcdef/0001.jpg"),
    ({"shard": "1/2", "batch": 1}, "failures-1-of-2.jsonl"),
    ({"shard": "1/2", "batch": 1, "format": "cvat"}, "cvat-1-of-2.zip"),
]


@pytest.mark.parametrize(("settings", "name"), THEIRS, ids=[f"{name} {settings}" for settings, name in THEIRS])
def test_a_folder_without_a_manifest_keeps_its_files(folder, tmp_path, settings, name):
    if settings.get("format") == "coco":
        pytest.importorskip("pycocotools")
    precious = tmp_path / "out" / name
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"precious")
    for _ in range(2):  # the first refusal leaves nothing that would pass for a manifest
        with pytest.raises(PlanError, match=f"{name.split('/')[1 if 'pictures' in name else -1]}.*no job to resume wrote it"):
            label(folder, tmp_path / "out", **settings)
        assert list(tree(tmp_path / "out")) == [name] and precious.read_bytes() == b"precious"
    assert label(folder, tmp_path / "out", restart=True, **settings).failed == 0


def test_a_manifest_of_another_shard_speaks_for_its_own_files_alone(folder, tmp_path):
    out = tmp_path / "out"
    label(folder, out, shard="0/2", batch=1)
    (out / "img9.png").write_bytes(b"precious")
    with pytest.raises(PlanError, match="no job to resume wrote it"):
        label(folder, out, shard="1/2", batch=1)
    assert (out / "img9.png").read_bytes() == b"precious"
    (out / "manifest-1-of-2.jsonl").write_bytes(b"")  # says nothing
    with pytest.raises(PlanError, match="no job to resume wrote it"):
        label(folder, out, shard="1/2", batch=1)


def test_overlays_asked_for_later_replace_nobody_elses(folder, tmp_path):
    out = tmp_path / "out"
    label(folder, out)
    (out / "overlays").mkdir()
    (out / "overlays" / "img9.jpg").write_bytes(b"precious")
    for _ in range(2):
        with pytest.raises(PlanError, match=r"img9\.jpg is there, and no job to resume wrote it"):
            label(folder, out, overlay=True)
    assert (out / "overlays" / "img9.jpg").read_bytes() == b"precious"
    (out / "overlays" / "img9.jpg").unlink()
    label(folder, out, overlay=True)
    (out / "overlays" / "img9.jpg").write_bytes(b"damaged")  # but ours is replaced
    picture(77).save(folder / "img9.png")
    assert label(folder, out, overlay=True, batch=1).labelled == 1
    assert (out / "overlays" / "img9.jpg").read_bytes() != b"damaged"


def test_a_report_removes_pictures_of_reports_alone(folder, tmp_path):
    out = tmp_path / "out"
    label(folder, out)
    theirs = out / "report" / "pictures-0123456789abcdef" / "mine.jpg"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"precious")
    for shown in (1, 2):
        assert label(folder, out, report=True, report_images=shown).report is not None
    assert theirs.read_bytes() == b"precious" and len(list((out / "report").iterdir())) == 3


# Shards and restarts


def shards(images, out, **settings):
    return [label(images, out, batch=1, shard=f"{i}/2", **settings) for i in (0, 1)]


def test_a_restart_by_another_number_of_shards_can_be_resumed(folder, tmp_path):
    (folder / "torn.png").write_bytes(b"torn")
    settings = {"format": "cvat"}
    label(folder, tmp_path / "one", batch=1, **settings)
    shards(folder, tmp_path / "two", **settings)
    out = tmp_path / "out"
    shards(folder, out, **settings)
    for _ in range(2):
        label(folder, out, batch=1, restart=True, **settings)
        assert label(folder, out, batch=1, **settings).labelled == 0
        assert tree(out) == tree(tmp_path / "one") and verify(out).bad == 0
        shards(folder, out, restart=True, **settings)
        assert [summary.labelled for summary in shards(folder, out, **settings)] == [0, 0]
        assert tree(out) == tree(tmp_path / "two") and len(read_rows(out)) == 6


def test_a_restart_waits_for_no_shard_that_runs(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "_PATIENCE", 0.1)
    out = tmp_path / "out"
    shards(folder, out)
    before = tree(out)
    opened = claims.OutputFolder(out, "label")
    running = Lock(opened, claims.lock_name((1, 2)))
    with pytest.raises(LockedError, match="another job is writing"):
        label(folder, out, restart=True)
    running.release()
    opened.close()
    assert tree(out) == before
    assert label(folder, out, restart=True).labelled == 5


# Names that are files here and folders there

NAMES = [
    ("a.jpg", "a.png/b.jpg"),
    ("A.jpg", "a.PNG/b.jpg"),
    ("a.jpg", "a.jpg.png/c.jpg", "a.png/b.jpg"),
    ("a.jpg", "a.npz/b.jpg"),
    ("a.png", "a.jpg/b.png"),
    ("a.png", "overlays/a.jpg/b.png"),
    ("s/a.jpg", "pairs/s/a.npz/b.jpg"),
]


@pytest.mark.parametrize("settings", [{"overlay": True}, {"format": "npz"}, {"format": "alpha"}], ids=str)
@pytest.mark.parametrize("names", NAMES, ids=str)
def test_files_and_folders_of_one_name_are_kept_apart_by_the_plan(tmp_path, names, settings):
    given = tmp_path / "images"
    for index, name in enumerate(names):
        (given / name).parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(given / name)
    found = []
    for order in ((None,), ("0/2", "1/2"), ("1/2", "0/2")):
        out = tmp_path / f"out{len(found)}"
        summaries = [label(given, out, batch=1, shard=shard, **settings) for shard in order]
        assert not [failure for summary in summaries for failure in summary.failures]
        found.append({name: digest for name, digest in tree(out).items() if not name.startswith("manifest")})
    assert found[0] == found[1] == found[2] and len(found[0]) >= len(names)
    assert len({row["output"].casefold() for row in read_rows(tmp_path / "out0").values()}) == len(names)


def test_outputs_are_told_apart_whatever_the_names():
    """No output is another one, or a folder of another one, after folding; and the names are found in finite time."""
    random = np.random.default_rng(3)
    parts = ["a", "A", "a.png", "a.PNG", "a.jpg", "a.png.png", "a.jpg.png", "a.npz", "a.png.jpg"]
    for _ in range(300):
        chosen = {"/".join(random.choice(parts, random.integers(1, 4))) for _ in range(random.integers(2, 12))}
        folders = {name.rsplit("/", 1)[0] + "/" for name in chosen if "/" in name}
        names = [name for name in sorted(chosen) if not any(f"{name}/" in folder for folder in folders)]
        long = plan.output_names(names)
        outputs = [(long.get(i) or plan.short_output(name)).casefold() for i, name in enumerate(names)]
        assert len(set(outputs)) == len(names), names
        assert not [a for a in outputs for b in outputs if b.startswith(f"{a}/")], names


@pytest.mark.parametrize(
    "name",
    ["failures.jsonl", "manifest.jsonl", "manifest-0-of-2.jsonl", "coco.json", "cvat-1-of-2.zip", ".wsss-lock", "s/.wsss-0.tmp"],
)
def test_folders_of_images_called_like_files_of_the_job(tmp_path, name):
    (tmp_path / "images" / name).mkdir(parents=True)
    for place in (tmp_path / "images" / name / "a.png", tmp_path / "images" / "b.png"):
        picture(1).save(place)
    for shard in (None, "0/2", "1/2"):
        with pytest.raises(PlanError, match="the job itself has such names"):
            label(tmp_path / "images", tmp_path / "out", batch=1, shard=shard)
    assert not (tmp_path / "out").exists()
    buffer = io.BytesIO()
    picture(1).save(buffer, "PNG")
    assert label(tmp_path / "images" / name, tmp_path / "out").labelled == 1  # alone it is no folder of the output
