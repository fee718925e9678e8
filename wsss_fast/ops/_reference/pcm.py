from __future__ import annotations

import torch
from torch import Tensor


def pcm(cam: Tensor, feature: Tensor, eps: float = 1e-5) -> Tensor:
    """cam [N,C,H,W], feature [N,D,H,W] -> [N,C,H,W]. Sums of half types are kept in float32. Holds a matrix of (HW)^2."""
    wide = torch.promote_types(cam.dtype, torch.float32)
    value, x = cam.flatten(2).to(wide), feature.flatten(2).to(wide)
    x = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + eps)
    affinity = torch.relu(x.transpose(1, 2) @ x)
    out = value @ affinity / (affinity.sum(dim=1, keepdim=True) + eps)
    return out.to(cam.dtype).reshape(cam.shape)
