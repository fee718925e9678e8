"""Scores and class maps to one mask.

1. Present classes: probability at least ``present``, the ``max_classes`` most probable.
2. Each map of a present class: negative parts to 0, resized to a common grid, added over scales and flips, divided by
   its maximum.
3. Each pixel takes the class with the largest map value if that exceeds ``background``, else 0. Of equal values the
   more probable class wins. Mask value = class index + 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsss_fast.label.classes import BACKGROUND
from wsss_fast.label.predict import Prediction
from wsss_fast.label.settings import LabelSettings

if TYPE_CHECKING:
    from torch import Tensor

# Maps are added on a grid of at most this many pixels a side: they are smooth, and a full-size sum of a photo of 12
# megapixels would cost gigabytes.
_GRID_SIDE = 512


@dataclass(frozen=True)
class Mask:
    values: np.ndarray  # uint8 [H, W]
    classes: tuple[int, ...]  # present class indices, most probable first
    scores: tuple[float, ...]


def present_classes(scores: Tensor, settings: LabelSettings) -> list[int]:
    order = sorted(range(len(scores)), key=lambda index: (-float(scores[index]), index))
    return [index for index in order[: settings.max_classes] if float(scores[index]) >= settings.present]


def make_mask(prediction: Prediction, height: int, width: int, settings: LabelSettings) -> Mask:
    import torch

    present = present_classes(prediction.scores, settings)
    values = np.full((height, width), BACKGROUND, dtype=np.uint8)
    with torch.inference_mode():
        if present:
            merged = _merge(prediction.maps, present, height, width)
            values = _largest(merged, present, height, width, settings.background)
    return Mask(values, tuple(present), tuple(round(float(prediction.scores[index]), 4) for index in present))


def _merge(maps: tuple[Tensor, ...], present: list[int], height: int, width: int) -> Tensor:
    from torch.nn import functional

    shrink = min(1.0, _GRID_SIDE / max(height, width))
    grid = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    total = 0
    for plane in maps:
        chosen = plane[present].float().clamp_min(0)
        total = total + functional.interpolate(chosen[None], size=grid, mode="bilinear", align_corners=False)[0]
    peak = total.amax(dim=(1, 2), keepdim=True)
    # A map that is nowhere positive stays 0 and never beats the background.
    return total / peak.clamp_min(1e-12)


def _largest(merged: Tensor, present: list[int], height: int, width: int, background: float) -> np.ndarray:
    import torch
    from torch.nn import functional

    best = torch.full((height, width), background, device=merged.device)
    values = torch.zeros((height, width), dtype=torch.uint8, device=merged.device)
    # Class by class: memory is two planes however many classes there are.
    for plane, index in zip(merged, present, strict=True):
        full = functional.interpolate(plane[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0]
        wins = full > best
        best = torch.where(wins, full, best)
        values = values.masked_fill(wins, index + 1)
    return values.cpu().numpy()
