"""One training step of a method: forward, backward and SGD, with our kernels, and with attention in plain PyTorch.

Only the attention differs. The weights stay (the rate is 0) and dropout is off, so that every step gives the same numbers: the
logarithms of the terms of the loss and of the norms of some gradients, which stand for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wsss_fast.bench import pcm, prcm
from wsss_fast.bench._definition import OURS, Condition, Contestant, Function, Operation, Size, Work
from wsss_fast.bench.dense_crf import photo
from wsss_fast.bench.seam import GMAC_A_CELL

CLASSES = 20
CROP = (2, 3, 224, 224)
GRADIENTS = ("b3.conv_branch2a", "b7.conv_branch2b2", "fc8", "f8_3", "f9")


def inputs(size: Size) -> Mapping[str, Tensor]:
    n, _, h, w = size
    labels = torch.zeros(n, CLASSES)
    labels[:, 3] = labels[0, 7] = 1
    return {"pixels": torch.stack([photo(i, h, w) for i in range(n)]), "labels": labels}


def refine_in_pytorch(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """The attention as the released programs have it."""

    def refine(seed: Tensor, x: Tensor) -> Tensor:
        feature = model.f9(x)
        refined = pcm.published(seed, feature)
        if model.name != "cpn":
            return refined
        return refined + prcm.published(seed, x.detach(), feature.relu(), model.f10.weight.flatten(1))

    return refine


def step(name: str, eager: bool, dtype: torch.dtype = torch.float32, width: float = 1.0) -> Function:
    from wsss_fast import methods
    from wsss_fast.train import optimiser as sgd

    torch.manual_seed(0)
    settings = methods.settings(name, "code", lr=0.0)
    training = methods.training(name, CLASSES, published="code", settings=settings, width=width).train().to(dtype)
    for layer in training.modules():
        if isinstance(layer, nn.Dropout2d):
            layer.p = 0.0
    if eager:
        training.model.refine = refine_in_pytorch(training.model)
    normalise = training.image
    training.image = lambda batch: normalise(batch).to(dtype)
    optimiser = sgd.make_optimiser(training)

    def run(pixels: Tensor, labels: Tensor) -> Tensor:
        batch: dict[str, Any] = {"pixels": pixels, "inside": torch.ones_like(pixels[:, 0], dtype=torch.bool), "labels": labels}
        torch.manual_seed(1)  # of the complementary images
        with torch.enable_grad():
            optimiser.zero_grad()
            terms = training(batch)
            terms["total"].backward()
        optimiser.step()
        norms = [training.model.get_submodule(layer).weight.grad.norm() for layer in GRADIENTS]
        return torch.stack([*(term.detach() for term in terms.values()), *norms]).clamp(min=1e-12).log()

    return run


def operation(name: str, views: float, terms: int) -> Operation:
    """`views`: crops that go through the network for one of the batch; `terms`: of the loss, with the total."""

    def work(size: Size, mode: str, dtype: str) -> Work:
        n, _, h, w = size
        cells = -(-h // 8) * -(-w // 8)
        # backward is two products for each of forward; weights are read three times and written twice
        return Work(3 * 2.0 * views * n * (GMAC_A_CELL * cells + 214 * cells**2), 4.0 * 5 * 105e6)

    return Operation(
        name=f"{name}_step",
        what=f"a training step of {name} on ResNet38: forward, backward, SGD",
        axes="Nx3xHxW",
        sizes=(CROP,),
        cuda_sizes=(),
        inputs=inputs,
        exact=lambda pixels, labels: step(name, eager=True, dtype=torch.float64)(pixels, labels),
        contestants=(
            Contestant(OURS, "wsss_fast", lambda: step(name, eager=False), devices=("cpu",)),
            Contestant("eager", "the same with attention in plain PyTorch", lambda: step(name, eager=True), devices=("cpu",)),
        ),
        work=work,
        modes={"step": ()},
        default_modes=("step",),
        conditions=(
            Condition(CROP, "step", "ratio", 1.0, "eager"),
            Condition(CROP, "step", "share of memory", 1.0, "eager"),
            Condition(CROP, "step", "error", 1e-3),
        ),
        threads=2,
        result_shape=lambda size: (terms + len(GRADIENTS),),
        tolerance={"float32": (1e-2, 0.0)},
    )
