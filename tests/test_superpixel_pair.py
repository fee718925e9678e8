"""slic and complementary_pair as a data loader calls them: in forked and spawned workers, and fast enough to be there."""

from __future__ import annotations

import multiprocessing

import pytest
import torch
from superpixel_pair_cases import Pairs, Speeds, pair


def in_workers(dataset: torch.utils.data.Dataset, method: str) -> list:
    context = multiprocessing.get_context(method)
    return list(
        torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=context, timeout=120)
    )


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_make_what_the_parent_makes(method: str) -> None:
    expected = [pair(index, 100) for index in range(6)]
    got = in_workers(Pairs(), method)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.soak  # how fast it is depends on what else the machine does
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_speed_in_workers(method: str) -> None:
    assert min(in_workers(Speeds(), method)) > 15
