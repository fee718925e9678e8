"""IRN: its losses by hand and by loops, its training step, and the walk against the matrix of the published program."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cam_merge_cases import irn as merged
from cam_merge_cases import irn_high_resolution as merged_high
from helpers import relative_error
from networks import lively
from scenes import batch, halves
from torch import Tensor, nn
from torch.nn import functional

from wsss_fast import methods, ops
from wsss_fast._settings import SettingsError
from wsss_fast.methods import irn
from wsss_fast.methods._infer import resized
from wsss_fast.methods.losses import affinitynet_pairs, irn_displacement
from wsss_fast.ops._reference.edge_affinity import path
from wsss_fast.ops._reference.half_disc import half_disc


def small(published: str | None = None, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return lively(methods.create("irn", 2, None, published, width=1 / 16, **options))


# ---- losses ----------------------------------------------------------------------------------------------------------------


def test_pairs_by_hand() -> None:
    """Three places in a row, two of the background and one of a class; radius 2, so that pairs are neighbours.

    Edges .2, .6, .3: both pairs have affinity 1 - .6. A quarter of -log .4 for the background's, half of -log(1 - .4) for the
    different one.
    """
    edge = torch.tensor([0.2, 0.6, 0.3], dtype=torch.float64).logit().view(1, 1, 1, 3)
    still = torch.zeros(1, 2, 1, 3, dtype=torch.float64)
    terms = irn.losses(edge, still, torch.tensor([[[0, 0, 1]]]), radius=2)
    assert terms["pairs"].item() == pytest.approx(-math.log(0.4) / 4 - math.log(0.6) / 2, abs=1e-4)
    assert terms["displacement"].item() == 0
    assert terms["total"].item() == terms["pairs"].item()


def test_displacement_by_hand() -> None:
    """Four places in a row: 0, 0, class 1, class 1; neighbours alone. Vectors (dy, dx) as told.

    Background: (1, 2) - (.5, 4) = (.5, -2): mean 1.25. Object: (0, 1) - (0, .5) = (0, .5), to be (0, 1): mean .25. Half of each.
    """
    d = torch.tensor([[1.0, 0.5, 0, 0], [2, 4, 1, 0.5]]).view(1, 2, 1, 4)
    labels = torch.tensor([[[0, 0, 2, 2]]])
    assert irn_displacement(d, labels, radius=2).item() == pytest.approx(1.25 / 2 + 0.25 / 2, abs=1e-4)
    # one above the other the offset is (1, 0)
    column = d.transpose(2, 3).contiguous()
    expected = 1.25 / 2 + (1 + 0.5) / 2 / 2
    assert irn_displacement(column, labels.transpose(1, 2), radius=2).item() == pytest.approx(expected, abs=1e-4)
    # vectors that point at one place cost an object nothing, and equal ones the background nothing
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(8.0), indexing="ij")
    centre = torch.stack([3 - y, 5 - x])[None]
    assert irn_displacement(centre, torch.full((1, 9, 8), 3)).item() < 1e-6
    assert irn_displacement(torch.ones(1, 2, 9, 8), torch.zeros(1, 9, 8, dtype=torch.long)).item() == 0
    # different classes and what is ignored do not count
    assert irn_displacement(d, torch.tensor([[[0, 1, 255, 255]]]), radius=2).item() == 0


@pytest.mark.parametrize("border", ["full", "published"])
@pytest.mark.parametrize(("radius", "size"), [(3, (6, 7)), (10, (14, 23)), (10, (4, 5)), (5, (1, 1))], ids=str)
def test_displacement_by_loops(radius: int, size: tuple[int, int], border: str) -> None:
    h, w = size
    torch.manual_seed(0)
    d = torch.randn(2, 2, h, w, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 255])[torch.randint(0, 4, (2, h, w))]
    sums, counts = [0.0, 0.0], [1e-5, 1e-5]
    for n in range(2):
        for dy, dx in half_disc(radius):
            for y in range(h - dy):
                for x in range(max(0, -dx), w - max(0, dx)):
                    if border == "published" and not (y < h - radius + 1 and radius - 1 <= x < w - radius + 1):
                        continue
                    p, q = labels[n, y, x].item(), labels[n, y + dy, x + dx].item()
                    if p != q or p == 255:
                        continue
                    lead = torch.tensor([dy, dx]) if p else torch.zeros(2)
                    sums[p > 0] += (d[n, :, y, x] - d[n, :, y + dy, x + dx] - lead).abs().mean().item()
                    counts[p > 0] += 1
    expected = sums[0] / counts[0] / 2 + sums[1] / counts[1] / 2
    assert irn_displacement(d, labels, radius, border).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("border", ["full", "published"])
def test_gradients(border: str) -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 255])[torch.randint(0, 3, (1, 5, 7))]
    d = torch.randn(1, 2, 5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: 3 * irn_displacement(d, labels, 3, border), d)
    (gradient,) = torch.autograd.grad(irn_displacement(d, labels, 3, border), d)
    assert (gradient.permute(0, 2, 3, 1)[labels == 255] == 0).all()
    # NaN where nothing looks is not seen, elsewhere it is
    hidden = torch.where((labels == 255)[:, None], torch.nan, d.detach())
    assert irn_displacement(hidden, labels, 3).isfinite()
    assert irn_displacement(torch.full_like(d, torch.nan), labels, 3).isnan()


def test_nothing_is_kept_for_a_pair() -> None:
    """What waits for the way back is one map of gradients, though there are 152 pairs a place."""
    d = torch.randn(2, 2, 32, 32, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        loss = irn_displacement(d, torch.zeros(2, 32, 32, dtype=torch.uint8))
    assert sum(kept) <= d.numel()
    loss.backward()
    half = d.detach().half().requires_grad_()
    irn_displacement(half, torch.zeros(2, 32, 32, dtype=torch.uint8)).backward()
    assert half.grad.dtype == torch.float16 and relative_error(half.grad, d.grad) < 0.05


@pytest.mark.parametrize("published", [None, "paper", "code"])
def test_losses(published: str | None) -> None:
    torch.manual_seed(0)
    edge, d = torch.randn(2, 1, 21, 22), torch.randn(2, 2, 21, 22)
    labels = torch.tensor([0, 1, 2, 255])[torch.randint(0, 4, (2, 21, 22))]
    border = "published" if published == "code" else "full"
    terms = irn.losses(edge, d, labels, published)
    assert terms["pairs"] == affinitynet_pairs(ops.edge_affinity(edge.sigmoid(), 10), labels, 10, border)
    assert terms["displacement"] == irn_displacement(d, labels, 10, border)
    assert terms["total"] == terms["pairs"] + terms["displacement"]


def test_bad_losses() -> None:
    edge, d, labels = torch.zeros(1, 1, 6, 7), torch.zeros(1, 2, 6, 7), torch.zeros(1, 6, 7, dtype=torch.uint8)
    for call, words in (
        (lambda: irn.losses(edge, d[:, :1], labels), r"irn_displacement: 'displacement' must have shape \[N, 2, h, w\]"),
        (lambda: irn.losses(edge, d, labels[:, 1:]), r"affinitynet_pairs: 'planes' must have shape"),
        (lambda: irn_displacement(d, labels[:, 1:]), r"irn_displacement: 'displacement' must have shape"),
        (lambda: irn_displacement(d, labels.float()), "'labels' must be of type"),
        (lambda: irn_displacement(d, labels, 0), "'radius' must"),
        (lambda: irn_displacement(d, labels, border="half"), "'border' must be"),
        (lambda: irn.losses(edge, d, labels, "both"), "'published' must be"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            call()


# ---- training --------------------------------------------------------------------------------------------------------------


def test_settings() -> None:
    chosen = methods.settings("irn")
    assert (chosen.resize, chosen.sizes, chosen.crop, chosen.epochs, chosen.batch) == ("scale", (0.5, 1.5), 512, 3, 32)
    assert (chosen.lr, chosen.lr * chosen.new_rate, chosen.weight_decay, max(chosen.jitter)) == (0.1, 1.0, 1e-4, 0)
    assert [methods.settings("irn", published).momentum for published in (None, "paper", "code")] == [0, 0.9, 1e-4]
    assert chosen.radius == 10
    with pytest.raises(SettingsError, match="'radius' must be a whole number from 2 to 32, got 1"):
        methods.settings("irn", radius=1)


def test_the_radius_that_is_asked_for() -> None:
    step = methods.training("irn", 2, settings=methods.settings("irn", radius=3), width=1 / 16).eval()
    one = batch(halves(1, 48), 4)
    outputs = step.model(step.image(one))
    found = step(one)["total"]
    assert found == irn.losses(*outputs, one["affinity"], radius=3)["total"] != irn.losses(*outputs, one["affinity"])["total"]


@pytest.mark.parametrize("freeze", [True, False])
def test_who_learns_what(freeze: bool) -> None:
    """The pairs teach the edges, the displacement its own layers, and nothing the backbone, whatever is asked."""
    step = methods.training("irn", 2, settings=methods.settings("irn", freeze=freeze), width=1 / 16).train()
    one = batch(halves(1, 64), 4)
    names = {id(value): key for key, value in step.model.named_parameters()}
    reached = {}
    for term in ("pairs", "displacement"):
        step.zero_grad()
        step(one)[term].backward()
        reached[term] = {names[id(value)] for value in step.parameters() if value.grad is not None and value.grad.abs().max() > 0}
    assert reached["pairs"] == {name for name in names.values() if name.startswith("fc_edge")}
    assert reached["displacement"] == {name for name in names.values() if name.startswith("fc_dp")}
    assert {names[id(value)] for value in step.new_parameters()} == reached["displacement"]
    backbone = [value for value in step.parameters() if names[id(value)].startswith("resnet50")]
    assert backbone and not any(value.requires_grad for value in backbone)
    assert not any(layer.training for layer in step.model.backbone.modules())


def test_it_learns() -> None:
    """From a random start: both losses fall, edges stand where classes meet, and the running mean follows the displacement."""
    torch.manual_seed(0)
    step = methods.training("irn", 2, width=1 / 8).train()
    one = batch(halves(4, 64), 4)
    before = {key: value.clone() for key, value in step.model.backbone.state_dict().items()}
    optimiser = torch.optim.Adam([value for value in step.parameters() if value.requires_grad], lr=0.01)
    history = []
    while not history or history[-1]["pairs"] > 0.45 * history[0]["pairs"]:
        assert len(history) < 60, history
        terms = step(one)
        optimiser.zero_grad()
        terms["total"].backward()
        optimiser.step()
        history.append({name: value.item() for name, value in terms.items()})
    assert history[-1]["displacement"] < 0.9 * history[0]["displacement"]
    assert all(torch.equal(value, before[key]) for key, value in step.model.backbone.state_dict().items())
    assert step.model.fc_dp7[4].running_mean.abs().max() > 0
    step.eval()
    edge = step.model.forward_cam(step.image(one))[0].detach()
    planes = ops.edge_affinity(edge)
    pairs = ops.affinity_labels(one["affinity"])
    assert planes[pairs.different].mean() < 0.5 * planes[pairs.background | pairs.foreground].mean()
    assert irn.losses(edge.logit(), torch.zeros(4, 2, 16, 16), one["affinity"])["pairs"] < 0.6 * history[0]["pairs"]


def test_bad_batches() -> None:
    step = methods.training("irn", 2, width=1 / 16)
    one = batch(halves(1, 32), 4)
    with pytest.raises(
        ValueError, match=r"train irn: 'affinity' must be a tensor in the batch, got NoneType. Hint: .*pair_labels"
    ):
        step({key: value for key, value in one.items() if key != "affinity"})
    with pytest.raises(ValueError, match="'planes' must have shape"):
        step({**one, "affinity": one["affinity"][:, ::2]})
    nothing = step({**one, "affinity": torch.full((1, 8, 8), 255, dtype=torch.uint8)})
    assert nothing["total"].item() == 0


# ---- maps and walk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(33, 50), (48, 32)], ids=str)
@torch.inference_mode()
def test_class_maps(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = lively(methods.create("cam", 3, "resnet50", width=1 / 16))
    pixels = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    present = torch.tensor([[True, False, True], [True, True, True]])
    cam, high = irn.class_maps(model, pixels, present)
    maps = []
    for scale in (1.0, 0.5, 1.5, 2.0):
        image = model.normalise(resized(pixels, scale))
        maps += [model.forward_cam(image), model.forward_cam(image.flip(3))]
    flips = [False, True] * 4
    strided = (math.ceil(size[0] / 4), math.ceil(size[1] / 4))
    assert relative_error(cam, merged(maps, flips, strided, present)) < 1e-5
    assert relative_error(high, merged_high(maps, flips, size) * present[:, :, None, None]) < 1e-5


def published_walk(edge: np.ndarray, cam: np.ndarray, size: tuple[int, int], beta: float, steps: int, radius: int) -> np.ndarray:
    """Scores [1 + K, H, W] in float64: the edge padded by ones, the whole matrix, the padding cut out of it, squared."""
    h, w = edge.shape
    padded = np.pad(edge.astype(np.float64), ((0, radius), (radius, radius)), constant_values=1.0)
    nodes = np.arange(h * w).reshape(h, w)
    a = np.eye(h * w)
    for y in range(h):
        for x in range(w):
            for dy, dx in half_disc(radius):
                if y + dy < h and 0 <= x + dx < w:
                    strongest = max(padded[y + py, x + px + radius] for py, px in path(dy, dx))
                    a[nodes[y, x], nodes[y + dy, x + dx]] = a[nodes[y + dy, x + dx], nodes[y, x]] = 1 - strongest
    t = a**beta
    t /= t.sum(axis=0, keepdims=True)
    for _ in range(int(math.log2(steps))):
        t = t @ t
    walked = (cam.astype(np.float64) * (1 - edge)).reshape(len(cam), -1) @ t
    large = functional.interpolate(torch.from_numpy(walked.reshape(1, len(cam), h, w)), scale_factor=4, mode="bilinear")
    scores = large[0, :, : size[0], : size[1]].numpy()
    scores = scores / scores.max()
    return np.concatenate([np.full((1, *size), 0.25), scores])


def picture(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A picture of two halves, and maps of two classes at stride 4."""
    pixels, masks = halves(1, max(size))
    mask = torch.from_numpy(masks[0]).float()
    grid = [math.ceil(side / 4) for side in size]
    maps = functional.adaptive_avg_pool2d(torch.stack([mask, 1 - mask])[:, : size[0], : size[1]], grid)
    return pixels[:, :, : size[0], : size[1]].contiguous(), (0.7 * maps + 0.3 * torch.rand(maps.shape))[None]


