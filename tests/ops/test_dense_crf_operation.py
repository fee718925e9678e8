"""dense_crf as a torch operation: layouts, types, threads, compilation, bad input."""

from __future__ import annotations

import pytest
import torch
from dense_crf_cases import BOUND, furthest, inputs, wide
from helpers import LAYOUTS, Implementation, same_from_many_threads, threads, true_in_forked_child
from torch import Tensor

from wsss_fast import ops


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(kernel: Implementation, layout: str) -> None:
    probability, image = inputs(kernel, (2, 4, 8, 11))
    expected = ops.dense_crf(probability, image, impl=kernel.name)
    change = LAYOUTS[layout]
    probability, image = change(probability.contiguous()), change(image.contiguous())
    before = probability.clone(), image.clone()
    assert torch.equal(ops.dense_crf(probability, image, impl=kernel.name), expected)
    assert torch.equal(probability, before[0]) and torch.equal(image, before[1]), "an input was changed"


def test_expanded_inputs(kernel: Implementation) -> None:
    probability, image = inputs(kernel, (1, 3, 7, 9))
    q = ops.dense_crf(probability.expand(3, -1, -1, -1), image.expand(3, -1, -1, -1), impl=kernel.name)
    assert all(torch.equal(one, q[0]) for one in q)
    assert torch.equal(q[:1], ops.dense_crf(probability, image, impl=kernel.name))


