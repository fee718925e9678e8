"""What holds for every operation as a torch operation, over the table of `contract.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from contract import EVERY, as_list, defined, example_of, first_of, kernel_results, on_device, results_of, same, steps, those
from contract_operators import CHECKS
from contract_table import CONTRACTS, Size
from family import Example, call
from helpers import LAYOUTS, Implementation, relative_error, same_from_many_threads, threads, true_in_forked_child
from torch import Tensor

SAME = 1e-5  # of results that only rounding may part
QUIET = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def assert_defined(name: str, got: list[Tensor], size: Size) -> None:
    bound = CONTRACTS[name].bound
    for result, expected in zip(got, defined(name, *size), strict=True):
        if bound == 0:
            assert torch.equal(result.cpu(), expected.to(result.dtype)), size
        else:
            assert relative_error(result, expected) < bound, size


# ---- the same numbers in other strides, sizes, batches and threads ----------------------------------------------------------


def laid_out(x: Tensor, layout: str) -> Tensor:
    change = LAYOUTS[layout]
    if x.dim() == 3:
        return change(x[:, None])[:, 0]
    if x.dim() == 2:
        return x.T.contiguous().T if layout == "transposed" else x
    return change(x)


@EVERY
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(name: str, kernel: Implementation, layout: str) -> None:
    for size in CONTRACTS[name].usual:
        changed = on_device(name, size, kernel, lambda x: laid_out(x, layout))
        before = changed.mapped(torch.clone)
        got = kernel_results(name, changed, kernel.name, lambda x: laid_out(x, layout))
        assert_defined(name, got, size)
        assert same(got, kernel_results(name, on_device(name, size, kernel), kernel.name))
        for key, value in before.items():
            assert torch.equal(first_of(value), first_of(changed.tensors[key])), f"{key} was changed"


@EVERY
@pytest.mark.parametrize("dimension", ["batch", "channels", "rows"])
def test_expanded_inputs_and_gradients(name: str, kernel: Implementation, dimension: str) -> None:
    """Stride 0: one image as a batch, one channel for all, one row for all; and the expanded gradient that sum() sends back."""
    where = {"batch": 0, "channels": 1, "rows": -2}[dimension]

    def expanded(x: Tensor) -> Tensor:
        if x.dim() < 3 or (dimension == "channels" and x.dim() != 4):
            return x
        return x.narrow(where, 0, 1).expand(x.shape)

    size = CONTRACTS[name].usual[0]
    example = on_device(name, size, kernel, expanded)
    copied = Example(example.mapped(torch.Tensor.contiguous), example.settings)
    got = kernel_results(name, example, kernel.name, lambda x: x.new_ones(()).expand(x.shape))
    assert same(got, kernel_results(name, copied, kernel.name, torch.ones_like))


@EVERY
def test_zero_sizes(name: str, impl: Implementation) -> None:
    contract = CONTRACTS[name]
    for size in contract.empty:
        example = on_device(name, size, impl)
        got = kernel_results(name, example, impl.name)
        assert tuple(got[0].shape) == contract.shape(example)
        assert_defined(name, got, size)
        for key, gradient in zip(reversed(contract.gradients), reversed(got), strict=False):
            assert gradient.shape == example.tensors[key].shape


def image_of(name: str, example: Example, i: int) -> Example:
    whole = {key: example.tensors[key] for key in CONTRACTS[name].shared}
    return Example({**example.mapped(lambda x: x[i : i + 1]), **whole}, example.settings)


@those(lambda contract: contract is not CONTRACTS["complementary_pair"])  # that draws one image after the other
def test_batch_is_a_loop_of_images(name: str, kernel: Implementation) -> None:
    """Results bit for bit, and gradients too, but for those of pcm on tensor cores."""
    contract = CONTRACTS[name]
    exact = kernel.name == "cpu" or "feature" not in contract.gradients or name == "affinity"
    for size in contract.usual:
        example = on_device(name, size, kernel)
        out, *gradients = kernel_results(name, example, kernel.name)
        for i in range(3):
            incoming = lambda x, i=i: steps(x.new_empty((3, *x.shape[1:])))[i : i + 1]  # noqa: E731
            alone, *others = kernel_results(name, image_of(name, example, i), kernel.name, incoming)
            assert torch.equal(alone[0], out[i])
            for key, gradient, other in zip(contract.gradients, gradients, others, strict=True):
                if key not in contract.shared:
                    assert torch.equal(other[0], gradient[i]) if exact else relative_error(other[0], gradient[i]) < SAME


@EVERY
def test_same_bits_every_time(name: str, kernel: Implementation) -> None:
    for size in CONTRACTS[name].usual if kernel.name == "simt" else CONTRACTS[name].busy:
        example = on_device(name, size, kernel)
        with threads(1):
            expected = kernel_results(name, example, kernel.name)
        for count in (2, 3, 5, 16, 1):
            with threads(count):
                assert same(kernel_results(name, example, kernel.name), expected), count


def as_bytes(results: list[Tensor]) -> list[bytes]:
    """Compared without torch, whose threads a forked process does not have."""
    return [result.contiguous().numpy().tobytes() for result in results]


@EVERY
def test_data_loader_worker(name: str) -> None:
    example = example_of(name, *CONTRACTS[name].worker)
    with threads(2):
        expected = as_bytes(results_of(name, example, None))  # the parent's pool runs now
        assert true_in_forked_child(lambda: as_bytes(results_of(name, example, None)) == expected)


@EVERY
def test_called_from_many_threads(name: str) -> None:
    example = example_of(name, *CONTRACTS[name].worker)

    def flat() -> Tensor:
        return torch.from_numpy(np.frombuffer(b"".join(as_bytes(kernel_results(name, example, "cpu"))), np.uint8).copy())

    assert same_from_many_threads(flat, times=80)


# ---- gradients --------------------------------------------------------------------------------------------------------------


def leaves_and_function(name: str, example: Example, impl: str) -> tuple[list[Tensor], Callable[..., Any]]:
    """The inputs that have a gradient, and the results that have one as a function of them."""
    keys = CONTRACTS[name].gradients

    def function(*leaves: Tensor) -> Any:
        results = call(name, impl, {**example.tensors, **dict(zip(keys, leaves, strict=True))}, example.settings)
        return tuple(result for result in as_list(results) if result.requires_grad)

    return [example.tensors[key].detach().requires_grad_() for key in keys], function


@those(lambda contract: contract.gradients)
@pytest.mark.parametrize("impl_name", ["cpu", "reference"])
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_gradcheck(name: str, impl_name: str, layout: str) -> None:
    """The whole Jacobian for the kernel; a random projection for the definition, whose graph is large."""
    for example in CONTRACTS[name].gradcheck():
        changed = Example(example.mapped(lambda x: laid_out(x, layout)), example.settings)
        leaves, function = leaves_and_function(name, changed, impl_name)
        assert torch.autograd.gradcheck(function, leaves, fast_mode=impl_name == "reference")
        if CONTRACTS[name].twice:
            assert torch.autograd.gradgradcheck(function, leaves)


@those(lambda contract: contract.gradients and not contract.twice)
def test_second_derivative_is_refused(name: str, kernel: Implementation) -> None:
    leaves, function = leaves_and_function(name, on_device(name, CONTRACTS[name].small, kernel), kernel.name)
    (gradient,) = torch.autograd.grad(function(*leaves)[0].square().sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match=rf"{name.removeprefix('pcm_')}: it can be differentiated once.*reference"):
        gradient.sum().backward()


@those(lambda contract: len(contract.gradients) > 1)
def test_one_gradient_alone(name: str, kernel: Implementation) -> None:
    contract = CONTRACTS[name]
    for size in contract.usual:
        example = on_device(name, size, kernel)
        for key, expected in zip(contract.gradients, defined(name, *size)[1:], strict=True):
            leaf = example.tensors[key].detach().requires_grad_()
            out = call(name, kernel.name, {**example.tensors, key: leaf}, example.settings)
            assert relative_error(torch.autograd.grad(out, leaf, steps(out))[0], expected) < contract.bound


@those(lambda contract: not contract.gradients)
def test_has_no_gradient(name: str, impl: Implementation) -> None:
    example = on_device(name, CONTRACTS[name].small, impl)
    leaves = example.mapped(lambda x: x.clone().requires_grad_() if x.is_floating_point() else x)
    out = call(name, impl.name, leaves, example.settings)
    assert not out.requires_grad and out.grad_fn is None


# ---- torch's own machinery --------------------------------------------------------------------------------------------------


@QUIET
@pytest.mark.parametrize("name", CHECKS)
def test_opcheck(name: str, kernel: Implementation) -> None:
    example = on_device(name, CONTRACTS[name].small, kernel)
    for operator, arguments in CHECKS[name](example, kernel.name):
        checks = ["test_schema", "test_faketensor", "test_aot_dispatch_dynamic"]
        if not isinstance(arguments[0], list) and not isinstance(arguments[1], list):  # torch cannot tell of lists of tensors
            checks.append("test_autograd_registration")
        torch.library.opcheck(getattr(torch.ops.wsss_fast, operator).default, arguments, test_utils=checks)


def between(x: Tensor) -> Tensor:
    """Something for the compiler to do before the operation."""
    return x * 0.75 if x.is_floating_point() else 255 - x if x.dtype == torch.uint8 else x


@QUIET
@EVERY
def test_compile_fullgraph(name: str, kernel: Implementation) -> None:
    contract, example = CONTRACTS[name], on_device(name, CONTRACTS[name].small, kernel)
    settings = {key: value for key, value in example.settings.items() if key != "generator"}  # a graph holds no generator
    leaves = {key: example.tensors[key].clone().requires_grad_() for key in contract.gradients}

    def run(tensors: dict[str, Any]) -> list[Tensor]:
        changed = Example(tensors).mapped(between)
        return [result.float().square() + 1 for result in as_list(call(name, kernel.name, changed, settings))]

    outcomes = []
    for function in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(7)
        torch._dynamo.reset()  # one function compiled for one operation after another
        results = function({**example.tensors, **leaves})
        total = sum(result.sum() for result in results)
        gradients = torch.autograd.grad(total, list(leaves.values())) if leaves else ()
        outcomes.append((results, gradients))
    (expected, expected_gradients), (got, gradients) = outcomes
    assert same(got, expected)
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(gradients, expected_gradients, strict=True))


@EVERY
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_meta(name: str, half: bool) -> None:
    contract = CONTRACTS[name]
    for size in (*contract.usual, contract.small):
        example = example_of(name, *size)
        if half:
            example = Example(example.mapped(lambda x: x.half() if x.is_floating_point() else x), example.settings)
        out = results_of(name, Example(example.mapped(lambda x: x.to("meta")), example.settings), None)
        real = results_of(name, example, None)
        assert tuple(out[0].shape) == contract.shape(example)
        assert [(x.shape, x.dtype) for x in out] == [(x.shape, x.dtype) for x in real]
        assert all(x.device.type == "meta" for x in out)


@EVERY
def test_the_compiled_kernel_is_the_default(name: str) -> None:
    example = example_of(name, *CONTRACTS[name].usual[0])
    assert same(results_of(name, example, None), results_of(name, example, "cpu"))


@EVERY
def test_autocast(name: str, kernel: Implementation) -> None:
    """Results have the type of the region, or that of the inputs whatever the region; gradients have that of their inputs."""
    contract, size = CONTRACTS[name], CONTRACTS[name].small
    example = on_device(name, size, kernel)
    expected = results_of(name, example, kernel.name)
    with torch.autocast(kernel.device, torch.bfloat16):
        got = results_of(name, example, kernel.name)
    if contract.autocast is None:
        assert same(got, expected)
        return
    dtype, bound = contract.autocast
    assert dtype != torch.float32 or same(got, expected)
    for mixed in [None, *example.tensors]:
        tensors = {key: value.bfloat16() if key == mixed else value for key, value in example.tensors.items()}
        leaves = {key: tensors[key].clone().requires_grad_() for key in contract.gradients}
        with torch.autocast(kernel.device, torch.bfloat16):
            out = call(name, kernel.name, {**tensors, **leaves}, example.settings)
        assert out.dtype == dtype
        if name != "random_walk" or mixed != "affinity":
            assert relative_error(out, defined(name, *size)[0]) < bound, mixed
        if leaves:
            out.sum().backward()
        assert all(leaf.grad.dtype == tensors[key].dtype for key, leaf in leaves.items())


@pytest.mark.cuda
@those(lambda contract: contract.gpu)
def test_streams(name: str) -> None:
    for size in CONTRACTS[name].gpu:
        example = on_device(name, size, Implementation("cuda"))
        expected = call(name, None, example.tensors, example.settings)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            out = call(name, None, example.tensors, example.settings)
        torch.cuda.current_stream().wait_stream(side)
        assert torch.equal(out, expected)


@pytest.mark.cuda
@those(lambda contract: contract.gpu)
def test_cuda_graph(name: str) -> None:
    example = on_device(name, CONTRACTS[name].gpu[0], Implementation("cuda"))
    expected = call(name, None, example.tensors, example.settings)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(name, None, example.tensors, example.settings)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, expected)