@pytest.mark.parametrize(("radius", "steps"), [(5, 256), (3, 16)])
@pytest.mark.parametrize("size", [(64, 64), (37, 70), (3, 90)], ids=str)
def test_as_published(size: tuple[int, int], radius: int, steps: int) -> None:
    model = small()
    pixels, cam = picture(size)
    got = irn.walk(model, pixels, cam, radius=radius, steps=steps)
    with torch.inference_mode():
        edge = model.forward_mirrored(model.normalise(pixels))[0][0, 0].numpy()
    expected = published_walk(edge, cam[0].numpy(), size, 10, steps, radius)
    assert got.shape == (1, 3, *size)
    assert np.abs(got[0].numpy() - expected).max() < 1e-4
    second, first = np.sort(expected, axis=0)[-2:]
    clear = first - second > 1e-4
    assert clear.mean() > 0.95 and (got[0].argmax(0).numpy() == expected.argmax(0))[clear].all()
    # the walk does something here, and so do its settings
    plain = functional.interpolate(cam, scale_factor=4, mode="bilinear")[..., : size[0], : size[1]]
    assert (got[:, 1:] - plain / plain.max()).abs().max() > 0.05
    assert (got - irn.walk(model, pixels, cam, radius=radius, steps=steps, beta=2)).abs().max() > 1e-3


