"""How tests run the operations of `contract_table.py`: on which devices, with which gradients, and which operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from contract_table import CONTRACTS, Contract, Size
from family import Example, call
from helpers import Implementation
from torch import Tensor

EVERY = pytest.mark.parametrize("name", CONTRACTS)


def those(condition: Callable[[Contract], Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [name for name, contract in CONTRACTS.items() if condition(contract)])


def on_device(name: str, size: Size, impl: Implementation, change: Callable[[Tensor], Tensor] = lambda x: x) -> Example:
    example = example_of(name, *size)
    return Example(example.mapped(lambda x: change(x.to(impl.device))), example.settings)


def same(got: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def results_of(name: str, example: Example, impl: str | None) -> list[Tensor]:
    return as_list(call(name, impl, example.tensors, example.settings))


def kernel_results(
    name: str, example: Example, impl: str, change: Callable[[Tensor], Tensor] = lambda gradient: gradient
) -> list[Tensor]:
    """The results of an operation, then the gradients of its inputs; `change` lays out the gradients that come in."""
    leaves = {key: example.tensors[key].detach().requires_grad_() for key in CONTRACTS[name].gradients}
    results = as_list(call(name, impl, {**example.tensors, **leaves}, example.settings))
    if not leaves:
        return results
    differentiable = [result for result in results if result.requires_grad]
    incoming = [change(steps(result)) for result in differentiable]
    return [result.detach() for result in results] + list(torch.autograd.grad(differentiable, list(leaves.values()), incoming))


def as_list(results: Any) -> list[Tensor]:
    return list(results) if isinstance(results, tuple) else [results]


def steps(like: Tensor) -> Tensor:
    """Whole numbers that every type holds exactly."""
    return torch.randint(-8, 9, like.shape, generator=torch.Generator().manual_seed(1)).to(like)


@cache
def example_of(name: str, *size: Any) -> Example:
    return CONTRACTS[name].make(*size)


@cache
def defined(name: str, *size: Any) -> list[Tensor]:
    """The definition in float64: results and gradients."""
    wide = example_of(name, *size).mapped(lambda x: x.double() if x.is_floating_point() else x)
    return kernel_results(name, Example(wide, example_of(name, *size).settings), "reference")


def first_of(tensors: Any) -> Tensor:
    return tensors[0] if isinstance(tensors, list) else tensors
