"""The SEAM network on ResNet38, exported and run by ONNX Runtime, against the network as it is, eager in inference mode."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from wsss_fast.bench import seam
from wsss_fast.bench._definition import OURS, Condition, Contestant, Function, Operation

SMALL = (1, 3, 224, 224)


def exported(network: nn.Module) -> Function:
    """With as many threads as torch has at this moment."""
    from wsss_fast.export.onnx import write_onnx
    from wsss_fast.export.ort import OrtEngine

    with tempfile.TemporaryDirectory(prefix="wsss-") as folder:
        path = Path(folder) / "network.onnx"
        write_onnx(network, path)
        return OrtEngine(path, torch.device("cpu")).forward_cam


def eager(network: nn.Module) -> Function:
    def run(image: Tensor) -> Tensor:
        with torch.inference_mode():
            return network.forward_cam(image)

    return run


OPERATION = Operation(
    name="export_ort",
    what="SEAM on ResNet38, exported: image to refined class maps",
    axes="Nx3xHxW",
    sizes=(SMALL,),
    cuda_sizes=(),
    inputs=seam.inputs,
    exact=seam.exact,
    contestants=(
        Contestant(OURS, "the exported file, run by ONNX Runtime", lambda: exported(seam.network()), devices=("cpu",)),
        Contestant("eager", "the network as methods.create makes it", lambda: eager(seam.network()), devices=("cpu",)),
    ),
    work=seam.work,
    modes={"fwd": ()},
    default_modes=("fwd",),
    conditions=(Condition(SMALL, "fwd", "ratio", 1.15, "eager"), Condition(SMALL, "fwd", "error", 1e-4)),
    threads=2,
    result_shape=seam.OPERATION.result_shape,
)
