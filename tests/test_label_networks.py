"""Networks of every method as models of the pipeline, image-level labels, walks and the CRF."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from label_standins import BrightEngine, five_pictures, label, picture, tree
from PIL import Image

import wsss_fast
from wsss_fast import methods, ops
from wsss_fast.export import write_onnx
from wsss_fast.files.images import FileStamp, Picture
from wsss_fast.label import refine, walk
from wsss_fast.label.manifest import ManifestError, read_header, read_rows
from wsss_fast.label.predict import Prediction, load_model, resolved
from wsss_fast.label.settings import LabelSettings, SettingsError
from wsss_fast.methods import affinitynet, irn
from wsss_fast.nets import weights

SMALL = {"width": 0.125}


@pytest.fixture
def folder(tmp_path):
    return five_pictures(tmp_path)


def small(method, classes=3, **options):
    torch.manual_seed(1)
    return methods.create(method, classes, **{**SMALL, **options}).eval()


@pytest.fixture(scope="module")
def seam():
    return small("seam")


def pixels(seed=0, size=(40, 56)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def run(model, image, labels=None, guide=None, **settings):
    """What the pipeline makes of one image."""
    chosen = LabelSettings(labels="given" if labels is not None else None, **settings)
    loaded = load_model(model, chosen)
    chosen = resolved(loaded, chosen)
    guided = walk.load_walk(chosen)
    prediction = loaded.predict(image)
    one = Picture(image, *image.shape[:2], FileStamp(0, 0), "PNG")
    if guided is not None:
        with torch.inference_mode():
            prediction = Prediction(
                prediction.scores, prediction.maps, prediction.flipped, guided.guide(refine.pixels_of(prediction, one))
            )
    return refine.make_mask(prediction, one, chosen, guided, labels)


@pytest.mark.parametrize("method", ["cam", "seam", "cpn", "eps", "l2g"])
def test_masks_are_the_published_inference(method):
    model, image = small(method), pixels()
    mask = run(model, image, (0, 2), scales=(1.0, 0.5), background=0.4)
    given = torch.from_numpy(image).permute(2, 0, 1)[None]
    present = torch.tensor([[True, False, True]])
    maps = methods.infer_cam(model, given, scales=(1.0, 0.5), present=present)[0]
    expected = torch.cat([torch.full_like(maps[:1], 0.4), maps]).argmax(0).numpy()
    assert (mask.values != expected).mean() < 1e-3
    assert set(np.unique(mask.values)) <= {0, 1, 3} and mask.classes == (0, 2)


@pytest.mark.parametrize("method", ["cam", "seam", "eps", "l2g"])
def test_without_labels_the_classifier_tells_the_classes(method, caplog):
    model, image = small(method), pixels(1)
    loaded = load_model(model, LabelSettings(scales=(0.5, 1.0), flip=False))
    assert "network's guess" in caplog.text
    with torch.no_grad():
        out = model(model.normalise(torch.from_numpy(image).permute(2, 0, 1)[None]))
    own = {
        "cam": lambda: out,
        "seam": lambda: out[0][:, 1:].mean((2, 3)),
        "eps": lambda: out[0][:, :-1],
        "l2g": lambda: out[1],
    }[method]()
    assert torch.allclose(loaded.predict(image).scores, own[0].sigmoid(), atol=1e-5)


def test_a_segmentation_network_needs_no_labels():
    model = small("deeplab", backbone="resnet50", head="aspp")
    image = pixels(2)
    mask = run(model, image, flip=False, scales=(1.0,))
    with torch.no_grad():
        logits = model.forward_cam(model.normalise(torch.from_numpy(image).permute(2, 0, 1)[None]))
    full = torch.nn.functional.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
    assert (mask.values != full[0].argmax(0).numpy()).mean() < 1e-3
    assert {index + 1 for index in mask.classes} >= set(np.unique(mask.values).tolist()) - {0}


def test_a_checkpoint_and_its_onnx_give_the_same_masks(tmp_path):
    model, names = small("cam", backbone="vgg16-psa"), ("cat", "dog", "cow")
    weights.save_checkpoint(tmp_path / "cam.safetensors", model, {**model.description(), "classes": names})
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(2):
        picture(n, (56, 40)).save(folder / f"{n}.png")
    (tmp_path / "labels.csv").write_text("0.png,cat;cow\n1.png,cat;cow\ntiny.png,dog\n")
    given = {"labels": str(tmp_path / "labels.csv"), "scales": (1.0,), "workers": 0}
    wsss_fast.label(folder, str(tmp_path / "cam.safetensors"), tmp_path / "torch", **given)
    write_onnx(model, tmp_path / "cam.onnx", classes=names)
    picture(5).save(folder / "tiny.png")
    wsss_fast.label(folder, str(tmp_path / "cam.onnx"), tmp_path / "ort", **given)
    first, second = read_rows(tmp_path / "torch"), read_rows(tmp_path / "ort")
    for name, row in first.items():
        assert row["labels"] == [0, 2] and sorted(row["classes"]) == ["cat", "cow"]
        masks = [np.array(Image.open(tmp_path / kind / row["output"])) for kind in ("torch", "ort")]
        assert (masks[0] != masks[1]).mean() < 0.01 and second[name]["status"] == "ok"
    assert "24 x 16 pixels" in second["tiny.png"]["reason"]  # exported files have a smallest size
    assert read_header(tmp_path / "ort")["model"]["engine"] == "ort"
    with pytest.raises(SettingsError, match="does not say which classes"):
        wsss_fast.label(folder, str(tmp_path / "cam.onnx"), tmp_path / "guess")


def test_random_weights_are_those_of_their_seed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "create", functools.partial(methods.create, width=0.125))
    trees = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        with_seed = {"method": "cam", "random_weights": seed, "num_classes": 4, "scales": (1.0,), "flip": False, "workers": 0}
        wsss_fast.label(folder, "efficientnet-lite0", tmp_path / name, **with_seed)
        trees.append(tree(tmp_path / name))
    assert trees[0] == trees[1] != trees[2]


# Labels


def test_labels_decide_and_their_absence_fails_one_image(folder, tmp_path):
    (tmp_path / "labels.csv").write_text("img8.png,dark\nimg9.png,dark;bright\nimg10.png,\nimg11.png,bright\n")
    out = tmp_path / "out"
    summary = label(folder, out, labels=str(tmp_path / "labels.csv"), batch=1)
    assert (summary.labelled, summary.failed, summary.empty) == (4, 1, 1)
    assert summary.failures[0].reason == "the labels do not name it"
    values = {n: set(np.unique(np.array(Image.open(out / f"img{n}.png")))) for n in (8, 9, 10, 11)}
    assert values == {8: {0, 2}, 9: {1, 2}, 10: {0}, 11: {0, 1}}
    assert (
        out / "failures.jsonl"
    ).read_text() == '{"image": "img12.png", "reason": "the labels do not name it", "lasting": false}\n'
    # other labels for one image: it alone is done again
    (tmp_path / "labels.csv").write_text("img8.png,bright\nimg9.png,dark;bright\nimg10.png,\nimg11.png,bright\nimg12.png,dark\n")
    summary = label(folder, out, labels=str(tmp_path / "labels.csv"), batch=1)
    assert (summary.labelled, summary.skipped) == (2, 3) and not (out / "failures.jsonl").exists()
    with pytest.raises(ManifestError, match=r'settings\.labels: "given" before, "predicted" now'):
        label(folder, out)


def test_labels_by_name_need_a_model_with_names(folder, tmp_path, seam):
    (tmp_path / "labels.csv").write_text("img8.png,dog\n")
    with pytest.raises(SettingsError, match=r"without names\. Hint: --classes FILE"):
        wsss_fast.label(folder, seam, tmp_path / "out", labels=str(tmp_path / "labels.csv"))
    with pytest.raises(ValueError, match="unknown classes"):
        label(folder, tmp_path / "out", labels=str(tmp_path / "labels.csv"))
    (tmp_path / "names.txt").write_text("cat\ndog\ncow\n")
    given = {"labels": str(tmp_path / "labels.csv"), "classes": str(tmp_path / "names.txt"), "scales": (1.0,), "workers": 0}
    summary = wsss_fast.label(folder, seam, tmp_path / "out", **given)
    assert summary.labelled == 1 and read_rows(tmp_path / "out")["img8.png"]["classes"] == ["dog"]


# Walk and CRF


def two_squares():
    """A bright object on a dark ground; the class map misses its ends."""
    image = np.full((64, 96, 3), 40, np.uint8)
    image[16:48, 24:72] = 210
    seen = torch.zeros(1, 8, 12)
    seen[0, 2:6, 4:8] = 1
    return image, seen


class SeenEngine(BrightEngine):
    class_names = ("thing",)

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def predict(self, pixels):
        return Prediction(torch.tensor([0.9]), (self.seen,))


def overlap(mask, inside):
    return (mask & inside).sum() / (mask | inside).sum()


def test_the_walk_along_the_image_stops_at_its_edges():
    image, seen = two_squares()
    inside = np.zeros((64, 96), bool)
    inside[16:48, 24:72] = True
    plain = run(SeenEngine(seen), image).values > 0
    far = {"walk": "image", "walk_steps": 256, "alpha": 6.0}
    walked = run(SeenEngine(seen), image, **far).values > 0
    sharp = run(SeenEngine(seen), image, **far, crf=True).values > 0
    assert (plain & ~inside).any() and not (walked & ~inside).any()
    assert overlap(plain, inside) < 0.75 and overlap(sharp, inside) > 0.95


def test_what_a_walk_along_the_image_takes_by_itself():
    chosen = LabelSettings.create(walk="image", background=0.5)
    settings = resolved(SeenEngine(None), chosen)
    assert (settings.alpha, settings.walk_steps) == (pytest.approx(1), 16)  # maps meet 1 - m at one half, too
    assert resolved(SeenEngine(None), dataclasses.replace(chosen, alpha=4.0, walk_steps=7)).alpha == 4
    settings = resolved(SeenEngine(None), dataclasses.replace(chosen, walk="net.safetensors"))
    assert (settings.alpha, settings.walk_steps) == (6, 256)


def test_edges_of_a_picture():
    step = torch.zeros(1, 3, 4, 6)
    step[:, 1, :, 3:] = 1  # one channel is enough
    edges = walk.image_edges(step)
    assert edges.shape == (1, 1, 4, 6)
    assert edges[0, 0, 2].tolist() == [0, 0, 1, 1, 0, 0]
    assert not walk.image_edges(torch.full((1, 3, 1, 1), 0.3)).any()


def test_the_walk_of_affinitynet_is_the_published_one(tmp_path):
    model = small("affinitynet")
    weights.save_checkpoint(tmp_path / "aff.safetensors", model, model.description())
    image, seen = two_squares()
    image = np.ascontiguousarray(image[:61, :93])  # no multiple of the stride
    got = run(SeenEngine(seen), image, walk=str(tmp_path / "aff.safetensors"), alpha=4.0)
    m = ops.cam_merge([seen[None]], [False], image.shape[:2], **ops.CAM_MERGE["psa"])
    walked = affinitynet.walk(model, torch.from_numpy(image).permute(2, 0, 1)[None].contiguous(), m, alpha=4.0)
    assert (got.values != walked[0].argmax(0).numpy()).mean() < 2e-3


def test_the_walk_of_irn_is_the_published_one(tmp_path):
    model = small("irn")
    weights.save_checkpoint(tmp_path / "irn.safetensors", model, model.description())
    image, seen = two_squares()
    got = run(SeenEngine(seen), image, walk=str(tmp_path / "irn.safetensors"))
    m = ops.cam_merge([seen[None]], [False], image.shape[:2], **ops.CAM_MERGE["psa"])
    given = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
    walked = irn.walk(model, given, torch.nn.functional.avg_pool2d(m, 4))
    assert (got.values != walked[0].argmax(0).numpy()).mean() < 2e-3


def test_the_crf_sees_background_and_present_classes():
    image, seen = two_squares()
    got = run(SeenEngine(seen), image, crf=True, background=0.3)
    m = ops.cam_merge([seen[None]], [False], (64, 96), **ops.CAM_MERGE["psa"])
    given = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
    q = ops.dense_crf(torch.cat([torch.full_like(m, 0.3), m], dim=1), given)
    assert np.array_equal(got.values, q[0].argmax(0).numpy())


def test_what_is_too_close_to_call_becomes_255():
    maps = torch.tensor([[[1.0, 0.5, 0.32, 0.1]]])
    engine = SeenEngine(maps)
    mask = run(engine, np.zeros((1, 4, 3), np.uint8), background=0.3, uncertain=0.2)
    assert mask.values.tolist() == [[1, 1, 255, 0]]  # (1 - .3) / 1.3, (.5 - .3) / .8, (.32 - .3) / .62, (.3 - .1) / .4


def test_large_images_are_bounded_and_their_masks_are_not(folder, tmp_path):
    picture(1, (200, 90)).save(folder / "wide.png")
    label(folder, tmp_path / "out", max_side=64)
    with Image.open(tmp_path / "out" / "wide.png") as mask:
        assert mask.size == (200, 90)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random_weights": 0}, "'random_weights' needs 'method'"),
        ({"method": "affinitynet", "random_weights": 0, "backbone": "vgg16-psa"}, "'model' must give class maps"),
        ({"walk": "nowhere.pth"}, r"'walk' must be 'image' or a checkpoint .*, got 'nowhere\.pth', which does not exist"),
        ({"engine": "tensorflow"}, "'engine' must be one of"),
        ({"shard": "4/4"}, "'shard' must be i/n"),
        ({"format": "alpha", "walk": "image"}, "'walk' does not go with format alpha"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, tmp_path, settings, message):
    with pytest.raises(SettingsError, match=message):
        wsss_fast.label(folder, "efficientnet-lite0", tmp_path / "out", **settings)
