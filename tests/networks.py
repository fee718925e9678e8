"""What tests of networks share."""

from __future__ import annotations

import torch
from torch import nn


def lively(module: nn.Module) -> nn.Module:
    """Statistics, gains and biases away from 0 and 1, so that a test sees them; in eval mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(std=0.2, generator=generator)
                layer.running_var.uniform_(0.5, 2, generator=generator)
                if layer.affine:
                    layer.weight.uniform_(0.5, 1.5, generator=generator)
                    layer.bias.normal_(std=0.2, generator=generator)
            elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
                layer.bias.normal_(std=0.1, generator=generator)
    return module.eval()