def test_the_released_code_pads_the_image() -> None:
    """The image and its mirror image each lie in the corner of a field of 512 x 512."""
    model = small("code")
    pixels, cam = picture((40, 52))
    field = torch.zeros(2, 3, 512, 512)
    image = model.normalise(pixels)[0]
    field[0, :, :40, :52], field[1, :, :40, :52] = image, image.flip(2)
    with torch.inference_mode():
        logits = model(field)[0][:, 0, :10, :13]
    edge = ((logits[0] + logits[1].flip(1)) / 2).sigmoid().numpy()
    got = irn.walk(model, pixels, cam)
    assert np.abs(got[0].numpy() - published_walk(edge, cam[0].numpy(), (40, 52), 10, 256, 5)).max() < 1e-4
    assert (got - irn.walk(small(), pixels, cam)).abs().max() > 1e-3  # the network sees another border


@pytest.mark.parametrize("published", [None, "code"])
def test_any_size(published: str | None) -> None:
    """Larger than the field of the released code, where the whole matrix would have 26,250^2 entries; and a single pixel."""
    model = small(published)
    for h, w in ((700, 600), (1, 1)):
        pixels = torch.randint(0, 256, (1, 3, h, w), dtype=torch.uint8)
        out = irn.walk(model, pixels, torch.rand(1, 2, math.ceil(h / 4), math.ceil(w / 4)), steps=16)
        assert out.shape == (1, 3, h, w) and out.isfinite().all() and (out[:, 0] == 0.25).all()
        assert out[:, 1:].max() == 1


