"""What tests of all operations share: the implementations, error measures, awkward layouts."""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsss_fast import _native
from wsss_fast._openmp import threads as threads  # for the tests that import it from here

ROOT = Path(__file__).resolve().parents[1]
CPU_LEVELS = ("plain", "avx2", "avx512")


def tool(name: str) -> str:
    """A program to build with, first the one of this Python's environment."""
    beside_python = Path(sys.executable).parent / name
    found = str(beside_python) if beside_python.exists() else shutil.which(name)
    assert found, f"{name} is needed by these tests"
    return found


@dataclass(frozen=True)
class Implementation:
    """An `impl=` of the operations; the CPU one once for each SIMD level."""

    name: str
    level: str = ""

    @property
    def id(self) -> str:
        return self.level or self.name

    @property
    def device(self) -> str:
        return "cuda" if self.name == "cuda" else "cpu"

    @property
    def has_float64(self) -> bool:
        return self.name in ("reference", "cpu")

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        if self.name != "cpu":
            yield
            return
        _native.load().set_simd(self.level)
        try:
            yield
        finally:
            _native.load().set_simd("auto")


IMPLEMENTATIONS = [
    Implementation("reference"),
    *(Implementation("cpu", level) for level in CPU_LEVELS),
    Implementation("simt"),
    Implementation("cuda"),
]


def why_not(impl: Implementation) -> str | None:
    """Why this machine cannot run an implementation; None if it can."""
    if impl.name == "cuda" and not torch.cuda.is_available():
        return "no CUDA device"
    if impl.name == "cpu":
        widest = _native.build_info()["simd_detected"]
        if CPU_LEVELS.index(impl.level) > CPU_LEVELS.index(widest):
            return f"this processor has no {impl.level}"
    if impl.name == "simt":
        try:
            _native.load("_simt")
        except RuntimeError:
            return "the simt test build is not there (make simt)"
    return None


def relative_error(got: Tensor, expected: Tensor) -> float:
    """max|got - expected| / max|expected|; infinite where one is NaN and the other is not."""
    got, expected = got.detach().double().cpu(), expected.detach().double().cpu()
    assert got.shape == expected.shape, f"{list(got.shape)} is not {list(expected.shape)}"
    if got.numel() == 0:
        return 0.0
    if not torch.equal(got.isnan(), expected.isnan()):
        return float("inf")
    difference = (got - expected).nan_to_num(0.0).abs().max().item()
    return difference / max(expected.nan_to_num(0.0).abs().max().item(), 1e-30)


# Ways to hold the same numbers in other strides. Each takes a contiguous NCHW tensor and gives an equal one.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "sliced": lambda x: torch.nn.functional.pad(x, (3, 2, 1, 1))[:, :, 1:-1, 3:-2],
    "every_second": lambda x: torch.stack((x, torch.full_like(x, 7)), dim=-1).flatten(3)[..., ::2],
}


def true_in_forked_child(check: Callable[[], bool]) -> bool:
    """Whether `check` holds in a forked process. After a fork the child has none of the parent's threads: a pool that does not
    notice waits for ever, so the child has 30 seconds."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(check()))
    child.start()
    child.join(timeout=30)
    alive = child.is_alive()
    child.kill()
    assert not alive, "the forked worker hangs"
    return child.exitcode == 0 and queue.get()


def same_from_many_threads(call: Callable[[], Tensor], times: int) -> bool:
    """Whether `call` gives the same bits when eight threads call it at once."""
    expected = call()
    with ThreadPoolExecutor(8) as pool:
        return all(pool.map(lambda _: torch.equal(call(), expected), range(times)))


def types_of(impl: Implementation, bounds: Iterable[torch.dtype]) -> list[torch.dtype]:
    """Those with a bound that an implementation takes."""
    return [dtype for dtype in bounds if dtype != torch.float64 or impl.has_float64]


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array
