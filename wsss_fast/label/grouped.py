"""A model whose classes are gathered into groups: what the pipeline sees are the groups.

    class maps with scores      the mean of the group's maps, each weighted by its class's part of the group's probability
    class maps without scores   at each place the largest of the group's maps
    segmentation                the sum of the group's probabilities, which for logits is the log of the sum of their exponentials

A group is as probable as its most probable class: these networks judge each class by itself, so sums could pass 1, and a group
must not be present for the number of its classes. Classes of no group take no part in maps; of a segmentation network they are
background, since a pixel that is surely a horse belongs to none of the groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from wsss_fast.classes.groups import numbers_of, read_groups
from wsss_fast.label.predict import Defaults, Model, Prediction


class GroupedModel:
    named = True

    def __init__(self, model: Model, path: str) -> None:
        count = len(model.class_names)
        groups = read_groups(path, numbers_of(model.class_names) if getattr(model, "named", True) else {}, count)
        self._model = model
        self.class_names = tuple(group.name for group in groups)
        self.identity = {**model.identity, "groups": {group.name: list(group.classes) for group in groups}}
        self.defaults: Defaults = getattr(model, "defaults", Defaults())
        self.device = getattr(model, "device", None)
        self._logits = self.defaults.merge is None
        parts = [group.classes for group in groups]
        if self._logits:
            nowhere = sorted(set(range(count)).difference(*parts))
            parts = [tuple(number + 1 for number in part) for part in ((-1, *nowhere), *parts)]
        self._order = torch.tensor([number for part in parts for number in part])
        self._sizes = [len(part) for part in parts]

    def predict(self, pixels: np.ndarray) -> Prediction:
        found = self._model.predict(pixels)
        with torch.inference_mode():
            order = self._order.to(found.maps[0].device)
            maps = [plane[order].float() for plane in found.maps]
            if self._logits:
                return dataclasses.replace(found, maps=tuple(self._joined(plane, torch.logsumexp) for plane in maps))
            if found.scores is None:
                return dataclasses.replace(found, maps=tuple(self._joined(plane, torch.amax) for plane in maps))
            scores = found.scores[self._order]
            total = self._joined(scores, torch.sum).repeat_interleave(torch.tensor(self._sizes))
            share = (scores / total.clamp_min(1e-30)).to(order.device)[:, None, None]
            maps = [self._joined(plane * share, torch.sum) for plane in maps]
            return dataclasses.replace(found, scores=self._joined(scores, torch.amax), maps=tuple(maps))

    def _joined(self, values: torch.Tensor, join: Callable[..., torch.Tensor]) -> torch.Tensor:
        return torch.stack([join(part, dim=0) for part in values.split(self._sizes)])
