"""dense_crf against pydensecrf, on a photo and smooth class probabilities, with the settings of the published label stages."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wsss_fast._extras import require
from wsss_fast.bench._definition import OURS, Condition, Contestant, Function, Operation, Size, Work

# gaussian sxy, compat; bilateral sxy, srgb, compat
SETTINGS = (
    (3.0, 3.0, 80.0, 13.0, 10.0),  # 1: PSA, SEAM
    (3.0, 3.0, 50.0, 5.0, 10.0),  # 2: IRN
    (1.0, 3.0, 67.0, 3.0, 4.0),  # 3: DeepLab v2
    (0.25, 3.0, 80.0 / 12, 13.0, 10.0),  # 4: PSA at scale 12
)
ITERATIONS = 10


def inputs(size: Size) -> Mapping[str, Tensor]:
    n, labels, h, w, setting = size
    return {
        "probability": probability(n, labels, h, w),
        "image": torch.stack([photo(i, h, w) for i in range(n)]),
        "setting": torch.tensor(SETTINGS[setting - 1]),
    }


def photo(index: int, h: int, w: int) -> Tensor:
    """A scikit-image photo, [3, H, W] uint8."""
    import numpy as np
    from PIL import Image
    from skimage import data

    pixels = (data.coffee, data.chelsea)[index % 2]()[..., :3]
    return torch.from_numpy(np.array(Image.fromarray(pixels).resize((w, h)))).permute(2, 0, 1).contiguous()


def probability(n: int, labels: int, h: int, w: int) -> Tensor:
    """A background and two blobs a class, as a network would give them."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(h) / h, torch.arange(w) / w, indexing="ij")
    logits = torch.zeros((n, labels, h, w))
    logits[:, 0] = 1.6
    for image in range(n):
        for label in range(1, labels):
            for cy, cx, spread in torch.rand((2, 3), generator=generator).tolist():
                spread = 0.08 + 0.17 * spread
                logits[image, label] += 4 * torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * spread**2))
    logits += 0.05 * torch.randn(logits.shape, generator=generator)
    return logits.softmax(dim=1)


def ours() -> Function:
    from wsss_fast import ops

    def run(probability: Tensor, image: Tensor, setting: Tensor) -> Tensor:
        sxy, compat, *bilateral = setting.tolist()
        return ops.dense_crf(probability, image, iterations=ITERATIONS, gaussian=(sxy, compat), bilateral=tuple(bilateral))

    return run


def definition(probability: Tensor, image: Tensor, setting: Tensor) -> Tensor:
    from wsss_fast import ops

    sxy, compat, *bilateral = setting.tolist()
    terms = {"gaussian": (sxy, compat), "bilateral": tuple(bilateral)}
    return ops.dense_crf(probability, image, iterations=ITERATIONS, **terms, impl="reference")


def pydensecrf() -> Function:
    import numpy as np

    theirs, utils = require("pydensecrf.densecrf", "bench"), require("pydensecrf.utils", "bench")

    def one(probability: Tensor, image: Tensor, setting: list[float]) -> Tensor:
        sxy, compat, sxy_bilateral, srgb, compat_bilateral = setting
        labels, h, w = probability.shape
        crf = theirs.DenseCRF2D(w, h, labels)
        crf.setUnaryEnergy(np.ascontiguousarray(utils.unary_from_softmax(probability.numpy())))
        crf.addPairwiseGaussian(sxy=sxy, compat=compat)
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        crf.addPairwiseBilateral(sxy=sxy_bilateral, srgb=srgb, rgbim=pixels, compat=compat_bilateral)
        return torch.from_numpy(np.array(crf.inference(ITERATIONS))).view(labels, h, w)

    def run(probability: Tensor, image: Tensor, setting: Tensor) -> Tensor:
        return torch.stack([one(*pair, setting.tolist()) for pair in zip(probability, image, strict=True)])

    return run


def work(size: Size, mode: str, dtype: str) -> Work:
    """Splat and slice of nine entries a pixel and label an iteration, the softmax; unaries read and Q written once."""
    n, labels, h, w, _ = size
    values = n * labels * h * w
    return Work(ITERATIONS * values * (2 * 2 * 9 + 4), values * 8 + 3 * n * h * w)


VOC = (375, 500)
THREE, ALL = (1, 3, *VOC, 1), (1, 21, *VOC, 1)
IRN, DEEPLAB, COARSE = (1, 3, *VOC, 2), (1, 21, *VOC, 3), (1, 3, *VOC, 4)
_BOUNDS = ((THREE, 4.5), (ALL, 4.0), (IRN, 3.5), (DEEPLAB, 1.5))

OPERATION = Operation(
    name="dense_crf",
    what="mean field inference, 10 iterations; S is 1 for the setting of PSA and SEAM, 2 IRN, 3 DeepLab, 4 PSA at scale 12",
    axes="NxLxHxWxS",
    sizes=(THREE, ALL, IRN, DEEPLAB, COARSE),
    cuda_sizes=((1, 3, 448, 448, 1), (1, 21, 448, 448, 1), (8, 3, 448, 448, 1)),
    inputs=inputs,
    exact=definition,
    contestants=(
        Contestant(OURS, "wsss_fast.ops.dense_crf", ours),
        Contestant("pydensecrf", "pydensecrf2, one thread", pydensecrf, devices=("cpu",)),
    ),
    work=work,
    modes={"fwd": ()},
    default_modes=("fwd",),
    conditions=(
        *(Condition(size, "fwd", "ratio", bound, "pydensecrf") for size, bound in _BOUNDS),
        *(Condition(size, "fwd", "share of memory", 1.5, "pydensecrf") for size, _ in _BOUNDS),
        *(Condition(size, "fwd", "error", 1e-3) for size, _ in _BOUNDS),
    ),
    tolerance={"float32": (1e-2, 0.0)},
)
