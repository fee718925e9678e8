"""What is hidden and cut out in a training step, and what the published forms change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from helpers import threads, true_in_forked_child
from training_cases import padded, shapes, small

from wsss_fast import methods, ops
from wsss_fast.methods import cpn, l2g
from wsss_fast.train.optimiser import make_optimiser


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


# ---- complementary images and patches --------------------------------------------------------------------------------


def test_superpixels_in_a_worker_are_those_of_the_step() -> None:
    batch, training = padded(), small("cpn", segments=(20,))
    segments = cpn.superpixels(batch["pixels"], batch["inside"], training.settings.segments)
    assert ((segments == -1) == ~batch["inside"]).all() and segments.amax() > 5
    assert true_in_forked_child(
        lambda: torch.equal(cpn.superpixels(batch["pixels"][1:], batch["inside"][1:], (20,)), segments[1:])
    )
    image, got = training.image(batch), []
    for given in (batch, {**batch, "segments": segments}):
        torch.manual_seed(3)
        got.append(training.pair(image, given))
        torch.manual_seed(3)
        got.append((training(given)["total"],))
    for one, other in zip((*got[0], *got[1]), (*got[2], *got[3]), strict=True):
        assert torch.equal(one, other)
    first, second, share = got[0]
    assert torch.equal(first + second, image) and ((share > 0) & (share < 1)).all()


def test_segments_of_the_batch_are_used() -> None:
    batch, training = padded(), small("cpn", hide=1.0)
    left = torch.zeros(2, 32, 32, dtype=torch.int32)
    left[:, :, 16:] = -1
    first, second, share = training.pair(training.image(batch), {**batch, "segments": left})
    assert not first.any() and not second[..., 16:].any() and second[..., :16].any() and not share.any()


def test_each_image_draws_its_number_of_superpixels() -> None:
    batch = shapes(32, 8)
    segments = cpn.superpixels(batch["pixels"], batch["inside"], (4, 60))
    counts = segments.flatten(1).amax(dim=1) + 1
    assert ((counts < 15) | (counts > 30)).all() and counts.min() < 15 and counts.max() > 30


def test_grids() -> None:
    batch, shares = shapes(32, 8), set()
    for published in (None, "code"):
        training = small("cpn", published, patches="grid", grid=(16,))
        image = training.image(batch)
        first, second, share = training.pair(image, {**batch, "segments": torch.zeros(8, 32, 32, dtype=torch.int32)})
        assert torch.equal(first + second, image)
        shares.add(tuple(share.tolist()))
        assert (share == 0.5).all() == (published is None)  # "code" hides each of the four cells by itself
    assert len(shares) == 2


def test_published_pairs_are_those_of_the_operation() -> None:
    batch = padded()
    got = {}
    for published in (None, "paper", "code"):
        training = small("cpn", published)
        image = training.image(batch)
        segments = ops.slic(batch["pixels"], 300 if published == "code" else 200, mask=batch["inside"])
        torch.manual_seed(5)
        got[published] = training.pair(image, batch)
        torch.manual_seed(5)
        expected = ops.complementary_pair(image, segments, published=published)
        assert all(torch.equal(one, other) for one, other in zip(got[published], expected, strict=True))
    assert len({tuple(share.tolist()) for _, _, share in got.values()}) == 3


def test_patches() -> None:
    training = small("l2g", patches=50)
    boxes = training.boxes(2, 448, 448)
    assert boxes.shape == (100, 5) and boxes.dtype == torch.int64
    image, x1, y1, x2, y2 = boxes.T
    assert image.tolist() == [0] * 50 + [1] * 50
    assert (x2 - x1 == 320).all() and (y2 - y1 == 320).all()
    assert min(x1.min(), y1.min()) >= 0 and max(x2.max(), y2.max()) <= 448
    assert len(set(x1.tolist())) > 40 and x1.tolist() != y1.tolist()
    # a side in proportion, in whole cells of the network where the image allows
    for size, side in (((224, 300), 160), ((56, 56), 40), ((5, 9), 5)):
        _, x1, y1, x2, y2 = training.boxes(3, *size).T
        assert (x2 - x1 == side).all() and (y2 - y1 == side).all()
        assert x2.max() <= size[1] and y2.max() <= size[0] and x1.min() >= 0 and y1.min() >= 0
    places = torch.arange(2 * 3 * 9 * 9).view(2, 3, 9, 9)
    patches = l2g.cut(places, torch.tensor([[1, 2, 3, 6, 7], [0, 0, 5, 4, 9]]))
    assert torch.equal(patches[0], places[1, :, 3:7, 2:6]) and torch.equal(patches[1], places[0, :, 5:9, :4])


def test_published_patches() -> None:
    """ "code": four corners, and the last place of a side is never drawn (320 of 321 pixels: always 0)."""
    training = small("l2g", "code")
    boxes = training.boxes(1, 448, 448)
    corners = [[0, 0], [128, 0], [0, 128], [128, 128]]
    assert len(boxes) == 6 and boxes[:4, 1:3].tolist() == corners and boxes[4:, 1:3].tolist() not in corners
    drawn = {published: set() for published in (None, "code")}
    for published, found in drawn.items():
        training = small("l2g", published, patches=40, corners=False, patch=440)
        found.update(training.boxes(1, 448, 448)[:, 1].tolist())
    assert drawn[None] == set(range(9)) and drawn["code"] == set(range(8))


def test_saliency_is_cut_and_stretched() -> None:
    """A map of half strength teaches what one of full strength does; without the setting none is looked at."""
    batch = padded()
    halved = {**batch, "saliency": batch["saliency"] // 255 * 100}
    without = {key: value for key, value in batch.items() if key != "saliency"}
    terms = []
    for given, used in ((batch, True), (halved, True), (batch, False), (without, False)):
        training = small("l2g", shape=used, patch=384)
        assert training.wants == (("saliency",) if used else ())
        torch.manual_seed(7)
        terms.append(training(given)["transfer"].item())
    assert terms[0] == terms[1] != terms[2] == terms[3]


# ---- what a published form changes -----------------------------------------------------------------------------------


def test_published_settings() -> None:
    for name in ("cam", "seam", "cpn", "eps"):
        momenta = [methods.settings(name, published).momentum for published in (None, "paper", "code")]
        assert momenta == [0.0, 0.9, 5e-4]
    assert make_optimiser(small("cam", "code")).param_groups[0]["momentum"] == 5e-4
    chosen = [methods.settings("cpn", published) for published in (None, "paper", "code")]
    assert [(s.segments, s.grid) for s in chosen] == [((200,), (56, 112))] * 2 + [((300,), (224, 448))]
    assert {(s.batch, s.epochs, s.sizes, s.patches, s.hide) for s in chosen} == {(4, 8, (448.0, 768.0), "superpixels", 0.5)}

    voc, coco, code = (methods.settings("eps", *given) for given in ((None, "voc"), (None, "coco"), ("code", "coco")))
    assert (voc.sizes, voc.crop, voc.batch, voc.epochs, voc.tau, voc.lam) == ((256.0, 512.0), 448, 8, 15, 0.4, 0.5)
    assert (coco.sizes, coco.crop, coco.batch, coco.epochs, coco.tau, coco.lam) == ((256.0, 448.0), 321, 16, 15, 0.4, 0.9)
    assert 82081 // coco.batch * coco.epochs == 76_950 and 82081 // code.batch * code.epochs == 256_500

    for published in (None, "paper", "code"):
        s = methods.settings("l2g", published)
        assert (s.lr, s.momentum, s.nesterov, s.weight_decay, s.batch, s.epochs) == (1e-3, 0.9, True, 5e-4, 3, 10)
        assert (s.schedule, s.decay_epochs, s.decay, s.flip, s.resize, s.sizes) == (
            "step",
            (5.0,),
            0.1,
            False,
            "short",
            (512.0,) * 2,
        )
        assert (s.shuffle, s.patches, s.corners) == ((False, 6, True) if published == "code" else (True, 4, False))
        assert (s.threshold, s.binary_background, s.weight) == (0.001, True, 10.0)
        s = methods.settings("l2g", published, "coco")
        assert (s.lr, s.nesterov, s.schedule, s.power, s.batch, s.epochs) == (0.1, False, "poly", 0.7, 12, 15)
        assert (s.momentum, s.weight_decay, s.shuffle) == ((5e-4, 0.0, False) if published == "code" else (0.0, 5e-4, True))
        assert (s.resize, s.sizes, s.patches, s.corners) == ("squash", (448.0, 448.0), 4, False)
        assert (s.threshold, s.binary_background, s.weight) == (0.1, False, 30.0)


def test_settings_reach_the_loss() -> None:
    batch = padded()

    def total(name: str, published: str | None = None, **changes: object) -> float:
        training = small(name, published, **changes)
        torch.manual_seed(1)
        return training(batch)["total"].item()

    for name, changes in (
        ("seam", {"second_scale": 0.6}),
        ("cpn", {"segments": (9,)}),
        ("cpn", {"hide": 0.2}),
        ("cpn", {"patches": "grid", "grid": (8,)}),
        ("eps", {"lam": 0.9}),
        ("eps", {"tau": 0.0, "lam": 1.0}),
        ("l2g", {"weight": 30.0}),
        ("l2g", {"threshold": 0.5}),
        ("l2g", {"patch": 256}),
    ):
        assert total(name) != total(name, **changes), changes
    assert total("l2g", binary_background=False) != total("l2g")
    for name in ("seam", "cpn"):
        assert len({total(name, published) for published in (None, "paper", "code")}) == (2 if name == "seam" else 3)
        assert "min_pooling" not in small(name, "paper")(batch)
    assert total("l2g") != total("l2g", "code", patches=4, corners=False)
