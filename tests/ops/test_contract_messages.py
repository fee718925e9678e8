"""What every operation says to bad input, over the table of `contract_table.py`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract import EVERY, example_of, first_of, same, those
from contract_table import CONTRACTS
from family import Example, call
from torch import Tensor

from wsss_fast import _native


def other_type(x: Tensor) -> Tensor:
    return x.int() if x.is_floating_point() else x.float()


# What is wrong: how to make it, which inputs it concerns, the error, and the message after "operation: 'argument' must ".
# "alike": all inputs of one type at once, so that they differ from none.
WRONG: dict[str, tuple[Callable[[Tensor], Any], str, type[Exception], str]] = {
    "array": (lambda x: x.numpy(), "all", TypeError, r"be a torch.Tensor, got numpy.ndarray. Hint: torch.from_numpy"),
    "negative strides": (
        lambda x: x.numpy()[::-1],
        "all",
        TypeError,
        r"be a torch.Tensor, got numpy.ndarray. Hint: torch.from_nu",
    ),
    "none": (lambda x: None, "required", TypeError, r"be a torch.Tensor, got builtins.NoneType"),
    "one dimension less": (lambda x: x[0], "all", ValueError, r"have shape \[.*, got \[\d.*Hint: "),
    "other type": (other_type, "alike", TypeError, r"be of type .*, got (int32|float32)\. Hint: "),
    "complex": (lambda x: x.cfloat(), "alike", TypeError, r"be of type .*, got complex64"),
    "sparse": (lambda x: x.to_sparse(), "all", TypeError, r"be a dense tensor"),
    "mixed types": (lambda x: x.double(), "later floats", TypeError, r"have the type of '.*' \(float32\), got float64"),
    "mixed devices": (lambda x: x.to("meta"), "later", ValueError, r"be on the device of '.*' \(cpu\), got meta"),
    "other batch": (lambda x: x[:1], "later batches", ValueError, r"have shape .*, got \[1, "),
}


def concerned(name: str, example: Example, which: str) -> list[str]:
    later = list(example.tensors)[1:]
    keys = later if which.startswith("later") else list(example.tensors)
    if which == "alike":
        types = [first_of(value).dtype for value in example.tensors.values()]
        keys = [key for i, key in enumerate(keys) if types.index(types[i]) == i]
    if which == "required":
        keys = [key for key in keys if key not in CONTRACTS[name].optional]
    if which == "later floats":
        keys = [key for key in keys if example.tensors[key].is_floating_point()]
    if which == "later batches":
        keys = [key for key in keys if key not in CONTRACTS[name].shared]
    return keys


@EVERY
@pytest.mark.parametrize("wrong", WRONG)
def test_bad_tensors(name: str, wrong: str) -> None:
    example = example_of(name, *CONTRACTS[name].small)
    before = example.mapped(torch.clone)
    make, which, error, message = WRONG[wrong]

    def spoilt(value: Any) -> Any:
        return [make(value[0]), *value[1:]] if isinstance(value, list) else make(value)

    for key in concerned(name, example, which):
        bad = {key: spoilt(example.tensors[key])}
        if which == "alike":
            dtype = first_of(example.tensors[key]).dtype
            bad = {other: spoilt(value) for other, value in example.tensors.items() if first_of(value).dtype == dtype}
        says = rf"^{name.removeprefix('pcm_')}: '{key}(\[0\])?' must {message}"
        for impl in (None, "reference"):
            with pytest.raises(error, match=says):
                call(name, impl, {**example.tensors, **bad}, example.settings)
    assert same([first_of(x) for x in before.values()], [first_of(x) for x in example.tensors.values()])


@EVERY
def test_unknown_and_unfit_implementation(name: str) -> None:
    example = example_of(name, *CONTRACTS[name].small)
    for impl, message in (
        ("gpu", "must be None or one of reference, cpu, simt, cuda, got 'gpu'"),
        ("cuda", "must fit the device: 'cuda' needs tensors on a CUDA device, got tensors on cpu"),
    ):
        with pytest.raises(ValueError, match=f"^{name.removeprefix('pcm_')}: 'impl' {message}"):
            call(name, impl, example.tensors, example.settings)


@those(lambda contract: contract.huge)
def test_sizes_too_large_for_memory(name: str) -> None:
    """The message says which operation wanted how much for what; nothing is harmed."""
    example = CONTRACTS[name].huge()
    shape = CONTRACTS[name].shape(example)
    says = f"{name}: no memory for 'out' of shape {list(shape)}, {4 * math.prod(shape) / 2**30:,.1f} GiB on cpu"
    meta = Example(example.mapped(lambda x: x.to("meta")), example.settings)
    assert call(name, None, meta.tensors, meta.settings).shape == shape
    with pytest.raises(RuntimeError, match="^" + re.escape(says)):
        call(name, None, example.tensors, example.settings)


def on_cuda(*shape: int, dtype: int = 0) -> tuple[Any, ...]:
    """A tensor that the compiled functions are told lies on a CUDA device."""
    return 16, dtype, 1, 0, shape, torch.empty(shape, device="meta").stride()


PIXEL, CONTEXT = on_cuda(1, 1, 1, 1), (1, 0, 1, 0)
WORKSPACES = {
    "pcm_forward_workspace": (PIXEL, PIXEL, CONTEXT),
    "prcm_forward_workspace": (PIXEL, PIXEL, PIXEL, on_cuda(1, 1), CONTEXT),
    "affinity_forward_workspace": (PIXEL, 5, CONTEXT),
    "edge_affinity_forward_workspace": (PIXEL, 5, CONTEXT),
    "slic_workspace": (on_cuda(1, 3, 1, 1, dtype=4), 5, CONTEXT),
}


@pytest.mark.parametrize("function", WORKSPACES)
def test_no_cuda_build(function: str) -> None:
    """The compiled function itself refuses a CUDA tensor when it was built without CUDA."""
    compiled, name = getattr(_native.load(), function), function.replace("_forward", "").removesuffix("_workspace")
    if _native.build_info()["cuda"]:
        if not torch.cuda.is_available():  # it needs no device to say how much it will want
            assert compiled(*WORKSPACES[function]) >= 0
        return
    with pytest.raises(RuntimeError, match=rf"^{name}: the input is on a CUDA device, but this build .* holds no CUDA .*Hint"):
        compiled(*WORKSPACES[function])
