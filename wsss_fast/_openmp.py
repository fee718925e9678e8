"""How many OpenMP threads torch has, and how they wait for each other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def wait_without_spinning() -> None:
    """Threads that spin hold the cores of those they wait for: on a busy machine labelling ran 2 to 4 times slower.

    To be called before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, torch has this many threads, whatever cores there are: how a convolution is summed depends on their number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
