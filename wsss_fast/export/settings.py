"""What `wsss export` is told. Free of torch, so that help comes at once."""

from __future__ import annotations

from dataclasses import dataclass

from wsss_fast._settings import setting

ENGINES = ("onnx", "ort", "trt", "trt-rtx", "aoti")
SUFFIXES = {"onnx": ".onnx", "ort": ".onnx", "trt": ".engine", "trt-rtx": ".engine", "aoti": ".pt2"}
PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class ExportSettings:
    engine: str = setting("onnx", "onnx, ort, trt, trt-rtx or aoti")
    precision: str = setting("fp32", "fp32, fp16 or bf16: of weights and arithmetic")
    device: str = setting("auto", "auto, cpu or cuda: where an ort or aoti engine is to run")
    method: str | None = setting(None, "of a checkpoint that does not say, or of --random-weights")
    backbone: str | None = setting(None, "likewise; default the method's first")
    published: str | None = setting(None, "likewise: paper or code")
    num_classes: int | None = setting(None, "object classes; with a file: what it must have")
    random_weights: int | None = setting(None, "a network without a checkpoint, of this seed; needs --method")
    shapes: str | None = setting(None, "TensorRT: least,best,most sizes, as 1x64x64,1x448x448,4x1024x1024")
    plugins: bool = setting(False, "TensorRT: our kernels as plugin layers; default: an engine that needs no library")
    verify: str | None = setting(None, "folder of images on which the engine must label as the network does", metavar="DIR")
    masks: str | None = setting(None, "their masks (PNG, the same stems): the report tells the mIoU too", metavar="DIR")
    bound: float | None = setting(None, "share of pixels that must agree; default 0.999 in fp32, 0.995 in fp16, 0.95 in bf16")
    threads: int | None = setting(None, "CPU threads of verification and --bench; default those of torch")

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
