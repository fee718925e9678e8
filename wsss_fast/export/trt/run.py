"""An engine of TensorRT on the GPU that it was built for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_fast.export.engine import BaseEngine, EngineMeta
from wsss_fast.export.trt import flavour
from wsss_fast.export.trt.build import EngineError
from wsss_fast.export.trt.profile import Profile, parse_shapes


class TrtEngine(BaseEngine):
    """Input and outputs are torch's memory, on torch's stream: nothing is copied and nobody waits."""

    def __init__(self, path: Path, record: dict[str, Any], device: torch.device, plugins: Path | None = None) -> None:
        if device.type != "cuda":
            raise EngineError(
                f"load_engine: a TensorRT engine runs on a GPU, asked for {device}. Hint: --device cuda, or engine='ort'"
            )
        facts = record["facts"]
        meta = EngineMeta.from_json(json.dumps(record["meta"]), f"'{path.name}'")
        super().__init__(meta, facts["flavour"], device, engine_sha256=record["engine_sha256"], library=facts["library"])
        self.profile: Profile = parse_shapes(facts["profile"])
        trt = flavour.require(facts["flavour"])
        self._said: list[str] = []
        if plugins is not None:
            flavour.load_plugins(trt, plugins)
        with torch.cuda.device(device):
            self._runtime = trt.Runtime(flavour.logger(trt, self._said))
            self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if self._engine is None:
                reason = "; ".join(self._said[-3:]) or "no reason given"
                raise EngineError(
                    f"load_engine: {trt.__name__} refuses '{path.name}' on {torch.cuda.get_device_name(device)}: {reason}"
                )
            self._context = self._engine.create_execution_context()

    def _run(self, image: Tensor) -> tuple[Tensor, ...]:
        n, _, h, w = image.shape
        if not self.profile.holds((n, h, w)):
            hint = "--shapes or --profile-from when the engine is exported"
            within = f"within {self.profile.text()} (batch x height x width)"
            raise ValueError(f"{self.name}: 'image' must be {within}, got {n}x{h}x{w}. Hint: {hint}")
        image = image.to(self.device).contiguous()
        self._context.set_input_shape("image", tuple(image.shape))
        self._context.set_tensor_address("image", image.data_ptr())
        outputs = []
        for name in self.meta.outputs:
            output = torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=torch.float32, device=self.device)
            self._context.set_tensor_address(name, output.data_ptr())
            outputs.append(output)
        stream = torch.cuda.current_stream(self.device)
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise EngineError(f"{self.name}: the engine failed: " + ("; ".join(self._said[-3:]) or "no reason given"))
        return tuple(outputs)
