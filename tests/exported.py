"""What tests of exported files share: small networks, and each network's file made once a run."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from helpers import relative_error
from networks import lively
from torch import Tensor, nn

from wsss_fast import methods
from wsss_fast.export import write_onnx
from wsss_fast.export.engine import as_tuple

CLASSES = 3
# none of them traced: odd sizes, batch 1 and 3
SHAPES = ((1, 3, 33, 47), (3, 3, 81, 64), (1, 3, 130, 101))


@dataclass(frozen=True)
class Case:
    method: str
    backbone: str
    options: tuple[tuple[str, Any], ...] = ()
    published: str | None = None

    @property
    def id(self) -> str:
        return "-".join([self.method, self.backbone, *(str(value) for _, value in self.options), self.published or ""]).rstrip(
            "-"
        )

    def network(self) -> nn.Module:
        width = {} if self.backbone == "efficientnet-lite0" else {"width": 1 / 16}
        torch.manual_seed(0)
        model = methods.create(self.method, CLASSES, self.backbone, self.published, **width, **dict(self.options))
        return lively(model).requires_grad_(False)


ASPP, FOV = (("head", "aspp"),), (("head", "largefov"),)
CASES = [
    Case("cam", "vgg16-psa"),
    Case("cam", "resnet50"),
    Case("cam", "efficientnet-lite0"),
    Case("seam", "resnet38"),
    Case("cpn", "resnet38"),
    Case("l2g", "resnet38"),
    Case("affinitynet", "vgg16-psa"),
    Case("irn", "resnet50"),
    Case("deeplab", "vgg16", FOV),
    Case("deeplab", "resnet38", ASPP),
]
# the same layers in other numbers and places
MORE_CASES = [
    Case("cam", "resnet38"),
    Case("cam", "resnet101"),
    Case("cam", "vgg16-psa", published="code"),
    Case("cpn", "resnet38", published="paper"),
    Case("cpn", "resnet38", published="code"),
    Case("eps", "resnet38"),
    Case("affinitynet", "resnet38"),
    Case("affinitynet", "resnet38", published="paper"),
    Case("irn", "resnet101"),
    *(Case("deeplab", name, head) for name in ("resnet101-caffe", "resnet101", "resnet50") for head in (ASPP, FOV)),
    Case("deeplab", "vgg16", ASPP),
    Case("deeplab", "vgg16", FOV, published="paper"),
    Case("deeplab", "resnet38", FOV),
    Case("deeplab", "efficientnet-lite0", ASPP),
    Case("deeplab", "efficientnet-lite0", FOV),
]
BY_METHOD = {case.method: case for case in reversed((*CASES, *MORE_CASES))}  # the first of each
SEAM = CASES[3]
SMALLEST = CASES[0]


@cache
def onnx_file(case: Case, precision: str = "fp32") -> Path:
    """Not to be changed: all processes of a run share it."""
    path = Path(os.environ["WSSS_TEST_FILES"]) / f"{case.id}-{precision}.onnx"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            write_onnx(case.network(), path, precision, classes=("cat", "dog", "owl"))
    return path


def eager(model: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        return as_tuple(model.forward_cam(image))


def error_of(engine: Any, model: nn.Module, shape: tuple[int, ...]) -> float:
    image = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    wanted, got = eager(model, image), as_tuple(engine.forward_cam(image))
    return max(relative_error(a, b) for a, b in zip(got, wanted, strict=True))
