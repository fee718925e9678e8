"""The walks of AffinityNet and IRN: checks of their inputs, and the arithmetic behind the network, which labelling shares."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wsss_fast import ops
from wsss_fast.methods._method import Method
from wsss_fast.ops import _check
from wsss_fast.ops._reference.half_disc import half_disc


def check(op: str, model: Method, pixels: Tensor, cam: Tensor, size: tuple[int, int] | None = None) -> None:
    """`size`: of `cam`, where it is not that of the image."""
    _check_model(op, model, pixels)
    _check.tensor(op, "cam", cam, "[N, K, H, W]")
    if not cam.is_floating_point():
        raise TypeError(_check.complaint(op, "cam", "be of a float type", _check.short(cam.dtype)))
    wanted = (len(pixels), None, *(pixels.shape[2:] if size is None else size))
    why = "N and size of 'pixels'" if size is None else "N of 'pixels', and their size over the network's stride"
    _check.shape(op, "cam", cam, "[N, K, H, W]", wanted, why)
    _check.device(op, "cam", cam, "pixels", pixels)


def check_mask(op: str, model: Method, pixels: Tensor, mask: Tensor) -> None:
    _check_model(op, model, pixels)
    _check.tensor(op, "mask", mask, "[N, H, W]")
    _check.dtype(op, "mask", mask, (torch.uint8,))
    _check.shape(op, "mask", mask, "[N, H, W]", (len(pixels), *pixels.shape[2:]), "N and size of 'pixels'")
    _check.device(op, "mask", mask, "pixels", pixels)


def _check_model(op: str, model: Method, pixels: Tensor) -> None:
    name = op.partition(".")[0]
    if getattr(model, "name", None) != name:
        raise ValueError(_check.complaint(op, "model", f"be of the method {name}", repr(getattr(model, "name", model))))
    if model.training:
        raise ValueError(_check.complaint(op, "model", "be in eval mode", "training mode", "model.eval()"))
    _check.photo(op, "pixels", pixels)


def smaller(planes: Tensor, radius: int, wanted: int) -> Tensor:
    """The planes of the pairs that are closer than `wanted`."""
    if wanted == radius:
        return planes
    places = {offset: place for place, offset in enumerate(half_disc(radius))}
    return planes[:, [places[offset] for offset in half_disc(wanted)]]


def by_planes(
    rows: Tensor,
    planes: Tensor,
    stride: int,
    radius: int,
    beta: float,
    steps: int,
    mode: str = "exact",
    border: str = "full",
    impl: str | None = None,
) -> Tensor:
    """Rows [N, R, H, W] averaged onto the grid of `planes`, walked, and enlarged again."""
    size = rows.shape[2:]
    small = functional.avg_pool2d(functional.pad(rows, beyond(size, stride)), stride)
    return enlarged(ops.random_walk(small, planes, radius, beta, steps, mode, border=border, impl=impl), stride, size)


def by_edge(
    rows: Tensor,
    edge: Tensor,
    stride: int,
    size: tuple[int, ...],
    radius: int,
    beta: float,
    steps: int,
    mode: str = "exact",
    impl: str | None = None,
) -> Tensor:
    """Rows [N, R, h, w] times (1 - edge), walked up to the edges, enlarged, divided by their largest value in the image."""
    planes = ops.edge_affinity(edge, radius, impl=impl)
    rows = ops.random_walk(rows * (1 - edge), planes, radius, beta, steps, mode, impl=impl)
    if rows.shape[1] == 0:
        return rows.new_zeros(len(rows), 0, *size)
    rows = enlarged(rows, stride, size)
    return rows / rows.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)


def beyond(size: tuple[int, ...], stride: int) -> tuple[int, int, int, int]:
    """Padding on the right and below that makes the sides multiples of the stride."""
    return 0, -size[1] % stride, 0, -size[0] % stride


def enlarged(rows: Tensor, stride: int, size: tuple[int, ...]) -> Tensor:
    return functional.interpolate(rows, scale_factor=stride, mode="bilinear", align_corners=False)[..., : size[0], : size[1]]
