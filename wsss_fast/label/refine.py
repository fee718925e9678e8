"""Scores and class maps to one result an image.

1. Present classes: those of the labels; else of probability at least ``present``, the ``max_classes`` most probable.
2. Their maps are merged over scales and flips, at the size of the bounded image, from 0 to 1 (`ops.cam_merge`).
3. The background joins: a constant, or (1 - max)^alpha. Then the walk and the CRF, if asked for.
4. Each pixel of the image takes the largest of background and classes; of equal ones the background, then the more probable
   class. Mask value = class index + 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from wsss_fast.files.png import BACKGROUND, IGNORE, IGNORE_16
from wsss_fast.label.predict import Prediction
from wsss_fast.label.settings import LabelSettings

if TYPE_CHECKING:
    from torch import Tensor

    from wsss_fast.files.images import Picture
    from wsss_fast.label.device import Device
    from wsss_fast.label.walk import Walk


@dataclass(frozen=True)
class Mask:
    values: np.ndarray  # uint8 or uint16 [H, W]
    classes: tuple[int, ...]  # present class indices, most probable first
    scores: tuple[float, ...]  # empty where nobody said
    maps: dict[str, np.ndarray] = field(default_factory=dict)  # uint8 [K, H, W] by kind, for formats that hold them


@dataclass(frozen=True)
class Present:
    classes: tuple[int, ...]
    scores: tuple[float, ...]


def present_classes(scores: Tensor, settings: LabelSettings) -> Present:
    order = sorted(range(len(scores)), key=lambda index: (-float(scores[index]), index))
    chosen = [index for index in order[: settings.max_classes] if float(scores[index]) >= settings.present]
    return Present(tuple(chosen), _rounded(scores, chosen))


def given_classes(labels: tuple[int, ...], scores: Tensor | None) -> Present:
    if scores is None:
        return Present(labels, ())
    chosen = sorted(labels, key=lambda index: (-float(scores[index]), index))
    return Present(tuple(chosen), _rounded(scores, chosen))


def _rounded(scores: Tensor, chosen: list[int]) -> tuple[float, ...]:
    return tuple(round(float(scores[index]), 4) for index in chosen)


def make_mask(
    prediction: Prediction,
    picture: Picture,
    settings: LabelSettings,
    walk: Walk | None = None,
    labels: tuple[int, ...] | None = None,
    device: Device | None = None,
) -> Mask:
    """``settings`` of `predict.resolved`."""
    import torch

    from wsss_fast.label.device import CPU

    device = device or CPU
    size = picture.height, picture.width
    wide = settings.format == "index"
    with torch.inference_mode():
        if settings.merge is None:
            return _from_logits(prediction, picture, settings, labels, device)
        present = present_classes(prediction.scores, settings) if labels is None else given_classes(labels, prediction.scores)
        if not present.classes:
            nothing = np.full(size, BACKGROUND, np.uint16 if wide else np.uint8)
            return Mask(nothing, (), (), _no_maps(settings, size))
        merged = _merge(prediction, present.classes, picture.pixels.shape[:2], settings)
        if settings.format == "alpha":
            return _pair(merged, prediction, picture, present, settings, device)
        scores = _with_background(merged, settings)
        if walk is not None:
            if walk.background is None:
                scores = walk.spread(scores, prediction.guide)
            else:
                spread = walk.spread(merged, prediction.guide)
                scores = torch.cat([torch.full_like(spread[:, :1], walk.background), spread], dim=1)
        if settings.crf:
            scores = _crf(scores, prediction, picture)
        maps = {}
        if settings.format == "npz":
            maps = {"": np.stack([_bytes(_enlarged(plane, size)) for plane in _by_class(scores[0, 1:], present.classes)])}
        values = device.download(_largest(scores[0], present.classes, size, settings.uncertain, wide))
    return Mask(_narrow(values), present.classes, present.scores, maps)


def _merge(prediction: Prediction, present: tuple[int, ...], size: tuple[int, int], settings: LabelSettings) -> Tensor:
    from wsss_fast import ops

    chosen = [plane[list(present)][None].float() for plane in prediction.maps]
    flipped = list(prediction.flipped) or [False] * len(chosen)
    return ops.cam_merge(chosen, flipped, size, **ops.CAM_MERGE[settings.merge])


def _with_background(merged: Tensor, settings: LabelSettings) -> Tensor:
    import torch

    best = merged.amax(dim=1, keepdim=True)
    if settings.alpha is None:
        return torch.cat([torch.full_like(best, settings.background), merged], dim=1)
    return torch.cat([(1 - best).clamp_min(0) ** settings.alpha, merged], dim=1)


def _crf(scores: Tensor, prediction: Prediction, picture: Picture) -> Tensor:
    from wsss_fast import ops

    image = pixels_of(prediction, picture).to(scores.device)
    return ops.dense_crf(scores.contiguous(), image.contiguous())


def pixels_of(prediction: Prediction, picture: Picture) -> Tensor:
    """uint8 [1, 3, H, W], where the model has put it, else on the CPU."""
    from wsss_fast.label.device import CPU

    return CPU.upload(picture.pixels) if prediction.image is None else prediction.image


def _from_logits(
    prediction: Prediction, picture: Picture, settings: LabelSettings, labels: tuple[int, ...] | None, device: Device
) -> Mask:
    """A segmentation network: the mean of its logits over scales and flips; every class competes unless labels say which."""
    logits = _mean_logits(prediction, picture.pixels.shape[:2])
    if labels is None:
        winners = logits[0].argmax(dim=0).unique().tolist()
        chosen = tuple(index - 1 for index in winners if index > 0)
    else:
        chosen = labels
    scores = logits[:, [0, *(index + 1 for index in chosen)]].softmax(dim=1)
    if settings.crf and chosen:
        scores = _crf(scores, prediction, picture)
    full = picture.height, picture.width
    maps = {}
    if settings.format == "npz":
        planes = [_bytes(_enlarged(plane, full)) for plane in _by_class(scores[0, 1:], chosen)]
        maps = {"": np.stack(planes)} if planes else _no_maps(settings, full)
    values = _largest(scores[0], chosen, full, settings.uncertain, settings.format == "index")
    return Mask(_narrow(device.download(values)), chosen, (), maps)


def _mean_logits(prediction: Prediction, size: tuple[int, int]) -> Tensor:
    flipped = prediction.flipped or (False,) * len(prediction.maps)
    total = 0
    for plane, mirrored in zip(prediction.maps, flipped, strict=True):
        total = total + _resized((plane.flip(-1) if mirrored else plane)[None].float(), size)
    return total / len(prediction.maps)


def foreground(prediction: Prediction, classes: tuple[int, ...], size: tuple[int, int], settings: LabelSettings) -> np.ndarray:
    """float32 [H, W] from 0 to 1: the largest of the classes' merged maps, before background, walk and CRF; of a segmentation
    network the largest of their probabilities."""
    import torch

    if not classes:
        return np.zeros(size, np.float32)
    with torch.inference_mode():
        if settings.merge is None:
            planes = _mean_logits(prediction, size)[:, [0, *(index + 1 for index in classes)]].softmax(dim=1)[:, 1:]
        else:
            planes = _merge(prediction, classes, size, settings)
        return planes[0].amax(dim=0).clamp(0, 1).cpu().numpy()


def _pair(
    merged: Tensor, prediction: Prediction, picture: Picture, present: Present, settings: LabelSettings, device: Device
) -> Mask:
    """Labels for AffinityNet: a strong and a weak background, each refined by the CRF. What is an object against the strong one
    is labelled, what is background against the weak one is background, the rest is to be ignored."""
    import dataclasses

    size = picture.height, picture.width
    maps, values = {}, {}
    for kind, alpha in zip(("low", "high"), settings.alphas, strict=True):
        rows = _with_background(merged, dataclasses.replace(settings, format="palette", alpha=alpha))
        scores = _crf(rows, prediction, picture)
        planes = [scores[0, 0], *_by_class(scores[0, 1:], present.classes)]
        maps[kind] = np.stack([_bytes(_enlarged(plane, size)) for plane in planes])
        values[kind] = device.download(_largest(scores[0], present.classes, size, None, False))
    combined = np.where(values["low"] == BACKGROUND, np.uint8(IGNORE), values["low"])
    combined[values["high"] == BACKGROUND] = BACKGROUND
    return Mask(combined, present.classes, present.scores, maps)


def _by_class(planes: Tensor, classes: tuple[int, ...]) -> list[Tensor]:
    """In ascending order of the class index, as files hold them."""
    return [planes[place] for place in sorted(range(len(classes)), key=classes.__getitem__)]


def _no_maps(settings: LabelSettings, size: tuple[int, int]) -> dict[str, np.ndarray]:
    if settings.format == "npz":
        return {"": np.zeros((0, *size), np.uint8)}
    if settings.format == "alpha":
        return {kind: np.full((1, *size), 255, np.uint8) for kind in ("low", "high")}
    return {}


def _bytes(plane: Tensor) -> np.ndarray:
    import torch

    return (plane.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _resized(planes: Tensor, size: tuple[int, ...]) -> Tensor:
    from torch.nn import functional

    if tuple(planes.shape[2:]) == tuple(size):
        return planes
    return functional.interpolate(planes, size=tuple(size), mode="bilinear", align_corners=False)


def _enlarged(plane: Tensor, size: tuple[int, int]) -> Tensor:
    return _resized(plane[None, None], size)[0, 0]


def _largest(scores: Tensor, classes: tuple[int, ...], size: tuple[int, int], uncertain: float | None, wide: bool) -> Tensor:
    """uint8 [H, W], or int32. Class by class: memory is a few planes of the image however many classes there are."""
    import torch

    best = _enlarged(scores[0], size)
    values = torch.zeros(size, dtype=torch.int32 if wide else torch.uint8, device=scores.device)
    second, total = torch.zeros_like(best), best
    for plane, index in zip(scores[1:], classes, strict=True):
        full = _enlarged(plane, size)
        wins = full > best
        if uncertain is not None:
            second = torch.where(wins, best, torch.maximum(second, full))
            total = total + full
        best = torch.where(wins, full, best)
        values = values.masked_fill(wins, index + 1)
    if uncertain is not None and classes:
        values = values.masked_fill(best - second < uncertain * total, IGNORE_16 if wide else IGNORE)
    return values


def _narrow(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint16) if values.dtype == np.int32 else values
