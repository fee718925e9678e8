"""What each layer loses in int8: one layer at a time is quantised, and its labels are held against those of the float32 graph."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wsss_fast.export.engine import EngineMeta
from wsss_fast.export.graph import started
from wsss_fast.export.int8 import Scales, chosen_layers, quantised
from wsss_fast.export.verify import Comparison, Picture, compare
from wsss_fast.files.names import printable
from wsss_fast.methods._infer import resized

PICTURES = 4  # each layer costs a run on each of them
SCALE = 0.5  # of the pictures
NAMED = 5  # layers that a refusal names


@dataclass(frozen=True)
class LayerLoss:
    layer: str
    agreement: float  # share of pixels with the label of the float32 graph
    largest: float  # difference, in parts of the largest value
    mean: float


@dataclass(frozen=True)
class Sensitivity:
    images: tuple[str, ...]
    layers: tuple[LayerLoss, ...]  # the worst first
    kept_float: tuple[str, ...]  # of those that int8 could take

    def worst(self) -> tuple[str, ...]:
        return tuple(entry.layer for entry in self.layers[:NAMED])

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def to_markdown(self) -> str:
        lines = [
            "# int8: what each layer loses alone",
            "",
            "One convolution at a time in int8, held against the float32 graph; the worst first. Differences are in parts of the "
            "largest value. `--keep-float LAYER,LAYER` leaves layers in float32.",
            "",
            "| layer | same label | largest difference | mean difference |",
            "|---|---|---|---|",
            *(f"| {entry.layer} | {entry.agreement:.3%} | {entry.largest:.2e} | {entry.mean:.2e} |" for entry in self.layers),
            "",
            f"Images: {', '.join(map(printable, self.images))}.",
        ]
        if self.kept_float:
            lines += ["", f"Left in float32: {', '.join(self.kept_float)}."]
        return "\n".join(lines) + "\n"


def sensitivity(
    model: Any,
    meta: EngineMeta,
    scales: Scales,
    pictures: Sequence[Picture],
    keep_float: Sequence[str] = (),
    progress: Callable[[str], None] = lambda stage: None,
) -> Sensitivity:
    """Of the layers of a float32 graph that are not kept in float32, on the first pictures at half their size."""
    chosen = chosen_layers(model, keep_float)
    shown = [(name, resized(pixels, SCALE)) for name, pixels, _ in pictures[:PICTURES]]
    images = [meta.normalisation(pixels) for _, pixels in shown]
    wanted = list(_outputs(model, meta, images))
    losses = []
    for number, layer in enumerate(chosen, 1):
        progress(f"layer {number} of {len(chosen)}")
        got = _outputs(quantised(model, scales, (layer,)), meta, images)
        pairs = zip(shown, wanted, got, strict=True)
        losses.append(_loss(layer, [compare(name, tuple(pixels.shape[2:]), a, b, meta) for (name, pixels), a, b in pairs]))
    losses.sort(key=lambda entry: (entry.agreement, -entry.mean))
    kept = tuple(layer for layer in chosen_layers(model) if layer not in chosen)
    return Sensitivity(tuple(name for name, _ in shown), tuple(losses), kept)


def _outputs(model: Any, meta: EngineMeta, images: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    run = started(model)
    for image in images:
        yield tuple(torch.from_numpy(value) for value in run.run(list(meta.outputs), {"image": image.numpy()}))


def _loss(layer: str, entries: list[Comparison]) -> LayerLoss:
    pixels = sum(entry.pixels for entry in entries)
    agreement = sum(entry.agreement * entry.pixels for entry in entries) / pixels
    return LayerLoss(
        layer, agreement, max(entry.largest for entry in entries), sum(entry.mean for entry in entries) / len(entries)
    )
