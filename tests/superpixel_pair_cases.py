"""What the data loader's workers of test_superpixel_pair.py make: spawned workers import it by name."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from wsss_fast import ops
from wsss_fast.bench import superpixel_pair

SIZE = (1, 448, 448, 200)


def pair(seed: int, size: int) -> Tensor:
    """Labels and both images of a picture of waves, in one tensor."""
    wave = torch.arange(3 * size * size).reshape(1, 3, size, size)
    image = (127 + 90 * torch.sin(wave % 97 * 0.05 + wave // 97 * 0.013)).to(torch.uint8)
    labels = ops.slic(image, segments=30)
    first, second, _ = ops.complementary_pair(image.float() - 127, labels, generator=torch.Generator().manual_seed(seed))
    return torch.cat((labels[:, None], first, second), dim=1)


def seconds(run: Callable[[], object], times: int) -> float:
    """Of this thread, the least of a few calls: other workers and jobs do not count."""
    taken = []
    for _ in range(times):
        start = time.thread_time()
        run()
        taken.append(time.thread_time() - start)
    return min(taken)


class Pairs(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        return pair(index, 100)


class Speeds(torch.utils.data.Dataset):
    """How many times as fast as scikit-image and a NumPy mask, measured where the items are made."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> float:
        images = tuple(superpixel_pair.inputs(SIZE).values())
        ours, peer = superpixel_pair.ours(), superpixel_pair.scikit_image()
        ours(*images), peer(*images)
        return seconds(lambda: peer(*images), 3) / seconds(lambda: ours(*images), 9)
