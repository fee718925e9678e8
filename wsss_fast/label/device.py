"""Where images are worked on. An image goes to a GPU once, and its mask comes back once.

On a GPU both go through pinned memory (torch keeps a pool of it and reuses a part when its copy is done), the network runs on the
stream of the predicting thread, and each finishing thread has a stream of its own, which waits for the image's prediction and not
for the network's next image. On a CPU all of this is nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Device:
    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        """``cuda``: a stand-in in tests."""
        self.torch = device
        self._cuda = cuda if device.type == "cuda" else None
        self._own = threading.local()

    def upload(self, pixels: np.ndarray) -> Tensor:
        """uint8 [H, W, 3] → [1, 3, H, W] on the device."""
        image = torch.from_numpy(np.ascontiguousarray(pixels))
        if self._cuda is not None:
            image = self._pinned(image).copy_(image).to(self.torch, non_blocking=True)
        return image.permute(2, 0, 1)[None]

    def mark(self) -> Any:
        """Stands for all that this thread has asked the device to do so far."""
        return None if self._cuda is None else self._cuda.current_stream(self.torch).record_event()

    @contextlib.contextmanager
    def after(self, mark: Any) -> Iterator[None]:
        """What is asked for inside happens on this thread's own stream, after what was marked.

        Whoever leaves has to have downloaded a result of it: then the stream is done with the tensors that other threads made,
        and their memory can be reused.
        """
        if self._cuda is None:
            yield
            return
        if not hasattr(self._own, "stream"):
            self._own.stream = self._cuda.Stream(self.torch)
        if mark is not None:
            self._own.stream.wait_event(mark)
        with self._cuda.stream(self._own.stream):
            yield

    def download(self, values: Tensor) -> np.ndarray:
        if self._cuda is None:
            return values.cpu().numpy()  # a model without a Device may still be on a GPU
        host = self._pinned(values)
        host.copy_(values, non_blocking=True)
        self._cuda.current_stream(self.torch).synchronize()
        return host.numpy()

    @staticmethod
    def _pinned(like: Tensor) -> Tensor:
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)


CPU = Device(torch.device("cpu"))
