"""Saliency without a network: what hardly touches the border of the picture, and differs in colour from what does.

The method is boundary connectivity with background-weighted contrast (Zhu, Liang, Wei and Sun, CVPR 2014), on superpixels:

1. The geodesic distance of two superpixels is the least sum of colour steps (CIELAB) on a way between them.
2. A superpixel's region is all that lies near by this distance. The share of its outline on the border of the picture,
   (length on the border) / sqrt(area), tells how likely it is background.
3. Its contrast is the sum of its colour differences to likely background, near more than far.
4. The map minimises: background wants 0, contrast wants 1, neighbours of like colour want the same.

It learns nothing and knows no objects: it fails where the object is large, touches the border, or has the background's colours.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from wsss_fast import ops
from wsss_fast.ops._reference.slic import lab

LONGEST = 400  # pixels; larger pictures are made smaller first
SEGMENTS = 250
COLOUR = 10.0  # CIELAB distance that counts as the same colour
NEAR = 0.25  # of the picture's longest side
BORDER = 1.0
SMOOTH = 0.1


def saliency(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] → uint8 [H, W], 255 most salient; 0 everywhere for a picture of one superpixel."""
    height, width = pixels.shape[:2]
    small = Image.fromarray(pixels)
    small.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX)
    array = np.array(small)
    segments = max(1, min(SEGMENTS, array[..., 0].size // 16))
    labels = ops.slic(torch.from_numpy(array.transpose(2, 0, 1).copy())[None], segments)[0].numpy()
    values = _region_values(array, labels)
    picture = Image.fromarray(np.rint(255 * values[labels]).astype(np.uint8))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def _region_values(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """0 to 1 for each superpixel."""
    count = int(labels.max()) + 1
    area = np.bincount(labels.ravel(), minlength=count)
    rgb = np.rint(_means(pixels, labels, area)).astype(np.uint8)
    colour = lab(torch.from_numpy(rgb.T.copy())[..., None])[..., 0].T.numpy() / 4  # it counts in quarters
    rows, columns = np.indices(labels.shape) / max(labels.shape)
    place = _means(np.stack([rows, columns], -1), labels, area)
    border = np.zeros(count, bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        border[edge] = True
    difference = _distances(colour)
    near = _neighbours(labels, count) | np.logical_and.outer(border, border)
    np.fill_diagonal(near, False)
    if not near.any():
        return np.zeros(count)
    background = _background(difference, near, border)
    closeness = np.exp(-(_distances(place) ** 2) / (2 * NEAR**2))
    contrast = _scaled((difference * closeness) @ background)
    smooth = (near | ((near.astype(float) @ near) > 0)) * (np.exp(-(difference**2) / (2 * COLOUR**2)) + SMOOTH)
    np.fill_diagonal(smooth, 0)
    system = np.diag(smooth.sum(1) + background + contrast + 1e-6) - smooth
    # By torch: NumPy's threads spin while they wait, which on a busy machine takes many times as long.
    return _scaled(torch.linalg.solve(torch.from_numpy(system), torch.from_numpy(contrast)).numpy())


def _background(difference: np.ndarray, near: np.ndarray, border: np.ndarray) -> np.ndarray:
    """How likely each superpixel is background, from the border's share in what is like it."""
    step = np.where(near, difference, np.inf)
    # Steps that everybody must take, noise and texture, count for nothing.
    free = np.mean(np.min(step, 1, where=np.isfinite(step), initial=1e9))
    geodesic = np.where(near, np.maximum(step - free, 0), np.inf)
    np.fill_diagonal(geodesic, 0)
    for middle in range(len(geodesic)):
        np.minimum(geodesic, geodesic[:, middle, None] + geodesic[None, middle], out=geodesic)
    like = np.exp(-(geodesic**2) / (2 * COLOUR**2))
    touch = like[:, border].sum(1) / np.sqrt(like.sum(1))
    return 1 - np.exp(-(touch**2) / (2 * BORDER**2))


def _means(values: np.ndarray, labels: np.ndarray, area: np.ndarray) -> np.ndarray:
    sums = [np.bincount(labels.ravel(), values[..., c].ravel(), len(area)) for c in range(values.shape[-1])]
    return np.stack(sums, -1) / area[:, None]


def _distances(points: np.ndarray) -> np.ndarray:
    return np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))


def _neighbours(labels: np.ndarray, count: int) -> np.ndarray:
    near = np.zeros((count, count), bool)
    for first, second in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        near[first.ravel(), second.ravel()] = near[second.ravel(), first.ravel()] = True
    return near


def _scaled(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high - low > 1e-9 else np.zeros_like(values)
