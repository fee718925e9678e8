"""What it takes to train any method: its settings, and the module that turns a batch into the terms of its loss.

A batch is a dict, as ``wsss_fast.data`` makes it:

==========  =============================  ==========================================================================
pixels      uint8 [N, 3, H, W], RGB        after all augmentation; 0 at padding
inside      bool [N, H, W]                 False at padding
labels      float [N, C]                   1 for a class in the image, else 0; no column for the background  (not DeepLab)
names       list of N strings              the images, for messages
saliency    uint8 [N, 1, H, W]             255 is salient; 0 at padding                       (EPS, L2G)
segments    int32 [N, H, W]                superpixels, -1 at padding; optional               (CPN)
mask        uint8 [N, H, W]                0 background, class + 1, 255 ignored and padding    (DeepLab)
affinity    uint8 [N, h, w]                on the network's grid: 0 background, class + 1, 255 ignored (AffinityNet, IRN)
==========  =============================  ==========================================================================
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from wsss_fast import _settings
from wsss_fast._settings import setting
from wsss_fast.files.png import IGNORE
from wsss_fast.methods._method import Method
from wsss_fast.nets._common import unfreeze
from wsss_fast.ops import _check

RESIZES = ("long", "short", "scale", "squash", "none")
SCHEDULES = ("poly", "step")
OPTIMISERS = ("sgd", "adam")
# of PSA and what descends from it: in the released code the weight decay stands in the place of the momentum
PSA_MOMENTUM = {None: 0.0, "paper": 0.9, "code": 5e-4}


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What a paper or its code decides about training. Each method gives its own values, and adds fields."""

    resize: str = setting("long", "what `sizes` bounds: the long or short side, a scale, squash (both sides), or none")
    sizes: tuple[float, ...] = setting((256.0, 512.0), "range of the resize, drawn anew for each image")
    size_choices: tuple[float, ...] = setting((), "draw the resize from these values within `sizes`; none: from the whole range")
    crop: int = setting(448, "side of the square cut out at random, zero-padded where the image is smaller")
    flip: bool = setting(True, "mirror half of the images")
    jitter: tuple[float, ...] = setting((0.3, 0.3, 0.3, 0.1), "strength of brightness, contrast, saturation and hue changes")
    epochs: int = setting(15, "passes over the training images")
    batch: int = setting(16, "images a step, over all processes")
    accumulate: int = setting(1, "steps whose gradients are averaged before the weights move")
    shuffle: bool = setting(True, "a new order of images in each epoch")
    optimiser: str = setting("sgd", "sgd, or adam (betas 0.9 and 0.999), where biases learn at the rate of weights")
    lr: float = setting(0.01, "learning rate of pretrained weights; their biases have twice as much")
    new_rate: float = setting(10.0, "learning rate of new layers, times `lr`; their biases have twice as much")
    momentum: float = setting(0.0, "of SGD")
    nesterov: bool = setting(False, "Nesterov's form of the momentum")
    weight_decay: float = setting(5e-4, "of weights; biases and normalisation have none")
    schedule: str = setting("poly", "poly: (1 - t / T)^power; step: times `decay` at the epochs `decay_epochs`")
    power: float = setting(0.9, "of the poly schedule")
    rate_every: int = setting(1, "updates after which the poly schedule moves the rates")
    decay_epochs: tuple[float, ...] = setting((), "epochs (counted from 0) at which the step schedule lowers the rate")
    decay: float = setting(0.1, "factor of the step schedule")
    freeze: bool = setting(True, "keep batch normalisation and the first layers as they were pretrained")

    def __post_init__(self) -> None:
        check = Checks(self)
        check.choice("resize", RESIZES)
        check.range("sizes", 0.01 if self.resize == "scale" else 1, 65536)
        check.choices_of_range("size_choices", "sizes")
        check.whole("crop", 16, 65536)
        check.numbers("jitter", 4, 0, 1)
        if self.jitter[3] > 0.5:
            _settings.fail("train", "jitter", "have a hue change of at most 0.5", self.jitter)
        check.numbers("decay_epochs", None, 0, 1e6)
        for name in ("epochs", "batch", "accumulate", "rate_every"):
            check.whole(name, 1, 10_000_000)
        for name in ("flip", "shuffle", "nesterov", "freeze"):
            check.boolean(name)
        for name in ("lr", "new_rate", "weight_decay", "power"):
            check.number(name, 0, 1e6)
        for name in ("momentum", "decay"):
            check.number(name, 0, 1)
        check.choice("schedule", SCHEDULES)
        check.choice("optimiser", OPTIMISERS)
        for name in ("sizes", "size_choices", "jitter", "decay_epochs"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if self.nesterov and self.momentum == 0:
            _settings.fail("train", "nesterov", "go with a momentum above 0", self.momentum)
        if self.optimiser == "adam" and self.momentum:
            _settings.fail("train", "momentum", "be 0 with adam, which has its own", self.momentum)


class Checks:
    """The checks of `_settings`, by the name of a field."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings

    def __getattr__(self, rule: str) -> Any:
        return lambda name, *bounds: getattr(_settings, rule)("train", name, getattr(self.settings, name), *bounds)

    def numbers(self, name: str, count: int | None, low: float, high: float) -> None:
        values = getattr(self.settings, name)
        if not isinstance(values, tuple | list) or count not in (None, len(values)):
            _settings.fail("train", name, "be a list of numbers" if count is None else f"be {count} numbers", values)
        for value in values:
            _settings.number("train", name, value, low, high)

    def wholes(self, name: str, low: int, high: int) -> None:
        """A list of whole numbers, kept as a tuple."""
        values = getattr(self.settings, name)
        if not isinstance(values, tuple | list) or not values:
            _settings.fail("train", name, "be a list of whole numbers, one at least", values)
        for value in values:
            _settings.whole("train", name, value, low, high)
        object.__setattr__(self.settings, name, tuple(values))

    def range(self, name: str, low: float, high: float) -> None:
        self.numbers(name, 2, low, high)
        values = getattr(self.settings, name)
        if values[0] > values[1]:
            _settings.fail("train", name, "be (lowest, highest)", values)

    def choices_of_range(self, name: str, bounds: str) -> None:
        values, (low, high) = getattr(self.settings, name), getattr(self.settings, bounds)
        if not isinstance(values, tuple | list):
            _settings.fail("train", name, "be a list of numbers", values)
        for value in values:
            _settings.number("train", name, value, low, high)


class Training(nn.Module, ABC):
    """A method in training. ``forward`` takes a batch and gives the terms of the loss, their sum under "total"."""

    wants: tuple[str, ...] = ()  # what a batch must hold besides pixels, inside, labels and names
    wants_labels: bool = True
    takes: tuple[str, ...] = ()  # what the step makes itself unless a loader's workers have made it

    def __init__(self, model: Method, settings: TrainSettings, **others: Method) -> None:
        super().__init__()
        self.model = model  # what is saved, exported and used for inference
        for name, other in others.items():
            self.add_module(name, other)
        self.settings = settings
        if not settings.freeze:
            unfreeze(self)

    @abstractmethod
    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]: ...

    def networks(self) -> list[Method]:
        """``model``, and those that are trained along with it. Pretrained weights are for all of them."""
        return list(self.children())

    def new_parameters(self) -> Iterator[nn.Parameter]:
        """Those of layers that no pretrained backbone brings."""
        for network in self.networks():
            for name, parameter in network.named_parameters():
                if any(fnmatchcase(name, pattern) for pattern in network.new_layers):
                    yield parameter

    def image(self, batch: dict[str, Any]) -> Tensor:
        """The network's input: normalised pixels, 0 (the mean colour) at padding."""
        check_batch(f"train {self.model.name}", batch, self.model.num_classes, self.wants, self.wants_labels)
        return self.model.normalise(batch["pixels"]).masked_fill_(~batch["inside"][:, None], 0.0)


HINTS = {
    "mask": "this method learns from masks; name their folder",
    "saliency": "this method learns from saliency maps; name their folder",
    "affinity": "this method learns from labels that methods.pair_labels makes of class maps or masks",
}


def check_batch(op: str, batch: dict[str, Any], classes: int, wants: tuple[str, ...] = (), labels: bool = True) -> None:
    """Everything that a loader or a caller can get wrong, before a kernel sees it."""
    for name in ("pixels", "inside", *(("labels",) if labels else ()), *wants):
        if not isinstance(batch.get(name), Tensor):
            hint = HINTS.get(name, "")
            raise ValueError(_check.complaint(op, name, "be a tensor in the batch", type(batch.get(name)).__name__, hint))
    pixels = batch["pixels"]
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.numel() == 0:
        got = f"{_check.short(pixels.dtype)} {list(pixels.shape)}"
        raise ValueError(_check.complaint(op, "pixels", "be uint8 RGB of shape [N, 3, H, W]", got))
    for name, kind in {"inside": torch.bool, "saliency": torch.uint8}.items():
        if name in batch and batch[name].dtype != kind:
            raise TypeError(_check.complaint(op, name, f"be of type {_check.short(kind)}", _check.short(batch[name].dtype)))
    n, _, h, w = pixels.shape
    shapes = {"inside": [n, h, w], "segments": [n, h, w], "mask": [n, h, w], "saliency": [n, 1, h, w]}
    for name, shape in shapes.items():
        if name in batch and list(batch[name].shape) != shape:
            hint = "it must be cut out like the pixels"
            raise ValueError(_check.complaint(op, name, f"have shape {shape}", list(batch[name].shape), hint))
    if labels and list(batch["labels"].shape) != [n, classes]:
        # said here: on CUDA an index out of range would end the process
        hint = "the number of classes comes from the data; the background has no label"
        raise ValueError(_check.complaint(op, "labels", f"have shape [N, C] = {[n, classes]}", list(batch["labels"].shape), hint))
    if "mask" in wants:
        check_mask(op, batch["mask"], classes, batch.get("names", ()))


def check_mask(op: str, mask: Tensor, classes: int, names: Sequence[str] = ()) -> None:
    """Values that no class has: on a GPU the loss would end the process over them."""
    if mask.dtype != torch.uint8:
        raise TypeError(_check.complaint(op, "mask", "be of type uint8", _check.short(mask.dtype)))
    strange = (mask > classes) & (mask != IGNORE)
    if bool(strange.any()):
        image = int(strange.flatten(1).any(1).nonzero()[0, 0])
        where = f" in {names[image]}" if image < len(names) else ""
        expected = f"be 0 for the background, 1 to {classes} for the classes, {IGNORE} where ignored"
        hint = "are these the masks of another list of classes?"
        raise ValueError(_check.complaint(op, "mask", expected, f"{int(mask[strange][0])}{where}", hint))


def check_finite(terms: dict[str, Tensor], names: list[str]) -> None:
    """Stops a training whose loss is no number any more: going on would ruin the weights.

    Raises:
        FloatingPointError: naming the terms and the images of the batch.
    """
    if bool(torch.isfinite(terms["total"])):
        return
    values = {name: value.item() for name, value in terms.items()}
    wrong = ", ".join(f"{name} = {value:g}" for name, value in values.items() if not math.isfinite(value))
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    hint = "a lower lr, or fp32 in place of fp16; the last checkpoint is from before"
    raise FloatingPointError(f"train: the loss is not finite ({wrong}) in the batch of {shown}. Hint: {hint}")
