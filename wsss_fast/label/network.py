"""Networks of `wsss_fast.methods`, run by any engine, as models of the pipeline."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from wsss_fast._nearest import did_you_mean
from wsss_fast._settings import SettingsError
from wsss_fast.data.class_names import made_up
from wsss_fast.export import source
from wsss_fast.export.engine import Engine, load_engine
from wsss_fast.files.images import ImageError
from wsss_fast.files.names import printable, state_of
from wsss_fast.label.device import Device
from wsss_fast.label.graphs import Graphs
from wsss_fast.label.predict import ALPHA, BACKGROUND, BUILT_IN, Defaults, Model, Prediction, chosen_device
from wsss_fast.label.settings import LabelSettings
from wsss_fast.methods._infer import resized

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("wsss_fast.label")

# Scores of the classes in an image, before the sigmoid, out of what `forward` gives.
_SCORES = {
    "cam": lambda scores: scores,
    "seam": lambda maps: maps[0][:, 1:].mean(dim=(2, 3)),
    "cpn": lambda maps: maps[0][:, 1:].mean(dim=(2, 3)),
}
# Networks whose maps' means are those scores.
_SCORED_BY_MAPS = ("eps", "l2g")
SMALLEST_EXPORTED = 33  # export.onnx.dynamic_shapes
_ALPHA = {"cam": 16.0}  # of PSA; the others follow SEAM


def load_network(model: Any, settings: LabelSettings) -> Model:
    device = chosen_device(settings.device)
    engine, module, classes = load_source(model, settings, device)
    if engine.meta.groups:
        from wsss_fast.label.built_in import BuiltInModel, EngineClassifier

        return BuiltInModel(EngineClassifier(engine), settings)
    if settings.classes is not None and not settings.grouped:
        from wsss_fast.data.labels import read_classes

        classes = read_classes(settings.classes)
        if len(classes) != engine.meta.num_classes:
            hint = "groups of classes stand in a .yaml file"
            raise SettingsError(f"label: 'classes' must name {engine.meta.num_classes} classes, got {len(classes)}. Hint: {hint}")
    return NetworkModel(engine, module, classes, settings)


def load_source(model: Any, settings: LabelSettings, device: torch.device) -> tuple[Engine, nn.Module | None, tuple[str, ...]]:
    """The engine, the network itself where it is at hand, and the names of its classes."""
    given = {name: getattr(settings, name) for name in ("method", "num_classes", "backbone", "published")}
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(model, Engine) and not isinstance(model, nn.Module):
        return model, None, model.meta.classes
    if settings.random_weights is not None:
        method, count = given.pop("method"), given.pop("num_classes", 20)
        network, names = source.random(method, settings.random_weights, count, **given), ()
    elif isinstance(model, str) and Path(model).suffix.lower() in (".onnx", ".pt2", ".engine", ".plan"):
        engine = load_engine(model, settings.engine, device, **given)
        return engine, None, engine.meta.classes
    else:
        if isinstance(model, str) and not Path(model).is_file():
            known = f"a checkpoint, an .onnx, .pt2 or engine file, or the name {BUILT_IN}"
            hint = did_you_mean(model, [BUILT_IN], f"a model is {known}")
            got = f"'{printable(model)}', which {state_of(model)}"
            raise SettingsError(f"label: 'model' must be a file or a known name, got {got}. Hint: {hint}")
        network, names = source.network(model, **given)
    return load_engine(network, settings.engine or "torch", device), network, names


def check_size(engine: Engine, image: Tensor) -> None:
    height, width = image.shape[2:]
    if engine.identity["engine"] != "torch" and min(height, width) < SMALLEST_EXPORTED:
        raise ImageError(
            f"{width} x {height} pixels at one of the scales, and exported networks take {SMALLEST_EXPORTED} or more"
        )


class NetworkModel:
    """Class maps at several scales, mirrored and not, or the scores of a segmentation network."""

    def __init__(self, engine: Engine, network: nn.Module | None, classes: tuple[str, ...], settings: LabelSettings) -> None:
        meta = engine.meta
        if meta.outputs not in (("maps",), ("logits",)):
            hint = f"it is for --walk; --model takes one that gives class maps, as {', '.join(_SCORES)}, eps, l2g or deeplab"
            raise SettingsError(f"label: 'model' must give class maps, and {meta.method} gives none. Hint: {hint}")
        self.named = bool(classes)
        self.class_names = tuple(classes) or made_up(meta.num_classes)
        background = BACKGROUND if meta.threshold is None else meta.threshold
        self.defaults = Defaults(meta.scales, meta.merge, background, _ALPHA.get(meta.method, ALPHA))
        self.identity = {"method": meta.method, "backbone": meta.backbone, "published": meta.published, **engine.identity}
        self._engine = engine
        self.device = Device(engine.device)
        graphs = settings.graphs and engine.device.type == "cuda" and engine.identity["engine"] == "torch"
        self._forward = Graphs(engine.forward_cam) if graphs else engine.forward_cam
        self._scales = settings.scales or meta.scales
        self._flip = settings.flip
        self._classifier = None
        self._by_maps = meta.method in _SCORED_BY_MAPS
        if meta.merge is None or settings.labels is not None:
            return
        if not self._by_maps:
            if network is None:
                hint = "--labels tells the classes of each image; a checkpoint (.safetensors, .pth) can guess them"
                raise SettingsError(f"label: an exported {meta.method} does not say which classes are in an image. Hint: {hint}")
            self._classifier = network.to(engine.device)
        logger.warning(
            "the classes of each image are the network's guess (present %g); masks are better with 'labels'", settings.present
        )

    def predict(self, pixels: np.ndarray) -> Prediction:
        image = self.device.upload(pixels)
        maps: list[Tensor] = []
        flipped: list[bool] = []
        scores = None
        with torch.inference_mode():
            # the image itself first: its maps or its classifier tell the classes
            for scale in sorted(self._scales, key=lambda scale: abs(scale - 1)):
                small = self._engine.normalise(resized(image, scale))
                check_size(self._engine, small)
                for mirrored in (False, True) if self._flip else (False,):
                    given = self._forward(small.flip(3) if mirrored else small)
                    if scores is None:
                        scores = self._scores(given, small)
                    maps.append((given if self.defaults.merge is None else self._engine.objects(given))[0])
                    flipped.append(mirrored)
        return Prediction(None if scores is None else scores.cpu(), tuple(maps), tuple(flipped), image=image)

    def _scores(self, given: Tensor, image: Tensor) -> Tensor | None:
        if self._classifier is not None:
            return _SCORES[self._engine.meta.method](self._classifier(image))[0].sigmoid()
        if self._by_maps:
            return given[0, :-1].mean(dim=(1, 2)).sigmoid()
        return None
