"""The network in PyTorch, as inference runs it: folded, and on a CPU packed or with the channels last in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsss_fast import nets
from wsss_fast.export.engine import PRECISIONS, BaseEngine, EngineMeta, as_tuple


class TorchEngine(BaseEngine):
    def __init__(self, model: nn.Module, meta: EngineMeta, device: torch.device) -> None:
        super().__init__(meta, "torch", device)
        self._type = PRECISIONS[meta.precision]
        # folded in float32: a shift rounded twice would be off
        model = nets.fold(model).requires_grad_(False)
        self._model = model.to(device, self._type)
        last = any(getattr(part, "prefers_channels_last", False) for part in model.modules())
        self._layout = torch.channels_last if last and device.type == "cpu" else torch.contiguous_format
        if last:
            self._model.to(memory_format=self._layout)
        if device.type == "cpu" and self._type == torch.float32 and torch.backends.mkldnn.is_available():
            nets.pack(self._model)

    def _run(self, image: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            outputs = self._model.forward_cam(image.to(self._type).contiguous(memory_format=self._layout))
        return tuple(output.float().contiguous() for output in as_tuple(outputs))


def from_network(
    model: nn.Module, classes: tuple[str, ...], precision: str, device: torch.device, threads: int | None
) -> TorchEngine:
    """`threads`: of torch in this process, whoever uses it."""
    if threads is not None:
        torch.set_num_threads(threads)
    return TorchEngine(model, EngineMeta.of(model, classes, precision), device)
