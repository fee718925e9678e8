"""slic against scikit-image and fast-slic, on photos as decoders give them (channels last), iterations and compactness 10.

Each of them cuts an image in its own way, so a peer's labels are not those of the definition; ours must be exactly. How well
they follow outlines: docs/slic.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wsss_fast._extras import require
from wsss_fast.bench._definition import OURS, Condition, Contestant, Function, Operation, Size, Work
from wsss_fast.bench.dense_crf import photo

COMPACTNESS = ITERATIONS = 10


def inputs(size: Size) -> Mapping[str, Tensor]:
    n, h, w, segments = size
    image = torch.stack([photo(i, h, w) for i in range(n)])
    return {"image": image.contiguous(memory_format=torch.channels_last), "segments": torch.tensor(segments)}


def ours() -> Function:
    from wsss_fast import ops

    return lambda image, segments: ops.slic(image, int(segments), COMPACTNESS, ITERATIONS)


def definition(image: Tensor, segments: Tensor) -> Tensor:
    from wsss_fast import ops

    return ops.slic(image, int(segments), COMPACTNESS, ITERATIONS, impl="reference").double()


def scikit_image() -> Function:
    from skimage.segmentation import slic

    def one(image: Tensor, segments: int) -> Tensor:
        pixels = image.permute(1, 2, 0).numpy()
        labels = slic(pixels, n_segments=segments, compactness=COMPACTNESS, max_num_iter=ITERATIONS, start_label=0)
        return torch.from_numpy(labels)

    return lambda image, segments: torch.stack([one(each, int(segments)) for each in image])


def fast_slic() -> Function:
    theirs = require("fast_slic.avx2", "bench")

    def one(image: Tensor, segments: int) -> Tensor:
        model = theirs.SlicAvx2(num_components=segments, compactness=COMPACTNESS, num_threads=torch.get_num_threads())
        return torch.from_numpy(model.iterate(image.permute(1, 2, 0).numpy(), ITERATIONS))

    return lambda image, segments: torch.stack([one(each, int(segments)) for each in image])


def work(size: Size, mode: str, dtype: str) -> Work:
    """Four products for each of four candidates of a pixel, in the first and the last round for all pixels, else for a third."""
    n, h, w, _ = size
    pixels = n * h * w
    return Work(pixels * 4 * 8 * (2 + (ITERATIONS - 1) / 3), pixels * (3 + 4))


PHOTO = (1, 448, 448, 200)

OPERATION = Operation(
    name="slic",
    what="superpixels of photos, 10 iterations, compactness 10; K segments",
    axes="NxHxWxK",
    sizes=(PHOTO, (4, *PHOTO[1:])),
    cuda_sizes=(PHOTO, (16, *PHOTO[1:])),
    inputs=inputs,
    exact=definition,
    contestants=(
        Contestant(OURS, "wsss_fast.ops.slic", ours),
        Contestant("skimage", "skimage.segmentation.slic", scikit_image, devices=("cpu",)),
        Contestant("fast-slic", "fast_slic.avx2.SlicAvx2", fast_slic, devices=("cpu",)),
        Contestant("plain", "the definition in PyTorch", lambda: definition, extra=True),
    ),
    work=work,
    modes={"fwd": ()},
    default_modes=("fwd",),
    conditions=(
        Condition(PHOTO, "fwd", "ratio", 25.0, "skimage"),
        Condition(PHOTO, "fwd", "ratio", 1.5, "fast-slic"),
        Condition(PHOTO, "fwd", "error", 0.0),
    ),
    tolerance={"float32": (10.0, 0.0)},  # labels of another cut: any
)
