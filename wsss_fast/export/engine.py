"""Engines: what runs a network. Nothing behind this interface knows which one ran.

    engine = load_engine("seam.safetensors")        # the network in PyTorch
    engine = load_engine("seam.onnx")               # ONNX Runtime
    engine.maps(pixels)                             # uint8 [N, 3, H, W] -> the maps of the objects [N, C, h, w]
    methods.infer_cam(engine, pixels, present=...)  # at several scales, merged

An engine gives float32 on its own device, whatever it computes in. A missing library is an error, never another engine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from wsss_fast import methods
from wsss_fast._version import __version__
from wsss_fast.files.names import is_text
from wsss_fast.files.png import PALETTE
from wsss_fast.methods._method import objects
from wsss_fast.nets._common import Normalisation
from wsss_fast.nets.weights import MOST_CLASSES

KINDS = ("torch", "ort", "trt", "aoti")
_BY_SUFFIX = {".onnx": "ort", ".pt2": "aoti", ".engine": "trt", ".plan": "trt"}
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SCHEMA = 1


@dataclass(frozen=True)
class EngineMeta:
    """What a network expects and gives: everything that the steps around it have to know. Stands as JSON in exported files."""

    method: str
    backbone: str
    published: str | None
    num_classes: int  # objects
    classes: tuple[str, ...]  # their names; empty where nobody named them
    normalisation: Normalisation
    outputs: tuple[str, ...]  # names of what forward_cam gives
    output_stride: int  # pixels a cell of forward_cam's result
    background: str | None  # "first", "last" or None: the background's channel
    softmax: bool  # the maps are the softmax over channels, background included
    merge: str | None  # preset of ops.CAM_MERGE; None: no class maps
    scales: tuple[float, ...]  # of the published inference, each with its mirror image
    threshold: float | None  # the published background score
    weights_sha256: str
    precision: str = "fp32"
    resize: str = "bicubic, antialiased, sides round(scale * side)"  # of pixels, as methods.infer_cam does
    palette: tuple[int, ...] = ()  # red, green, blue of mask values 0 (background), 1 (the first class), ...
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    groups: tuple[tuple[str, tuple[int, ...]], ...] = ()  # name and classes of what masks are made of; empty: of the classes
    bias: tuple[float, ...] = ()  # with groups: of each class's score, which is the mean of its map

    @classmethod
    def of(cls, model: nn.Module, classes: tuple[str, ...] = (), precision: str = "fp32") -> EngineMeta:
        """Of a network made by `methods.create`, before it is folded."""
        if classes and len(classes) != model.num_classes:
            raise ValueError(f"export: 'classes' must name {model.num_classes} classes, as the network has, got {len(classes)}")
        if precision not in PRECISIONS:
            raise ValueError(f"export: 'precision' must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        return cls(
            method=model.name,
            backbone=model.backbone_name,
            published=model.published,
            num_classes=model.num_classes,
            classes=tuple(classes),
            normalisation=model.normalise,
            outputs=model.outputs,
            output_stride=model.cam_stride,
            background=model.background,
            softmax=model.softmax,
            merge=model.merge,
            scales=tuple(model.scales),
            threshold=model.threshold,
            weights_sha256=weights_sha256(model),
            precision=precision,
            palette=tuple(PALETTE[: 3 * (model.num_classes + 1)]),
            versions={"wsss_fast": __version__, "torch": torch.__version__},
            groups=model.groups,
            bias=model.bias,
        )

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> EngineMeta:
        try:
            told = json.loads(text)
            if told.pop("schema") != SCHEMA:
                raise ValueError("another version")
            # files of before there were groups have none
            told = {"groups": [], "bias": [], **told}
            lists = {item.name: tuple(told[item.name]) for item in dataclasses.fields(cls) if isinstance(told[item.name], list)}
            lists["groups"] = tuple((name, tuple(numbers)) for name, numbers in lists["groups"])
            normalisation = told["normalisation"]
            lists["normalisation"] = Normalisation(
                tuple(normalisation["mean"]), tuple(normalisation["std"]), normalisation["order"]
            )
            meta = cls(**{**told, **lists})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            hint = "export the network again with this version"
            raise ValueError(f"load_engine: {where} holds a description that cannot be read ({error}). Hint: {hint}") from None
        texts = [meta.method, meta.backbone, *meta.outputs, *meta.classes]
        sound = (
            all(isinstance(text, str) and is_text(text) for text in texts)
            and type(meta.num_classes) is int
            and 1 <= meta.num_classes <= MOST_CLASSES
            and len(meta.classes) in (0, meta.num_classes)
            and meta.precision in (*PRECISIONS, "int8")
            and meta._groups_fit()
        )
        if not sound or meta.method not in methods.NAMES:
            raise ValueError(f"load_engine: {where} holds a description that contradicts itself")
        return meta

    def _groups_fit(self) -> bool:
        """Of a file from strangers: names and classes that differ, and a finite bias for each class."""
        names = [name for name, _ in self.groups]
        numbers = [number for _, members in self.groups for number in members]
        return (
            all(isinstance(name, str) and name.strip() for name in names)
            and all(type(number) is int and 0 <= number < self.num_classes for number in numbers)
            and all(members for _, members in self.groups)
            and all(isinstance(value, int | float) and math.isfinite(value) for value in self.bias)
            and len({*names}) == len(names)
            and len({*numbers}) == len(numbers)
            and len(self.bias) == (self.num_classes if self.groups else 0)
            and (not self.groups or self.outputs == ("maps",))
        )

    def objects(self, maps: Tensor) -> Tensor:
        """The maps of the object classes, [N, C, h, w], out of what ``forward_cam`` gives."""
        if self.outputs not in (("maps",), ("logits",)):
            raise ValueError(f"objects: '{self.method}' gives {' and '.join(self.outputs)}, no class maps")
        return objects(maps, self.background, self.softmax)


def weights_sha256(model: nn.Module) -> str:
    """Of names, types, shapes and values, in the order of names: the same in whatever file they came."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What ``forward_cam`` gives, of networks with one result and with several."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


