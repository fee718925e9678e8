"""Labels of pairs: by hand, against loops, and files that strangers made."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from wsss_fast.compat.pydensecrf.densecrf import DenseCRF2D
from wsss_fast.compat.pydensecrf.utils import unary_from_labels
from wsss_fast.methods import pair_labels
from wsss_fast.methods.pair_labels import PairLabelsError, PairMaps

H, W = 45, 70


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """A picture with a reddish and a bluish spot, without clear borders, on grey; and blurred maps of both."""
    y, x = np.mgrid[:H, :W]
    away = [(y - cy) ** 2 + (x - cx) ** 2 for cy, cx in ((14, 15), (26, 49))]
    image = np.full((3, H, W), 120, np.uint8) + np.random.default_rng(0).integers(0, 9, (3, H, W)).astype(np.uint8)
    for distance, channel in zip(away, (0, 2), strict=True):
        image[channel] += (100 * np.exp(-distance / 120)).astype(np.uint8)
    cam = [np.exp(-distance / 60) for distance in away]
    return torch.from_numpy(np.stack(cam)).float(), torch.from_numpy(image)


def crf(unary: np.ndarray, image: torch.Tensor, sxy: float, srgb: float) -> np.ndarray:
    """With the interface of pydensecrf, as the published programs call it."""
    field = DenseCRF2D(W, H, len(unary))
    field.setUnaryEnergy(unary.astype(np.float32))
    field.addPairwiseGaussian(sxy=3, compat=3)
    field.addPairwiseBilateral(sxy=sxy, srgb=srgb, rgbim=np.ascontiguousarray(image.permute(1, 2, 0).numpy()), compat=10)
    return np.asarray(field.inference(10)).reshape(-1, H, W)


@pytest.mark.parametrize("alpha", [4, 24, 32])
def test_alpha_maps(alpha: float) -> None:
    cam, image = scene()
    rows = np.concatenate([(1 - cam.numpy().max(0, keepdims=True)) ** alpha, cam.numpy()])
    expected = crf(-np.log(np.clip(rows, 1e-5, 1)).reshape(3, -1), image, 80, 13)
    got = pair_labels.alpha_maps(cam, image, alpha)
    assert np.abs(got.numpy() - expected).max() < 1e-4
    assert got.sum(0).sub(1).abs().max() < 1e-5


def test_alpha_orders_the_background() -> None:
    cam, image = scene()
    maps = pair_labels.cam_maps(cam, image, [2, 7])
    assert maps.low.dtype == np.uint8 and maps.classes.tolist() == [2, 7]
    shares = [(part.argmax(0) == 0).mean() for part in (maps.low, maps.high)]
    assert shares[0] > shares[1] + 0.05


def test_an_image_without_classes_is_background() -> None:
    _, image = scene()
    none = torch.zeros(0, H, W)
    maps = pair_labels.cam_maps(none, image, [])
    assert (maps.low == 255).all() and maps.low.shape == (1, H, W)
    assert (pair_labels.affinity_target(maps.low, maps.high, maps.classes) == 0).all()
    assert (pair_labels.irn_labels(none, image, []) == 0).all()


def test_target_by_hand() -> None:
    """Four cells of 2 x 2, classes 4 and 0. Sure object; sure background; neither; beyond the image."""
    low = np.zeros((3, 2, 8), np.uint8)
    high = np.zeros((3, 2, 8), np.uint8)
    low[1, :, 0:2], high[1, :, 0:2] = 200, 255  # cell 0: class 4 in both
    low[0, :, 2:4], high[0, :, 2:4] = 255, 130  # cell 1: background in both
    low[0, :, 4:6], high[2, :, 4:6] = 255, 255  # cell 2: background in low, class 0 in high
    got = pair_labels.affinity_target(low, high, [4, 0], stride=2)
    assert got.dtype == np.uint8 and got.tolist() == [[5, 0, 255, 255]]
    # high says background where low says class 0: the background wins
    low[:], high[:] = 0, 0
    low[2], high[0] = 9, 1
    assert pair_labels.affinity_target(low, high, [4, 0], stride=2).tolist() == [[0, 0, 0, 0]]
    # means decide, not single pixels: 255 in one pixel against 100 in four; at equal sums the background
    low[:], high[:] = 0, 0
    low[1, 0, 0], low[2, :, :2] = 255, 100
    low[0, 0, 2], low[1, 1, 2] = 7, 7
    high[2] = 1
    assert pair_labels.affinity_target(low, high, [4, 0], stride=2)[0, :2].tolist() == [1, 255]


def test_target_by_loops() -> None:
    generator = np.random.default_rng(1)
    classes = [3, 11]
    low, high = (generator.random((3, 27, 38)).astype(np.float32) ** 4 for _ in range(2))
    low[:, 16:], high[:, 16:] = 0, 0
    got = pair_labels.affinity_target(low, high, classes)
    assert got.shape == (4, 5)
    for y in range(4):
        for x in range(5):
            sums = [maps[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].sum((1, 2)) for maps in (low, high)]
            expected = 255 if sums[0].argmax() == 0 else classes[sums[0].argmax() - 1] + 1
            expected = 0 if sums[1].argmax() == 0 else expected
            assert got[y, x] == (255 if y >= 2 else expected)


def test_bytes_in_place_of_floats_change_no_label_of_a_scene() -> None:
    cam, image = scene()
    low, high = (pair_labels.alpha_maps(cam, image, alpha).numpy() for alpha in pair_labels.ALPHAS["psa"])
    stored = pair_labels.cam_maps(cam, image, [0, 1])
    expected = pair_labels.affinity_target(low, high, [0, 1])
    assert (pair_labels.affinity_target(stored.low, stored.high, [0, 1]) == expected).all()
    assert {0, 1, 2, 255} == set(expected.flatten().tolist())


def test_irn_labels() -> None:
    cam, image = scene()
    got = pair_labels.irn_labels(cam, image, [4, 9])
    runs = []
    for threshold in (0.30, 0.05):
        padded = np.concatenate([np.full((1, H, W), threshold, np.float32), cam.numpy()])
        runs.append(crf(unary_from_labels(padded.argmax(0), 3, 0.7, zero_unsure=False), image, 50, 5).argmax(0))
    expected = np.zeros((H, W), np.uint8)
    for y in range(H):
        for x in range(W):
            one, two = runs[0][y, x], runs[1][y, x]
            expected[y, x] = [0, 5, 10][one] if one else (0 if two == 0 else 255)
    assert (got == expected).mean() > 0.999
    assert set(got.flatten().tolist()) == {0, 5, 10, 255}


def test_index_target() -> None:
    labels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    assert pair_labels.index_target(labels).tolist() == [[2 * 7 + 2, 2 * 7 + 6], [4 * 7 + 2, 4 * 7 + 6]]
    assert pair_labels.index_target(np.zeros((512, 512), np.uint8)).shape == (128, 128)


# ---- files -----------------------------------------------------------------------------------------------------------------


def some_maps() -> PairMaps:
    generator = np.random.default_rng(0)
    low, high = (generator.integers(0, 256, (3, 4, 5), dtype=np.uint8) for _ in range(2))
    return PairMaps(np.asarray([1, 19]), low, high)


def test_files_come_back(tmp_path: Path) -> None:
    maps = some_maps()
    path = tmp_path / "a.npz"
    path.write_bytes(maps.encoded())
    back = pair_labels.read(path)
    for name in ("classes", "low", "high"):
        assert np.array_equal(getattr(back, name), getattr(maps, name)) and getattr(back, name).dtype == getattr(maps, name).dtype
    turned = PairMaps(maps.classes, *(np.asfortranarray(part) for part in (maps.low, maps.high)))
    assert turned.encoded() == maps.encoded()


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{**{name: getattr(some_maps(), name) for name in ("classes", "low", "high")}, **arrays})
    return buffer.getvalue()


def with_header(shape: str) -> bytes:
    """A file whose `low` claims a shape that it does not have."""
    buffer = io.BytesIO()
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    with zipfile.ZipFile(buffer, "w") as archive, zipfile.ZipFile(io.BytesIO(npz())) as good:
        archive.writestr("classes.npy", good.read("classes.npy"))
        archive.writestr("low.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(60))
        archive.writestr("high.npy", good.read("high.npy"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a zip file"),
        (npz()[:-40], "not a zip file"),
        (npz()[:100] + b"\xff" * 8 + npz()[108:], "cannot read"),
        (npz(extra=np.zeros(1)), "nothing else"),
        (npz(low=np.zeros((3, 4, 5))), "'low' must be uint8"),
        (npz(low=np.array([{"a": 1}], dtype=object)), "'low' must be uint8"),
        (npz(low=np.zeros((2, 4, 5), np.uint8)), r"have shape \[3, H, W\]"),
        (npz(high=np.zeros((3, 4, 6), np.uint8)), r"have shape \[3, H, W\]"),
        (npz(low=np.zeros((3, 0, 5), np.uint8), high=np.zeros((3, 0, 5), np.uint8)), r"have shape \[3, H, W\]"),
        (npz(classes=np.asarray([1, 1])), "different numbers"),
        (npz(classes=np.asarray([-1, 1])), "different numbers"),
        (npz(classes=np.asarray([254, 1])), "different numbers"),
        (npz(classes=np.asarray([[1], [2]])), "different numbers"),
        (with_header("(1, 4, 5)"), "must have 20 bytes, got more"),
        (with_header("(30, 4, 5)"), "must have 600 bytes, got 60"),
        (with_header("(3, 9999999, 9999999)"), "at most 268435456 numbers"),
        (with_header("(-1, 4, 15)"), "at most"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "a\u202eb.npz"
    path.write_bytes(data)
    with pytest.raises(PairLabelsError, match=words) as caught:
        pair_labels.read(path)
    assert "pair labels: cannot read" in str(caught.value) and "\u202e" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(PairLabelsError, match=r"cannot read .*b\.npz: No such file"):
        pair_labels.read(tmp_path / "b.npz")
    with pytest.raises(PairLabelsError, match="cannot read"):
        pair_labels.read(tmp_path)


def test_bad_calls() -> None:
    cam, image = scene()
    with pytest.raises(ValueError, match="'alpha' must be a number above 0"):
        pair_labels.alpha_maps(cam, image, 0)
    with pytest.raises(ValueError, match=r"alpha_maps: 'cam' must have shape \[K, H, W\]"):
        pair_labels.alpha_maps(cam[None], image, 4)
    with pytest.raises(ValueError, match="dense_crf: 'image'"):
        pair_labels.alpha_maps(cam, image[:, 1:], 4)
    with pytest.raises(PairLabelsError, match=r"have shape \[2, H, W\]"):
        pair_labels.cam_maps(cam, image, [1])
    with pytest.raises(ValueError, match="'classes' must be the 2 classes"):
        pair_labels.irn_labels(cam, image, [1])
    with pytest.raises(ValueError, match="'background' must lie from 0 to 'foreground'"):
        pair_labels.irn_labels(cam, image, [1, 2], foreground=0.1, background=0.2)
    with pytest.raises(ValueError, match="index_target: 'labels' must be a uint8 array"):
        pair_labels.index_target(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="affinity_target: 'low and high'"):
        pair_labels.affinity_target(np.zeros((2, 3, 3)), np.zeros((2, 3, 4)), [1])
