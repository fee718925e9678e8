"""The built-in network, exported and run by ONNX Runtime, against the network as it is, eager in inference mode."""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from torch import Tensor, nn

from wsss_fast.bench import seam
from wsss_fast.bench._definition import OURS, Condition, Contestant, Operation, Size, Work
from wsss_fast.bench.export_ort import eager, exported

CLASSES = 1000
CROP = (1, 3, 448, 448)
MAC_A_CELL = 4.05e9 / 28**2  # at output stride 16, a cell of that grid
WEIGHTS = 4.6e6


@lru_cache(maxsize=1)
def network() -> nn.Module:
    from wsss_fast import methods

    torch.manual_seed(0)
    return methods.create("cam", CLASSES, backbone="efficientnet-lite0").eval().requires_grad_(False)


def exact(image: Tensor) -> Tensor:
    return copy.deepcopy(network()).to(image.dtype).forward_cam(image)


def cells(size: Size) -> tuple[int, int]:
    return -(-size[2] // 16), -(-size[3] // 16)


def work(size: Size, mode: str, dtype: str) -> Work:
    (n, _, h, w), (rows, columns) = size, cells(size)
    outputs = CLASSES * rows * columns
    return Work(2.0 * n * MAC_A_CELL * rows * columns, 4.0 * (WEIGHTS + n * (3 * h * w + outputs)))


OPERATION = Operation(
    name="export_ort_lite0",
    what="EfficientNet-Lite0, exported: image to class maps",
    axes="Nx3xHxW",
    sizes=(CROP,),
    cuda_sizes=(),
    inputs=seam.inputs,
    exact=exact,
    contestants=(
        Contestant(OURS, "the exported file, run by ONNX Runtime", lambda: exported(network()), devices=("cpu",)),
        Contestant("eager", "the network as methods.create makes it", lambda: eager(network()), devices=("cpu",)),
    ),
    work=work,
    modes={"fwd": ()},
    default_modes=("fwd",),
    conditions=(Condition(CROP, "fwd", "ratio", 1.5, "eager"), Condition(CROP, "fwd", "error", 1e-4)),
    threads=2,
    result_shape=lambda size: (size[0], CLASSES, *cells(size)),
)
