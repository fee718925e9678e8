"""AffinityNet from class maps to masks on scenes, beside the published program: its CRF, its pairs one by one, its matrix.

Nothing here uses an operation of the package for the published side: pydensecrf, index arrays and a dense matrix in float64.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import threads
from networks import lively
from peers import peer
from torch import Tensor, nn
from torch.nn import functional

from wsss_fast import methods
from wsss_fast.data.scenes import SceneSettings, make_scene
from wsss_fast.methods import affinitynet, pair_labels
from wsss_fast.train.optimiser import learning_rate, make_optimiser, set_rates

SIDE, COUNT, STEPS = 112, 3, 3
# half of the disc of radius 5: one of the two directions of each pair
OFFSETS = [(dy, dx) for dy in range(5) for dx in range(-4, 5) if dy * dy + dx * dx < 25 and (dy > 0 or dx > 0)]


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray, list[int]]]:
    """Images, blurred and uneven class maps from 0 to 1, and their classes."""
    made, generator = [], np.random.default_rng(0)
    for index in range(COUNT):
        scene = make_scene(SceneSettings(sizes=((SIDE, SIDE),)), 0, "train", index)
        classes = [int(value) - 1 for value in np.unique(scene.mask) if 0 < value < 255]
        truth = torch.from_numpy(np.stack([scene.mask == c + 1 for c in classes])).float()[None]
        coarse = torch.from_numpy(generator.random((1, len(classes), 8, 8))).float()
        uneven = functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear", align_corners=False)
        cam = (functional.avg_pool2d(truth, 25, 1, 12) * (0.4 + uneven))[0].numpy()
        made.append((scene.image, cam / cam.max((1, 2), keepdims=True), classes))
    return made


# ---- the published program -------------------------------------------------------------------------------------------------


def crf(image: np.ndarray, scores: np.ndarray) -> np.ndarray:
    field = peer("pydensecrf.densecrf").DenseCRF2D(SIDE, SIDE, len(scores))
    field.setUnaryEnergy(np.ascontiguousarray(peer("pydensecrf.utils").unary_from_softmax(scores)))
    field.addPairwiseGaussian(sxy=3, compat=3)
    field.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.ascontiguousarray(image), compat=10)
    return np.asarray(field.inference(10)).reshape(scores.shape)


def published_labels(image: np.ndarray, cam: np.ndarray, classes: list[int], alphas: tuple[float, ...]) -> np.ndarray:
    pooled = []
    for alpha in alphas:
        found = crf(image, np.concatenate([(1 - cam.max(0, keepdims=True)) ** alpha, cam]).astype(np.float32))
        pooled.append(functional.avg_pool2d(torch.from_numpy(found)[None], 8)[0].numpy())
    low, high = (maps.argmax(0) for maps in pooled)
    label = np.asarray([0, *(c + 1 for c in classes)])[low]
    label[low == 0] = 255
    label[high == 0] = 0
    return label


def published_features(model: nn.Module, image: Tensor) -> Tensor:
    kept = []
    hook = model.f9.register_forward_hook(lambda _module, _inputs, output: kept.append(functional.elu(output)))
    model(image)
    hook.remove()
    return kept[0]


def published_pairs(h: int, w: int, reach: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Sources away from the border, and where each pair leads: [pairs] twice."""
    grid = np.arange(h * w).reshape(h, w)
    r = reach - 1
    sources = grid[: h - r, r : w - r]
    there = [grid[dy : h - r + dy, r + dx : w - r + dx] for dy, dx in OFFSETS]
    return np.broadcast_to(sources, (len(OFFSETS), *sources.shape)).reshape(-1), np.stack(there).reshape(-1)


def published_loss(features: Tensor, labels: Tensor) -> Tensor:
    one, other = published_pairs(*labels.shape[1:])
    flat, ids = features.flatten(2), labels.flatten(1).long()
    alike = torch.exp(-(flat[:, :, one] - flat[:, :, other]).abs().mean(1))
    a, b = ids[:, one], ids[:, other]
    valid = (a < 255) & (b < 255)
    background, foreground, different = valid & (a == b) & (a == 0), valid & (a == b) & (a > 0), valid & (a != b)

    def mean(values: Tensor, chosen: Tensor) -> Tensor:
        return (values * chosen).sum() / (chosen.sum() + 1e-5)

    near, far = -torch.log(alike + 1e-5), -torch.log(1 + 1e-5 - alike)
    return mean(near, background) / 4 + mean(near, foreground) / 4 + mean(far, different) / 2


