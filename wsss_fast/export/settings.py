"""What `wsss export` is told. Free of torch, so that help comes at once."""

from __future__ import annotations

from dataclasses import dataclass

from wsss_fast._settings import setting

ENGINES = ("onnx", "ort", "trt", "trt-rtx", "aoti")
SUFFIXES = {"onnx": ".onnx", "ort": ".onnx", "trt": ".engine", "trt-rtx": ".engine", "aoti": ".pt2"}
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
TENSORRT = ("trt", "trt-rtx")


@dataclass(frozen=True)
class ExportSettings:
    engine: str = setting("onnx", "onnx, ort, trt, trt-rtx or aoti")
    precision: str = setting("fp32", "fp32, fp16 or bf16: of weights and arithmetic; int8: of convolutions")
    calibrate: str | None = setting(None, "int8: folder of images that show how large activations become", metavar="DIR")
    keep_float: tuple[str, ...] = setting((), "int8: layers that stay float32, by name or the first part of it")
    device: str = setting("auto", "auto, cpu or cuda: where an ort or aoti engine is to run")
    method: str | None = setting(None, "of a checkpoint that does not say, or of --random-weights")
    backbone: str | None = setting(None, "likewise; default the method's first")
    published: str | None = setting(None, "likewise: paper or code")
    num_classes: int | None = setting(None, "object classes; with a file: what it must have")
    random_weights: int | None = setting(None, "a network without a checkpoint, of this seed; needs --method")
    shapes: str | None = setting(None, "TensorRT: least,best,most sizes, as 1x64x64,1x448x448,4x1024x1024")
    profile_from: str | None = setting(None, "TensorRT: in place of --shapes, images whose sizes it is to take", metavar="DIR")
    plugins: bool = setting(False, "TensorRT: our kernels as plugin layers; default: an engine that needs no library")
    require_plugins: int | None = setting(None, "TensorRT: plugin layers that the engine must at least have; needs --plugins")
    triton: str | None = setting(None, "also put the file there, as a model for Triton Inference Server", metavar="DIR")
    verify: str | None = setting(None, "folder of images on which the engine must label as the network does", metavar="DIR")
    masks: str | None = setting(None, "their masks (PNG, the same stems): the report tells the mIoU too", metavar="DIR")
    bound: float | None = setting(None, "share of pixels that must agree; default 0.999 in fp32, 0.995 in fp16, 0.95 else")
    threads: int | None = setting(None, "CPU threads of verification and --bench; default those of torch")

    def __post_init__(self) -> None:
        for name, known in (("engine", ENGINES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"export: '{name}' must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.random_weights is not None and self.method is None:
            raise ValueError("export: 'random_weights' needs a method. Hint: --method seam --random-weights 0")
        if (self.precision == "int8") != (self.calibrate is not None):
            raise ValueError("export: 'int8' needs images and nothing else does. Hint: --precision int8 --calibrate IMAGES")
        if self.keep_float and self.precision != "int8":
            raise ValueError(f"export: 'keep_float' is for int8, got {self.precision}")
        if self.precision == "int8" and self.engine == "aoti":
            raise ValueError("export: 'int8' is for onnx, ort and TensorRT, got aoti")
        if self.masks is not None and self.verify is None:
            raise ValueError("export: 'masks' needs images. Hint: --verify IMAGES --masks MASKS")
        if self.triton is not None and (self.engine not in ("onnx", "ort", "trt") or (self.engine == "trt" and self.plugins)):
            got = self.engine + " with plugin layers" * self.plugins
            raise ValueError(f"export: 'triton' must be for onnx, ort, or trt without --plugins, got {got}")
        if self.bound is not None and not 0 <= self.bound <= 1:
            raise ValueError(f"export: 'bound' must be a number from 0 to 1, got {self.bound!r}")
        for name, least in (("num_classes", 1), ("threads", 1), ("random_weights", 0), ("require_plugins", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"export: '{name}' must be {least} or more, got {value!r}")
        self._check_tensorrt()

    def _check_tensorrt(self) -> None:
        given = [name for name in ("shapes", "profile_from", "plugins", "require_plugins") if getattr(self, name)]
        if given and self.engine not in TENSORRT:
            raise ValueError(f"export: '{given[0]}' is for {' and '.join(TENSORRT)}, got engine {self.engine!r}")
        if self.shapes and self.profile_from:
            raise ValueError("export: 'shapes' and 'profile_from' both say which sizes the engine takes. Hint: give one of them")
        if self.require_plugins and not self.plugins:
            hint = f"--plugins --require-plugins {self.require_plugins}"
            raise ValueError(f"export: 'require_plugins' needs the plugin library. Hint: {hint}")
