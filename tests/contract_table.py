"""What each operation promises to every caller, as a table: `ops/test_contract*.py` hold all of them to it.

Whoever adds an operation adds a row: how to make its inputs and in which sizes, what has a gradient, what autocast does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import affinity_cases
import cam_merge_cases
import complementary_cases
import dense_crf_cases
import pcm_cases
import prcm_cases
import random_walk_cases
import slic_cases
import torch
from family import Example
from helpers import Implementation
from torch import Tensor

CPU = Implementation("cpu")
Size = tuple[Any, ...]
EMPTY_MAPS = ((0, 2, 4, 5), (1, 0, 4, 5), (1, 2, 0, 5), (2, 2, 4, 0))


@dataclass(frozen=True)
class Contract:
    """One operation. Sizes are what `make` takes.

    usual: a batch of three; vectors and tiles are left partial.
    small: a batch of two of few pixels, for checks of torch that call the operation hundreds of times.
    busy: enough work for several threads; the emulator gets the usual sizes.
    worker: work for two threads, and so little that torch itself uses one: after a fork its own threads are lost.
    empty: one size after the other is 0.
    gpu: what a CUDA graph replays, then further sizes for streams; none where the operation waits for the device.
    shape: that of the first result.
    bound: relative error of results and gradients against the definition in float64; 0 for exactly equal.
    gradients: the inputs that have one. twice: gradients have gradients.
    gradcheck: float64 inputs away from every kink.
    shared: inputs that all images of a batch share. optional: inputs that may be left out.
    autocast: the type of results and their bound under autocast to bfloat16; None where it changes nothing.
    huge: inputs that fit in memory, expanded, and whose result does not.
    """

    make: Callable[..., Example]
    usual: tuple[Size, ...]
    small: Size
    busy: tuple[Size, ...]
    worker: Size
    empty: tuple[Size, ...]
    shape: Callable[[Example], Size]
    bound: float
    gpu: tuple[Size, ...] = ()
    gradients: tuple[str, ...] = ()
    twice: bool = False
    gradcheck: Callable[[], list[Example]] = list
    shared: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    autocast: tuple[torch.dtype, float] | None = None
    huge: Callable[[], Example] | None = None


def shape_of_first(example: Example) -> Size:
    return tuple(next(iter(example.tensors.values())).shape)


def one(*shape: int) -> Tensor:
    """A single number, expanded."""
    return torch.rand(1, 1, 1, 1).expand(*shape)


# ---- pcm --------------------------------------------------------------------------------------------------------------------


def pcm(n: int, c: int, d: int, h: int, w: int, dtype: torch.dtype = torch.float32) -> Example:
    tensors = pcm_cases.inputs((n, c, d, h, w), dtype, away_from_zero=min(n, d, h, w) > 0)
    return Example(dict(zip(("cam", "feature"), tensors, strict=True)))


def pcm_gradcheck() -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    pairs = [[torch.rand(2, k, 3, 2, generator=generator, dtype=torch.float64) for k in (3, 5)] for _ in range(10)]
    return [Example({"cam": cam, "feature": torch.special.ndtri(feature)}) for cam, feature in pairs]


PCM = Contract(
    pcm,
    usual=((3, 4, 19, 5, 8), (3, 4, 20, 9, 13)),
    small=(2, 3, 5, 4, 3),
    busy=((3, 4, 20, 13, 17),),
    worker=(2, 4, 16, 24, 24),
    empty=((0, 2, 3, 4, 5), (1, 0, 3, 4, 5), (1, 2, 0, 4, 5), (1, 2, 3, 0, 5), (2, 2, 3, 4, 0)),
    gpu=((1, 21, 192, 28, 28, torch.bfloat16), (2, 21, 64, 20, 20)),
    shape=shape_of_first,
    bound=1e-3,
    gradients=("cam", "feature"),
    gradcheck=pcm_gradcheck,
    autocast=(torch.bfloat16, 3e-2),
    huge=lambda: Example({"cam": one(2**20, 2**20, 2, 4), "feature": one(2**20, 3, 2, 4)}),
)


# ---- prcm and pcm_prcm ------------------------------------------------------------------------------------------------------


def prcm(
    n: int, c: int, c1: int, c2: int, h: int, w: int, variant: int = 0, dtype: torch.dtype = torch.float32, second: str = "query"
) -> Example:
    tensors = prcm_cases.inputs((n, c, c1, c2, h, w), dtype)
    return Example(dict(zip(("cam", "x", second, "phi"), tensors, strict=True)), dict(prcm_cases.VARIANTS[variant]))


def pcm_prcm(*size: Any) -> Example:
    """Features of both signs, none so near 0 that rounding decides whether it counts."""
    example = prcm(*size, second="feature")
    example.tensors["feature"] = pcm(size[0], 1, *size[3:6], example.tensors["cam"].dtype).tensors["feature"]
    return example


def prcm_gradcheck(make: Callable[..., Example]) -> list[Example]:
    return [make(2, 3, 4, 5, 3, 2, variant, torch.float64) for variant in range(4)]


SIZES_OF_PRCM = {
    "usual": ((3, 4, 19, 26, 5, 24, 1 + 1), (3, 4, 20, 9, 9, 13)),
    "small": (2, 3, 5, 6, 4, 3),
    "busy": ((3, 4, 20, 30, 13, 17, 0), (3, 4, 20, 30, 13, 17, 3)),
    "worker": (2, 4, 16, 30, 24, 24),
    "empty": tuple(
        (*(0 if i == zero else side for i, side in enumerate((2, 2, 3, 4, 5, 6))), variant)
        for zero in range(6)
        for variant in (0, 3)
    ),
    "gpu": ((1, 21, 195, 192, 28, 28, 0, torch.bfloat16), (2, 21, 64, 50, 20, 20)),
    "shape": shape_of_first,
    "shared": ("phi",),
    "autocast": (torch.bfloat16, 5e-2),
}
PRCM = Contract(
    prcm,
    **SIZES_OF_PRCM,
    bound=2e-5,
    gradients=("query", "phi"),
    gradcheck=lambda: prcm_gradcheck(prcm),
    huge=lambda: Example(
        {"cam": one(2**20, 2**20, 2, 4), "x": one(2**20, 3, 2, 4), "query": one(2**20, 3, 2, 4), "phi": torch.rand(3, 3)}
    ),
)
PCM_PRCM = Contract(
    pcm_prcm,
    **SIZES_OF_PRCM,
    bound=1e-3,
    gradients=("feature", "phi"),
    gradcheck=lambda: prcm_gradcheck(pcm_prcm),
)


# ---- affinity and edge_affinity ---------------------------------------------------------------------------------------------


def affinity_contract(case: affinity_cases.Case) -> Contract:
    argument = "feature" if case.channels is None else "edge"
    channels = case.channels or 7

    def make(n: int, c: int, h: int, w: int, radius: int = 5, dtype: torch.dtype = torch.float32) -> Example:
        return Example({argument: case.input((n, c, h, w), dtype)}, {"radius": radius})

    def gradcheck() -> list[Example]:
        # a permutation: no two values so near that a finite difference crosses the kink
        count = 2 * (case.channels or 3) * 12
        x = torch.randperm(count, generator=torch.Generator().manual_seed(0)).double().div(30).reshape(2, -1, 4, 3)
        return [Example({argument: x}, {"radius": radius}) for radius in (2, 4)]

    def shape(example: Example) -> Size:
        n, _, h, w = example.tensors[argument].shape
        return n, {3: 12, 5: 34, 10: 152}[example.settings["radius"]], h, w

    sizes = ((0, 2, 4, 5), (1, 2, 0, 5), (2, 2, 4, 0), *([] if case.channels else [(2, 0, 4, 5)]))
    return Contract(
        make if case.channels is None else lambda n, c, *rest: make(n, 1, *rest),
        usual=((3, 5, 6, 9), (3, 4, 6, 9, 10)),
        small=(2, 3, 4, 5, 3),
        busy=((2, 19, 23, 70), (2, 19, 23, 70, 5, torch.bfloat16)),
        worker=(1, 16, 24, 24),
        empty=sizes,
        gpu=((1, 448, 28, 28, 5, torch.bfloat16), (2, 64, 20, 20)),
        shape=shape,
        bound=1e-5,
        gradients=(argument,),
        gradcheck=gradcheck,
        autocast=(torch.bfloat16, 1e-2),
        huge=lambda: Example({argument: one(2**20, channels if case.channels is None else 1, 2**10, 2**8)}, {"radius": 5}),
    )


# ---- random_walk ------------------------------------------------------------------------------------------------------------


def random_walk(n: int, c: int, h: int, w: int, radius: int = 5, mode: str = "exact", steps: int = 3) -> Example:
    cam, affinity = random_walk_cases.inputs((n, c, h, w), radius)
    return Example({"cam": cam, "affinity": affinity}, {"radius": radius, "mode": mode, "steps": steps, "tolerance": 1e-6})


RANDOM_WALK = Contract(
    random_walk,
    usual=((3, 3, 5, 8), (3, 3, 6, 5, 3), (3, 5, 7, 13), (3, 5, 7, 13, 4, "chebyshev")),
    small=(2, 3, 5, 6, 5, "chebyshev"),
    busy=tuple((*shape, 5, mode) for shape in ((3, 9, 9, 17), (1, 5, 130, 127)) for mode in ("exact", "chebyshev")),
    worker=(4, 5, 20, 24),
    empty=tuple((*size, 5, mode) for size in EMPTY_MAPS for mode in ("exact", "chebyshev")),
    gpu=((1, 4, 56, 56, 5, "chebyshev", 256), (2, 4, 40, 40, 5, "exact", 256), (2, 4, 40, 40, 6, "exact", 256)),
    shape=shape_of_first,
    bound=2e-5,
    autocast=(torch.float32, 1e-2),  # as torch.pow: the power of a rounded affinity is far from that of the affinity
    huge=lambda: Example({"cam": one(2**20, 2**20, 2, 4), "affinity": one(2**20, 34, 2, 4)}),
)


# ---- slic -------------------------------------------------------------------------------------------------------------------


def slic(n: int, h: int, w: int, segments: int = 15, iterations: int = 4, masked: bool = True) -> Example:
    image = torch.zeros((n, 3, h, w), dtype=torch.uint8)
    mask = torch.zeros((n, h, w), dtype=torch.bool)
    for i in range(n if h and w else 0):
        image[i] = slic_cases.photo(slic_cases.NATURAL[1 + i], h, w)
        mask[i] = slic_cases.smooth(h, w, i) > -0.9
    settings = {"segments": segments, "iterations": iterations}
    return Example({"image": image, "mask": mask} if masked else {"image": image}, settings)


SLIC = Contract(
    slic,
    usual=((3, 35, 43), (3, 35, 43, 15, 4, False)),
    small=(2, 12, 17, 6, 2),
    busy=((3, 150, 170, 40),),
    worker=(1, 70, 90, 20, 10),
    empty=((0, 4, 5), (2, 0, 5), (2, 4, 0)),
    gpu=((1, 224, 224, 200, 10, False),),
    shape=lambda example: tuple(example.tensors["image"].shape[i] for i in (0, 2, 3)),
    bound=0,
    optional=("mask",),
)


# ---- complementary_pair -----------------------------------------------------------------------------------------------------


def complementary_pair(n: int, c: int, h: int, w: int, grid: int | None = None, dtype: torch.dtype = torch.float32) -> Example:
    image, segments = complementary_cases.inputs((n, c, h, w), dtype)
    if grid:
        return Example({"image": image}, {"generator": 9, "grid": grid})  # a generator of this seed
    return Example({"image": image, "segments": segments}, {"generator": 9})


COMPLEMENTARY_PAIR = Contract(
    complementary_pair,
    usual=((3, 3, 8, 12), (3, 2, 9, 13, 4)),
    small=(2, 3, 8, 6),
    busy=((3, 3, 150, 170),),
    worker=(2, 3, 60, 70),
    empty=tuple((*size, grid) for size in ((0, 3, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)) for grid in (None, 3)),
    shape=shape_of_first,
    bound=0,
    gradients=("image",),
    twice=True,
    gradcheck=lambda: [complementary_pair(2, 2, 5, 4, 2, torch.float64)],
    optional=("segments",),
)


# ---- dense_crf --------------------------------------------------------------------------------------------------------------


def dense_crf(n: int, labels: int, h: int, w: int, argument: str = "probability", kernel: str = "lattice") -> Example:
    if n and labels and h and w:
        probability, image = dense_crf_cases.inputs(CPU, (n, labels, h, w))
    else:
        probability, image = torch.ones(n, labels, h, w), torch.zeros(n, 3, h, w, dtype=torch.uint8)
    value = probability if argument == "probability" else -probability.log()
    return Example({argument: value, "image": image}, {"kernel": kernel})


DENSE_CRF = Contract(
    dense_crf,
    usual=((3, 4, 8, 11), (3, 3, 7, 9), (3, 4, 13, 17)),
    small=(2, 3, 5, 6),
    busy=((3, 5, 40, 53),),
    worker=(2, 3, 40, 53),
    empty=tuple((*size, name, kind) for size in EMPTY_MAPS for name in ("probability", "unary") for kind in ("lattice", "exact")),
    shape=shape_of_first,
    bound=dense_crf_cases.BOUND,
    optional=("probability",),
)


# ---- cam_merge --------------------------------------------------------------------------------------------------------------


def cam_merge(
    n: int,
    c: int,
    grids: tuple[tuple[int, int], ...],
    size: tuple[int, int],
    background: float | None = None,
    marked: bool = False,
) -> Example:
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Any] = {"maps": [torch.rand(n, c, *grid, generator=generator) for grid in grids]}
    if marked:
        tensors["present"] = torch.arange(n * c).reshape(c, n).T % 3 != 1
    return Example(tensors, {"flipped": cam_merge_cases.flips(len(grids)), "size": size, "background": background})


def cam_merge_shape(example: Example) -> Size:
    n, c = example.tensors["maps"][0].shape[:2]
    return n, c + (example.settings["background"] is not None), *example.settings["size"]


GRIDS = ((3, 4), (3, 4), (5, 6), (5, 6))
CAM_MERGE = Contract(
    cam_merge,
    usual=((3, 3, GRIDS[1:], (9, 40)), (3, 4, GRIDS[1:], (9, 40), 4, True)),
    small=(2, 3, GRIDS, (9, 11), None, True),
    busy=((3, 5, GRIDS, (40, 53)), (3, 5, GRIDS, (40, 53), 4)),
    worker=(2, 5, GRIDS, (40, 60)),
    empty=tuple((n, c, ((3, 4),), (5, 6), background) for n, c in ((0, 3), (2, 0), (0, 0)) for background in (None, 2)),
    gpu=((2, 3, GRIDS, (375, 500), 4),),
    shape=cam_merge_shape,
    bound=cam_merge_cases.BOUND,
    optional=("present",),
    huge=lambda: cam_merge(2, 3, ((4, 5),), (10**7, 10**7)),
)

CONTRACTS: dict[str, Contract] = {
    "pcm": PCM,
    "prcm": PRCM,
    "pcm_prcm": PCM_PRCM,
    "affinity": affinity_contract(affinity_cases.AFFINITY),
    "edge_affinity": affinity_contract(affinity_cases.EDGE),
    "random_walk": RANDOM_WALK,
    "slic": SLIC,
    "complementary_pair": COMPLEMENTARY_PAIR,
    "dense_crf": DENSE_CRF,
    "cam_merge": CAM_MERGE,
}