def test_empty_maps() -> None:
    model = small()
    pixels = torch.randint(0, 256, (2, 3, 33, 40), dtype=torch.uint8)
    none = irn.walk(model, pixels, torch.zeros(2, 0, 9, 10))
    assert none.shape == (2, 1, 33, 40) and (none == 0.25).all()
    nothing = irn.walk(model, pixels, torch.zeros(2, 2, 9, 10))
    assert (nothing[:, 1:] == 0).all() and (nothing.argmax(1) == 0).all()
    # each image is divided by its own largest value
    cam = torch.rand(2, 2, 9, 10) * torch.tensor([1.0, 0.1]).view(2, 1, 1, 1)
    both = irn.walk(model, pixels, cam)
    assert both[:, 1:].amax((1, 2, 3)).tolist() == [1, 1]


def test_bad_walks() -> None:
    model = small()
    pixels, cam = picture((32, 48))
    for call, words in (
        (lambda: irn.walk(methods.create("cam", 2, width=1 / 16).eval(), pixels, cam), "walk: 'model' must be of the method irn"),
        (lambda: irn.walk(small().train(), pixels, cam), "'model' must be in eval mode"),
        (lambda: irn.walk(model, pixels, cam[..., 1:]), r"'cam' must have shape .* = \[1, any, 8, 12\] \(.* stride\)"),
        (lambda: irn.walk(model, pixels, cam, radius=0), "'radius' must"),
        (lambda: irn.class_maps(model, pixels), "'model' must give class maps, got 'irn'"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            call()
