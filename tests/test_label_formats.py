"""Every output format, read back by other programs where there are some."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from label_standins import BrightEngine, five_pictures, label, picture, tree
from PIL import Image

from wsss_fast import evaluate, ops
from wsss_fast.label.brush_rle import brush_rle
from wsss_fast.label.manifest import ManifestError, read_rows
from wsss_fast.label.predict import Prediction
from wsss_fast.label.settings import SettingsError
from wsss_fast.label.verify import verify
from wsss_fast.methods import pair_labels

NAMES = [f"img{n}" for n in range(8, 13)]


@pytest.fixture
def folder(tmp_path):
    return five_pictures(tmp_path)


@pytest.fixture
def masks(folder, tmp_path):
    """Those of the plain format, by stem."""
    label(folder, tmp_path / "plain", uncertain=0.4)
    found = {name: np.array(Image.open(tmp_path / "plain" / f"{name}.png")) for name in NAMES}
    assert any((mask == 255).any() for mask in found.values())
    return found


def made(folder, out, kind, **settings):
    label(folder, out, format=kind, **{"uncertain": 0.4, **settings})
    return out


def test_index_is_16_bit(folder, tmp_path, masks):
    out = made(folder, tmp_path / "out", "index")
    for name, mask in masks.items():
        with Image.open(out / f"{name}.png") as image:
            assert image.mode.startswith("I")
            assert np.array_equal(np.array(image), np.where(mask == 255, 65535, mask.astype(int)))
    assert evaluate.folder(tmp_path / "plain", out).miou == 1  # what one of them ignores the other ignores too


def test_more_classes_than_a_byte_counts_need_index(folder, tmp_path):
    class Many(BrightEngine):
        class_names = tuple(f"c{i}" for i in range(1000))

        def predict(self, pixels):
            maps = torch.zeros(1000, 4, 4)
            maps[700] = 1
            scores = torch.zeros(1000)
            scores[700] = 1
            return Prediction(scores, (maps,))

    with pytest.raises(SettingsError, match="1 to 254 classes, got 1000"):
        label(folder, tmp_path / "out", Many())
    label(folder, tmp_path / "out", Many(), format="index")
    assert np.unique(np.array(Image.open(tmp_path / "out" / "img8.png"))).tolist() == [701]
    assert read_rows(tmp_path / "out")["img8.png"]["share"] == [1.0]


def test_npz_holds_the_maps_without_pickle(folder, tmp_path):
    out = made(folder, tmp_path / "out", "npz", uncertain=None, batch=2)
    again = made(folder, tmp_path / "again", "npz", uncertain=None, workers=2)
    assert not list(out.glob("*.png"))
    for name in NAMES:
        with np.load(out / f"{name}.npz", allow_pickle=False) as file:
            assert file["classes"].tolist() == [0] and file["maps"].dtype == np.uint8
            grey = np.array(Image.open(folder / f"{name}.png"), np.float32).mean(2) / 255 - 0.5
            expected = (255 * np.maximum(grey, 0) / grey.max()).astype(np.uint8)
            assert np.abs(file["maps"][0].astype(int) - expected).max() <= 1
        assert (out / f"{name}.npz").read_bytes() == (again / f"{name}.npz").read_bytes()
    assert label(folder, out, format="npz", batch=2).skipped == 5


def test_alpha_pairs_and_their_mask(folder, tmp_path):
    out = made(folder, tmp_path / "out", "alpha", uncertain=None, alphas=(2.0, 12.0))
    for name in NAMES:
        image = np.array(Image.open(folder / f"{name}.png"))
        m = torch.from_numpy(np.maximum(image.astype(np.float32).mean(2) / 255 - 0.5, 0))[None, None]
        m = m / (m.max() + 1e-5)
        given = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
        wins = {}
        stored = pair_labels.read(out / "pairs" / f"{name}.npz")  # as the training of AffinityNet reads it
        assert stored.classes.tolist() == [0]
        for kind, alpha in (("low", 2.0), ("high", 12.0)):
            q = ops.dense_crf(torch.cat([(1 - m) ** alpha, m], dim=1), given)
            assert np.abs(getattr(stored, kind).astype(int) - (255 * q[0]).round().numpy()).max() <= 1
            wins[kind] = q[0].argmax(0).numpy()
        expected = np.where(wins["high"] == 0, 0, np.where(wins["low"] == 0, 255, wins["low"]))
        assert (np.array(Image.open(out / f"{name}.png")) != expected).mean() < 0.01
    assert evaluate.folder(out, out).miou == 1  # its masks are found beside the maps
    assert verify(out).files == 10
    (out / "pairs" / "img9.npz").unlink()
    assert verify(out).bad == 1
    assert label(folder, out, format="alpha", alphas=(2.0, 12.0), batch=1).labelled == 1
    assert verify(out).bad == 0


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools' own, in its decoder
def test_coco_is_read_by_pycocotools(folder, tmp_path, masks):
    coco = pytest.importorskip("pycocotools.coco")
    out = made(folder, tmp_path / "out", "coco")
    file = coco.COCO(str(out / "coco.json"))
    assert {entry["name"] for entry in file.loadCats(file.getCatIds())} == {"bright", "dark"}
    for image in file.loadImgs(file.getImgIds()):
        mask = masks[image["file_name"][:-4]]
        assert (image["height"], image["width"]) == mask.shape
        found = np.zeros_like(mask)
        for entry in file.loadAnns(file.getAnnIds(imgIds=[image["id"]])):
            one = file.annToMask(entry)
            found[one > 0] = entry["category_id"]
            assert entry["area"] == one.sum()
        assert np.array_equal(found, np.where(mask == 255, 0, mask))


def test_panoptic_ids_are_in_the_colours(folder, tmp_path, masks):
    out = made(folder, tmp_path / "out", "panoptic")
    whole = json.loads((out / "panoptic.json").read_text())
    assert len(whole["annotations"]) == len(whole["images"]) == 5
    for entry in whole["annotations"]:
        colours = np.array(Image.open(out / "panoptic" / entry["file_name"])).astype(int)
        ids = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
        mask = masks[entry["file_name"][:-4]]
        assert np.array_equal(ids, np.where(mask == 255, 0, mask))
        for segment in entry["segments_info"]:
            rows, columns = np.nonzero(ids == segment["id"])
            x, y, width, height = segment["bbox"]
            assert segment["area"] == len(rows)
            assert (x, y, width, height) == (
                columns.min(),
                rows.min(),
                columns.max() - columns.min() + 1,
                rows.max() - rows.min() + 1,
            )


def test_cvat_declares_every_colour(folder, tmp_path, masks):
    picture(3).save(folder / "with space.png")
    picture(4).save(folder / "line\nfeed.png")
    out = made(folder, tmp_path / "out", "cvat")
    with zipfile.ZipFile(out / "cvat.zip") as file:
        assert not [name for name in file.namelist() if name.startswith("/") or ".." in name]
        listed = file.read("ImageSets/Segmentation/default.txt").decode().splitlines()
        assert [name.strip('"') for name in listed] == [*NAMES, "with space"] and '"with space"' in listed
        lines = [line.split(":") for line in file.read("labelmap.txt").decode().splitlines()[1:]]
        colours = {tuple(map(int, line[1].split(","))): line[0] for line in lines}
        assert set(colours.values()) == {"background", "bright", "dark", "ignore"}
        for name, mask in masks.items():
            rgb = np.array(Image.open(io.BytesIO(file.read(f"SegmentationClass/{name}.png"))).convert("RGB"))
            words = {0: "background", 1: "bright", 2: "dark", 255: "ignore"}
            for value in np.unique(mask):
                assert {colours[tuple(c)] for c in np.unique(rgb[mask == value], axis=0).tolist()} == {words[int(value)]}


def decoded(code):
    """What Label Studio's reader does with its run lengths, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in code)
    place = 0

    def take(count):
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, size, counters = take(32), take(5) + 1, None
    counters = [take(4) + 1 for _ in range(4)]
    values = []
    while len(values) < total:
        repeated = take(1)
        length = take(counters[take(2)]) + 1
        values += [take(size)] * length if repeated else [take(size) for _ in range(length)]
    return np.array(values, np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (300, 200)])
