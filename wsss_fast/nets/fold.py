"""Batch normalisation on stored statistics is a scale and a shift: folded into the convolutions before it, it costs nothing.

A network tells by ``foldable()`` which convolutions feed which normalisation: several where it normalises a sum of
convolutions. A normalisation behind an identity shortcut (most of ResNet38's pre-activations) stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

Foldable = tuple[Sequence[nn.Conv2d], nn.Module, str]  # the convolutions summed, the owner of the normalisation, its name there


def fold(module: nn.Module, inplace: bool = False) -> nn.Module:
    """The same function in eval mode, with fewer passes over memory; a copy unless ``inplace``.

    For inference only: a folded network has other parameters than a checkpoint, and folding cannot be undone.
    """
    module = (module if inplace else copy.deepcopy(module)).eval()
    for part in list(module.modules()):
        for convolutions, owner, name in getattr(part, "foldable", tuple)():
            norm = getattr(owner, name)
            if isinstance(norm, nn.BatchNorm2d):
                _absorb(convolutions, norm)
                setattr(owner, name, nn.Identity())
    return module


@torch.no_grad()
def _absorb(convolutions: Sequence[nn.Conv2d], norm: nn.BatchNorm2d) -> None:
    """norm(sum of the convolutions) = sum of the scaled convolutions + one shift, which the first of them takes."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    gain = norm.weight.double() if norm.affine else torch.ones_like(mean)
    offset = norm.bias.double() if norm.affine else torch.zeros_like(mean)
    scale = gain / (variance + norm.eps).sqrt()
    shift = offset - scale * mean
    for convolution in convolutions:
        bias = shift if convolution.bias is None else shift + scale * convolution.bias.double()
        if convolution is convolutions[0] or convolution.bias is not None:
            convolution.bias = nn.Parameter(bias.to(convolution.weight.dtype), requires_grad=False)
        shift = torch.zeros_like(shift)
        # in place and in the weight's own type: a second copy of the largest weight in float64 would take 150 MB
        convolution.weight.mul_(scale.to(convolution.weight.dtype).view(-1, 1, 1, 1))
