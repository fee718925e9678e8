from __future__ import annotations

import torch
from torch import Tensor


def prcm(
    cam: Tensor,
    x: Tensor,
    query: Tensor,
    phi: Tensor,
    scale: float,
    axis: str = "positions",
    layout: str = "transpose",
) -> Tensor:
    """cam [N,C,H,W], x [N,C1,H,W], query [N,C2,H,W], phi [C2,C1] -> [N,C,H,W]. Sums of half types are kept in float32."""
    n, c = cam.shape[:2]
    wide = torch.promote_types(cam.dtype, torch.float32)
    seed, pixels = cam.detach().flatten(2).to(wide), x.detach().flatten(2).to(wide)
    proxy = seed.softmax(dim=2) @ pixels.transpose(1, 2)  # [N, C, C1]: the average of x, weighted by the class
    key = torch.relu(phi.to(wide) @ proxy.transpose(1, 2))  # [N, C2, C]
    key = key.transpose(1, 2) if layout == "transpose" else key.reshape(n, c, phi.shape[0])
    gate = (key @ query.flatten(2).to(wide) * scale).softmax(dim=2 if axis == "positions" else 1)
    return (seed * gate).to(cam.dtype).reshape(cam.shape)
