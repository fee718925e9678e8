"""Batches: the same for every number of workers and processes, resumed without decoding, and honest about bad files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from data_worlds import IDS, Settings, labels_of, voc
from PIL import Image

from wsss_fast.data import DataError, loader, open_dataset
from wsss_fast.data.loader import epoch_order, make_loader
from wsss_fast.files.images import ImageError, read_grey, read_image, read_indices, read_size

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # three workers on two cores
ALL = ("saliency", "mask", "segments")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(voc(tmp_path_factory.mktemp("world")), saliency="saliency")


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key] for key, value in one.items()
    )


def test_a_batch(dataset):
    batches = list(make_loader(dataset, Settings(), ALL))
    assert len(batches) == 4 == len(make_loader(dataset, Settings()))
    assert sorted(name for batch in batches for name in batch["names"]) == IDS
    for batch in batches:
        shapes = {key: (value.dtype, list(value.shape)) for key, value in batch.items() if key != "names"}
        assert shapes == {
            "pixels": (torch.uint8, [2, 3, 32, 32]),
            "inside": (torch.bool, [2, 32, 32]),
            "labels": (torch.float32, [2, 2]),
            "saliency": (torch.uint8, [2, 1, 32, 32]),
            "mask": (torch.uint8, [2, 32, 32]),
            "segments": (torch.int32, [2, 32, 32]),
        }
        for place, name in enumerate(batch["names"]):
            assert tuple(torch.nonzero(batch["labels"][place])[:, 0].tolist()) == labels_of(IDS.index(name))
        assert torch.equal(batch["segments"] == -1, ~batch["inside"])
        assert (batch["mask"][~batch["inside"]] == 255).all()
    assert set(next(iter(make_loader(dataset, Settings())))) == {"pixels", "inside", "labels", "names"}


def test_workers_do_not_matter_and_epochs_do(dataset):
    runs = [list(make_loader(dataset, Settings(), ALL, seed=3, epoch=1, workers=workers)) for workers in (0, 1, 3)]
    for run in runs[1:]:
        assert len(run) == 4 and all(same(one, other) for one, other in zip(run, runs[0], strict=True))
    other = list(make_loader(dataset, Settings(), ALL, seed=3, epoch=2))
    assert not any(same(one, two) for one, two in zip(other, runs[0], strict=True))
    # Also image by image: not the order alone has changed.
    pixels = [
        {name: p for batch in run for name, p in zip(batch["names"], batch["pixels"], strict=True)} for run in (runs[0], other)
    ]
    assert not any(torch.equal(pixels[0][name], pixels[1][name]) for name in IDS)


def test_the_global_generators_are_left_alone(dataset):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(make_loader(dataset, Settings(), ALL, workers=1))
    list(make_loader(dataset, Settings(), ALL))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_resume_skips_without_decoding(dataset, monkeypatch):
    whole = list(make_loader(dataset, Settings(), seed=1))
    read = []
    real = loader.read_image
    monkeypatch.setattr(loader, "read_image", lambda path, *rest: read.append(path.stem) or real(path, *rest))
    rest = make_loader(dataset, Settings(), seed=1, start=3)
    assert len(rest) == 1
    (last,) = rest
    assert same(last, whole[3]) and read == last["names"]
    assert list(make_loader(dataset, Settings(), start=4)) == []
    with pytest.raises(ValueError, match="'start' must be a whole number from 0 to 4"):
        make_loader(dataset, Settings(), start=5)


def test_processes_share_the_batches_of_one(dataset):
    settings = Settings(batch=4)
    alone = list(make_loader(dataset, settings, seed=2))
    ranks = [list(make_loader(dataset, settings, seed=2, rank=rank, world=2)) for rank in range(2)]
    for batch, first, second in zip(alone, *ranks, strict=True):
        assert first["names"] == batch["names"][::2] and second["names"] == batch["names"][1::2]
        assert torch.equal(first["pixels"], batch["pixels"][::2])
    with pytest.raises(DataError, match="'batch' must divide by the 3 processes, got 4"):
        make_loader(dataset, settings, world=3)
    with pytest.raises(ValueError, match="'rank' must"):
        make_loader(dataset, settings, rank=2, world=2)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("images", [8, 9, 11, 13])
@pytest.mark.parametrize("drop_last", [True, False])
def test_orders(world, images, drop_last):
    settings = Settings(batch=4)
    ranks = [epoch_order(images, settings, 0, 0, rank, world, drop_last) for rank in range(world)]
    assert len({tuple(map(len, rank)) for rank in ranks}) == 1  # the same counts everywhere
    assert len(ranks[0]) == (images // 4 if drop_last else -(-images // 4))
    used = [index for rank in ranks for batch in rank for index in batch]
    if drop_last:
        assert len(used) == len(set(used)) == images // 4 * 4
    else:
        assert set(used) == set(range(images)) and len(used) - images < world


def test_order_without_shuffling():
    assert epoch_order(5, Settings(shuffle=False), 0, 7, 0, 1, False) == [[0, 1], [2, 3], [4]]
    shuffled = {tuple(map(tuple, epoch_order(6, Settings(), 0, epoch, 0, 1, True))) for epoch in range(5)}
    assert len(shuffled) == 5


def test_fewer_images_than_a_batch(dataset):
    with pytest.raises(DataError, match="8 images do not fill one batch of 16"):
        make_loader(dataset, Settings(batch=16))
    assert [len(batch["names"]) for batch in make_loader(dataset, Settings(batch=16), drop_last=False)] == [8]
    with pytest.raises(DataError, match="0 images"):
        epoch_order(0, Settings(), 0, 0, 0, 1, False)


@pytest.fixture
def damaged(tmp_path):
    root = voc(tmp_path / "world")
    for name in (IDS[2], IDS[3]):
        path = root / "JPEGImages" / f"{name}.jpg"
        path.write_bytes(path.read_bytes()[:300])
    (root / "saliency" / f"{IDS[5]}.png").unlink()
    return open_dataset(root, saliency="saliency")


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_stop(damaged, workers):
    batches = iter(make_loader(damaged, Settings(shuffle=False), workers=workers))
    assert next(batches)["names"] == IDS[:2]
    with pytest.raises(DataError, match=rf"^data: {IDS[2]}: cannot be decoded: .* Hint: unreadable='skip'"):
        next(batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_replaced_by_choice(damaged, workers, caplog):
    batches = make_loader(damaged, Settings(shuffle=False), ("saliency",), workers=workers, unreadable="skip")
    names = [batch["names"] for batch in batches]
    assert names == [IDS[:2], [IDS[4], IDS[4]], [IDS[4], IDS[6]], IDS[6:]]
    assert set(batches.failures) == {IDS[2], IDS[3], IDS[5]} and "saliency map: cannot be opened" in batches.failures[IDS[5]]
    assert caplog.text.count("is skipped") == 3


def test_nothing_can_be_read(damaged, monkeypatch):
    def unreadable(*_):
        raise ImageError("gone")

    monkeypatch.setattr(loader, "read_image", unreadable)
    with pytest.raises(DataError, match="gone"):
        list(make_loader(damaged, Settings(), unreadable="skip"))


def test_what_is_wanted_must_be_there(dataset):
    bare = replace(dataset, saliency=None, masks={})
    with pytest.raises(DataError, match="saliency maps are wanted, and none are given"):
        make_loader(bare, Settings(), ("saliency",))
    with pytest.raises(DataError, match=r"images have none \(8: "):
        make_loader(bare, Settings(), ("mask",))
    with pytest.raises(DataError, match="do not say how many"):
        make_loader(bare, replace(Settings(), segments=()), ("segments",))
    with pytest.raises(ValueError, match="'wants' must be"):
        make_loader(bare, Settings(), ("depth",))
    with pytest.raises(ValueError, match="'unreadable' must be"):
        make_loader(bare, Settings(), unreadable="ignore")


def test_readers_of_maps_and_sizes(tmp_path):
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    image = Image.fromarray(grey)
    image.save(tmp_path / "grey.png")
    image.putpalette([255, 0, 0] * 256)
    image.save(tmp_path / "palette.png")
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "colour.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for name in ("grey", "palette"):
        assert np.array_equal(read_indices(tmp_path / f"{name}.png", 100, 10_000), grey)
    for name in ("grey", "colour", "deep"):
        assert np.array_equal(read_grey(tmp_path / f"{name}.png", 100, 10_000), grey)
    for name in ("colour", "deep"):
        with pytest.raises(ImageError, match="holds no 8-bit numbers"):
            read_indices(tmp_path / f"{name}.png", 100, 10_000)
    for reader in (read_indices, read_grey, read_size):
        with pytest.raises(ImageError, match="more than max_pixels 23"):
            reader(tmp_path / "grey.png", 23, 10_000)
        with pytest.raises(ImageError, match="more than max_bytes 9"):
            reader(tmp_path / "grey.png", 100, 9)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_the_displayed_image(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    height, width = read_image(tmp_path / "a.jpg", 100, 10_000).pixels.shape[:2]
    assert read_size(tmp_path / "a.jpg", 100, 10_000) == (width, height)


def test_labels_are_needed(tmp_path):
    bare = open_dataset(voc(tmp_path / "world"), labels="none")
    with pytest.raises(DataError, match="batches need labels"):
        make_loader(bare, Settings())
