"""What holds for every operation: all implementations agree on drawn inputs, a batch is a loop, threads change nothing, ..."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from family import MEMBERS, Example, Member, call
from helpers import IMPLEMENTATIONS, Implementation, relative_error, threads, why_not
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from wsss_fast import ops

KERNELS = [impl for impl in IMPLEMENTATIONS if impl.name != "reference" and why_not(impl) is None]
OPERATIONS = pytest.mark.parametrize("name", MEMBERS)
SAME = 1e-5  # of results that only rounding may part


def for_drawn(name: str, examples: int, check: Callable[[Member, Example], None], *, new: bool = False) -> None:
    """Runs `check` on drawn examples: the same ones on every run, unless `new`."""
    member = MEMBERS[name]

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=not new,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if new else [Phase.generate],
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        check(member, member.draw(data.draw))

    run()


def results(value: Any) -> list[Tensor]:
    return list(value) if isinstance(value, tuple) else [value]


def assert_same(got: Any, expected: Any, bound: float, example: Example) -> None:
    for one, other in zip(results(got), results(expected), strict=True):
        if bound == 0 or not one.is_floating_point():
            assert torch.equal(one.cpu(), other.to(one.dtype).cpu()), example
        else:
            assert relative_error(one, other) <= bound, example


def compute(name: str, impl: Implementation, example: Example) -> Any:
    with impl.active():
        return call(name, impl.name, example.mapped(lambda x: x.to(impl.device)), example.settings)


def check_all_agree(name: str) -> Callable[[Member, Example], None]:
    def check(member: Member, example: Example) -> None:
        wide = example.mapped(lambda x: x.double() if x.is_floating_point() else x)
        expected = call(name, "reference", wide, example.settings)
        for impl in KERNELS:
            assert_same(compute(name, impl, example), expected, member.bound, example)

    return check


@OPERATIONS
def test_all_implementations_agree(name: str) -> None:
    for_drawn(name, 100, check_all_agree(name))


@pytest.mark.soak
@OPERATIONS
def test_all_implementations_agree_at_length(name: str) -> None:
    for_drawn(name, 5000, check_all_agree(name), new=True)


@pytest.mark.parametrize("name", [name for name, member in MEMBERS.items() if not member.drawn])
def test_a_batch_is_a_loop(name: str, kernel: Implementation) -> None:
    def check(member: Member, example: Example) -> None:
        whole = compute(name, kernel, example)
        for i in range(len(whole)):
            image = {key: _image(value, i) for key, value in example.tensors.items() if key not in member.shared}
            alone = compute(name, kernel, Example({**example.tensors, **image}, example.settings))
            assert_same(alone, whole[i : i + 1], SAME if member.bound else 0, example)

    for_drawn(name, 15, check)


def _image(value: Any, i: int) -> Any:
    return [one[i : i + 1] for one in value] if isinstance(value, list) else value[i : i + 1]


@OPERATIONS
@pytest.mark.parametrize("level", [impl for impl in KERNELS if impl.name == "cpu"], ids=lambda impl: impl.id)
def test_threads_change_no_bit(name: str, level: Implementation) -> None:
    def check(_: Member, example: Example) -> None:
        with threads(1):
            alone = compute(name, level, example)
        with threads(2):
            assert_same(compute(name, level, example), alone, 0, example)

    for_drawn(name, 15, check)


@pytest.mark.parametrize("name", [name for name, member in MEMBERS.items() if member.classes])
def test_permuted_classes_give_the_permuted_result(name: str, kernel: Implementation) -> None:
    def check(member: Member, example: Example) -> None:
        count = example.tensors[member.classes[0]].shape[1]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
        permuted = {key: value[:, order] if key in member.classes else value for key, value in example.tensors.items()}
        expected = compute(name, kernel, example)[:, order.to(kernel.device)]
        assert_same(compute(name, kernel, Example(permuted, example.settings)), expected, SAME, example)

    for_drawn(name, 15, check)


@pytest.mark.parametrize("name", [name for name, member in MEMBERS.items() if member.mirrored])
def test_mirrored_images_give_the_mirrored_result(name: str, kernel: Implementation) -> None:
    def check(_: Member, example: Example) -> None:
        mirrored = Example(example.mapped(lambda x: x.flip(3) if x.dim() == 4 else x), example.settings)
        assert_same(compute(name, kernel, mirrored), compute(name, kernel, example).flip(3), SAME, example)

    for_drawn(name, 15, check)


def test_a_mirrored_walk_is_the_walk_mirrored(kernel: Implementation) -> None:
    edge, cam = torch.rand(2, 1, 11, 14, device=kernel.device), torch.rand(2, 3, 11, 14, device=kernel.device)

    def walked(edge: Tensor, cam: Tensor) -> Tensor:
        return ops.random_walk(cam, ops.edge_affinity(edge, 5, impl=kernel.name), steps=32, impl=kernel.name)

    assert relative_error(walked(edge.flip(3), cam.flip(3)), walked(edge, cam).flip(3)) <= SAME


def test_a_crf_without_pairs_is_softmax(kernel: Implementation) -> None:
    unary = 4 * torch.randn(2, 5, 13, 9, device=kernel.device)
    image = torch.randint(0, 256, (2, 3, 13, 9), dtype=torch.uint8, device=kernel.device)
    for gaussian in (None, (3, 0), ((2, 5), 0.0)):
        q = ops.dense_crf(unary=unary, image=image, gaussian=gaussian, bilateral=None, impl=kernel.name)
        assert relative_error(q, (-unary).softmax(1)) <= SAME


EXTREMES = (float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e-40)


@pytest.mark.parametrize("value", EXTREMES, ids=str)
@OPERATIONS
def test_extreme_values_do_what_the_definition_does(name: str, kernel: Implementation, value: float) -> None:
    """One extreme number in every float input in turn: the result is finite where the definition's is, or the same argument is
    refused. CUDA kernels do not look for such values: that would have to wait for the device."""

    def outcome(impl: str, example: Example) -> Any:
        try:
            return call(name, impl, example.tensors, example.settings)
        except ValueError as error:
            return str(error).split(", got")[0]

    def check(member: Member, example: Example) -> None:
        for key, tensor in example.tensors.items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.numel() == 0:
                continue
            spoilt = tensor.clone(memory_format=torch.contiguous_format)
            spoilt.view(-1)[spoilt.numel() // 2] = value
            extreme = Example({**example.tensors, key: spoilt}, example.settings)
            expected = outcome("reference", extreme)
            got = outcome(kernel.name, Example(extreme.mapped(lambda x: x.to(kernel.device)), example.settings))
            if isinstance(expected, str):
                assert got == expected or kernel.name in ("simt", "cuda"), f"{key}: {example}"
            else:
                for one, other in zip(results(got), results(expected), strict=True):
                    assert torch.equal(one.isfinite().cpu(), other.isfinite()), f"{key}: {example}"

    for_drawn(name, 5, check)
