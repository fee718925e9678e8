"""slic: every implementation gives exactly the labels of the reference; what segments must satisfy; degenerate images."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from helpers import Implementation
from slic_cases import NATURAL, check_segments, noise, photo, smooth
from torch import Tensor

from wsss_fast import ops
from wsss_fast.ops._reference import slic as reference

# H, W, segments, compactness, iterations. Tiles have 32 x 16 pixels; cells from 2 x 2 pixels to the whole image.
CASES = [
    (1, 1, 5, 10.0, 3),
    (40, 1, 100, 10.0, 2),
    (1, 40, 100, 10.0, 2),
    (1, 70, 6, 10.0, 4),
    (50, 1, 7, 10.0, 3),
    (16, 32, 8, 10.0, 10),
    (17, 33, 9, 20.0, 5),
    (15, 31, 4, 1.0, 5),
    (37, 45, 12, 10.0, 10),
    (64, 64, 40, 30.0, 4),
    (40, 64, 300, 5.0, 3),
    (24, 40, 100000, 10.0, 2),
    (48, 50, 1, 10.0, 3),
    (33, 49, 20, 1e6, 3),
    (33, 49, 20, 1e-6, 3),
    (33, 49, 20, 10.0, 0),
    (33, 49, 20, 10.0, 1),
]
LARGE_CASES = [(200, 230, 90, 10.0, 10), (131, 300, 60, 40.0, 5), (320, 330, 200, 10.0, 3)]


def images(h: int, w: int) -> Tensor:
    """A photo, noise, and flat colours with a soft edge."""
    flat = (smooth(h, w, 1) > 0).to(torch.uint8) * torch.tensor([40, 90, 200], dtype=torch.uint8)[:, None, None]
    return torch.stack((photo("coffee", h, w), noise(h, w), flat))


def holes(h: int, w: int) -> Tensor:
    """Scattered pixels, a band, and nothing masked out."""
    generator = torch.Generator().manual_seed(0)
    band = torch.ones((h, w), dtype=torch.bool)
    band[h // 3 : h // 2] = False
    return torch.stack((torch.rand((h, w), generator=generator) < 0.6, band, torch.ones((h, w), dtype=torch.bool)))


@cache
def expected(case: tuple, masked: bool, large: bool = False) -> tuple[tuple, Tensor]:
    """The arguments of slic, and what the reference makes of them."""
    h, w, *settings = case
    if large:
        image, mask = photo("chelsea", h, w)[None], smooth(h, w, 3)[None] > -0.8
    else:
        image, mask = images(h, w), holes(h, w)
    arguments = (image, *settings, mask if masked else None)
    return arguments, ops.slic(*arguments, impl="reference")


def run(kernel: Implementation, arguments: tuple) -> Tensor:
    on_device = (x.to(kernel.device) if isinstance(x, Tensor) else x for x in arguments)
    return ops.slic(*on_device, impl=kernel.name).cpu()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(kernel: Implementation, case, masked: bool) -> None:
    arguments, labels = expected(case, masked)
    assert torch.equal(run(kernel, arguments), labels)


@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_equals_the_reference_at_size(kernel: Implementation, case) -> None:
    if kernel.name == "simt":
        h, w, segments, compactness, iterations = case
        case = (h // 3, w // 3, segments // 9, compactness, min(iterations, 4))
    for masked in (False, True):
        arguments, labels = expected(case, masked, large=True)
        assert torch.equal(run(kernel, arguments), labels)


@cache
def random_case(seed: int, small: bool) -> tuple[tuple, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    most = (30, 45, 60, 5) if small else (70, 120, 200, 12)
    h, w, segments, iterations = (int(torch.randint(1, end, (), generator=generator)) for end in most)
    compactness = float(10 ** torch.empty(()).uniform_(-3, 4, generator=generator))
    image = smooth(h, w, seed, 9) * 60 + 120 + torch.randn((3, h, w), generator=generator) * 25
    mask = torch.rand((h, w), generator=generator) < torch.rand((), generator=generator) * 1.5
    arguments = (image.clamp(0, 255).to(torch.uint8)[None], segments, compactness, iterations, mask[None])
    labels = ops.slic(*arguments, impl="reference")
    check_segments(labels[0], mask)
    return arguments, labels


@pytest.mark.parametrize("seed", range(30))
def test_random_settings(kernel: Implementation, seed: int) -> None:
    arguments, labels = random_case(seed, kernel.name == "simt")
    assert torch.equal(run(kernel, arguments), labels)


@pytest.mark.parametrize("case", [c for c in CASES if c[0] * c[1] > 1], ids=str)
def test_segments_are_connected_and_numbered(case) -> None:
    h, w, *settings = case
    for image, mask in zip(images(h, w), holes(h, w), strict=True):
        check_segments(ops.slic(image[None], *settings)[0])
        check_segments(ops.slic(image[None], *settings, mask[None])[0], mask)


@pytest.mark.parametrize("segments", [100, 200, 400])
@pytest.mark.parametrize("compactness", [10, 20])
@pytest.mark.parametrize("name", NATURAL)
def test_number_of_segments(name: str, compactness: int, segments: int) -> None:
    labels = ops.slic(photo(name, 448, 448)[None], segments, compactness)
    assert abs(int(labels.max()) + 1 - segments) <= 0.15 * segments


def test_no_small_segments(impl: Implementation) -> None:
    size = 96 if impl.name == "simt" else 200
    labels = ops.slic(photo("rocket", size, size)[None].to(impl.device), 30, impl=impl.name)
    assert labels.flatten().bincount().min() >= size * size // (5 * 30)


def test_settings_do_what_they_say() -> None:
    image = photo("coffee", 128, 160)[None]
    lengths = [
        int((labels[:, :, 1:] != labels[:, :, :-1]).sum())
        for labels in (ops.slic(image, 60, compactness) for compactness in (1, 10, 1000))
    ]
    assert lengths[0] > lengths[1] > lengths[2]
    assert ops.slic(image, 30).max() < ops.slic(image, 120).max()


# ---- colours --------------------------------------------------------------------------------------------------------------


def test_colours_are_those_of_scikit_image() -> None:
    from skimage.color import rgb2lab

    image = torch.cat((noise(64, 64), torch.arange(256, dtype=torch.uint8).expand(3, 1, 256).reshape(3, 4, 64)), dim=1)
    expected = torch.from_numpy(rgb2lab(image.permute(1, 2, 0).numpy())).permute(2, 0, 1)
    off = (reference.lab(image) / 4 - expected).abs()
    assert off[:, expected[0] > 20].max() < 0.4 and off.max() < 0.7  # the table of the root is coarse in the dark


def test_every_colour_of_a_channel(kernel: Implementation) -> None:
    """All 256 values of each channel, and all greys: one wrong entry of a table moves a segment."""
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    zero = torch.zeros_like(ramp)
    image = torch.stack([torch.cat(x) for x in ((ramp, zero, zero), (zero, ramp, zero), (zero, zero, ramp), (ramp, ramp, ramp))])
    expected = ops.slic(image, 12, 3, 6, impl="reference")
    assert torch.equal(ops.slic(image.to(kernel.device), 12, 3, 6, impl=kernel.name).cpu(), expected)


# ---- the rule for small segments --------------------------------------------------------------------------------------------


def joined(rows: list[str], minimum: int, colours: list[int]) -> list[str]:
    labels = torch.tensor([[-1 if c == "." else ord(c) - ord("a") for c in row] for row in rows])
    colour = torch.tensor([[value, 0, 0] for value in colours])
    segments = reference._connected(labels, colour, minimum)
    return ["".join("." if k < 0 else chr(ord("A") + k) for k in row) for row in segments.tolist()]


def test_small_segment_joins_the_nearest_colour() -> None:
    assert joined(["aacbb", "aacbb"], 3, [0, 100, 70]) == ["AABBB", "AABBB"]
    assert joined(["aacbb", "aacbb"], 3, [0, 100, 50]) == ["AAABB", "AAABB"]  # as near: the first
    assert joined(["aacbb", "aacbb"], 2, [0, 100, 70]) == ["AABCC", "AABCC"]  # large enough


def test_pieces_of_a_label_are_segments() -> None:
    assert joined(["aba", "aba"], 1, [0, 9]) == ["ABC", "ABC"]
    assert joined(["ab", "ba"], 1, [0, 9]) == ["AB", "CD"]  # corners do not touch


def test_small_segments_join_the_greater_ones_only() -> None:
    # b (2 pixels) is nearest to c (1 pixel), which is not greater: it joins a; c follows the nearest colour, b
    assert joined(["aaaabbc"], 3, [0, 60, 70]) == ["AAAAAAA"]
    # all are small: each looks at once; the greatest stands, and is large enough afterwards
    assert joined(["abbc"], 4, [0, 10, 20]) == ["AAAA"]
    # two rounds: a and b join c (3), which is still small and then joins d
    assert joined(["acccbdddddd"], 6, [0, 0, 0, 90]) == ["AAAAAAAAAAA"]


def test_masked_pixels_separate() -> None:
    assert joined(["a.b", "..."], 5, [0, 9]) == ["A.B", "..."]
    assert joined(["a.a", "..."], 1, [0]) == ["A.B", "..."]


# ---- degenerate images ------------------------------------------------------------------------------------------------------


def test_without_iterations_it_is_the_grid(impl: Implementation) -> None:
    labels = ops.slic(noise(48, 60).to(impl.device)[None], 20, iterations=0, impl=impl.name)
    y, x = torch.meshgrid(torch.arange(48) // 12, torch.arange(60) // 12, indexing="ij")
    assert torch.equal(labels[0].cpu(), (5 * y + x).int())


def test_one_colour(impl: Implementation) -> None:
    """As many segments as cells, their borders at most two pixels from those of the grid."""
    image = torch.full((1, 3, 48, 60), 77, dtype=torch.uint8, device=impl.device)
    labels = ops.slic(image, 20, impl=impl.name)[0].cpu()
    grid = ops.slic(image, 20, iterations=0, impl=impl.name)[0].cpu()
    assert labels.max() == 19
    check_segments(labels)
    inner = grid.float()[None]
    inner = torch.nn.functional.max_pool2d(inner, 5, 1, 2) == -torch.nn.functional.max_pool2d(-inner, 5, 1, 2)
    assert torch.equal(labels[inner[0]], grid[inner[0]])


def test_more_segments_than_pixels(impl: Implementation) -> None:
    labels = ops.slic(noise(6, 8).to(impl.device)[None], 10**6, 1e6, impl=impl.name)  # cells of 2 x 2
    assert labels.max() == 11
    assert ops.slic(noise(1, 1).to(impl.device)[None], 10**6, impl=impl.name).tolist() == [[[0]]]


def test_everything_masked_out(impl: Implementation) -> None:
    image, mask = noise(20, 40).to(impl.device)[None], torch.zeros((1, 20, 40), dtype=torch.bool, device=impl.device)
    assert (ops.slic(image, 9, mask=mask, impl=impl.name) == -1).all()
    mask[0, 7, 3] = True
    labels = ops.slic(image, 9, mask=mask, impl=impl.name)
    assert labels[0, 7, 3] == 0 and (labels >= 0).sum() == 1


def test_masked_pixels_have_no_say(impl: Implementation) -> None:
    image, mask = photo("chelsea", 40, 70).to(impl.device)[None], (smooth(40, 70, 5) > 0).to(impl.device)[None]
    labels = ops.slic(image, 20, 10, 4, mask, impl=impl.name)
    other = torch.where(mask[:, None], image, 255 - image)
    assert torch.equal(ops.slic(other, 20, 10, 4, mask[:, None], impl=impl.name), labels)