def published_walk(model: nn.Module, image: Tensor, cam: np.ndarray, alpha: float, squarings: int) -> np.ndarray:
    """Scores [1 + K, H, W]: the whole matrix, squared."""
    features = published_features(model, image)[0].double().numpy()
    h, w = features.shape[1:]
    one, other = published_pairs(h, w)
    flat = features.reshape(len(features), -1)
    matrix = np.eye(h * w)
    matrix[one, other] = matrix[other, one] = np.exp(-np.abs(flat[:, one] - flat[:, other]).mean(0))
    matrix = matrix**8
    matrix /= matrix.sum(0)
    for _ in range(squarings):
        matrix = matrix @ matrix
    scores = np.concatenate([(1 - cam.max(0, keepdims=True)) ** alpha, cam])
    cells = scores.reshape(len(scores), h, 8, w, 8).mean((2, 4)).reshape(len(scores), -1)
    walked = torch.from_numpy(cells @ matrix).view(1, len(scores), h, w)
    return functional.interpolate(walked, scale_factor=8, mode="bilinear", align_corners=False)[0].numpy()


# ---- both ------------------------------------------------------------------------------------------------------------------


def test_labels_of_pairs(scenes) -> None:
    seen = set()
    for image, cam, classes in scenes:
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        for alphas in pair_labels.ALPHAS.values():
            stored = pair_labels.cam_maps(torch.from_numpy(cam), pixels, classes, alphas)
            got = pair_labels.affinity_target(stored.low, stored.high, classes)
            assert (got == published_labels(image, cam, classes, alphas)).all()
            seen |= set(got.flatten().tolist())
    assert {0, 255} < seen and len(seen) > 3


def test_both_steps(scenes) -> None:
    """The same labels of pairs, the same losses while both learn, and then the same masks."""
    pixels = torch.from_numpy(np.stack([image for image, _, _ in scenes])).permute(0, 3, 1, 2).contiguous()
    labels = [published_labels(*scene, pair_labels.ALPHAS["psa"]) for scene in scenes]
    names = [str(index) for index in range(COUNT)]
    batch = {"pixels": pixels, "inside": torch.ones(COUNT, SIDE, SIDE, dtype=torch.bool), "labels": torch.zeros(COUNT, 20)}
    batch |= {"affinity": torch.from_numpy(np.stack(labels)).to(torch.uint8), "names": names}
    torch.manual_seed(0)
    step = methods.training("affinitynet", 20, published="code", width=1 / 16)
    lively(step.model)
    with torch.no_grad():
        step.model.f9.weight *= 5  # else all pixels of a network without weights are alike
    theirs = copy.deepcopy(step.model)
    before = step.model.f9.weight.clone()
    # the published rates: new layers ten times; what stands for the momentum is the decay, and biases are frozen
    new = [value for name, value in theirs.named_parameters() if name.startswith("f")]
    old = [value for name, value in theirs.named_parameters() if not name.startswith("f") and value.requires_grad]
    groups = [{"params": old, "lr": 0.01, "rate": 0.01}, {"params": new, "lr": 0.1, "rate": 0.1}]
    published = torch.optim.SGD(groups, lr=0.01, momentum=5e-4, weight_decay=5e-4)
    ours = make_optimiser(step)
    image = step.model.normalise(pixels)
    with threads(1):
        for index in range(STEPS):
            set_rates(ours, learning_rate(step.settings, index, STEPS, STEPS))
            for group in published.param_groups:
                group["lr"] = group["rate"] * (1 - index / STEPS) ** 0.9
            losses = []
            for model, optimiser in ((step.model, ours), (theirs, published)):
                model.train()
                torch.manual_seed(index)  # of dropout
                if model is theirs:
                    loss = published_loss(published_features(theirs, image), batch["affinity"])
                else:
                    loss = step(batch)["total"]
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
            assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert (step.model.f9.weight - before).abs().max() > 1e-4  # it has learned, and both the same
    assert all(
        torch.allclose(one, other, atol=1e-6) for one, other in zip(step.model.parameters(), theirs.parameters(), strict=True)
    )

    step.model.eval(), theirs.eval()
    for index, (_, cam, _) in enumerate(scenes):
        for setting, alpha, squarings in (("psa", 16, 8), ("seam", 6, 6)):
            one = slice(index, index + 1)
            given = affinitynet.WALKS[setting]
            scores = affinitynet.walk(step.model, pixels[one], torch.from_numpy(cam)[None], **given)[0].numpy()
            with torch.inference_mode():
                expected = published_walk(theirs, image[one], cam, alpha, squarings)
            assert np.abs(scores - expected).max() < 1e-4 * expected.max()
            best, second = (np.sort(expected, axis=0)[place] for place in (-1, -2))
            clear = best - second > 1e-4 * expected.max()
            assert clear.mean() > 0.99 and (scores.argmax(0) == expected.argmax(0))[clear].all()
            before = np.concatenate([(1 - cam.max(0, keepdims=True)) ** alpha, cam]).argmax(0)
            assert 0.005 < (expected.argmax(0) > 0).mean() < 0.95 and (expected.argmax(0) != before).mean() > 0.05
