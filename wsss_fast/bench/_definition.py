"""The vocabulary of a benchmark: operation, contestant, case, condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

OURS = "ours"
MARK = "@@wsss "  # before what a measuring process has to tell

Size = tuple[int, ...]
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Work:
    """The least an algorithm of this kind must do: arithmetic, and bytes to and from memory (inputs and outputs once)."""

    flop: float
    bytes: float
    # products of 16-bit numbers that one multiplication takes on a GPU's tensor cores; 3 for float32 kept as two terms
    tensor_products: int = 1


@dataclass(frozen=True)
class Contestant:
    """One way to compute the operation. `prepare()` gives the function; inputs are those of the operation, in order."""

    name: str
    what: str
    prepare: Callable[[], Function]
    devices: tuple[str, ...] = ("cpu", "cuda")
    # Left out unless it is asked for by name.
    extra: bool = False


@dataclass(frozen=True)
class Condition:
    """A bound that ours has to keep on a CPU with the operation's number of threads, in float32.

    measure: "ratio" (time of `against` over ours, at least), "memory" (MiB above inputs and outputs, at most), "share of memory"
    (ours over that of `against`, at most),
    "error" (of the result, at most) or "gradient error" (likewise).
    """

    size: Size
    mode: str
    measure: str
    bound: float
    against: str = ""
    decides: bool = True  # else it is measured and shown, and the exit status does not depend on it

    def holds(self, measured: float | None) -> bool:
        if measured is None:
            return False
        return measured >= self.bound if self.measure == "ratio" else measured <= self.bound

    def text(self) -> str:
        size = "x".join(map(str, self.size))
        if self.measure == "ratio":
            return f"{self.mode} {size}: at least {self.bound:g} times as fast as {self.against}"
        unit = " MiB above inputs and outputs" if self.measure == "memory" else ""
        whose = f" of {self.against}" if self.against else ""
        return f"{self.mode} {size}: {self.measure}{whose} at most {self.bound:g}{unit}"


@dataclass(frozen=True)
class Operation:
    name: str
    what: str
    axes: str  # what the numbers of a size mean, for the reader
    sizes: tuple[Size, ...]
    cuda_sizes: tuple[Size, ...]
    inputs: Callable[[Size], Mapping[str, Tensor]]  # float32 on the CPU, the same for every call
    exact: Function  # differentiable, called with float64 inputs; the judge of every contestant
    contestants: tuple[Contestant, ...]
    work: Callable[[Size, str, str], Work]  # size, mode, dtype
    # mode → the inputs it differentiates. "fwd": forward alone, without autograd; "bwd...": backward alone, after one forward
    # that is not timed; any other name: forward and backward.
    modes: Mapping[str, tuple[str, ...]]
    default_modes: tuple[str, ...] = ("fwd", "fwdbwd")
    conditions: tuple[Condition, ...] = ()
    threads: int = 1  # with which the conditions are judged
    result_shape: Callable[[Size], Size] | None = None  # where it is not that of the first input
    # dtype → largest relative error of the result and of gradients with which a contestant is timed at all
    tolerance: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: {"float32": (1e-4, 1e-2), "bfloat16": (5e-2, 2e-1), "float16": (1e-2, 1e-1)}
    )

    def contestant(self, name: str) -> Contestant:
        for entry in self.contestants:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in self.contestants)
        raise ValueError(f"bench: {self.name} has no contestant '{name}'. Hint: one of {known}")

    def chosen(self, device: str, asked: tuple[str, ...] = ()) -> list[str]:
        """The contestants that can run on a device: those asked for, else all but extras."""
        if asked:
            wrong = [name for name in asked if device not in self.contestant(name).devices]
            if wrong:
                raise ValueError(f"bench: {', '.join(wrong)} cannot run on {device}")
            return list(asked)
        return [entry.name for entry in self.contestants if device in entry.devices and not entry.extra]


@dataclass(frozen=True)
class Case:
    """One thing to measure, and who competes in it."""

    size: Size
    mode: str
    dtype: str
    contestants: tuple[str, ...]

    def text(self) -> str:
        return f"{self.mode} {'x'.join(map(str, self.size))} {self.dtype}"

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Case:
        return cls(tuple(data["size"]), data["mode"], data["dtype"], tuple(data["contestants"]))
