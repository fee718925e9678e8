"""The SEAM network on ResNet38 as inference runs it, against the same network in plain PyTorch.

Every contestant has the same weights and gives the refined maps at the network's stride.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsss_fast.bench import pcm
from wsss_fast.bench._definition import OURS, Condition, Contestant, Function, Operation, Size, Work

CLASSES = 20
GMAC_A_CELL = 399e9 / 56**2  # of ResNet38, a cell of the stride-8 grid


def inputs(size: Size) -> Mapping[str, Tensor]:
    return {"image": torch.randn(size, generator=torch.Generator().manual_seed(0))}


@lru_cache(maxsize=1)
def network() -> nn.Module:
    from wsss_fast import methods

    torch.manual_seed(0)
    return methods.create("seam", CLASSES).eval().requires_grad_(False)


def as_created() -> Function:
    return network().forward_cam


def ours() -> Function:
    from wsss_fast import nets

    return nets.pack(nets.fold(network())).forward_cam


def eager() -> Function:
    return lambda image: plain(network(), image)


def exact(image: Tensor) -> Tensor:
    return plain(copy.deepcopy(network()).to(image.dtype), image)


def plain(model: nn.Module, image: Tensor) -> Tensor:
    """Layer after layer, nothing in place and nothing fused; the matrix of likenesses is stored."""
    from wsss_fast.nets.resnet38 import Basic, Bottleneck

    x = model.conv1a(image)
    kept = {}
    for name, block in model.named_children():
        if isinstance(block, (Basic, Bottleneck)):
            x, kept[name] = plain_block(block, x)
            if name not in ("b5", "b6"):
                del kept[name]
    conv6 = functional.relu(model.bn7(x))
    cam = model.fc8(conv6)
    shortened = functional.interpolate(image, cam.shape[2:], mode="bilinear", align_corners=True)
    parts = [shortened, functional.relu(model.f8_3(kept["b5"])), functional.relu(model.f8_4(kept["b6"]))]
    return pcm.published(plain_seed(cam), model.f9(torch.cat(parts, dim=1)))


def plain_block(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    a = functional.relu(block.bn_branch2a(x))
    shortcut = block.conv_branch1(a) if block.projects else x
    y = block.conv_branch2b1(functional.relu(block.bn_branch2b1(block.conv_branch2a(a))))
    if hasattr(block, "conv_branch2b2"):
        y = block.conv_branch2b2(functional.relu(block.bn_branch2b2(y)))
    return shortcut + y, a


def plain_seed(cam: Tensor) -> Tensor:
    cam = functional.relu(cam)
    maps = functional.relu(cam - 1e-5) / (cam.flatten(2).max(dim=2)[0][..., None, None] + 1e-5)
    maps[:, 0] = 1 - maps[:, 1:].max(dim=1)[0]
    strongest = maps[:, 1:].max(dim=1, keepdim=True)[0]
    maps[:, 1:][maps[:, 1:] < strongest] = 0
    return maps


def work(size: Size, mode: str, dtype: str) -> Work:
    n, _, h, w = size
    cells = -(-h // 8) * -(-w // 8)
    return Work(2.0 * n * (GMAC_A_CELL * cells + 214 * cells**2), 4.0 * (105e6 + n * (3 * h * w + (CLASSES + 1) * cells)))


SMALL, CROP = (1, 3, 224, 224), (1, 3, 448, 448)

OPERATION = Operation(
    name="seam",
    what="the SEAM network on ResNet38: image to refined class maps",
    axes="Nx3xHxW",
    sizes=(SMALL, CROP),
    cuda_sizes=(),
    inputs=inputs,
    exact=exact,
    contestants=(
        Contestant(OURS, "wsss_fast: folded and packed", ours, devices=("cpu",)),
        Contestant("created", "wsss_fast: the network as methods.create makes it", as_created, devices=("cpu",)),
        Contestant("eager", "the same network in plain PyTorch", eager, devices=("cpu",)),
    ),
    work=work,
    modes={"fwd": ()},
    default_modes=("fwd",),
    conditions=(
        Condition(SMALL, "fwd", "ratio", 1.0, "eager"),
        Condition(SMALL, "fwd", "ratio", 1.1, "eager", decides=False),
        Condition(SMALL, "fwd", "share of memory", 1.0, "eager"),
        Condition(CROP, "fwd", "share of memory", 0.8, "eager"),
        *(Condition(size, "fwd", "error", 1e-4) for size in (SMALL, CROP)),
    ),
    result_shape=lambda size: (size[0], CLASSES + 1, -(-size[2] // 8), -(-size[3] // 8)),
)
