"""AffinityNet: its training step, and the walk against the matrix that the published program squares."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from networks import lively
from random_walk_cases import transition
from scenes import batch, shapes
from torch import Tensor, nn
from torch.nn import functional

from wsss_fast import methods, ops
from wsss_fast.methods import affinitynet
from wsss_fast.methods._walk import smaller


def small(published: str | None = None, backbone: str | None = None, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return lively(methods.create("affinitynet", 2, backbone, published, width=1 / 16, **options))


# ---- training --------------------------------------------------------------------------------------------------------------


def test_settings() -> None:
    chosen = methods.settings("affinitynet")
    assert (chosen.resize, chosen.crop, chosen.epochs, chosen.batch, chosen.lr) == ("none", 448, 8, 8, 0.01)
    assert (chosen.weight_decay, chosen.schedule, chosen.power, chosen.jitter) == (5e-4, "poly", 0.9, (0.3, 0.3, 0.3, 0.1))
    assert [methods.settings("affinitynet", published).momentum for published in (None, "paper", "code")] == [0, 0.9, 5e-4]


@pytest.mark.parametrize("backbone", ["resnet38", "vgg16-psa"])
@pytest.mark.parametrize("published", [None, "code"])
def test_a_step(backbone: str, published: str | None) -> None:
    """The loss is that of the planes of the normalised image; all but the stem learns, and the new layers are told apart."""
    step = methods.training("affinitynet", 2, backbone, published, width=1 / 16)
    one = batch(shapes(2, 96), 8)  # the released code has no pairs on grids of less than 9
    one["inside"][0, 48:] = False
    step.eval()
    image = step.model.normalise(one["pixels"])
    image[0, :, 48:] = 0
    expected = affinitynet.losses(step.model(image), one["affinity"], published)
    assert step(one)["total"].item() == pytest.approx(expected["pairs"].item(), rel=1e-5)
    step.train()(one)["total"].backward()
    new = {id(parameter) for parameter in step.new_parameters()}
    heads = ("f8_", "f9", "gn8_")
    assert new == {id(value) for key, value in step.model.named_parameters() if key.startswith(heads)}
    grads = {key: value.grad for key, value in step.model.named_parameters()}
    assert all(grads[key] is not None and grads[key].abs().max() > 0 for key in grads if key.startswith(heads))
    if backbone == "resnet38":
        stem = [key for key in grads if key.startswith(("conv1a", "b2"))]
        assert stem and all(grads[key] is None for key in stem)
        assert grads["b3.conv_branch2a.weight"].abs().max() > 0


def test_it_learns() -> None:
    """From a random start: the loss falls by half, and pairs across a border are less alike than pairs within."""
    torch.manual_seed(0)
    step = methods.training("affinitynet", 2, settings=methods.settings("affinitynet", freeze=False), width=1 / 16).train()
    one = batch(shapes(4, 64), 8)
    optimiser = torch.optim.SGD(step.parameters(), lr=0.2, momentum=0.9)
    losses = []
    while not losses or losses[-1] > 0.45 * losses[0]:
        assert len(losses) < 60, losses
        terms = step(one)
        optimiser.zero_grad()
        terms["total"].backward()
        optimiser.step()
        losses.append(terms["total"].item())
    planes = step.model(step.image(one)).detach()
    pairs = ops.affinity_labels(one["affinity"])
    within = planes[pairs.background | pairs.foreground]
    assert planes[pairs.different].mean() < 0.6 * within.mean()


def test_bad_batches() -> None:
    step = methods.training("affinitynet", 2, width=1 / 16)
    one = batch(shapes(1, 32), 8)
    with pytest.raises(
        ValueError, match=r"train affinitynet: 'affinity' must be a tensor in the batch, got NoneType. Hint: .*pair_labels"
    ):
        step({key: value for key, value in one.items() if key != "affinity"})
    with pytest.raises(ValueError, match=r"'planes' must have shape \[N, E, h, w\] = \[1, 34, 5, 4\] for these labels"):
        step({**one, "affinity": torch.zeros(1, 5, 4, dtype=torch.uint8)})
    with pytest.raises(TypeError, match="'labels' must be of type"):
        step({**one, "affinity": torch.zeros(1, 4, 4)})
    nothing = step({**one, "affinity": torch.full((1, 4, 4), 255, dtype=torch.uint8)})
    assert nothing["total"].item() == 0


# ---- the walk --------------------------------------------------------------------------------------------------------------


def photo(h: int, w: int) -> tuple[Tensor, Tensor]:
    """A picture, and blurred maps of its two classes."""
    generator = np.random.default_rng(h)
    pixels, masks = shapes(1, max(h, w))
    maps = np.stack([functional.avg_pool2d(torch.from_numpy(masks == k).float()[None], 9, 1, 4)[0, 0].numpy() for k in (1, 2)])
    maps = 0.8 * maps + 0.2 * generator.random(maps.shape)
    return pixels[:, :, :h, :w].contiguous(), torch.from_numpy(maps[None, :, :h, :w]).float()


def published_walk(
    model: nn.Module, pixels: Tensor, cam: Tensor, alpha: float, beta: float, steps: int, radius: int, border: str
) -> np.ndarray:
    """Scores [1 + K, H, W] in float64, by the whole matrix, squared log2(steps) times."""
    h, w = pixels.shape[2:]
    rows, columns = math.ceil(h / 8), math.ceil(w / 8)
    image = np.zeros((1, 3, 8 * rows, 8 * columns), np.float32)
    image[:, :, :h, :w] = model.normalise(pixels).numpy()
    with torch.inference_mode():
        planes = model(torch.from_numpy(image))
    t = transition(smaller(planes, 5, radius), radius, beta, border)[0][0].numpy()
    for _ in range(int(math.log2(steps))):
        t = t @ t
    maps = np.zeros((1 + cam.shape[1], 8 * rows, 8 * columns))
    maps[1:, :h, :w] = cam[0].numpy()
    maps[0, :h, :w] = (1 - maps[1:, :h, :w].max(0)) ** alpha
    cells = maps.reshape(len(maps), rows, 8, columns, 8).mean((2, 4)).reshape(len(maps), -1)
    walked = torch.from_numpy(cells @ t).view(1, len(maps), rows, columns)
    large = functional.interpolate(walked, size=(8 * rows, 8 * columns), mode="bilinear", align_corners=False)
    return large[0, :, :h, :w].numpy()


def same_labels(got: Tensor, expected: np.ndarray) -> bool:
    """Where the two largest scores are not equal up to rounding."""
    assert np.abs(got[0].numpy() - expected).max() < 1e-4 * np.abs(expected).max()
    second, first = np.sort(expected, axis=0)[-2:]
    clear = first - second > 1e-4 * np.abs(expected).max()
    assert clear.mean() > 0.95
    return bool((got[0].argmax(0).numpy() == expected.argmax(0))[clear].all())


@pytest.mark.parametrize("setting", ["psa", "seam"])
@pytest.mark.parametrize("published", [None, "paper", "code"])
@pytest.mark.parametrize("size", [(96, 96), (101, 75), (40, 90)], ids=str)
def test_as_published(size: tuple[int, int], published: str | None, setting: str) -> None:
    """Also where SEAM makes the radius smaller: grids of less than 11."""
    model = small(published)
    pixels, cam = photo(*size)
    got = affinitynet.walk(model, pixels, cam, **affinitynet.WALKS[setting])
    assert got.shape == (1, 3, *size)
    radius, border = 5, "full"
    if published == "code":
        border, side = "published", math.ceil(min(size) / 8)
        radius = (side - 1) // 2 if side < 11 else 5
    alpha, steps = {"psa": (16, 256), "seam": (6, 64)}[setting]
    expected = published_walk(model, pixels, cam, alpha, 8, steps, radius, border)
    assert same_labels(got, expected)
    if published == "paper":
        return  # random features are so far apart by their sum that nothing walks
    before = torch.cat([(1 - cam.amax(1, keepdim=True)) ** alpha, cam], dim=1).argmax(1)
    assert (got.argmax(1) != before).float().mean() > 0.01
    assert (got - affinitynet.walk(model, pixels, cam, alpha=alpha, steps=2)).abs().max() > 1e-3


def test_chebyshev_gives_the_same_labels() -> None:
    model = small()
    pixels, cam = photo(96, 80)
    exact, quick = (affinitynet.walk(model, pixels, cam, mode=mode) for mode in ("exact", "chebyshev"))
    assert (exact.argmax(1) != quick.argmax(1)).float().mean() < 0.002


@pytest.mark.parametrize("published", [None, "code"])
@pytest.mark.parametrize("size", [(1, 1), (8, 9), (5, 40)], ids=str)
def test_the_smallest_images(size: tuple[int, int], published: str | None) -> None:
    pixels = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    out = affinitynet.walk(small(published), pixels, torch.rand(2, 2, *size))
    assert out.shape == (2, 3, *size) and out.isfinite().all()


def test_a_batch_is_its_images() -> None:
    model = small()
    pixels, cam = torch.randint(0, 256, (2, 3, 33, 40), dtype=torch.uint8), torch.rand(2, 2, 33, 40)
    both = affinitynet.walk(model, pixels, cam)
    for i in range(2):
        alone = affinitynet.walk(model, pixels[i : i + 1], cam[i : i + 1])
        assert (both[i] - alone[0]).abs().max() < 1e-5


def test_other_networks() -> None:
    pixels, cam = photo(64, 64)
    for model in (small(backbone="vgg16-psa"), small(radius=3)):
        assert affinitynet.walk(model, pixels, cam).shape == (1, 3, 64, 64)


def test_without_classes_all_is_background() -> None:
    pixels, cam = photo(32, 48)
    out = affinitynet.walk(small(), pixels, cam[:, :0])
    assert out.shape == (1, 1, 32, 48) and (out.argmax(1) == 0).all()


def test_masks_walk_as_maps_of_sure_pixels() -> None:
    """Class 6 as in a map that is 1 there; and noise on the mask is smoothed away."""
    model = small()
    pixels, masks = shapes(1, 128)
    mask = torch.from_numpy(masks)
    mask = torch.where(mask == 2, 0, mask * 7).to(torch.uint8)
    got = affinitynet.walk_mask(model, pixels, mask, steps=1)
    expected = affinitynet.walk(model, pixels, (mask == 7).float()[:, None], steps=1).argmax(1) * 7
    assert got.dtype == torch.uint8 and torch.equal(got.long(), expected)
    assert {0, 7} == set(got.unique().tolist())
    ignored = mask.clone()
    ignored[:, 20:24, 20:24] = 255
    assert set(affinitynet.walk_mask(model, pixels, ignored, steps=1).unique().tolist()) == {0, 7}
    nothing = affinitynet.walk_mask(model, pixels, torch.zeros_like(mask))
    assert (nothing == 0).all()


def test_bad_walks() -> None:
    model = small()
    pixels, cam = photo(32, 48)
    mask = torch.zeros(1, 32, 48, dtype=torch.uint8)
    walk, walk_mask = affinitynet.walk, affinitynet.walk_mask
    for call, words in (
        (
            lambda: walk(methods.create("cam", 2, width=1 / 16).eval(), pixels, cam),
            r"walk: 'model' must be of the method affinitynet, got 'cam'",
        ),
        (lambda: walk(small().train(), pixels, cam), r"'model' must be in eval mode, .*model\.eval\(\)"),
        (lambda: walk(model, pixels.float(), cam), "'pixels' must be of type uint8"),
        (lambda: walk(model, pixels, cam[..., 1:]), r"'cam' must have shape \[N, K, H, W\] = \[1, any, 32, 48\]"),
        (lambda: walk(model, pixels, cam.long()), "'cam' must be of a float type"),
        (lambda: walk(model, pixels, cam, alpha=0), "'alpha' must be a number above 0"),
        (lambda: walk(model, pixels, cam, steps=-1), "'steps' must"),
        (lambda: walk(model, pixels, cam.numpy()), r"'cam' must be a torch\.Tensor"),
        (lambda: walk_mask(model, pixels, mask.long()), "walk_mask: 'mask' must be of type uint8"),
        (lambda: walk_mask(model, pixels, mask[0]), r"'mask' must have shape \[N, H, W\]"),
        (lambda: walk_mask(model, pixels, mask, alpha=3), "unexpected keyword"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            call()