@runtime_checkable
class Engine(Protocol):
    """Stands in for a network of `methods` wherever one is run: `methods.infer_cam` takes either."""

    meta: EngineMeta
    identity: dict[str, Any]  # for manifests: kind, precision, device and hash of the weights, equal for equal results
    device: torch.device

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [N, 3, H, W] -> what ``forward_cam`` takes, on the engine's device."""
        ...

    def forward_cam(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """float32 [N, 3, H, W], normalised -> what the network gives, float32; several tensors for irn."""
        ...

    def objects(self, maps: Tensor) -> Tensor: ...

    def maps(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [N, 3, H, W] -> the maps of the objects [N, C, h, w] at one scale."""
        ...


class BaseEngine:
    """What engines share; each adds ``forward_cam``."""

    training = False

    def __init__(self, meta: EngineMeta, kind: str, device: torch.device, **identity: Any) -> None:
        self.meta = meta
        self.device = device
        self.name, self.merge, self.scales, self.threshold = meta.method, meta.merge, meta.scales, meta.threshold
        precision, weights = meta.precision, meta.weights_sha256
        self.identity = {"engine": kind, "precision": precision, "device": device.type, "weights_sha256": weights, **identity}

    def normalise(self, pixels: Tensor) -> Tensor:
        return self.meta.normalisation(pixels.to(self.device, non_blocking=True))

    def objects(self, maps: Tensor) -> Tensor:
        return self.meta.objects(maps)

    def maps(self, pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.objects(self.forward_cam(self.normalise(pixels)))

    def forward_cam(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = self._run(image)
        return outputs[0] if len(outputs) == 1 else outputs

    def _run(self, image: Tensor) -> tuple[Tensor, ...]:
        raise TypeError(f"{type(self).__name__} must define _run")


def load_engine(
    model: str | os.PathLike[str] | nn.Module | Engine,
    engine: str | None = None,
    device: str | torch.device = "auto",
    threads: int | None = None,
    precision: str | None = None,
    **source: Any,
) -> Engine:
    """The engine of a checkpoint, an ONNX file, an AOTInductor package, a TensorRT engine or a network.

    Args:
        model: a file, the name "efficientnet-lite0", a network of `methods.create`, or an engine, which is given back.
        engine: "torch", "ort", "trt" or "aoti"; default: what the file is made for (a checkpoint: torch, ``.onnx``: ort).
            A checkpoint with "ort" is exported in memory first.
        device: "cpu", "cuda", "cuda:1", or "auto": CUDA where there is one.
        threads: of the CPU; default those of torch (`torch.get_num_threads()`).
        precision: "fp32", "fp16" or "bf16" for a checkpoint; a file has its own.
        **source: for a checkpoint, as `methods.checkpoint.load` takes them: method, num_classes, backbone, published.

    Raises:
        ValueError, TypeError: what does not fit, named.
        ModuleNotFoundError: the engine's library is not installed; says what to install.
    """
    if isinstance(model, Engine) and not isinstance(model, nn.Module):
        return model
    kind = _kind(model, engine)
    place = chosen_device(device)
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ValueError(f"load_engine: 'threads' must be a whole number, 1 or more, got {threads!r}")
    from_file = isinstance(model, str | os.PathLike) and Path(model).suffix.lower() in _BY_SUFFIX
    if from_file and not Path(model).is_file():
        raise FileNotFoundError(f"load_engine: '{model}' does not exist")
    if from_file and (precision is not None or source):
        given = ", ".join(["precision"] * (precision is not None) + sorted(source))
        raise ValueError(f"load_engine: '{given}' is decided in '{model}', which says what it holds")
    if kind == "torch":
        from wsss_fast.export import torch as own
    elif kind == "ort":
        from wsss_fast.export import ort as own
    elif kind == "aoti":
        from wsss_fast.export import aoti as own
    else:
        own = tensorrt()
    if from_file:
        if kind == "aoti":
            from wsss_fast.export.made_here import warn_of_code

            warn_of_code(Path(model))
        return own.load(Path(model), place, threads)
    from wsss_fast.export.source import network

    module, classes = network(model, **source)
    precision = precision or "fp32"
    if kind == "torch":
        return own.from_network(module, classes, precision, place, threads)
    with tempfile.TemporaryDirectory(prefix="wsss-") as folder:
        path = Path(folder) / ("network.pt2" if kind == "aoti" else "network.onnx")
        if kind == "aoti":
            own.write_aoti(module, path, precision, classes, place, remember=False)
        else:
            from wsss_fast.export.onnx import write_onnx

            write_onnx(module, path, precision, classes)
        return own.load(path, place, threads)


def _kind(model: Any, asked: str | None) -> str:
    if asked is not None and asked not in KINDS:
        raise ValueError(f"load_engine: 'engine' must be one of {', '.join(KINDS)}, got {asked!r}")
    if isinstance(model, nn.Module):
        return asked or "torch"
    if not isinstance(model, str | os.PathLike):
        raise TypeError(f"load_engine: 'model' must be a file, a name, a network or an engine, got {type(model).__name__}")
    own = _BY_SUFFIX.get(Path(model).suffix.lower())
    runs = {"ort": ("ort", "trt"), "aoti": ("aoti",), "trt": ("trt",), None: KINDS}[own]
    if asked is not None and asked not in runs:
        raise ValueError(f"load_engine: 'engine' must be {' or '.join(runs)} for '{model}', got {asked!r}")
    return asked or own or "torch"


def tensorrt() -> Any:
    try:
        return import_module("wsss_fast.export.trt")
    except ModuleNotFoundError as error:
        if error.name != "wsss_fast.export.trt":
            raise
        raise ModuleNotFoundError("load_engine: this version has no TensorRT engine. Hint: ort or aoti") from None


def chosen_device(name: str | torch.device) -> torch.device:
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"load_engine: 'device' must be auto, cpu or cuda, got {str(name)!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        hint = "`wsss doctor` shows what torch sees"
        raise RuntimeError(f"load_engine: 'device' must be a device of this machine, got '{name}'. Hint: {hint}")
    return device
