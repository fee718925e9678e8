"""dense_crf: every implementation against the plain PyTorch definition, and against pydensecrf itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_crf_cases import (
    BOUND,
    SETTINGS,
    assert_same_as_published,
    by_pydensecrf,
    furthest,
    inputs,
    maps,
    photo,
    planar,
    wide,
)
from helpers import Implementation
from torch import Tensor

from wsss_fast import ops
from wsss_fast.ops._reference import dense_crf as definition

ORACLE = Path(__file__).parents[2].parent / "shared" / "oracle" / "dense_crf_pydensecrf.npz"

# label counts at, below and above the vector widths (4, 8, 16, 32), sizes that fill no vector and no tile
SHAPES = [
    # N, L, H, W
    (1, 1, 1, 1),
    (2, 3, 1, 7),
    (1, 2, 7, 1),
    (1, 3, 13, 17),
    (2, 4, 9, 11),
    (1, 5, 16, 16),
    (1, 8, 11, 20),
    (3, 9, 5, 7),
    (1, 21, 19, 15),
    (1, 24, 6, 6),
    (2, 25, 8, 9),
    (1, 33, 10, 5),
    (1, 40, 7, 13),
]


def test_definition_by_hand() -> None:
    """The true kernels, one iteration: K = [[1, k], [k, 1]] with k = exp(-1 / (2 s^2)), n = 1 + k for both."""
    probability = torch.tensor([[[[0.8, 0.4]], [[0.2, 0.6]]]], dtype=torch.float64)
    k = np.exp(-1 / (2 * 3**2))
    q = probability[0, :, 0].numpy()
    scores = np.log(q) + 3 * (q + k * q[:, ::-1]) / (1 + k)
    expected = np.exp(scores) / np.exp(scores).sum(0)
    image = torch.zeros(1, 3, 1, 2, dtype=torch.uint8)
    settings = {"iterations": 1, "kernel": "exact"}
    got = ops.dense_crf(probability, image, **settings, gaussian=(3, 3), bilateral=None, impl="reference")
    assert np.abs(got[0, :, 0].numpy() - expected).max() < 1e-7
    image[..., 1] = 20  # the bilateral kernel multiplies by exp(-3 20^2 / (2 s^2))
    k *= np.exp(-3 * 20**2 / (2 * 13**2))
    scores = np.log(q) + 3 * (q + k * q[:, ::-1]) / (1 + k)
    expected = np.exp(scores) / np.exp(scores).sum(0)
    got = ops.dense_crf(probability, image, **settings, gaussian=None, bilateral=(3, 13, 3), impl="reference")
    assert np.abs(got[0, :, 0].numpy() - expected).max() < 1e-7


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_definition(impl: Implementation, shape) -> None:
    probability, image = inputs(impl, shape)
    for name in ("psa", "deeplab", "psa scale 12"):
        gaussian, bilateral = SETTINGS[name]
        q = ops.dense_crf(probability, image, gaussian=gaussian, bilateral=bilateral, impl=impl.name)
        assert q.dtype == torch.float32 and q.is_contiguous() and q.device == probability.device
        assert furthest(q, wide(probability, image, gaussian=gaussian, bilateral=bilateral)) < BOUND, name
        assert (q.sum(1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("name", SETTINGS)
def test_pydensecrf_on_photos(impl: Implementation, name: str) -> None:
    small = impl.name == "simt"
    for labels, kind in ((2, "chelsea"), (4, "astronaut"), (21, "coffee")):
        h, w = ((20, 23) if labels < 9 else (8, 9)) if small else (84, 115)
        image, energy = photo(kind, h, w), -np.log(maps(labels, h, w, labels))
        q = ops.dense_crf(
            unary=torch.from_numpy(energy)[None].to(impl.device),
            image=planar(image[None]).to(impl.device),
            gaussian=SETTINGS[name][0],
            bilateral=SETTINGS[name][1],
            impl=impl.name,
        )
        assert_same_as_published(impl, q[0], by_pydensecrf(energy, image, *SETTINGS[name]))


@pytest.mark.parametrize(("kind", "h", "w"), [("coffee", 375, 500), ("astronaut", 149, 223), ("chelsea", 101, 103)])
def test_pydensecrf_on_other_sizes(kind: str, h: int, w: int) -> None:
    image, energy = photo(kind, h, w), -np.log(maps(6, h, w, 0))
    for name in ("psa", "irn", "deeplab"):
        gaussian, bilateral = SETTINGS[name]
        q = ops.dense_crf(unary=torch.from_numpy(energy)[None], image=planar(image[None]), gaussian=gaussian, bilateral=bilateral)
        assert_same_as_published(Implementation("cpu"), q[0], by_pydensecrf(energy, image, gaussian, bilateral))


@pytest.mark.parametrize(("h", "w"), [(1, 1), (5, 7), (6, 9), (13, 17)])
def test_pixels_that_4_does_not_divide(impl: Implementation, h: int, w: int) -> None:
    """pydensecrf embeds four pixels at a time, the missing ones as zeros: their vertices take part in the blur."""
    image, energy = photo("astronaut", h, w) // 3, -np.log(maps(4, h, w, 0))  # dark, so that pixels are near these vertices
    given = {"unary": torch.from_numpy(energy)[None].to(impl.device), "image": planar(image[None]).to(impl.device)}
    for gaussian, bilateral in (((3, 3), (20, 20, 10)), ((0.7, 3), (80 / 12, 13, 10))):
        q = ops.dense_crf(**given, gaussian=gaussian, bilateral=bilateral, impl=impl.name)
        assert_same_as_published(impl, q[0], by_pydensecrf(energy, image, gaussian, bilateral))


def test_pixels_apart(impl: Implementation) -> None:
    """Positions in units of 1/3 pixel or less: the lattice, which is then left out, would be the identity."""
    h, w = 9, 14
    y, x = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
    q = torch.rand((1, 2, h, w), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for sx, sy in ((1 / 3, 1 / 3), (0.25, 0.3), (1 / 3, 0.02)):
        kernel = definition.lattice_filter(torch.stack((x / sx, y / sy))[None], 1)
        for kind in (1, 2, 3):
            assert (definition.normalised(kernel, torch.ones_like(q), kind)(q) - q).abs().max() < 1e-12
        probability, image = inputs(impl, (2, 3, h, w))
        settings = {"gaussian": ((sx, sy), 3), "bilateral": (20, 13, 10)}
        got = ops.dense_crf(probability, image, **settings, impl=impl.name)
        assert furthest(got, wide(probability, image, **settings)) < BOUND
        energy, colours = -np.log(probability[1].cpu().numpy()), image[1].permute(1, 2, 0).cpu().numpy()
        assert_same_as_published(impl, got[1], by_pydensecrf(energy, colours, *settings.values()))


@pytest.mark.parametrize(
    ("name", "labels", "gaussian", "bilateral", "seed"),
    [
        ("psa_n3", 3, (3, 3), (80, 13, 10), 1),
        ("irn_n3", 3, (3, 3), (50, 5, 10), 2),
        ("deeplab_n21", 21, (1, 3), (67, 3, 4), 3),
    ],
)
def test_oracle(impl: Implementation, name: str, labels: int, gaussian, bilateral, seed: int) -> None:
    if not ORACLE.exists():
        pytest.skip("the oracle files are not beside the repository")
    if impl.name == "simt":
        return  # 34,000 pixels take the emulator an hour
    oracle = np.load(ORACLE)
    image = oracle["image"]
    h, w = image.shape[:2]
    probability = torch.from_numpy(maps(labels, h, w, seed))[None].to(impl.device)
    image = planar(image[None]).to(impl.device)
    q = ops.dense_crf(probability, image, gaussian=gaussian, bilateral=bilateral, impl=impl.name)[0].cpu().numpy()
    assert (q.argmax(0) == oracle[f"{name}_labels"].reshape(h, w)).mean() >= 0.999  # asked: 0.995
    difference = np.abs(q[0] - oracle[f"{name}_q0"].reshape(h, w).astype(np.float32))
    assert difference.max() <= 0.005 and difference.mean() <= 1e-4  # asked: 0.02 and 0.003; half of 2^-11 is the file's rounding


@pytest.mark.parametrize(("gaussian", "bilateral"), [((3, 3), None), (None, (30, 13, 10)), (None, None)], ids=str)
def test_terms_left_out(impl: Implementation, gaussian, bilateral) -> None:
    probability, image = inputs(impl, (2, 3, 12, 17))
    q = ops.dense_crf(probability, image, gaussian=gaussian, bilateral=bilateral, impl=impl.name)
    assert furthest(q, wide(probability, image, gaussian=gaussian, bilateral=bilateral)) < BOUND
    if gaussian is bilateral is None:
        assert furthest(q, probability / probability.sum(1, keepdim=True)) < 1e-6
    else:
        energy = -np.log(probability[0].cpu().numpy())
        expected = by_pydensecrf(energy, image[0].permute(1, 2, 0).cpu().numpy(), gaussian, bilateral)
        assert_same_as_published(impl, q[0], expected)


def test_pairs_of_deviations(impl: Implementation) -> None:
    """(x, y), as in pydensecrf."""
    probability, image = inputs(impl, (1, 3, 12, 17))
    settings = {"gaussian": ((4, 1.5), 3), "bilateral": ((20, 6.5), 13, 10)}
    q = ops.dense_crf(probability, image, **settings, impl=impl.name)
    assert furthest(q, wide(probability, image, **settings)) < BOUND
    expected = by_pydensecrf(-np.log(probability[0].cpu().numpy()), image[0].permute(1, 2, 0).cpu().numpy(), *settings.values())
    assert_same_as_published(impl, q[0], expected)


def test_compatibilities(impl: Implementation) -> None:
    """A number rewards the same label; vectors and matrices are costs; a matrix counts by its symmetric part."""
    probability, image = inputs(impl, (2, 4, 8, 9))
    vector = np.array([1, -2, 3, 0.5], np.float32)
    matrix = np.random.default_rng(0).uniform(-3, 3, (4, 4)).astype(np.float32)
    for compat in (3.5, vector, matrix):
        as_tensor = torch.from_numpy(compat).to(impl.device) if isinstance(compat, np.ndarray) else compat
        as_list = compat.tolist() if isinstance(compat, np.ndarray) else compat
        settings = {"gaussian": (2, as_tensor), "bilateral": (20, 13, as_list)}
        q = ops.dense_crf(probability, image, **settings, iterations=4, impl=impl.name)
        assert furthest(q, wide(probability, image, gaussian=(2, compat), bilateral=(20, 13, compat), iterations=4)) < BOUND
        energy, photo = -np.log(probability[1].cpu().numpy()), image[1].permute(1, 2, 0).cpu().numpy()
        assert_same_as_published(impl, q[1], by_pydensecrf(energy, photo, (2, compat), (20, 13, compat), 4))
    same = [3.0, [-3.0] * 4, (-3 * torch.eye(4)).tolist()]
    results = [ops.dense_crf(probability, image, gaussian=(2, c), bilateral=(20, 13, c), impl=impl.name) for c in same]
    assert max(furthest(result, results[0]) for result in results) < BOUND


def test_single_label_and_uniform_maps(impl: Implementation) -> None:
    image = inputs(impl, (2, 3, 9, 10))[1]
    shape = image.shape[2:]
    one = ops.dense_crf(torch.rand((2, 1, *shape), device=impl.device), image, impl=impl.name)
    assert (one - 1).abs().max() < 1e-6
    for compat in ([2.0], [[2.0]]):
        assert (ops.dense_crf(one, image, bilateral=(80, 13, compat), impl=impl.name) - 1).abs().max() < 1e-6
    uniform = ops.dense_crf(torch.full((2, 5, *shape), 0.3, device=impl.device), image, impl=impl.name)
    assert (uniform - 0.2).abs().max() < 1e-5


def test_constant_image(impl: Implementation) -> None:
    """All colours alike: the bilateral kernel is a Gaussian of the position, on few vertices."""
    probability, image = inputs(impl, (1, 3, 13, 17))
    for value in (0, 128, 255):
        constant = torch.full_like(image, value)
        assert furthest(ops.dense_crf(probability, constant, impl=impl.name), wide(probability, constant)) < BOUND


def test_noise_image(impl: Implementation) -> None:
    """Hardly a vertex is shared."""
    probability, image = inputs(impl, (1, 3, 13, 17))
    noise = torch.randint(0, 256, image.shape, dtype=torch.uint8).to(impl.device)
    q = ops.dense_crf(probability, noise, bilateral=(5, 2, 10), impl=impl.name)
    assert furthest(q, wide(probability, noise, bilateral=(5, 2, 10))) < BOUND


@pytest.mark.parametrize("sigma", [1e-3, 0.05, 1e3, 1e6])
def test_extreme_deviations(impl: Implementation, sigma: float) -> None:
    probability, image = inputs(impl, (1, 3, 7, 9))
    settings = {"gaussian": (sigma, 3), "bilateral": (sigma, max(sigma, 0.1), 10)}
    q = ops.dense_crf(probability, image, **settings, impl=impl.name)
    assert q.isfinite().all() and (q.sum(1) - 1).abs().max() < 1e-5
    assert furthest(q, wide(probability, image, **settings)) < BOUND


def test_large_energies(impl: Implementation) -> None:
    """Scores far beyond what exp holds, and probabilities of 0."""
    probability, image = inputs(impl, (1, 4, 9, 8))
    energy = (1 - probability) * 1e4
    q = ops.dense_crf(unary=energy, image=image, impl=impl.name)
    assert furthest(q, ops.dense_crf(unary=energy.cpu().double(), image=image.cpu(), impl="reference")) < BOUND
    shifted = ops.dense_crf(unary=energy + 1e5, image=image, impl=impl.name)
    assert shifted.isfinite().all() and (shifted.sum(1) - 1).abs().max() < 1e-5
    probability[:, 1] = 0
    q = ops.dense_crf(probability, image, impl=impl.name)
    assert furthest(q, wide(probability, image)) < BOUND


def test_probability_is_clamped_and_need_not_sum_to_one(impl: Implementation) -> None:
    probability, image = inputs(impl, (1, 3, 6, 7))
    probability[:, 0, 2] = 0
    probability[:, 1] *= 5
    by_energy = ops.dense_crf(unary=-probability.clamp_min(1e-5).log(), image=image, impl=impl.name)
    assert furthest(ops.dense_crf(probability, image, impl=impl.name), by_energy) < 1e-5
    none = ops.dense_crf(probability, image, iterations=0, impl=impl.name)
    clamped = probability.clamp_min(1e-5)
    assert furthest(none, clamped / clamped.sum(1, keepdim=True)) < 1e-6


def test_iterations(impl: Implementation) -> None:
    probability, image = inputs(impl, (1, 3, 9, 11))
    none = ops.dense_crf(probability, image, iterations=0, impl=impl.name)
    assert furthest(none, probability / probability.sum(1, keepdim=True)) < 1e-6
    results = [ops.dense_crf(probability, image, iterations=i, impl=impl.name) for i in (1, 2, 5, 30)]
    for i, result in zip((1, 2, 5, 30), results, strict=True):
        assert furthest(result, wide(probability, image, iterations=i)) < BOUND
    assert furthest(results[0], results[1]) > 1e-4


# ---- the operator behind it: any features, all normalisations, messages ---------------------------------------------------


def operator(impl: Implementation, unary, features, compats, normalisations, iterations, initial=None, message=False) -> Tensor:
    arguments = (unary, features, compats, normalisations, iterations, initial, message)
    if impl.name == "reference":
        return definition.dense_crf(*arguments)
    return torch.ops.wsss_fast.dense_crf(*arguments, impl.name)


def in_float64(unary, features, compats, normalisations, iterations, initial=None, message=False) -> Tensor:
    unary, initial = unary.cpu().double(), None if initial is None else initial.cpu().double()
    features, compats = ([x.cpu() for x in some] for some in (features, compats))
    return definition.dense_crf(unary, features, compats, normalisations, iterations, initial, message)


@pytest.mark.parametrize("dims", [0, 1, 2, 3, 4, 5, 6])
def test_dimensions_and_normalisations(impl: Implementation, dims: int) -> None:
    generator = torch.Generator().manual_seed(dims)
    unary = torch.rand((2, 3, 5, 6), generator=generator).mul(3).to(impl.device)
    compat = torch.tensor([[0.0, 1, 2], [1, 0, 1], [2, 1, 0]], device=impl.device)
    for images in (1, 2):  # one lattice for all images, or one each
        feature = torch.randn((images, dims, 5, 6), generator=generator).mul(2).to(impl.device)
        for kind in range(4):
            terms = ([feature], [compat], [kind])
            assert furthest(operator(impl, unary, *terms, 3), in_float64(unary, *terms, 3)) < BOUND, kind
            message, expected = operator(impl, unary, *terms, 3, None, True), in_float64(unary, *terms, 3, None, True)
            assert furthest(message, expected) < 1e-5 * max(1, expected.abs().max().item()), kind


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_number_of_terms(impl: Implementation, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    unary = torch.rand((1, 3, 5, 7), generator=generator).to(impl.device)
    features = [torch.randn((1, d, 5, 7), generator=generator).to(impl.device) for d in (2, 5, 0, 3)[:count]]
    compats = [x.to(impl.device) for x in (torch.ones(1), torch.rand(3), torch.eye(3), torch.tensor([2.0]))][:count]
    terms = (features, compats, [3, 0, 1, 2][:count])
    assert furthest(operator(impl, unary, *terms, 4), in_float64(unary, *terms, 4)) < BOUND


def test_initial_and_message(impl: Implementation) -> None:
    """Two iterations are one after the other; a message is what an iteration adds to the energy."""
    generator = torch.Generator().manual_seed(0)
    unary = torch.rand((2, 4, 6, 7), generator=generator).mul(3).to(impl.device)
    features = [torch.randn((2, 3, 6, 7), generator=generator).to(impl.device)]
    terms = (features, [torch.tensor([2.0], device=impl.device)], [3])
    once = operator(impl, unary, *terms, 1)
    assert furthest(operator(impl, unary, *terms, 1, once), operator(impl, unary, *terms, 2)) < 1e-6
    message = operator(impl, unary, *terms, 0, once, True)
    assert furthest(torch.softmax(message - unary, 1), operator(impl, unary, *terms, 2)) < 1e-6
    assert furthest(message, in_float64(unary, *terms, 0, once, True)) < 1e-5
    start = torch.rand(unary.shape, generator=generator).to(impl.device)
    before = start.clone()
    assert furthest(operator(impl, unary, *terms, 0, start), start) == 0
    assert furthest(operator(impl, unary, *terms, 3, start), in_float64(unary, *terms, 3, start)) < BOUND
    assert torch.equal(start, before)


# ---- kernel="exact" -------------------------------------------------------------------------------------------------------


def test_exact_is_the_sum_over_all_pairs(impl: Implementation) -> None:
    probability, image = inputs(impl, (2, 3, 9, 8))
    h, w = image.shape[2:]
    q = ops.dense_crf(probability, image, iterations=2, bilateral=(20, 13, 10), gaussian=(1.5, 3), kernel="exact", impl=impl.name)
    y, x = np.mgrid[:h, :w].reshape(2, -1)
    for i in range(2):
        colour = image[i].cpu().double().flatten(1).numpy()
        matrices = []
        for features in (np.stack([x, y]) / 1.5, np.concatenate([np.stack([x, y]) / 20, colour / 13])):
            kernel = np.exp(-((features[:, :, None] - features[:, None]) ** 2).sum(0) / 2)
            root = kernel.sum(1) ** -0.5
            matrices.append(root[:, None] * kernel * root)
        energy = -np.log(probability[i].cpu().double().flatten(1).numpy())
        expected = np.exp(-energy) / np.exp(-energy).sum(0)
        for _ in range(2):
            scores = 3 * expected @ matrices[0] + 10 * expected @ matrices[1] - energy
            expected = np.exp(scores - scores.max(0))
            expected /= expected.sum(0)
        assert np.abs(q[i].flatten(1).cpu().numpy() - expected).max() < 5e-4  # the Gaussian is cut where it is e^-8


def test_lattice_is_near_exact() -> None:
    h, w = 40, 60
    probability, image = torch.from_numpy(maps(3, h, w, 0))[None], planar(photo("coffee", h, w)[None])
    for gaussian, bilateral, labels, mean in (((3, 3), None, 0.99, 2e-3), ((3, 3), (80, 13, 10), 0.95, 0.03)):
        settings = {"gaussian": gaussian, "bilateral": bilateral}
        lattice, exact = (ops.dense_crf(probability, image, **settings, kernel=kind) for kind in ("lattice", "exact"))
        assert (lattice.argmax(1) == exact.argmax(1)).float().mean() > labels
        assert (lattice - exact).abs().mean() < mean


def test_exact_refuses_what_takes_hours() -> None:
    probability, image = torch.ones(1, 2, 200, 201), torch.zeros(1, 3, 200, 201, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"dense_crf: 'image' must have at most 40,000 pixels .* 200 x 201 = 40,200. Hint: crop"):
        ops.dense_crf(probability, image, kernel="exact")
    assert ops.dense_crf(probability, image, kernel="exact", bilateral=None, iterations=1).shape == probability.shape
