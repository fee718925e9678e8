from __future__ import annotations

import torch
from torch import Tensor


def cam_merge(
    maps: list[Tensor],
    flipped: list[bool],
    size: tuple[int, int],
    present: Tensor | None,
    reduce: str,
    normalise: str,
    clamp: str,
    interpolation: str,
    align_corners: bool,
    background: float | None,
    dtype: torch.dtype,
    eps: float,
    scale: float,
    multiple: int,
) -> Tensor:
    """maps: [N,C,h_k,w_k] each -> [N,C,H,W], or [N,1+C,H,W] with a background. Half types are summed in float32."""
    (h, w), (n, c) = size, maps[0].shape[:2]
    grid = [-(-side // multiple) * multiple for side in size]
    wide = torch.promote_types(maps[0].dtype, torch.float32)
    merged = torch.zeros((n, c, h, w), dtype=wide, device=maps[0].device)
    for values, flip in zip(maps, flipped, strict=True):
        values = values.to(wide).flip(-1) if flip else values.to(wide)
        if clamp == "before":
            values = values.relu()
        if merged.numel() > 0:  # interpolate refuses a tensor without classes
            values = torch.nn.functional.interpolate(values, grid, mode=interpolation, align_corners=align_corners)
            merged += values[:, :, :h, :w]
    merged = (merged / len(maps) if reduce == "mean" else merged).relu()
    top, low = (merged.amax((2, 3), keepdim=True), merged.amin((2, 3), keepdim=True))
    out = (merged - low - eps).relu() / (top - low + eps) if normalise == "minmax" else merged / (top + eps)
    out = out * scale
    if present is not None:
        out = torch.where(present[:, :, None, None], out, 0)
    if background is not None:
        nothing = out.new_zeros((n, 1, h, w))
        best = torch.cat((nothing, out), dim=1).amax(dim=1, keepdim=True)
        out = torch.cat(((1 - best).relu() ** background, out), dim=1)
    if dtype == torch.uint8:
        return (out * 255).round().nan_to_num(0.0).clamp(max=255).to(torch.uint8)
    return out.to(dtype)
