"""What the tests of dense_crf share: photos, probability maps, the settings of methods, pydensecrf itself."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from helpers import Implementation
from peers import peer
from skimage import data
from torch import Tensor

from wsss_fast import ops

# name: gaussian, bilateral of method stages
SETTINGS = {
    "psa": ((3, 3), (80, 13, 10)),
    "irn": ((3, 3), (50, 5, 10)),
    "deeplab": ((1, 3), (67, 3, 4)),
    "psa scale 12": ((3 / 12, 3), (80 / 12, 13, 10)),
    "largefov": ((3, 3), (121, 5, 4)),
}

# Q lies in [0, 1]. Worst seen on the CPU: 2e-5, where ten iterations have made a rounding error grow.
BOUND = 2e-4


@cache
def photo(name: str, height: int, width: int) -> np.ndarray:
    whole = getattr(data, name)()[..., :3]
    y, x = (whole.shape[0] - height) // 2, (whole.shape[1] - width) // 3
    return np.ascontiguousarray(whole[y : y + height, x : x + width])


def maps(labels: int, height: int, width: int, seed: int) -> np.ndarray:
    """Probabilities: a constant map and Gaussian blobs, by the rule of the oracle."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(float) / np.array([height, width])[:, None, None]
    blobs = [np.full((height, width), 0.12)]
    for _ in range(labels - 1):
        cy, cx, s = random.uniform(0.25, 0.75), random.uniform(0.25, 0.75), random.uniform(0.08, 0.2)
        blobs.append(np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * s**2)))
    p = np.stack(blobs) + 0.02
    return (p / p.sum(0)).astype(np.float32)


def inputs(impl: Implementation, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """probability and image: a different crop of a photo for each image of the batch. The emulator gets small ones."""
    n, labels, h, w = shape
    if impl.name == "simt":
        h, w = (min(h, 16), min(w, 20)) if labels < 9 else (min(h, 8), min(w, 9))
    probability = np.stack([maps(labels, h, w, seed) for seed in range(n)])
    noise = np.random.default_rng(7).uniform(0.2, 1, probability.shape).astype(np.float32)
    image = np.stack([photo("coffee", 150, 225)[10 * i : 10 * i + h, 20 * i : 20 * i + w] for i in range(n)])
    return torch.from_numpy(probability * noise).to(impl.device), planar(image).to(impl.device)


def planar(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2)


def wide(probability: Tensor, image: Tensor, **settings) -> Tensor:
    """The definition in float64."""
    return ops.dense_crf(probability.cpu().double(), image.cpu(), impl="reference", **settings)


def furthest(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return (got.double().cpu() - expected.double().cpu()).abs().max().item() if got.numel() else 0.0


def by_pydensecrf(energy: np.ndarray, image: np.ndarray, gaussian, bilateral, iterations: int = 10) -> np.ndarray:
    labels, h, w = energy.shape
    crf = peer("pydensecrf.densecrf").DenseCRF2D(w, h, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(energy.reshape(labels, -1), np.float32))
    if gaussian:
        crf.addPairwiseGaussian(sxy=gaussian[0], compat=gaussian[1])
    if bilateral:
        crf.addPairwiseBilateral(sxy=bilateral[0], srgb=bilateral[1], rgbim=image.copy(), compat=bilateral[2])
    return np.array(crf.inference(iterations)).reshape(labels, h, w)


def assert_same_as_published(impl: Implementation, got: Tensor, expected: np.ndarray) -> None:
    q = got.cpu().numpy()
    bound = 2e-3 if impl.device == "cuda" else 1e-4
    assert np.abs(q - expected).max() <= bound and np.abs(q - expected).mean() <= 1e-5
    assert (q.argmax(0) == expected.argmax(0)).mean() >= 0.999
