"""Features with planted patterns, and what learns them."""

from __future__ import annotations

import torch
from torch import Tensor

from wsss_fast.methods.dcp import ClassPatterns


def planted(images: int = 12, channels: int = 24, side: int = 9, classes: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each class adds its own direction to the features of a rectangle; features, labels, where [N, C, h, w], directions."""
    generator = torch.Generator().manual_seed(2)
    directions = torch.linalg.qr(torch.randn(channels, classes, generator=generator)).Q.T
    features = 5 + 0.3 * torch.randn(images, channels, side, side, generator=generator)
    labels, where = torch.zeros(images, classes), torch.zeros(images, classes, side, side)
    for index in range(images):
        for c in range(classes):
            if index == 0 or index % classes == c:
                y, x = torch.randint(1, side // 2, (2,), generator=generator).tolist()
                where[index, c, y : y + side // 2, x : x + side // 2] = 1
                labels[index, c] = 1
    return features + 3 * torch.einsum("nchw,cd->ndhw", where, directions), labels, where, directions


def learned(features: Tensor, labels: Tensor, cam: Tensor | None = None, batch: int = 4, **options: int) -> ClassPatterns:
    patterns = ClassPatterns(labels.shape[1], features.shape[1], **options)
    for start in range(0, len(features), batch):
        some = slice(start, start + batch)
        patterns.update(features[some], labels[some], None if cam is None else cam[some])
    patterns.finish()
    return patterns
