"""The eight operations as one family: for each, inputs drawn by hypothesis, and what its definition says about them.

`test_family.py` uses these for differential and metamorphic tests; whoever adds an operation adds a member.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from helpers import LAYOUTS
from hypothesis import strategies as st
from torch import Tensor

from wsss_fast import ops

Draw = Callable[[st.SearchStrategy], Any]


@dataclass
class Example:
    """Arguments of one call."""

    tensors: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        shapes = {name: list(value.shape) if isinstance(value, Tensor) else value for name, value in self.tensors.items()}
        return f"{shapes} {self.settings}"

    def mapped(self, change: Callable[[Tensor], Any]) -> dict[str, Any]:
        return {name: _each(value, change) for name, value in self.tensors.items()}


def _each(value: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, list):
        return [_each(one, change) for one in value]
    return change(value) if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class Member:
    """An operation, and what may be said of it.

    bound: relative error against the definition in float64; 0 for exactly equal.
    classes: the arguments with a class dimension; permuted, they give the permuted output.
    mirrored: mirrored inputs give the mirrored output.
    shared: the arguments that all images of a batch share.
    drawn: it draws at random, an image after the other, so that a batch is not a loop.
    """

    draw: Callable[[Draw], Example]
    bound: float
    classes: tuple[str, ...] = ()
    mirrored: bool = False
    shared: tuple[str, ...] = ()
    drawn: bool = False


def side(draw: Draw, most: int = 20) -> int:
    return draw(st.integers(1, most))


def generator(draw: Draw) -> torch.Generator:
    return torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))


def laid_out(draw: Draw, values: Tensor) -> Tensor:
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](values) if values.dim() == 4 else values


def numbers(draw: Draw, *shape: int, signed: bool = True) -> Tensor:
    """float32 values of one of several kinds, in one of several layouts."""
    random = generator(draw)
    values = torch.randn(shape, generator=random) if signed else torch.rand(shape, generator=random)
    kind = draw(st.sampled_from(("usual", "usual", "zeros", "constant", "sparse", "small", "large")))
    if kind == "zeros":
        values.zero_()
    elif kind == "constant":
        values.fill_(0.7)
    elif kind == "sparse":
        values *= torch.rand(shape, generator=random) < 0.1
    elif kind in ("small", "large"):
        values *= 1e-3 if kind == "small" else 1e3
    return laid_out(draw, values)


def fractions(draw: Draw, *shape: int) -> Tensor:
    """Values in [0, 1]."""
    random = generator(draw)
    values = torch.rand(shape, generator=random)
    kind = draw(st.sampled_from(("usual", "usual", "zeros", "ones", "binary")))
    if kind in ("zeros", "ones"):
        values.fill_(float(kind == "ones"))
    elif kind == "binary":
        values = values.round()
    return laid_out(draw, values)


def photo(draw: Draw, n: int, h: int, w: int) -> Tensor:
    """uint8 [n, 3, h, w]: noise, one colour, or two colours that meet at an edge."""
    random = generator(draw)
    image = torch.randint(0, 256, (n, 3, h, w), generator=random, dtype=torch.uint8)
    kind = draw(st.sampled_from(("noise", "plain", "edge", "smooth")))
    if kind != "noise":
        image[:] = image[:, :, :1, :1].clone()
    if kind == "edge":
        image[..., w // 2 :] = 255 - image[..., w // 2 :]
    if kind == "smooth":
        image += (torch.arange(w) * 3).to(torch.uint8)
    return laid_out(draw, image)


def batch(draw: Draw) -> int:
    return draw(st.integers(1, 3))


def draw_pcm(draw: Draw) -> Example:
    n, h, w = batch(draw), side(draw), side(draw)
    cam, feature = numbers(draw, n, draw(st.integers(1, 24)), h, w), numbers(draw, n, draw(st.integers(1, 40)), h, w)
    return Example({"cam": cam, "feature": feature}, {"eps": draw(st.sampled_from((1e-5, 1e-2)))})


def draw_dense_crf(draw: Draw) -> Example:
    n, labels, h, w = batch(draw), draw(st.integers(1, 9)), side(draw, 14), side(draw, 14)
    unary = numbers(draw, n, labels, h, w).clamp(-20, 20)
    settings = {
        "iterations": draw(st.integers(0, 4)),
        "gaussian": draw(st.sampled_from((None, (3, 3), ((2, 5), 1.5), (0.25, 3)))),
        "bilateral": draw(st.sampled_from((None, (80, 13, 10), (5, 5, 4)))),
    }
    return Example({"unary": unary, "image": photo(draw, n, h, w)}, settings)


def draw_prcm(draw: Draw) -> Example:
    n, c, c1, c2, h, w = batch(draw), draw(st.integers(1, 22)), side(draw), side(draw), side(draw), side(draw)
    tensors = {
        "cam": numbers(draw, n, c, h, w),
        # a softmax turns an error of its argument into one of its result: arguments of a few tens at most
        "x": numbers(draw, n, c1, h, w, signed=False).clamp(max=3),
        "query": numbers(draw, n, c2, h, w, signed=False).clamp(max=3),
        "phi": numbers(draw, c2, c1).clamp(-2, 2) * 0.1,
    }
    settings = {"axis": draw(st.sampled_from(("positions", "classes"))), "layout": draw(st.sampled_from(("transpose", "view")))}
    return Example(tensors, settings)


def draw_affinity(draw: Draw) -> Example:
    feature = numbers(draw, batch(draw), draw(st.integers(1, 40)), side(draw), side(draw))
    return Example({"feature": feature}, {"radius": draw(st.integers(1, 7))})


def draw_edge_affinity(draw: Draw) -> Example:
    edge = fractions(draw, batch(draw), 1, side(draw), side(draw))
    return Example({"edge": edge}, {"radius": draw(st.integers(1, 10))})


def draw_random_walk(draw: Draw) -> Example:
    n, h, w, radius = batch(draw), side(draw), side(draw), draw(st.integers(2, 6))
    planes = ops.edge_affinity(fractions(draw, n, 1, h, w), radius, impl="reference")  # 0 where there is no pair
    settings = {
        "radius": radius,
        "beta": draw(st.sampled_from((1, 8, 2.5))),
        "steps": draw(st.sampled_from((0, 1, 2, 7, 40))),
        "mode": draw(st.sampled_from(("exact", "chebyshev"))),
        "tolerance": 1e-6,
        "border": draw(st.sampled_from(("full", "published"))),
    }
    return Example({"cam": numbers(draw, n, draw(st.integers(1, 6)), h, w, signed=False), "affinity": planes}, settings)


def draw_slic(draw: Draw) -> Example:
    n, h, w = batch(draw), side(draw, 48), side(draw, 48)
    tensors = {"image": photo(draw, n, h, w)}
    if draw(st.booleans()):
        tensors["mask"] = torch.rand((n, h, w), generator=generator(draw)) < draw(st.sampled_from((0.0, 0.5, 0.95)))
    settings = {
        "segments": draw(st.integers(1, 60)),
        "compactness": draw(st.sampled_from((1, 10, 20, 100))),
        "iterations": draw(st.integers(0, 6)),
    }
    return Example(tensors, settings)


def draw_complementary_pair(draw: Draw) -> Example:
    n, h, w = batch(draw), side(draw, 40), side(draw, 40)
    tensors: dict[str, Any] = {"image": numbers(draw, n, draw(st.integers(1, 4)), h, w)}
    settings: dict[str, Any] = {"hide": draw(st.sampled_from((0.0, 0.3, 0.5, 1.0)))}
    settings["generator"] = draw(st.integers(0, 99))  # made anew for each call
    settings["published"] = draw(st.sampled_from((None, "code")))
    if draw(st.booleans()):
        settings["grid"] = draw(st.sampled_from((1, min(3, max(h, w)), max(h, w), (1, max(h, w)))))
    else:
        top = draw(st.integers(1, min(30, h * w)))
        tensors["segments"] = torch.randint(-1, top, (n, h, w), generator=generator(draw), dtype=torch.int32)
    return Example(tensors, settings)


def draw_cam_merge(draw: Draw) -> Example:
    n, c = batch(draw), draw(st.integers(1, 6))
    maps = [numbers(draw, n, c, side(draw, 9), side(draw, 9)) for _ in range(draw(st.integers(1, 5)))]
    settings = {
        "flipped": [draw(st.booleans()) for _ in maps],
        "size": (side(draw, 40), side(draw, 40)),
        "reduce": draw(st.sampled_from(("sum", "mean"))),
        "normalise": draw(st.sampled_from(("max", "minmax"))),
        "clamp": draw(st.sampled_from(("before", "after"))),
        "interpolation": draw(st.sampled_from(("bilinear", "bicubic"))),
        "align_corners": draw(st.booleans()),
        "background": draw(st.sampled_from((None, 1, 4))),
    }
    tensors: dict[str, Any] = {"maps": maps}
    if draw(st.booleans()):
        tensors["present"] = torch.rand((n, c), generator=generator(draw)) < 0.5
    return Example(tensors, settings)


MEMBERS: dict[str, Member] = {
    "pcm": Member(draw_pcm, 1e-4, classes=("cam",), mirrored=True),
    "prcm": Member(draw_prcm, 1e-4, mirrored=True, shared=("phi",)),
    "affinity": Member(draw_affinity, 1e-4),
    "edge_affinity": Member(draw_edge_affinity, 1e-6),
    "random_walk": Member(draw_random_walk, 1e-4, classes=("cam",)),
    "slic": Member(draw_slic, 0),
    "complementary_pair": Member(draw_complementary_pair, 0, drawn=True),
    "dense_crf": Member(draw_dense_crf, 2e-4, classes=("unary",)),
    "cam_merge": Member(draw_cam_merge, 1e-4, mirrored=True),
}


def call(name: str, impl: str, tensors: dict[str, Any], settings: dict[str, Any]) -> Any:
    if "generator" in settings:
        settings = {**settings, "generator": torch.Generator().manual_seed(settings["generator"])}
    return getattr(ops, name)(**tensors, **settings, impl=impl)