@pytest.mark.parametrize("size", [(0, 2, 4, 5), (1, 0, 4, 5), (1, 2, 0, 5), (2, 2, 4, 0)], ids=str)
@pytest.mark.parametrize("kind", ["lattice", "exact"])
def test_zero_sizes(impl: Implementation, size, kind: str) -> None:
    n, _, h, w = size
    image = torch.zeros((n, 3, h, w), dtype=torch.uint8, device=impl.device)
    for argument in ("probability", "unary"):
        q = ops.dense_crf(image=image, kernel=kind, impl=impl.name, **{argument: torch.ones(size, device=impl.device)})
        assert q.shape == size


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_types(impl: Implementation, dtype: torch.dtype) -> None:
    probability, image = inputs(impl, (1, 3, 7, 8))
    probability = probability.to(dtype)
    q = ops.dense_crf(probability, image, impl=impl.name)
    assert q.dtype == dtype
    assert furthest(q, wide(probability, image)) < {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(dtype, BOUND)


def test_has_no_gradient(impl: Implementation) -> None:
    probability, image = inputs(impl, (1, 3, 5, 6))
    assert not ops.dense_crf(probability.requires_grad_(), image, impl=impl.name).requires_grad


def test_same_bits_every_time(kernel: Implementation) -> None:
    probability, image = inputs(kernel, (3, 5, 40, 53))
    results = []
    for count in (1, 2, 5, 1):
        with threads(count):
            results.append(ops.dense_crf(probability, image, impl=kernel.name))
    assert all(torch.equal(other, results[0]) for other in results[1:])


def test_batch_is_a_loop_of_images(kernel: Implementation) -> None:
    probability, image = inputs(kernel, (3, 4, 13, 17))
    whole = ops.dense_crf(probability, image, impl=kernel.name)
    alone = [ops.dense_crf(probability[i : i + 1], image[i : i + 1], impl=kernel.name) for i in range(3)]
    assert torch.equal(whole, torch.cat(alone))


def arguments_of_the_operator(kernel: Implementation):
    generator = torch.Generator().manual_seed(1)
    unary = torch.rand((2, 3, 4, 5), generator=generator).to(kernel.device)
    features = [torch.randn((n, d, 4, 5), generator=generator).to(kernel.device) for n, d in ((1, 2), (2, 5))]
    compats = [torch.tensor([3.0], device=kernel.device), torch.eye(3, device=kernel.device)]
    return unary, features, compats, [3, 0], 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_opcheck(kernel: Implementation) -> None:
    arguments = arguments_of_the_operator(kernel)
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for initial, message in ((None, False), (torch.softmax(arguments[0], 1), False), (None, True)):
        whole = (*arguments, initial, message, kernel.name)
        torch.library.opcheck(torch.ops.wsss_fast.dense_crf.default, whole, test_utils=checks)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compile_fullgraph(kernel: Implementation) -> None:
    arguments = arguments_of_the_operator(kernel)

    def run(unary: Tensor) -> Tensor:
        return torch.ops.wsss_fast.dense_crf(unary * 2, *arguments[1:], None, False, kernel.name).square()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert furthest(compiled(arguments[0]), run(arguments[0])) < 1e-6
    probability, image = inputs(kernel, (1, 3, 5, 6))
    compiled = torch.compile(lambda p, i: ops.dense_crf(p.relu(), i, impl=kernel.name) + 1, fullgraph=True, backend="aot_eager")
    assert furthest(compiled(probability, image), ops.dense_crf(probability, image, impl=kernel.name) + 1) < 1e-6


def test_meta() -> None:
    probability = torch.empty(2, 3, 4, 5, device="meta")
    q = ops.dense_crf(probability, torch.empty(2, 3, 4, 5, dtype=torch.uint8, device="meta"))
    assert q.shape == probability.shape and q.device.type == "meta"


def test_autocast(kernel: Implementation) -> None:
    """Computed in float32 whatever the type around it."""
    probability, image = inputs(kernel, (1, 3, 5, 6))
    expected = ops.dense_crf(probability, image, impl=kernel.name)
    with torch.autocast(kernel.device, torch.bfloat16):
        assert furthest(ops.dense_crf(probability, image, impl=kernel.name), expected) < 1e-6


def test_data_loader_worker() -> None:
    """Small images, whose features torch computes with one thread: none of its work waits for the parent's threads."""
    probability, image = inputs(Implementation("cpu"), (2, 3, 40, 53))
    energy = -probability.log()
    with threads(2):
        expected = ops.dense_crf(unary=energy, image=image), ops.dense_crf(probability, image)
        assert true_in_forked_child(lambda: torch.equal(ops.dense_crf(unary=energy, image=image), expected[0]))
        assert true_in_forked_child(lambda: torch.equal(ops.dense_crf(probability, image), expected[1]))


def test_called_from_many_threads() -> None:
    probability, image = inputs(Implementation("cpu"), (1, 3, 30, 31))
    assert same_from_many_threads(lambda: ops.dense_crf(probability, image), times=30)


# ---- bad input ------------------------------------------------------------------------------------------------------------

P, IMAGE = torch.full((2, 3, 4, 5), 0.5), torch.zeros(2, 3, 4, 5, dtype=torch.uint8)

BAD = {
    "neither": ({}, ValueError, "dense_crf: 'probability' must be given, or 'unary', and not both, got neither"),
    "both": ({"probability": P, "unary": P}, ValueError, "'probability' must be given.* got both"),
    "array": ({"probability": P.numpy()}, TypeError, "'probability' must be a torch.Tensor, got numpy.ndarray. Hint"),
    "three dimensions": ({"unary": P[0]}, ValueError, r"'unary' must have shape \[N, L, H, W\], got \[3, 4, 5\]. Hint: add"),
    "integers": ({"probability": P.int()}, TypeError, "'probability' must be of type float32, .* got int32. Hint: convert"),
    "no image": ({"probability": P, "image": None}, TypeError, "'image' must be a torch.Tensor, got builtins.NoneType"),
    "float image": ({"probability": P, "image": P}, TypeError, "'image' must be of type uint8, got float32. Hint"),
    "other size": (
        {"probability": P, "image": IMAGE[:, :, :3]},
        ValueError,
        r"'image' must .* \[2, 3, 4, 5\].* got \[2, 3, 3, 5\]",
    ),
    "other batch": ({"probability": P, "image": IMAGE[:1]}, ValueError, r"'image' must have shape .* got \[1, 3, 4, 5\]"),
    "grey image": ({"probability": P, "image": IMAGE[:, :1]}, ValueError, r"'image' must have shape .* got \[2, 1, 4, 5\]"),
    "channels last": (
        {"probability": P, "image": IMAGE.permute(0, 2, 3, 1)},
        ValueError,
        r"'image' must .* got \[2, 4, 5, 3\]. Hint: channels come first",
    ),
    "image elsewhere": (
        {"probability": P, "image": IMAGE.to("meta")},
        ValueError,
        "'image' must be on the device of 'probability'",
    ),
    "negative iterations": ({"probability": P, "iterations": -1}, ValueError, "'iterations' must be a whole number, 0 or more"),
    "half an iteration": ({"probability": P, "iterations": 1.5}, ValueError, "'iterations' must be a whole number"),
    "kernel": ({"probability": P, "kernel": "fast"}, ValueError, "'kernel' must be 'lattice' or 'exact', got 'fast'"),
    "gaussian form": ({"probability": P, "gaussian": 3}, ValueError, r"'gaussian' must be None or \(sxy, compat\), got 3"),
    "bilateral form": (
        {"probability": P, "bilateral": (80, 13)},
        ValueError,
        r"'bilateral' must be None or \(sxy, srgb, compat\)",
    ),
    "sigma 0": ({"probability": P, "gaussian": (0, 3)}, ValueError, "'gaussian' must .* above 0"),
    "sigma negative": ({"probability": P, "bilateral": (80, -13, 3)}, ValueError, "'bilateral' must .* above 0"),
    "sigma NaN": ({"probability": P, "bilateral": (float("nan"), 13, 3)}, ValueError, "'bilateral' must .* above 0"),
    "sigma tiny": ({"probability": P, "gaussian": (1e-7, 3)}, ValueError, "'gaussian' must have sigmas above a millionth"),
    "srgb tiny": ({"probability": P, "bilateral": (3, 1e-7, 3)}, ValueError, "'bilateral' must have sigmas above"),
    "compat NaN": ({"probability": P, "gaussian": (3, float("nan"))}, ValueError, "'gaussian' must hold a finite compat"),
    "three sigmas": ({"probability": P, "gaussian": ((1, 2, 3), 3)}, ValueError, "'gaussian' must"),
    "compat length": (
        {"probability": P, "gaussian": (3, [1, 2])},
        ValueError,
        r"'gaussian' must hold a compat .* got shape \[2\]",
    ),
    "compat not square": ({"probability": P, "bilateral": (3, 3, torch.ones(3, 2))}, ValueError, r"'bilateral' must .* \[3, 2\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    arguments, error, message = BAD[case]
    for impl in (None, "reference"):
        with pytest.raises(error, match=message):
            ops.dense_crf(**{"image": IMAGE, **arguments}, impl=impl)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("argument", ["unary", "probability"])
def test_not_finite(impl: Implementation, argument: str, value: float) -> None:
    """Refused where looking is free; a CUDA kernel does not wait to be asked, and must not hang or write elsewhere."""
    tensor = P.clone().to(impl.device)
    tensor[1, 2, 3, 4] = value
    if argument == "probability" and value == float("-inf"):
        value = 0.0  # clamped like any number below 1e-5
    given = {argument: tensor, "image": IMAGE.to(impl.device)}
    if impl.device == "cuda" or impl.name == "simt" or value == 0:
        q = ops.dense_crf(**given, impl=impl.name)
        assert q[0].isfinite().all()
        return
    for kind in ("lattice", "exact"):
        with pytest.raises(ValueError, match=f"dense_crf: '({argument}|unary)' must be finite"):
            ops.dense_crf(**given, kernel=kind, impl=impl.name)


def test_unknown_and_unfit_implementation() -> None:
    with pytest.raises(ValueError, match="dense_crf: 'impl' must be None or one of reference, cpu, simt, cuda, got 'gpu'"):
        ops.dense_crf(P, IMAGE, impl="gpu")
    with pytest.raises(ValueError, match="dense_crf: 'impl' must fit the device"):
        ops.dense_crf(P, IMAGE, impl="cuda")


def test_the_compiled_function_checks_too() -> None:
    """The compiled function checks for itself: TensorRT and C++ callers come that way."""
    feature, compat = torch.zeros(1, 2, 4, 5), torch.ones(1)
    cases = [
        ((P, [torch.zeros(1, 2, 4, 6)], [compat], [3], 1), "'feature' must"),
        ((P, [torch.zeros(3, 2, 4, 5)], [compat], [3], 1), "'feature' must have a batch size of 1 or 2"),
        ((P, [torch.zeros(1, 7, 4, 5)], [compat], [3], 1), "'feature' must have at most 6 dimensions"),
        ((P, [feature], [torch.ones(2)], [3], 1), "'compat' must"),
        ((P, [feature] * 5, [compat] * 5, [3] * 5, 1), "'terms' must have at most 4"),
        ((P, [feature], [compat], [3], -1), "'iterations' must"),
        ((P.double(), [feature], [compat], [3], 1), "'unary' must"),
    ]
    for arguments, message in cases:
        with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
            torch.ops.wsss_fast.dense_crf(*arguments, None, False, "cpu")
    with pytest.raises((ValueError, RuntimeError), match="'initial' must"):
        torch.ops.wsss_fast.dense_crf(P, [feature], [compat], [3], 1, P[:, :2].contiguous(), False, "cpu")
