"""What the labelling pipeline writes, and which arguments it takes."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from label_standins import BrightEngine, five_pictures, label
from PIL import Image

import wsss_fast
from wsss_fast.classes.groups import imagenet_groups
from wsss_fast.cli import main
from wsss_fast.files.images import FileStamp, Picture
from wsss_fast.files.png import PALETTE
from wsss_fast.label import manifest, pipeline, refine
from wsss_fast.label.manifest import read_rows
from wsss_fast.label.predict import Prediction, load_model, resolved
from wsss_fast.label.settings import LabelSettings, SettingsError


@pytest.fixture
def folder(tmp_path):
    return five_pictures(tmp_path)


def test_the_demo_gives_the_classes_that_people_see(tmp_path, capsys, one_thread):
    """`wsss demo` on the real photos with the real network: the one test here that takes seconds."""
    assert main(["demo", "--out", str(tmp_path)]) == 0
    text, out = capsys.readouterr().out, tmp_path / "masks"
    assert "wsss label PHOTOS" in text and str(out / "overlays" / "chelsea.jpg") in text
    names = [group.name for group in imagenet_groups()]
    rows = read_rows(out)
    # (row, column) that are certainly on the object, and certainly not
    expected = {
        "chelsea": ("cat", (150, 230), (20, 445)),
        "coffee": ("cup", (170, 290), (390, 590)),
        "camera": ("tripod", (330, 260), (60, 60)),
    }
    for stem, (group, inside, outside) in expected.items():
        row = rows[f"{stem}.png"]
        assert f"{group} (" in text
        assert row["classes"] == [group], row
        with Image.open(out / f"{stem}.png") as mask:
            assert mask.mode == "P"
            values = np.array(mask)
        assert values[inside] == names.index(group) + 1
        assert values[outside] == 0
        assert 0.1 < (values > 0).mean() < 0.9
        with Image.open(out / "overlays" / f"{stem}.jpg") as overlay:
            assert overlay.width > 600 and overlay.format == "JPEG"


def test_masks_are_palette_png_with_voc_colours(folder, tmp_path):
    label(folder, tmp_path / "out")
    with Image.open(tmp_path / "out" / "img8.png") as mask:
        assert mask.mode == "P" and mask.size == (24, 16)
        assert list(np.unique(np.array(mask))) == [0, 1]
        assert np.array(mask.convert("RGB"))[0, 0].tolist() == [128, 0, 0]
    colours = {1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {value: tuple(PALETTE[3 * value : 3 * value + 3]) for value in colours} == colours


def test_manifest_describes_the_job(folder, tmp_path):
    label(folder, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["header", "plan"] + ["image"] * 5
    assert lines[0]["classes"] == ["bright", "dark"] and lines[0]["settings"]["background"] == 0.3
    assert [line["image"] for line in lines[2:]] == [f"img{n}.png" for n in (8, 9, 10, 11, 12)]  # natural order
    for line in lines[2:]:
        data = (tmp_path / "out" / line["output"]).read_bytes()
        assert line["sha256"] == hashlib.sha256(data).hexdigest() and line["output_bytes"] == len(data)


def test_without_out_the_masks_are_in_memory_and_equal(folder, tmp_path):
    label(folder, tmp_path / "out")
    summary = label([folder / "img9.png", folder / "img8.png"])
    assert [result.image for result in summary.results] == ["img8.png", "img9.png"]
    for result in summary.results:
        assert np.array_equal(result.mask, np.array(Image.open(tmp_path / "out" / result.image)))


def test_without_out_too_many_failures_end_the_job_too(folder):
    for name in ("img8.png", "img9.png"):
        (folder / name).write_bytes(b"broken")
    summary = label(folder, max_failures=0)
    assert summary.stopped and len(summary.results) == 1


def mask_of(prediction, height, width, **settings):
    """Of an image whose size is that of the maps."""
    picture = Picture(np.zeros((height, width, 3), np.uint8), height, width, FileStamp(0, 0), "PNG")
    return refine.make_mask(prediction, picture, resolved(BrightEngine(), LabelSettings(**settings)))


def test_largest_map_above_the_background_wins():
    maps = torch.zeros(3, 1, 4)
    maps[0, 0] = torch.tensor([1.0, 0.5, 0.2, 0.0])
    maps[1, 0] = torch.tensor([0.0, 4.0, 0.8, 0.0])
    maps[2, 0] = 9.0
    mask = mask_of(Prediction(torch.tensor([0.4, 0.5, 0.2]), (maps,)), 1, 4, present=0.3, background=0.25)
    assert mask.classes == (1, 0)  # most probable first; class 2 is not present however large its map
    assert mask.values.tolist() == [[1, 2, 0, 0]]


def test_equal_values_go_to_the_background_then_to_the_more_probable():
    maps = torch.tensor([[[1.0, 0.5]], [[1.0, 0.5]]])
    mask = mask_of(Prediction(torch.tensor([0.3, 0.6]), (maps,)), 1, 2, background=0.5)
    assert mask.values.tolist() == [[2, 0]]


def test_maps_of_the_mirrored_image_are_turned_back(one_thread):
    from skimage import data

    engine = load_model("efficientnet-lite0", LabelSettings(scales=(0.5,)))
    photo = np.array(Image.fromarray(data.camera()).convert("RGB"))[:, 100:]  # the tripod stands left of the middle
    prediction = engine.predict(photo)
    assert prediction.flipped == (False, True)
    plain, mirrored = prediction.maps[0], prediction.maps[1].flip(2)
    tripod = engine.class_names.index("tripod")

    def centre(plane):
        return float((plane.sum(0) * torch.arange(plane.shape[1])).sum() / plane.sum()) / (plane.shape[1] - 1)

    centres = [centre(maps[tripod].clamp_min(0)) for maps in (plain, mirrored)]
    assert all(value < 0.47 for value in centres), centres


def test_maps_of_scales_and_flips_are_added_before_scaling_to_one():
    first = torch.tensor([[[1.0, 0.0]]])
    second = torch.tensor([[[0.0, 3.0]]])
    mask = mask_of(Prediction(torch.tensor([1.0]), (first, second)), 1, 2, background=0.5)
    assert mask.values.tolist() == [[0, 1]]  # 1/3 and 3/3


def test_nothing_present_and_nowhere_positive_give_background():
    for score, plane in ((0.1, torch.ones(1, 2, 2)), (0.9, -torch.ones(1, 2, 2))):
        mask = mask_of(Prediction(torch.tensor([score]), (plane,)), 4, 4)
        assert not mask.values.any()


# Classes


def test_class_groups_are_disjoint_and_begin_with_voc():
    groups = imagenet_groups()
    voc = "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant"
    assert [group.name for group in groups[:20]] == [*voc.split(), "sheep", "sofa", "train", "tvmonitor"]
    every = [index for group in groups for index in group.classes]
    assert len(every) == len(set(every)) and min(every) >= 0 and max(every) <= 999
    assert len({group.name for group in groups}) == len(groups) <= 254
    where = {index: group.name for group in groups for index in group.classes}
    known = {281: "cat", 207: "dog", 404: "aeroplane", 504: "cup", 967: "cup", 872: "tripod", 759: "camera", 963: "pizza"}
    assert {index: where[index] for index in known} == known


def test_the_order_of_groups_is_frozen():
    """Mask values mean places in this list: a new group goes to its end, and then this sum is changed with it."""
    names = "\n".join(group.name for group in imagenet_groups())
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "e5096f81a36544e5"


# Arguments


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"present": 1.5}, "'present' must be a number from 0 to 1, got 1.5"),
        ({"background": float("nan")}, "'background'"),
        ({"max_side": 3}, "'max_side' must be a whole number from 32"),
        ({"max_side": 64.0}, "'max_side'"),
        ({"scales": ()}, "'scales' must be 1 to 16 numbers"),
        ({"scales": (1, 1.0)}, "'scales' must differ"),
        ({"scales": (0.5, 99)}, "'scales'"),
        ({"flip": 1}, "'flip' must be True or False"),
        ({"exif": "aply"}, "did you mean 'apply'"),
        ({"device": "gpu"}, "'device' must be one of"),
        ({"bacground": 0.2}, "unknown setting 'bacground'. Hint: did you mean 'background'"),
    ],
)
def test_settings_are_checked(folder, values, message):
    with pytest.raises(SettingsError) as caught:
        label(folder, **values)
    assert message in str(caught.value)


def test_unknown_models_are_named(folder):
    with pytest.raises(SettingsError, match="did you mean 'efficientnet-lite0'"):
        wsss_fast.label(folder, "efficientnet-lite1")
    with pytest.raises(TypeError, match="'model' must be a name, a file, a network or an engine, got int"):
        wsss_fast.label(folder, 3)


def test_label_is_a_function_and_a_package():
    import wsss_fast.label.manifest as inner

    assert callable(wsss_fast.label) and inner is manifest
    assert wsss_fast.label is pipeline.label or wsss_fast.label.pipeline is pipeline
