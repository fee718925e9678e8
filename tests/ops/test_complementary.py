"""complementary_pair: its definition, and the same draw with every implementation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from complementary_cases import call, inputs
from helpers import Implementation
from torch import Tensor

from wsss_fast import ops

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8)
SIGNED = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# below, at and above four pixels a thread and 256 threads a block; never round, and one that is
SHAPES = [(1, 1, 1, 1), (2, 3, 1, 7), (1, 3, 5, 3), (3, 2, 13, 17), (2, 3, 32, 32), (1, 3, 33, 64), (1, 0, 4, 5), (2, 1, 97, 61)]
RULES = (None, "paper", "code")


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view(SIGNED[x.dtype.itemsize])


def hidden_segments(first: Tensor, segments: Tensor) -> list[set[int]]:
    """The labels an image does not show."""
    shown = [set(s[(f != 0).any(0)].tolist()) for f, s in zip(first.cpu(), segments.cpu(), strict=True)]
    return [set(s.unique().tolist()) - {-1} - seen for s, seen in zip(segments.cpu(), shown, strict=True)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_definition(impl: Implementation, shape) -> None:
    """Both images together are the image, bit by bit; hidden is 0; the share is what is seen."""
    for dtype in TYPES:
        image, segments = inputs(shape, dtype, impl.device)
        first, second, share = call(3, impl, image, segments)
        assert first.dtype == second.dtype == dtype and first.is_contiguous() and second.is_contiguous()
        assert share.dtype == torch.float32 and share.shape == (shape[0],) and share.device == image.device
        counted = (segments >= 0)[:, None]
        assert torch.equal(bits(first) | bits(second), bits(torch.where(counted, image, torch.zeros_like(image))))
        assert not (bits(first) & bits(second)).any()
        if shape[1] == 0:
            continue
        for n, hidden in enumerate(hidden_segments(first, segments)):
            labels = segments[n].cpu()
            cells = int(labels.max()) + 1
            assert len(hidden) == round(0.5 * cells)
            seen = sum(int((labels == k).sum()) for k in range(cells) if k not in hidden)
            assert share[n].item() == pytest.approx(seen / int((labels >= 0).sum()), abs=1e-6)


@pytest.mark.parametrize("published", RULES)
@pytest.mark.parametrize("grid", [None, 1, 3, (2, 5, 7), 16], ids=str)
def test_every_implementation_draws_the_same(kernel: Implementation, published: str | None, grid: Any) -> None:
    for shape in ((5, 2, 16, 19), (2, 3, 16, 32)):
        for hide in (0.0, 0.2, 0.5, 1.0):
            image, segments = inputs(shape, device=kernel.device)
            source = {"segments": segments} if grid is None else {"grid": grid}
            got = call(11, kernel, image, **source, hide=hide, published=published)
            on_cpu = {key: value.cpu() if isinstance(value, Tensor) else value for key, value in source.items()}
            expected = call(11, Implementation("reference"), image.cpu(), **on_cpu, hide=hide, published=published)
            assert all(torch.equal(a.cpu(), b) for a, b in zip(got, expected, strict=True)), (shape, hide)


def test_many_cells(kernel: Implementation) -> None:
    """A cell a pixel: the select goes through all its passes."""
    image = torch.ones(2, 1, 40, 50, device=kernel.device)
    for hide in (0.001, 0.3, 0.5, 0.999):
        first, _, share = call(2, kernel, image, grid=1, hide=hide)
        assert first.flatten(1).sum(1).tolist() == [2000 - round(hide * 2000)] * 2
        assert share.tolist() == pytest.approx([1 - round(hide * 2000) / 2000] * 2)


def test_hide_nothing_and_all(impl: Implementation) -> None:
    image, segments = inputs((2, 3, 9, 10), device=impl.device)
    for source in ({"segments": segments}, {"grid": 4}):
        for published in (None, "paper"):
            assert call(0, impl, image, **source, hide=0, published=published)[2].tolist() == [1, 1]
            assert call(0, impl, image, **source, hide=1, published=published)[2].tolist() == [0, 0]
    first, second, _ = call(0, impl, image, grid=4, hide=0)
    assert torch.equal(first, image) and not second.any()


def test_one_cell_and_one_pixel(impl: Implementation) -> None:
    image = torch.full((1, 3, 1, 1), 2.0, device=impl.device)
    label = torch.zeros((1, 1, 1), dtype=torch.int32, device=impl.device)
    for source in ({"segments": label}, {"grid": 1}):
        first, second, share = call(0, impl, image, **source)  # round(0.5) is 0: nothing is hidden
        assert torch.equal(first, image) and not second.any() and share.tolist() == [1]
        first, second, share = call(0, impl, image, **source, hide=0.6)
        assert torch.equal(second, image) and not first.any() and share.tolist() == [0]


def test_all_masked(impl: Implementation) -> None:
    image, segments = inputs((2, 3, 6, 8), device=impl.device)
    segments[0] = -1
    for published in RULES:
        first, second, share = call(5, impl, image, segments, published=published)
        assert not first[0].any() and not second[0].any() and share[0] == 0 and 0 < share[1] < 1
    assert call(0, impl, image[..., :0], segments[..., :0])[2].tolist() == [0, 0]  # no pixels at all


def test_values_are_copied_as_bits(kernel: Implementation) -> None:
    """-0, NaN with a payload, Inf and subnormals come out as they went in."""
    patterns = torch.tensor([-(2**31), 0x7FC12345, 0x7F800000, -0x800000, 1, 0x3F800000], dtype=torch.int32, device=kernel.device)
    image = patterns.view(torch.float32).repeat(20).reshape(1, 1, 10, 12)
    first, second, _ = call(4, kernel, image, grid=2)
    assert torch.equal(bits(first) | bits(second), bits(image))


def test_images_of_a_batch_differ_and_calls_repeat(kernel: Implementation) -> None:
    image, segments = inputs((6, 1, 20, 20), device=kernel.device, masked=False)
    generator = torch.Generator().manual_seed(8)
    first = [ops.complementary_pair(image, segments, generator=generator, impl=kernel.name)[0] for _ in range(2)]
    draws = [frozenset(hidden) for one in first for hidden in hidden_segments(one, segments)]
    assert len(set(draws)) == 12
    assert torch.equal(first[0], call(8, kernel, image, segments)[0])
    torch.manual_seed(8)
    assert torch.equal(first[0], ops.complementary_pair(image, segments, impl=kernel.name)[0])


def test_draws_are_even() -> None:
    """Over 2000 images each of 20 cells is hidden about as often as any other, and pairs of cells as often as chance has it."""
    image = torch.ones(2000, 1, 4, 5)
    hidden = (call(1, Implementation("cpu"), image, grid=1, hide=0.25)[0] == 0).flatten(1).double()
    assert (hidden.sum(1) == 5).all()
    assert ((hidden.mean(0) - 0.25).abs() < 5 * (0.25 * 0.75 / 2000) ** 0.5).all()
    together = (hidden.T @ hidden / 2000).fill_diagonal_(5 * 4 / (20 * 19))
    assert ((together - 5 * 4 / (20 * 19)).abs() < 5 * (0.0526 * 0.9474 / 2000) ** 0.5).all()


def test_published_rules(kernel: Implementation) -> None:
    """Expected hidden parts: 1 - (1 - 1/(K+1))^floor((K+1)/2), about 0.39, with replacement; hide itself, with a spread, else."""
    n = 40 if kernel.name == "simt" else 400
    image = torch.ones(n, 1, 20, 20, device=kernel.device)
    segments = (torch.arange(20)[:, None] // 2 * 10 + torch.arange(20) // 2).int().repeat(n, 1, 1).to(kernel.device)
    for published, source, hidden in (
        ("code", {"segments": segments}, 1 - (1 - 1 / 101) ** 50),
        ("paper", {"segments": segments}, 0.5),
        ("paper", {"grid": 2}, 0.5),
        ("code", {"grid": 2}, 0.5),
    ):
        first, _, share = call(6, kernel, image, **source, published=published)
        assert abs(1 - share.mean().item() - hidden) < 5 * 0.05 / n**0.5
        assert share.std() > 0.01
        assert torch.allclose(share, first.mean((1, 2, 3)))


def test_published_grid_counts_cells(impl: Implementation) -> None:
    """Cells of 6 x 6, 6 x 2, 2 x 6 and 2 x 2 pixels: the released share is that of four equal ones."""
    image = torch.ones(8, 1, 8, 8, device=impl.device)
    first, _, share = call(0, impl, image, grid=6, published="code")
    corners = torch.stack((first[:, 0, 0, 0], first[:, 0, 0, 7], first[:, 0, 7, 0], first[:, 0, 7, 7]))
    assert torch.equal(share, corners.mean(0))
    assert not torch.allclose(share, first.mean((1, 2, 3)))


def test_each_image_draws_its_size(kernel: Implementation) -> None:
    image = torch.ones(40, 1, 8, 8, device=kernel.device)
    first = call(0, kernel, image, grid=(1, 8), hide=1 / 64)[0]
    hidden = (first == 0).flatten(1).sum(1).tolist()
    assert set(hidden) == {0, 1}  # round(1/64 of one cell) is 0
    assert 8 < sum(hidden) < 32


def test_unaligned_planes(kernel: Implementation) -> None:
    """An image that starts in the middle of four pixels."""
    image, segments = inputs((2, 1, 8, 8), device=kernel.device)
    shifted = torch.cat((image.new_zeros(1), image.flatten()))[1:].reshape(image.shape)
    labels = torch.cat((segments.new_zeros(1), segments.flatten()))[1:].reshape(segments.shape)
    assert torch.equal(call(9, kernel, shifted, labels)[0], call(9, kernel, image, segments)[0])


def test_gradients(impl: Implementation) -> None:
    image, segments = inputs((2, 3, 9, 10), device=impl.device)
    leaf = image.requires_grad_()
    first, second, share = call(5, impl, leaf, segments)
    grads = torch.randn_like(first), torch.randn_like(second)
    (got,) = torch.autograd.grad((first, second), leaf, grads, retain_graph=True)
    ones = call(5, impl, torch.ones_like(image), segments)
    assert torch.equal(got, torch.where(ones[0] > 0, grads[0], torch.where(ones[1] > 0, grads[1], 0.0)))
    assert torch.equal(torch.autograd.grad(second, leaf, grads[1])[0], torch.where(ones[1] > 0, grads[1], 0.0))
    assert not share.requires_grad
