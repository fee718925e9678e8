"""What `wsss export` is told. Free of torch, so that help comes at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ENGINES = ("onnx", "ort", "trt", "trt-rtx", "aoti")
SUFFIXES = {"onnx": ".onnx", "ort": ".onnx", "trt": ".engine", "trt-rtx": ".engine", "aoti": ".pt2"}
PRECISIONS = ("fp32", "fp16", "bf16")


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ExportSettings:
    engine: str = _setting("onnx", "onnx, ort, trt, trt-rtx or aoti")
    precision: str = _setting("fp32", "fp32, fp16 or bf16: of weights and arithmetic")
    device: str = _setting("auto", "auto, cpu or cuda: where an ort or aoti engine is to run")
    method: str | None = _setting(None, "of a checkpoint that does not say, or of --random-weights")
    backbone: str | None = _setting(None, "likewise; default the method's first")
    published: str | None = _setting(None, "likewise: paper or code")
    num_classes: int | None = _setting(None, "object classes; with a file: what it must have")
    random_weights: int | None = _setting(None, "a network without a checkpoint, of this seed; needs --method")
    shapes: str | None = _setting(None, "TensorRT: least,best,most sizes, as 1x64x64,1x448x448,4x1024x1024")
    plugins: bool = _setting(False, "TensorRT: our kernels as plugin layers; default: an engine that needs no library")
    verify: str | None = _setting(None, "folder of images on which the engine must label as the network does")
    masks: str | None = _setting(None, "their masks (PNG, the same stems): the report tells the mIoU too")
    bound: float | None = _setting(None, "share of pixels that must agree; default 0.999 in fp32, 0.995 in fp16, 0.95 in bf16")
    threads: int | None = _setting(None, "CPU threads of verification and --bench; default those of torch")

    def __post_init__(self) -> None:
        for name, known in (("engine", ENGINES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"export: '{name}' must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.random_weights is not None and self.method is None:
            raise ValueError("export: 'random_weights' needs a method. Hint: --method seam --random-weights 0")
        if self.masks is not None and self.verify is None:
            raise ValueError("export: 'masks' needs images. Hint: --verify IMAGES --masks MASKS")
        if self.bound is not None and not 0 <= self.bound <= 1:
            raise ValueError(f"export: 'bound' must be a number from 0 to 1, got {self.bound!r}")
        for name, least in (("num_classes", 1), ("threads", 1), ("random_weights", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"export: '{name}' must be {least} or more, got {value!r}")
