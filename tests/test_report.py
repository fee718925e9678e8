"""The report of a job: what it counts and shows, what it writes and keeps, and that it never costs the labels."""

from __future__ import annotations

import errno
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from label_standins import BrightEngine, five_pictures, label, picture, tree
from PIL import Image

from wsss_fast.cli import exit_codes, main
from wsss_fast.cli import label as label_command
from wsss_fast.files.folder import OutputFolder, OutputRefusedError, OutputStoppedError
from wsss_fast.label.predict import Defaults, Prediction
from wsss_fast.label.report import page
from wsss_fast.label.report.survey import take_survey
from wsss_fast.label.settings import LabelSettings, SettingsError
from wsss_fast.listing.plan import PlanError
from wsss_fast.listing.sources import make_plan

HOSTILE = (
    "<img src=x onerror=alert(1)>.png",
    'a"><script>alert(1)<' + "/script>.png",
    "'\n&amp;\x1b[31m.png",
    "$title ${name}.png",
)


@pytest.fixture
def folder(tmp_path):
    return five_pictures(tmp_path)


class Reader(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def read(out: Path) -> Reader:
    return Reader((out / "report" / "index.html").read_text(encoding="utf-8"))


def is_whole(out: Path) -> bool:
    """Whether every picture that the page names is there."""
    sources = [attributes["src"] for attributes in read(out).of("img")]
    return bool(sources) and all((out / "report" / source).is_file() for source in sources)


def test_counts_are_those_of_the_masks(folder, tmp_path):
    (folder / "broken.png").write_bytes(b"no picture")
    picture(9, (40, 30)).save(folder / "wide.png")
    summary = label(folder, tmp_path / "out", uncertain=0.05, report=True)
    assert summary.report == tmp_path / "out" / "report" / "index.html" and summary.report_failure is None
    masks = [np.array(Image.open(path)) for path in sorted((tmp_path / "out").glob("*.png"))]
    assert len(masks) == 6
    # `present` 0.3 leaves class 0 alone
    pixels = sum(int((mask == 1).sum()) for mask in masks)
    planned = make_plan(folder, tmp_path / "out", operation="label")
    told = take_survey(tmp_path / "out", planned, ("bright", "dark"), 60)
    assert (told.planned, told.labelled, told.failed, told.without_class, told.waiting) == (7, 6, 1, 0, 0)
    assert told.class_images == [6, 0] and told.class_pixels[0] == pytest.approx(pixels, abs=1e-4 * told.pixels)
    assert told.pixels == sum(mask.size for mask in masks)
    expected = [0] * 20
    for mask in masks:
        expected[min(19, int(round((mask == 1).mean(), 4) * 20))] += 1
    assert told.coverage == expected
    assert told.failures[0][0] == "broken.png" and "not an image" in next(iter(told.reasons))
    text = " ".join(read(tmp_path / "out").text.split())
    assert "broken.png" in text and "not an image" in text and "wide.png" in text and "40 × 30" in text
    assert "1 image could not be labelled" in text


def test_the_same_job_gives_the_same_report(folder, tmp_path):
    label(folder, tmp_path / "out", report=True)
    first = tree(tmp_path / "out")
    assert len([name for name in first if name.endswith("-cam.png")]) == 5
    label(folder, tmp_path / "out", report=True)
    assert tree(tmp_path / "out") == first


def test_a_finished_job_gets_a_report_later(folder, tmp_path):
    label(folder, tmp_path / "out", engine := BrightEngine())
    masks = tree(tmp_path / "out")
    summary = label(folder, tmp_path / "out", engine, report=True, report_images=2)
    assert summary.skipped == 5 and engine.calls == 5 + 2
    now = tree(tmp_path / "out")
    assert {name: now[name] for name in masks} == masks
    assert len(read(tmp_path / "out").of("img")) == 2 * 3 and is_whole(tmp_path / "out")
    earlier = {name for name in now if name.startswith("report/pictures-")}
    label(folder, tmp_path / "out", engine, report=True, report_images=3)
    assert not earlier & set(tree(tmp_path / "out")) and is_whole(tmp_path / "out")  # other pictures took their place
    label(folder, tmp_path / "out", engine, report=True, report_images=0)
    assert not read(tmp_path / "out").of("img") and "5" in read(tmp_path / "out").text


def test_the_script_knows_the_page_and_the_policy_knows_the_script(folder, tmp_path):
    label(folder, tmp_path / "out", report=True)
    found = read(tmp_path / "out")
    policy = next(meta["content"] for meta in found.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
    assert len(re.findall(r"'sha256-[A-Za-z0-9+/]{43}='", policy)) == 2
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on") or name == "style"]
    assert not [value for _, attributes in found.tags for value in attributes.values() if value and "://" in value]
    text = (tmp_path / "out" / "report" / "index.html").read_bytes()
    assert text.startswith(page.FIRST_BYTES) and b"$" not in re.sub(rb"<script>.*</script>", b"", text, flags=re.DOTALL)
    used = set(re.findall(r'getElementById\("([\w-]+)"\)', (Path(page.__file__).parent / "page.js").read_text(encoding="utf-8")))
    assert used and used <= {attributes.get("id") for _, attributes in found.tags}


def test_hostile_names_are_text(tmp_path):
    (tmp_path / "images").mkdir()
    for n, name in enumerate(HOSTILE):
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        picture(n).save(tmp_path / "images" / name, "PNG")
        (tmp_path / "images" / f"broken {name}").parent.mkdir(exist_ok=True)
        (tmp_path / "images" / f"broken {name}").write_bytes(b"x")

    class Hostile(BrightEngine):
        class_names = ('<b onclick="alert(1)">bright</b>', "dark")

    summary = label(tmp_path / "images", tmp_path / "out", Hostile(backbone="<script>alert(2)</script>"), report=True)
    assert (summary.labelled, summary.failed) == (4, 4)
    found = read(tmp_path / "out")
    plain = tmp_path / "plain"
    label(five_pictures(tmp_path / "out"), plain, report=True)
    assert {name for name, _ in found.tags} - {"thead", "tbody", "table", "td"} <= {name for name, _ in read(plain).tags}
    assert len(found.of("script")) == 1 and len(found.of("img")) == 4 * 3
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    for name in (
        "<img src=x onerror=alert(1)>.png",
        'a"><script>alert(1)</script>.png',
        "'\\n&amp;\\x1b[31m.png",
        "$title ${name}.png",
    ):
        assert name in found.text and f"broken {name}" in found.text
        assert any(attributes.get("aria-label") == f"Open {name}" for attributes in found.of("button"))
    assert '<b onclick="alert(1)">bright</b>' in found.text
    files = [path for path in (tmp_path / "out" / "report").rglob("*") if path.is_file()]
    assert all(re.fullmatch(r"index\.html|\d{4}(-cam\.png|-mask\.png|\.jpg)", path.name) for path in files)


def test_long_names_are_cut(folder, tmp_path):
    class Long(BrightEngine):
        class_names = ("x" * 100_000, "dark")

    label(folder, tmp_path / "out", Long(), report=True)
    assert (tmp_path / "out" / "report" / "index.html").stat().st_size < 100_000


def test_a_report_that_fails_costs_no_label(folder, tmp_path, monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("no page today")

    with monkeypatch.context() as patch:
        patch.setattr(page, "render", broken)
        summary = label(folder, tmp_path / "out", report=True)
    assert summary.labelled == 5 and summary.report is None and "no page today" in str(summary.report_failure)
    plain = tmp_path / "plain"
    label(folder, plain)
    masks = tree(plain)
    assert {name: digest for name, digest in tree(tmp_path / "out").items() if not name.startswith("report/")} == masks
    monkeypatch.setattr("wsss_fast.label.pipeline.load_model", lambda *_: BrightEngine())
    monkeypatch.setattr(page, "render", broken)
    arguments = ["label", str(folder), "--out", str(tmp_path / "out"), "--report", "--workers", "0"]
    assert main(arguments) == exit_codes.ERROR
    assert "the masks are complete, the report is not: no page today" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr("wsss_fast.label.pipeline.load_model", lambda *_: BrightEngine())
    assert main([*arguments, "--json"]) == exit_codes.DONE
    assert json.loads(capsys.readouterr().out)["report"] == str(tmp_path / "out" / "report" / "index.html")
    assert main(arguments) == exit_codes.DONE and "Report: " in capsys.readouterr().out


def test_a_full_disk_at_any_write_leaves_a_whole_report(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    label(folder, out, report=True, report_images=1)
    masks = tree(out)
    whole = OutputFolder.write
    for failing in range(1, 2 * 3 + 2):
        left = failing

        def write(self, name, data):
            nonlocal left
            left -= name.startswith("report/")
            if left == 0:
                with self.errors(name):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            whole(self, name, data)

        with monkeypatch.context() as patch:
            patch.setattr(OutputFolder, "write", write)
            summary = label(folder, out, report=True, report_images=2)
        assert isinstance(summary.report_failure, OutputStoppedError) and "No space left" in str(summary.report_failure)
        assert label_command._report_failure(summary.report_failure) == exit_codes.STOPPED
        assert is_whole(out) and len(read(out).of("img")) == 3
    assert label(folder, out, report=True, report_images=2).report is not None
    assert is_whole(out) and len(read(out).of("img")) == 6
    now = tree(out)
    assert {name: now[name] for name in masks if not name.startswith("report/")}.items() <= masks.items()


def test_nothing_foreign_is_replaced_or_followed(folder, tmp_path):
    out = tmp_path / "out"
    (out / "report" / "pictures-mine").mkdir(parents=True)
    (out / "report" / "index.html").write_text("my page")
    with pytest.raises(PlanError, match=r"index\.html is there, and no job to resume wrote it"):
        label(folder, out, report=True)
    label(folder, out)
    summary = label(folder, out, report=True)
    assert isinstance(summary.report_failure, OutputRefusedError) and "was not written by wsss" in str(summary.report_failure)
    assert (out / "report" / "index.html").read_text() == "my page"
    (out / "report" / "index.html").unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept.png").write_bytes(b"kept")
    (out / "report" / "pictures-0123456789abcdef").symlink_to(tmp_path / "elsewhere")
    assert label(folder, out, report=True).report is not None
    assert (out / "report" / "pictures-mine").is_dir() and [path.name for path in (tmp_path / "elsewhere").iterdir()] == [
        "kept.png"
    ]
    for path in sorted((out / "report").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    (out / "report").rmdir()
    (out / "report").symlink_to(tmp_path / "elsewhere")
    assert isinstance(label(folder, out, report=True).report_failure, OutputRefusedError)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["kept.png"]


def test_images_in_a_folder_named_report_are_refused(folder, tmp_path):
    (folder / "report").mkdir()
    picture(0).save(folder / "report" / "a.png")
    with pytest.raises(PlanError, match="in a folder named report do not go with --report"):
        label(folder, tmp_path / "out", report=True)
    assert label(folder, tmp_path / "out").labelled == 6


def test_settings_are_checked():
    with pytest.raises(SettingsError, match="'report_images' must"):
        LabelSettings.create(report_images=-1)
    with pytest.raises(SettingsError, match="'report' is for files"):
        label(["a.png"], report=True)


def test_the_last_shard_writes_the_report(folder, tmp_path):
    settings = {"report": True, "batch": 1}
    assert label(folder, tmp_path / "out", shard="1/2", **settings).report is None
    assert not (tmp_path / "out" / "report").exists()
    assert label(folder, tmp_path / "out", shard="0/2", **settings).report is not None
    assert len(read(tmp_path / "out").of("img")) == 15
    assert label(folder, tmp_path / "out", shard="1/2", **settings).report is not None


def test_pictures_that_cannot_be_made_are_explained(folder, tmp_path):
    out = tmp_path / "out"
    label(folder, out)
    good = (out / "img9.png").read_bytes()
    picture(1, (7, 5)).convert("P").save(tmp_path / "small.png")
    small = (tmp_path / "small.png").read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 255
    # of the length that the manifest tells, or the image is labelled again
    (out / "img8.png").write_bytes(small[: len(small)].ljust(len((out / "img8.png").read_bytes()), b"\0"))
    (out / "img9.png").write_bytes(bytes(damaged))
    summary = label(folder, out, report=True)
    assert summary.report is not None
    found = read(out)
    assert len(found.of("img")) >= 3 * 3 and is_whole(out)
    assert "its mask cannot be read" in found.text


class Scores:
    """A segmentation network: class 0 wins on the left half."""

    class_names = ("left", "right")
    identity = {"method": "deeplab", "backbone": "none"}  # noqa: RUF012
    defaults = Defaults((1.0,), None)

    def predict(self, pixels):
        scores = torch.zeros(3, 4, 4)
        scores[1, :, :2], scores[2, :, 2:] = 5, 0
        return Prediction(None, (scores,))


@pytest.mark.parametrize("settings", [{"format": "index"}, {"format": "npz"}, {"format": "alpha"}, {}], ids=str)
def test_every_format_has_pictures(folder, tmp_path, settings):
    label(folder, tmp_path / "out", report=True, report_images=2, **settings)
    assert len(read(tmp_path / "out").of("img")) == 6 and is_whole(tmp_path / "out")


def test_layers_show_maps_and_mask(folder, tmp_path):
    out = tmp_path / "out"
    label(folder, out, Scores(), report=True, report_images=1)
    sources = {attributes["class"]: out / "report" / attributes["src"] for attributes in read(out).of("img")}
    mask = np.array(Image.open(sources["mask"]))
    cam = np.array(Image.open(sources["cam"])).astype(int)
    shown = np.array(Image.open(sources["image"]))
    assert mask.shape == (*shown.shape[:2], 4)
    left, right = mask[5, 2], mask[5, -2]
    assert tuple(left[:3]) == (128, 0, 0) and left[3] == 140 and tuple(right) == (0, 0, 0, 102)
    assert cam[5, 1, :3].sum() > 1.5 * cam[5, -2, :3].sum()  # brighter is stronger
    assert "sure" not in read(out).text and "Least certain" not in read(out).text  # nobody said how sure it is


def test_overlays_of_more_classes_than_colours(folder, tmp_path):
    class Many(BrightEngine):
        class_names = tuple(f"c{i}" for i in range(1000))

        def predict(self, pixels):
            maps = torch.full((1000, 4, 4), -1.0)
            maps[700, :2] = 1
            scores = torch.zeros(1000)
            scores[700] = 1
            return Prediction(scores, (maps,))

    label(folder, tmp_path / "out", Many(), format="index", uncertain=0.2, overlay=True, report=True, report_images=1)
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 5 and is_whole(tmp_path / "out")
    assert "c700" in read(tmp_path / "out").text