def test_label_studio_reads_its_run_lengths(shape):
    for chosen in (np.zeros(shape, bool), np.ones(shape, bool), np.random.default_rng(0).random(shape) < 0.5):
        assert np.array_equal(decoded(brush_rle(chosen)), np.repeat(chosen.ravel(), 4) * np.uint8(255))


def test_label_studio_tasks(folder, tmp_path, masks):
    out = made(folder, tmp_path / "out", "labelstudio")
    tasks = json.loads((out / "labelstudio.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [f"{name}.png" for name in NAMES]
    for task in tasks:
        mask = masks[task["data"]["image"][:-4]]
        for result in task["predictions"][0]["result"]:
            value = {"bright": 1, "dark": 2, "ignore": 255}[result["value"]["brushlabels"][0]]
            assert np.array_equal(decoded(result["value"]["rle"])[::4] > 0, (mask == value).ravel())
            assert (result["original_height"], result["original_width"]) == mask.shape


@pytest.mark.parametrize("kind", ["coco", "cvat"])
def test_files_of_all_images_follow_the_masks(folder, tmp_path, kind):
    out = made(folder, tmp_path / "out", kind)
    whole = tree(out)
    made(folder, out, kind)
    assert tree(out) == whole and verify(out).files == 6
    next(path for path in out.iterdir() if path.stem == kind).unlink()
    assert verify(out).problems[0][1].startswith("cannot be read")
    made(folder, out, kind)
    assert tree(out) == whole
    picture(90).save(folder / "img9.png")
    made(folder, out, kind)
    assert tree(out) != whole and verify(out).bad == 0


def test_empty_images_and_no_images_make_whole_files(folder, tmp_path):
    for kind, name in (("coco", "coco.json"), ("labelstudio", "labelstudio.json")):
        out = made(folder, tmp_path / kind, kind, max_bytes=10)
        whole = json.loads((out / name).read_text())
        assert whole == [] or (whole["images"], whole["annotations"]) == ([], [])


def test_verify_tells_what_changed(folder, tmp_path):
    out = made(folder, tmp_path / "out", "palette")
    assert verify(out).files == 5 and verify(out).bad == 0
    data = bytearray((out / "img8.png").read_bytes())
    data[-20] ^= 1
    (out / "img8.png").write_bytes(data)
    (out / "img9.png").unlink()
    (out / "img10.png").write_bytes(b"")
    (out / "img11.png").unlink()
    (out / "img11.png").symlink_to(out / "img12.png")
    problems = dict(verify(out).problems)
    assert set(problems) == {"img8.png", "img9.png", "img10.png", "img11.png"}
    assert problems["img8.png"] == "its content changed" and "No such file" in problems["img9.png"]
    with pytest.raises(ManifestError, match="holds no manifest"):
        verify(folder)
