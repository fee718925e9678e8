"""cam_merge's numbers: by hand, against the published systems, against the reference in float64, and at the edges."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from cam_merge_cases import BOUND, PUBLISHED, definition, flips, irn_high_resolution, maps_of, of_image
from helpers import Implementation, relative_error
from torch import Tensor

from wsss_fast import ops

FLOAT = {torch.float32: BOUND, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def merged(impl: Implementation, values, flipped, size, **settings) -> Tensor:
    """cam_merge of [h, w] lists as one image and class, [H, W]."""
    maps = [torch.tensor(value, dtype=torch.float32, device=impl.device)[None, None] for value in values]
    return ops.cam_merge(maps, flipped, size, **settings, impl=impl.name)[0, 0].cpu()


# ---- by hand --------------------------------------------------------------------------------------------------------------


def test_definition_by_hand(impl: Implementation) -> None:
    # one row, twice as wide: pixel centres at -1/4 (the edge, so 0), 1/4, 3/4, 5/4 (so 1) of a two-pixel map
    row = torch.tensor([0.0, 1.0, 3.0, 4.0])
    got = merged(impl, [[[0.0, 4.0]]], [False], (1, 4))
    assert torch.allclose(got, row[None] / (4 + 1e-5), atol=1e-6)
    got = merged(impl, [[[4.0, 0.0]]], [True], (1, 4))
    assert torch.allclose(got, row[None] / (4 + 1e-5), atol=1e-6)
    # with the mirrored one beside it: 4, 4, 4, 4
    got = merged(impl, [[[0.0, 4.0]], [[0.0, 4.0]]], [False, True], (1, 4))
    assert torch.allclose(got, torch.full((1, 4), 4 / (4 + 1e-5)), atol=1e-6)
    # align_corners: 0, 4/3, 8/3, 4
    got = merged(impl, [[[0.0, 4.0]]], [False], (1, 4), align_corners=True)
    assert torch.allclose(got, torch.arange(4)[None] * 4 / 3 / (4 + 1e-5), atol=1e-6)


def test_bicubic_by_hand(impl: Implementation) -> None:
    # a = -3/4 at t = 1/4: weights -27/256, 225/256, 67/256 (at 3/4), -9/256; taps beyond the map repeat its ends
    far, near, next_one, last = -0.10546875, 0.87890625, 0.26171875, -0.03515625
    got = merged(impl, [[[0.0, 0.0, 1.0, 0.0, 0.0]]], [False], (1, 10), clamp="after", interpolation="bicubic")
    expected = torch.tensor([0, last, far, next_one, near, near, next_one, far, last, 0]).clamp(min=0)
    assert torch.allclose(got, expected[None] / (near + 1e-5), atol=1e-6)


def test_clamp_before_and_after(impl: Implementation) -> None:
    values = [[[-2.0, 2.0]], [[3.0, 1.0]]]
    before = merged(impl, values, [False, False], (1, 2), clamp="before")  # 0 + 3, 2 + 1
    after = merged(impl, values, [False, False], (1, 2), clamp="after")  # -2 + 3, 2 + 1
    assert torch.allclose(before, torch.tensor([[3.0, 3.0]]) / (3 + 1e-5), atol=1e-6)
    assert torch.allclose(after, torch.tensor([[1.0, 3.0]]) / (3 + 1e-5), atol=1e-6)
    # before means before the map is enlarged, as by a ReLU at the end of the network
    enlarged = merged(impl, [[[-2.0, 2.0]]], [False], (1, 4), clamp="before")
    assert torch.allclose(enlarged, torch.tensor([[0.0, 0.5, 1.5, 2.0]]) / (2 + 1e-5), atol=1e-6)
    enlarged = merged(impl, [[[-2.0, 2.0]]], [False], (1, 4), clamp="after")
    assert torch.allclose(enlarged, torch.tensor([[0.0, 0.0, 1.0, 2.0]]) / (2 + 1e-5), atol=1e-6)


def test_mean_and_minmax_by_hand(impl: Implementation) -> None:
    values = [[[1.0, 2.0, 5.0]], [[3.0, 2.0, 1.0]]]  # mean 2, 2, 3
    got = merged(impl, values, [False, False], (1, 3), reduce="mean", normalise="minmax")
    assert torch.allclose(got, torch.tensor([[0.0, 0.0, (1 - 1e-5) / (1 + 1e-5)]]), atol=1e-6)
    got = merged(impl, values, [False, False], (1, 3), reduce="mean", eps=1.0, scale=2.0)
    assert torch.allclose(got, torch.tensor([[2.0, 2.0, 3.0]]) * 2 / 4, atol=1e-6)


def test_background_by_hand(impl: Implementation) -> None:
    values = torch.tensor([[1.0, 4.0], [3.0, 0.0]], device=impl.device)[None, :, None]  # two classes of 1 x 2
    present = torch.tensor([[True, True]], device=impl.device)
    for alpha in (0, 1, 2.5, 16):
        got = ops.cam_merge([values], [False], (1, 2), present, background=alpha, impl=impl.name)[0, :, 0].cpu()
        first, second = torch.tensor([0.25, 1.0]) * 4 / (4 + 1e-5), torch.tensor([1.0, 0.0]) * 3 / (3 + 1e-5)
        assert torch.allclose(got, torch.stack(((1 - torch.maximum(first, second)) ** alpha, first, second)), atol=1e-6)
    only = torch.tensor([[True, False]], device=impl.device)
    got = ops.cam_merge([values], [False], (1, 2), only, background=1, impl=impl.name)[0, :, 0].cpu()
    assert torch.allclose(got, torch.tensor([[0.75, 0.0], [0.25, 1.0], [0.0, 0.0]]), atol=1e-5)


# ---- the published systems ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("size", [(37, 50), (24, 16)], ids=str)
def test_presets(impl: Implementation, name: str, size: tuple[int, int]) -> None:
    system, signed = PUBLISHED[name]
    maps = maps_of(impl, of_image(size), n=2, c=4, signed=signed)
    present = torch.tensor([[True, False, True, True], [False, False, True, False]], device=impl.device)
    wide = [value.double().cpu() for value in maps]
    expected = system(wide, flips(8), size, present.cpu().double())
    for arguments in ({}, {"present": present}):
        got = ops.cam_merge(maps, flips(8), size, **arguments, **ops.CAM_MERGE[name], impl=impl.name)
        there = expected if arguments else system(wide, flips(8), size, torch.ones(2, 4, dtype=torch.float64))
        assert relative_error(got, there) < BOUND


def test_irn_high_resolution(impl: Implementation) -> None:
    size = (21, 35)
    maps = maps_of(impl, of_image(size, stride=16))
    expected = irn_high_resolution([value.double().cpu() for value in maps], flips(8), size)
    got = ops.cam_merge(maps, flips(8), size, **ops.CAM_MERGE["irn"], multiple=16, impl=impl.name)
    assert relative_error(got, expected) < BOUND


def test_preset_names() -> None:
    assert set(ops.CAM_MERGE) == set(PUBLISHED)


# ---- against the definition -----------------------------------------------------------------------------------------------

# map grids and output sizes: enlarging, the same size, shrinking, one pixel, vectors and tiles left partial and exceeded
GEOMETRIES = {
    "one pixel": ([(1, 1)], (1, 1)),
    "from one pixel": ([(1, 1), (1, 1)], (5, 7)),
    "to one pixel": ([(4, 5), (3, 2)], (1, 1)),
    "the same size": ([(6, 9), (6, 9)], (6, 9)),
    "several sizes": ([(3, 4), (5, 6), (5, 6), (9, 2), (3, 4)], (17, 23)),
    "much smaller": ([(40, 33), (7, 90)], (5, 6)),
    "one row": ([(1, 9), (2, 5)], (1, 70)),
    "one column": ([(9, 1)], (33, 1)),
    "wide": ([(2, 5), (3, 40)], (3, 300)),
}
OPTIONS = list(itertools.product(("sum", "mean"), ("max", "minmax"), ("before", "after"), ("bilinear", "bicubic"), (False, True)))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_against_the_definition(impl: Implementation, geometry: str) -> None:
    grids, size = GEOMETRIES[geometry]
    names = ("reduce", "normalise", "clamp", "interpolation", "align_corners")
    for i, options in enumerate(OPTIONS):
        settings = dict(zip(names, options, strict=True))
        settings |= {"background": (None, 4, 1.5)[i % 3], "multiple": (1, 16)[i // 3 % 2], "scale": (1.0, 0.75)[i // 5 % 2]}
        maps = maps_of(impl, grids, n=1, c=2, signed=True)
        got = ops.cam_merge(maps, flips(len(maps)), size, **settings, impl=impl.name)
        assert relative_error(got, definition(maps, flips(len(maps)), size, **settings)) < BOUND, settings


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_types(impl: Implementation, dtype: torch.dtype, interpolation: str) -> None:
    maps = [value.to(dtype) for value in maps_of(impl, [(3, 4), (5, 6), (5, 6)])]
    if dtype == torch.float64 and not impl.has_float64:
        with pytest.raises(TypeError, match=r"cam_merge: 'maps.*' must be of type float32, float16, bfloat16, got float64"):
            ops.cam_merge(maps, flips(3), (11, 14), impl=impl.name)
        return
    settings = {"interpolation": interpolation, "background": 2}
    expected = definition(maps, flips(3), (11, 14), **settings)
    got = ops.cam_merge(maps, flips(3), (11, 14), **settings, impl=impl.name)
    assert got.dtype == dtype
    assert relative_error(got, expected) < FLOAT.get(dtype, 1e-12)
    for wanted in (torch.float32, torch.float16, torch.bfloat16):
        got = ops.cam_merge(maps, flips(3), (11, 14), **settings, dtype=wanted, impl=impl.name)
        assert got.dtype == wanted
        assert relative_error(got, expected) < FLOAT[wanted]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_uint8(impl: Implementation, dtype: torch.dtype) -> None:
    maps = [value.to(dtype) for value in maps_of(impl, [(3, 4), (5, 6)])]
    settings = {"background": 3, "scale": 1.2}  # some values are above 1: they are stored as 255
    expected = definition(maps, flips(2), (13, 70), **settings)
    got = ops.cam_merge(maps, flips(2), (13, 70), **settings, dtype=torch.uint8, impl=impl.name)
    assert got.dtype == torch.uint8 and got.max() == 255
    away = (255 * expected).clamp(max=255) - got.cpu()
    assert away.abs().max() < 0.501


def test_uint8_rounds_half_to_even(impl: Implementation) -> None:
    # eps vanishes beside 510, so 255 x is k / 2 for the value k: every half there is, as torch.round stores it
    values = torch.arange(511, dtype=torch.float32, device=impl.device).view(1, 1, 1, 511)
    got = ops.cam_merge([values], [False], (1, 511), eps=1e-30, dtype=torch.uint8, impl=impl.name).cpu().flatten()
    exact = (values.cpu().flatten() / 510 * 255).round().to(torch.uint8)
    assert torch.equal(got, exact)
    assert got[255] == 128 and got[510] == 255  # 127.5 to the even 128


# ---- edges ----------------------------------------------------------------------------------------------------------------


def test_absent_classes(impl: Implementation) -> None:
    """They are 0, are not read, and the others do not know of them."""
    maps = maps_of(impl, [(3, 4), (5, 6)], n=2, c=5, signed=True)
    present = torch.tensor([[True, False, False, True, False], [False] * 5], device=impl.device)
    whole = ops.cam_merge(maps, flips(2), (9, 40), impl=impl.name)
    for value in maps:
        value[~present] = float("nan")
    for dtype in (torch.float32, torch.float16, torch.uint8):
        got = ops.cam_merge(maps, flips(2), (9, 40), present, background=2, dtype=dtype, impl=impl.name)
        assert not got[:, 1:][~present].any()
        if dtype == torch.float32:
            assert torch.equal(got[:, 1:][present], whole[present])
        assert bool((got[1, 0] == (255 if dtype == torch.uint8 else 1)).all())


@pytest.mark.parametrize("normalise", ["max", "minmax"])
@pytest.mark.parametrize("value", [0.0, -1.0, 3.0, 1e-30])
def test_constant_maps(impl: Implementation, normalise: str, value: float) -> None:
    maps = [torch.full((1, 2, 3, 4), value, device=impl.device)] * 2
    got = ops.cam_merge(maps, [False, True], (7, 9), normalise=normalise, impl=impl.name).cpu()
    expected = 6 / (6 + 1e-5) if (normalise, value) == ("max", 3.0) else 0.0
    assert torch.allclose(got, torch.full_like(got, expected), atol=1e-6)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("normalise", ["max", "minmax"])
def test_not_finite(impl: Implementation, poison: float, normalise: str) -> None:
    maps = maps_of(impl, [(3, 4), (5, 6)], n=2, c=3)
    settings = {"normalise": normalise, "clamp": "after", "background": 2, "impl": impl.name}
    clean = ops.cam_merge(maps, flips(2), (9, 40), **settings)
    maps[1][0, 1, 2, 3] = poison
    got = ops.cam_merge(maps, flips(2), (9, 40), **settings)
    reached = got[0, 2]
    if poison > 0 or poison != poison:
        assert bool(reached.isnan().any()) and bool((reached.isnan() | (reached == 0)).all())
    if poison != poison:
        assert bool(reached.isnan().all()) and bool(got[0, 0].isnan().all())
    assert torch.equal(got[0, [1, 3]], clean[0, [1, 3]]) and torch.equal(got[1], clean[1])
    stored = ops.cam_merge(maps, flips(2), (9, 40), **settings, dtype=torch.uint8)
    assert not stored[0, 2].any() or poison == float("-inf")


@pytest.mark.parametrize("magnitude", [1e-38, 1e-3, 1e30])
def test_magnitudes(impl: Implementation, magnitude: float) -> None:
    maps = [value * magnitude for value in maps_of(impl, [(3, 4), (5, 6)])]
    settings = {"eps": 1e-5 * magnitude if magnitude > 1e-30 else 1e-5}
    got = ops.cam_merge(maps, flips(2), (9, 10), **settings, impl=impl.name)
    expected = definition(maps, flips(2), (9, 10), **settings)
    assert relative_error(got, expected) < BOUND if magnitude > 1e-30 else bool((got.abs() < 1e-30).all())


# ---- relations ------------------------------------------------------------------------------------------------------------


def test_flips_and_permutations(kernel: Implementation) -> None:
    maps = maps_of(kernel, [(3, 4), (5, 6), (5, 6)], c=4)
    got = ops.cam_merge(maps, [False, True, False], (9, 40), impl=kernel.name)
    mirrored = ops.cam_merge([value.flip(-1) for value in maps], [True, False, True], (9, 40), impl=kernel.name)
    assert torch.equal(mirrored, got)
    mirrored = ops.cam_merge(maps, [True, False, True], (9, 40), impl=kernel.name)
    assert relative_error(mirrored.flip(-1), got) < 1e-5
    order = [2, 0, 3, 1]
    assert torch.equal(
        ops.cam_merge([value[:, order] for value in maps], [False, True, False], (9, 40), impl=kernel.name), got[:, order]
    )
    again = ops.cam_merge(maps[::-1], [False, True, False], (9, 40), impl=kernel.name)
    assert relative_error(again, got) < 1e-5
    alone = [
        ops.cam_merge([value[i : i + 1] for value in maps], [False, True, False], (9, 40), impl=kernel.name) for i in range(2)
    ]
    assert torch.equal(torch.cat(alone), got)


def test_many_maps(kernel: Implementation) -> None:
    """As many as there may be, all of other sizes."""
    maps = maps_of(kernel, [(1 + k % 5, 1 + k) for k in range(32)], n=1, c=1)
    got = ops.cam_merge(maps, flips(32), (10, 20), interpolation="bicubic", impl=kernel.name)
    assert relative_error(got, definition(maps, flips(32), (10, 20), interpolation="bicubic")) < BOUND


def test_without_classes_all_is_background(impl: Implementation) -> None:
    maps = [torch.ones((2, 0, 3, 4), device=impl.device)]
    assert ops.cam_merge(maps, [False], (5, 6), background=2, impl=impl.name).eq(1).all()


def test_strided_present(kernel: Implementation) -> None:
    maps = maps_of(kernel, [(3, 4)], n=2, c=3)
    present = torch.tensor([[True, False], [False, True], [True, True]], device=kernel.device).T
    got = ops.cam_merge(maps, [False], (5, 6), present, impl=kernel.name)
    assert torch.equal(got, ops.cam_merge(maps, [False], (5, 6), present.contiguous(), impl=kernel.name))
    assert torch.equal(got.flatten(2).any(2), present)


def test_many_classes_with_background(kernel: Implementation) -> None:
    """More classes than a block keeps the ranges of."""
    maps = maps_of(kernel, [(3, 4)], n=1, c=71)
    got = ops.cam_merge(maps, [False], (4, 5), background=2, impl=kernel.name)
    assert relative_error(got, definition(maps, [False], (4, 5), background=2)) < BOUND


def test_same_as_interpolate(kernel: Implementation) -> None:
    """A map whose maximum is 1 at eps 0 or nearly so comes out as torch enlarges it."""
    for mode, align in itertools.product(("bilinear", "bicubic"), (False, True)):
        value = torch.rand(1, 1, 7, 9, device=kernel.device)
        expected = F.interpolate(value.double(), (23, 31), mode=mode, align_corners=align).clamp(min=0)
        got = ops.cam_merge(
            [value], [False], (23, 31), clamp="after", interpolation=mode, align_corners=align, eps=1e-30, impl=kernel.name
        )
        assert relative_error(got, expected / expected.max()) < 1e-5
