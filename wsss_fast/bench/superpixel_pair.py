"""slic and complementary_pair together, against scikit-image's slic and a NumPy mask: what a data loader pays for an image.

The results compared are the visible shares, near one half: the segments themselves are other ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wsss_fast.bench._definition import OURS, Condition, Contestant, Function, Operation, Size, Work
from wsss_fast.bench.dense_crf import photo

COMPACTNESS = 10


def inputs(size: Size) -> Mapping[str, Tensor]:
    n, h, w, segments = size
    image = torch.stack([photo(i, h, w) for i in range(n)])
    return {"image": image, "normalised": (image.float() / 255 - 0.45) / 0.225, "segments": torch.tensor(segments)}


def ours() -> Function:
    from wsss_fast import ops

    def run(image: Tensor, normalised: Tensor, segments: Tensor) -> Tensor:
        labels = ops.slic(image, int(segments), COMPACTNESS)
        return ops.complementary_pair(normalised, labels, generator=torch.Generator().manual_seed(0))[2]

    return run


def scikit_image() -> Function:
    import numpy as np
    from skimage.segmentation import slic

    def one(image: Tensor, normalised: Tensor, segments: int) -> float:
        labels = slic(image.permute(1, 2, 0).numpy(), n_segments=segments, compactness=COMPACTNESS, start_label=0)
        count = int(labels.max()) + 1
        mask = np.isin(labels, np.random.default_rng(0).permutation(count)[: round(0.5 * count)])
        pixels = normalised.numpy()
        _, _, share = pixels * ~mask, pixels * mask, 1 - mask.mean()
        return float(share)

    def run(image: Tensor, normalised: Tensor, segments: Tensor) -> Tensor:
        return torch.tensor([one(*pair, int(segments)) for pair in zip(image, normalised, strict=True)])

    return run


def half(image: Tensor, normalised: Tensor, segments: Tensor) -> Tensor:
    return torch.full((image.shape[0],), 0.5, dtype=normalised.dtype, device=image.device)


def work(size: Size, mode: str, dtype: str) -> Work:
    """Ten rounds of nine distances in five coordinates; the images read and the pair written once."""
    n, h, w, _ = size
    return Work(10 * 9 * 10.0 * n * h * w, n * h * w * (3 + 4 + 9 * getattr(torch, dtype).itemsize))


VOC = (1, 448, 448, 200)

OPERATION = Operation(
    name="superpixel_pair",
    what="slic and complementary_pair: a photo into two with half of its superpixels each",
    axes="NxHxWxK",
    sizes=(VOC,),
    cuda_sizes=(VOC, (16, *VOC[1:])),
    inputs=inputs,
    exact=half,
    contestants=(
        Contestant(OURS, "wsss_fast.ops.slic and complementary_pair", ours),
        Contestant("skimage", "scikit-image's slic and a NumPy mask", scikit_image, devices=("cpu",)),
    ),
    work=work,
    modes={"fwd": ()},
    default_modes=("fwd",),
    conditions=(Condition(VOC, "fwd", "ratio", 15.0, "skimage"),),
    tolerance=dict.fromkeys(("float32", "bfloat16", "float16"), (0.5, 0.0)),
)
