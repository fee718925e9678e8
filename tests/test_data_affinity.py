"""Labels of pairs on their way from files into batches: cut and mirrored like the image, on the network's grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_worlds import IDS, photo, save, voc

from wsss_fast import cli, methods
from wsss_fast.data import DataError, open_dataset
from wsss_fast.data.loader import make_loader
from wsss_fast.data.transforms import Augment, generator
from wsss_fast.methods import affinitynet, checkpoint
from wsss_fast.methods.pair_labels import PairMaps

AFFINITY = methods.settings("affinitynet", crop=32, batch=2)
IRN = methods.settings("irn", crop=32, batch=2)


def world(root: Path, maps: bool) -> Path:
    """Images of 30 x 24; a bright half is class 0, the rest background; the four rows on top are ignored."""
    voc(root)
    for number, name in enumerate(IDS):
        pixels = photo(number) // 4
        pixels[:, 15:] += 150
        save(root / "JPEGImages" / f"{name}.jpg", pixels)
        (root / "pairs").mkdir(exist_ok=True)
        mask = np.zeros((24, 30), np.uint8)
        mask[:, 15:] = 1
        mask[:4] = 255
        if maps:
            planes = np.stack([mask == 0, mask == 1]).astype(np.uint8) * 255
            (root / "pairs" / f"{name}.npz").write_bytes(PairMaps(np.asarray([0]), planes, planes).encoded())
        else:
            save(root / "pairs" / f"{name}.png", mask)
    return root


@pytest.mark.parametrize(
    ("maps", "settings", "stride"),
    [(True, AFFINITY, 8), (False, AFFINITY, 8), (False, IRN, 4)],
    ids=["maps", "masks", "irn"],
)
def test_a_batch(tmp_path: Path, maps: bool, settings, stride: int) -> None:
    dataset = open_dataset(world(tmp_path, maps), affinity="pairs")
    seen, wrong = 0, 0
    for workers in (0, 1):
        for batch in make_loader(dataset, settings, ["affinity"], workers=workers):
            labels = batch["affinity"]
            assert labels.dtype == torch.uint8 and labels.shape == (2, 32 // stride, 32 // stride)
            middle = slice(stride // 2, None, stride)
            known = labels != 255
            bright = batch["pixels"][:, :, middle, middle].float().mean(1) > 110
            if not maps:
                assert not (known & ~batch["inside"][:, middle, middle]).any()
            if settings is AFFINITY:
                inside = torch.nn.functional.avg_pool2d(batch["inside"].float()[:, None], 8)[:, 0] > 0.99
                known &= inside
            seen += int(known.sum())
            wrong += int((known & (bright != (labels == 1))).sum())
    assert seen > 50 and wrong <= 0.1 * seen  # cells on the border may go either way


def test_layers_follow_the_image() -> None:
    """Maps and indices under every resize: as the mask, which has tests of its own; maps are 0 beyond the image."""
    pixels = photo(0, (60, 50))
    mask = (photo(1, (6, 5))[..., 0] % 3).repeat(10, 0).repeat(10, 1)
    maps = np.stack([np.where(mask == value, 255, 0).astype(np.uint8) for value in range(3)])
    for settings in (replace(AFFINITY, crop=64), replace(IRN, crop=64), replace(IRN, resize="squash", sizes=(40, 90), crop=48)):
        flips = 0
        for index in range(12):
            one = Augment(settings)(pixels, generator(0, 0, index), mask=mask, affinity=mask)
            two = Augment(settings)(pixels, generator(0, 0, index), mask=mask, affinity=maps)
            assert np.array_equal(one.affinity, one.mask) and np.array_equal(one.pixels, two.pixels)
            assert two.affinity.shape == (3, *one.mask.shape)
            assert not two.affinity[:, ~two.inside].any()
            assert (two.affinity.argmax(0) == two.mask)[two.inside].mean() > 0.93  # bilinear against nearest
            flips += not np.array_equal(one.mask, one.mask[:, ::-1])
        assert flips


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    dataset = open_dataset(world(tmp_path, maps=True), affinity="pairs")
    path = dataset.affinity_path(IDS[3])
    good = path.read_bytes()
    small = np.zeros((2, 24, 29), np.uint8)
    far = np.zeros((2, 24, 30), np.uint8)
    for data, words in (
        (good[:50], "cannot read .*not a zip file"),
        (PairMaps(np.asarray([0]), small, small).encoded(), "labels of pairs have 29 x 24 pixels, not 30 x 24"),
        (PairMaps(np.asarray([5]), far, far).encoded(), "name class 6, counted from 1, of 2"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=rf"{IDS[3]}: .*{words}"):
            list(make_loader(dataset, AFFINITY, ["affinity"]))
        skipping = make_loader(dataset, AFFINITY, ["affinity"], unreadable="skip")
        assert len(list(skipping)) == 4 and list(skipping.failures) == [IDS[3]]
    path.unlink()
    with pytest.raises(DataError, match=rf"images without labels of pairs .*1: {IDS[3]}"):
        make_loader(dataset, AFFINITY, ["affinity"])
    save(dataset.affinity / f"{IDS[3]}.png", np.full((24, 30), 3, np.uint8))
    with pytest.raises(DataError, match="name class 3, counted from 1, of 2"):
        list(make_loader(dataset, AFFINITY, ["affinity"]))
    with pytest.raises(DataError, match="labels of pairs are wanted, and none are given"):
        make_loader(open_dataset(tmp_path), AFFINITY, ["affinity"])
    with pytest.raises(DataError, match="do not say on which stride"):
        make_loader(dataset, methods.settings("cam", batch=2), ["affinity"])
    with pytest.raises(DataError, match="'affinity' must name a folder"):
        open_dataset(tmp_path, affinity="nowhere")


def test_both_networks_train_on_it(tmp_path: Path) -> None:
    for name, maps, settings in (("affinitynet", True, AFFINITY), ("irn", False, IRN)):
        dataset = open_dataset(world(tmp_path / name, maps), affinity="pairs")
        step = methods.training(name, len(dataset.classes), settings=settings, width=1 / 16).train()
        batch = next(iter(make_loader(dataset, settings, step.wants)))
        total = step(batch)["total"]
        total.backward()
        assert total.isfinite() and total > 0


def test_labels_of_pairs_are_no_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"{name}.png", photo(0))
        save(tmp_path / "pairs" / f"{name}.png", np.zeros((24, 30), np.uint8))
    (tmp_path / "labels.csv").write_text("a.png,cat\nb.png,dog\n")
    assert open_dataset(tmp_path, affinity="pairs").ids == ["a", "b"]


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    world(tmp_path / "world", maps=True)
    given = ["--out", "run", "--crop", "32", "--batch", "2", "--max-steps", "2", "--options", "width=0.05", "--device", "cpu"]
    for method, extra, status in (("affinitynet", [], 1), ("affinitynet", ["--affinity", "pairs"], 0)):
        assert cli.main(["train", method, "--data", "world", *given, *extra]) == status
    assert "affinity" in capsys.readouterr().err
    model = checkpoint.load("run/model.safetensors")
    assert affinitynet.walk(model.eval(), torch.zeros(1, 3, 30, 40, dtype=torch.uint8), torch.rand(1, 1, 30, 40)).shape == (
        1,
        2,
        30,
        40,
    )
