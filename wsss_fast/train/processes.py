"""Training in several processes, as torchrun starts them: one a GPU, or several on CPUs."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from wsss_fast._settings import SettingsError


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def share(self, batch: int) -> int:
        """Images of a batch for each process."""
        if batch % self.size:
            hint = f"a multiple, such as {batch // self.size * self.size + self.size}"
            raise SettingsError(f"train: 'batch' must divide among {self.size} processes, got {batch}. Hint: {hint}")
        return batch // self.size

    def highest(self, value: int) -> int:
        """The largest of what the processes give."""
        if self.size == 1:
            return value
        numbers = torch.tensor([value], device=self.device)
        distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
        return int(numbers)

    def mean(self, values: Tensor) -> Tensor:
        if self.size == 1:
            return values
        distributed.all_reduce(values)
        return values / self.size

    def wait(self) -> None:
        if self.size > 1:
            distributed.barrier()


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Joins the other processes if torchrun started this one.

    device: auto, cpu or cuda; auto is cuda where there is one.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("train: 'device' must be one that is here, got 'cuda'. Hint: `wsss doctor` says what torch finds")
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if not distributed.is_torchelastic_launched():
        yield Processes(torch.device(kind))
        return
    place = torch.device(kind)
    if kind == "cuda":
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    # This module keeps the group of its first import in default arguments for good; DistributedDataParallel imports it.
    importlib.import_module("torch.distributed.nn")
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield Processes(place, distributed.get_rank(), distributed.get_world_size())
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # their variables keep the group too
        raise
    finally:
        _leave()


def _leave() -> None:
    """Ends the group together with its threads.

    A thread of gloo drops the tensors of the last reduction after the reduction has returned, and needs Python for that: if
    Python is ending by then, the process dies of SIGABRT with its work done. `destroy_process_group` waits for the threads only
    where nothing else holds the group. DistributedDataParallel holds it, and stands in reference cycles.
    """
    gc.collect()
    distributed.destroy_process_group()
