"""CUDA graphs: what a network does on images of one size, recorded once and replayed without asking for every kernel anew."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_MOST = 32  # four scales of eight sizes of images
_WARM = 2  # passes before a size is recorded: libraries choose their algorithms, and rare sizes are not worth it


class Graphs:
    """``run`` for one thread, with a graph for each shape of input that comes often; the least recently used ones are dropped.

    ``run`` must do the same for every input of a shape, and ask for nothing from the device while it does.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], cuda: Any = torch.cuda, most: int = _MOST) -> None:
        self._run = run
        self._cuda = cuda
        self._most = most
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._made: OrderedDict[tuple[int, ...], tuple[Any, Tensor, Tensor]] = OrderedDict()
        self._pool: Any = None

    def __call__(self, image: Tensor) -> Tensor:
        size = tuple(image.shape)
        if size not in self._made:
            self._seen[size] += 1
            if self._seen[size] <= _WARM:
                return self._run(image)
            self._record(size, image)
        self._made.move_to_end(size)
        graph, given, made = self._made[size]
        given.copy_(image)
        graph.replay()
        return made.clone()  # the next replay writes there again

    def _record(self, size: tuple[int, ...], image: Tensor) -> None:
        if len(self._made) >= self._most:
            self._made.popitem(last=False)
        if self._pool is None:
            self._pool = self._cuda.graph_pool_handle()
        graph, given = self._cuda.CUDAGraph(), image.clone()
        # other threads finish images meanwhile: what they ask for must not disturb the recording
        with self._cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            made = self._run(given)
        self._made[size] = graph, given, made
