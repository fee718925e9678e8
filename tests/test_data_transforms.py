"""Joint transforms: each against its definition in NumPy, and all three layers kept in step."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np
import pytest
from data_worlds import Settings, photo
from PIL import Image

from wsss_fast.data.transforms import Augment, generator, jitter, new_size, turned_hue
from wsss_fast.files.images import ImageError

STILL = Settings(resize="none", sizes=(1, 1), crop=40, flip=False, jitter=(0, 0, 0, 0))


def draws(settings, pixels, count=200, **layers):
    augment = Augment(settings)
    return [augment(pixels, generator(0, 0, index), **layers) for index in range(count)]


@pytest.mark.parametrize(
    ("resize", "sizes", "expected"),
    [
        ("long", (256, 256), (256, 192)),
        ("short", (256, 256), (341, 256)),
        ("squash", (100, 100), (100, 100)),
        ("scale", (0.5, 0.5), (200, 150)),
        ("none", (1, 1), (400, 300)),
    ],
)
def test_new_size(resize, sizes, expected):
    assert new_size((400, 300), resize, sizes, generator(0, 0, 0)) == expected
    assert new_size((300, 400), resize, sizes, generator(0, 0, 0)) == expected[::-1]


def test_sizes_are_drawn_uniformly_and_both_ends_are_reached():
    random = generator(0, 0, 0)
    sides = [new_size((400, 300), "long", (10, 13), random)[0] for _ in range(4000)]
    counts = np.bincount(sides)
    assert set(np.flatnonzero(counts)) == {10, 11, 12, 13}
    assert np.abs(counts[10:14] - 1000).max() < 150  # over five standard deviations
    factors = [new_size((1000, 1000), "scale", (0.5, 1.5), random)[0] / 1000 for _ in range(2000)]
    assert min(factors) < 0.51 and max(factors) > 1.49 and abs(np.mean(factors) - 1) < 0.04


def test_sizes_are_drawn_from_choices():
    random = generator(0, 0, 0)
    drawn = [new_size((200, 100), "scale", (0.5, 1.5), random, (0.5, 1.0, 1.25)) for _ in range(300)]
    assert {size: drawn.count(size) > 70 for size in drawn} == {(100, 50): True, (200, 100): True, (250, 125): True}
    assert {new_size((200, 100), "long", (10, 50), random, (20, 40)) for _ in range(20)} == {(20, 10), (40, 20)}


def test_thin_strips():
    assert new_size((1, 2000), "long", (256, 256), generator(0, 0, 0)) == (1, 256)
    with pytest.raises(ImageError, match="resized it would have"):
        new_size((1, 20000), "short", (448, 448), generator(0, 0, 0))


def test_padding():
    pixels = photo(0, (30, 24)).clip(1)
    mask = np.arange(24 * 30, dtype=np.uint8).reshape(24, 30) % 7
    saliency = pixels[..., 0].copy()
    places = set()
    for sample in draws(STILL, pixels, 400, mask=mask, saliency=saliency):
        rows, columns = np.flatnonzero(sample.inside.any(1)), np.flatnonzero(sample.inside.any(0))
        assert len(rows) == 24 and len(columns) == 30 and sample.inside.sum() == 24 * 30
        places.add((rows[0], columns[0]))
        window = np.ix_(rows, columns)
        assert np.array_equal(sample.pixels.transpose(1, 2, 0)[window], pixels)
        assert np.array_equal(sample.mask[window], mask) and np.array_equal(sample.saliency[0][window], saliency)
        assert not sample.pixels[:, ~sample.inside].any() and not sample.saliency[0][~sample.inside].any()
        assert (sample.mask[~sample.inside] == 255).all()
    assert {row for row, _ in places} == set(range(17)) and {column for _, column in places} == set(range(11))


def test_crop_of_one_dimension_and_padding_of_the_other():
    pixels = np.zeros((50, 20, 3), np.uint8)
    pixels[..., 0] = np.arange(50)[:, None] + 1
    pixels[..., 1] = np.arange(20) + 1
    offsets = set()
    for sample in draws(STILL, pixels, 400):
        assert sample.inside.sum() == 40 * 20
        rows = sample.pixels[0].max(1)
        offsets.add(int(rows[0]) - 1)
        assert np.array_equal(rows, np.arange(rows[0], rows[0] + 40))
        assert np.array_equal(sample.pixels[1].max(0)[sample.inside.any(0)], np.arange(20) + 1)
    assert offsets == set(range(11))


def test_layers_stay_in_step():
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[10:40, 15:50] = 255
    settings = Settings(sizes=(30, 100), crop=64, jitter=(0, 0, 0, 0))
    mask = 20 * (pixels[..., 0] > 0).astype(np.uint8)
    # A map of another size takes the image's.
    small = np.asarray(Image.fromarray(pixels[..., 0]).resize((40, 30), Image.Resampling.NEAREST))
    flips = 0
    for sample in draws(settings, pixels, 60, mask=mask, saliency=small):
        where = sample.inside
        assert np.mean((sample.pixels[0] > 127)[where] != (sample.mask == 20)[where]) < 0.04
        assert np.mean((sample.saliency[0] > 127)[where] != (sample.mask == 20)[where]) < 0.06
        assert set(np.unique(sample.mask)) <= {0, 20, 255}  # nearest: no value in between
    for sample in draws(replace(STILL, flip=True, crop=80), pixels, 400):
        columns = np.flatnonzero((sample.pixels[0] == 255).any(0)) - np.flatnonzero(sample.inside.any(0))[0]
        assert columns[0] in (15, 30)
        flips += columns[0] == 30
    assert 140 < flips < 260


def test_mask_of_another_size():
    with pytest.raises(ImageError, match="its mask has 31 x 24 pixels, not 30 x 24"):
        Augment(STILL)(photo(0), generator(0, 0, 0), mask=np.zeros((24, 31), np.uint8))


def test_resize_is_bicubic():
    pixels = photo(3, (40, 32))
    sample = Augment(replace(STILL, resize="long", sizes=(20, 20), crop=20))(pixels, generator(0, 0, 0), saliency=pixels[..., 1])
    expected = np.asarray(Image.fromarray(pixels).resize((20, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(sample.pixels.transpose(1, 2, 0)[sample.inside].reshape(16, 20, 3), expected)
    assert np.abs(sample.saliency[0][sample.inside].astype(int) - expected[..., 1].ravel()).max() == 0


def luma(pixels):
    return pixels @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("place", range(3))
def test_jitter_in_floating_point(place):
    strength = [0.0] * 4
    strength[place] = 0.6
    pixels = photo(1, (16, 16)) // 3 + 70
    exact = pixels.astype(float)
    seen = []
    for seed in range(40):
        out = np.asarray(jitter(Image.fromarray(pixels), tuple(strength), generator(seed, 0, 0))).astype(float)
        base = {0: np.zeros_like(exact), 1: np.full(pixels.shape, round(luma(pixels).mean())), 2: luma(pixels)[..., None]}[place]
        distance = exact - base
        factor = (distance * (out - base)).sum() / (distance**2).sum()
        seen.append(factor)
        assert np.abs(out - (base + factor * distance).clip(0, 255)).max() < 2.5
    assert 0.39 < min(seen) < 0.55 and 1.45 < max(seen) < 1.61


def test_hue():
    pixels = photo(2, (16, 16))
    for turn in (-0.3, -0.1, 0.05, 0.5):
        out = np.asarray(turned_hue(Image.fromarray(pixels), turn)).reshape(-1, 3)
        for before, after in zip(pixels.reshape(-1, 3), out, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*before / 255)
            expected = np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)) * 255
            assert np.abs(expected - after).max() < 8  # hue in 256 steps
    assert np.abs(np.asarray(turned_hue(Image.fromarray(pixels), 0)).astype(int) - pixels).max() <= 6


def test_order_of_colour_changes_is_random_and_masks_are_left_alone():
    pixels = photo(4, (40, 40))
    settings = replace(STILL, jitter=(0.3, 0.3, 0.3, 0.1))
    saliency = pixels[..., 0].copy()
    results = {sample.pixels.tobytes() for sample in draws(settings, pixels, 30)}
    assert len(results) == 30
    assert all(np.array_equal(sample.saliency[0], saliency) for sample in draws(settings, pixels, 10, saliency=saliency))
    orders = {tuple(np.random.default_rng(seed).permutation(4)) for seed in range(50)}
    assert len(orders) > 10


def test_the_generator_decides_alone():
    pixels = photo(5, (40, 30))
    augment = Augment(Settings())
    one, same = (augment(pixels, generator(1, 2, 3)) for _ in range(2))
    assert np.array_equal(one.pixels, same.pixels) and np.array_equal(one.inside, same.inside)
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert not np.array_equal(one.pixels, augment(pixels, generator(*other)).pixels)
