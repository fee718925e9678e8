"""Saliency maps for a folder of images: by a network of the user's, as an ONNX file, or by a method without one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsss_fast import _machine, _settings
from wsss_fast._extras import require
from wsss_fast._version import __version__
from wsss_fast.data._problems import DataError, hinted
from wsss_fast.data._text import read_json
from wsss_fast.data.saliency_settings import CLASSICAL, SaliencySettings
from wsss_fast.files.folder import OutputFolder, OutputRefusedError
from wsss_fast.files.images import ImageError, read_image
from wsss_fast.files.limits import MAX_BYTES, MAX_PIXELS
from wsss_fast.files.names import shown
from wsss_fast.files.png import png
from wsss_fast.listing.plan import PlanError
from wsss_fast.listing.sources import make_plan

PROVENANCE = "provenance.json"
LARGEST_MODEL = 2**31 - 1  # what fits in one ONNX file

Engine = Callable[[np.ndarray], np.ndarray]


@dataclass
class Summary:
    total: int
    made: int = 0
    there: int = 0  # maps of an earlier run
    failures: dict[str, str] = field(default_factory=dict)  # image → reason

    @property
    def done(self) -> int:
        return self.made + self.there + len(self.failures)


def make_maps(
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    model: str | Path = CLASSICAL,
    settings: SaliencySettings | None = None,
    progress: Callable[[Summary, str, str], None] | None = None,
) -> Summary:
    """Write one 8-bit grey PNG an image to `out`, of the image's size and named as `open_dataset` looks for it: ID.png.

    `out`/provenance.json says what made them. Maps that are there already are kept, so an interrupted run goes on; a folder with
    the maps of another model or other settings is refused.

    Args:
        progress: called after each image with the summary, the image's name and, if it failed, the reason.
    """
    settings = settings or SaliencySettings()
    out = Path(out)
    try:
        plan = make_plan(images, out, operation="saliency")
    except PlanError as error:
        raise DataError(str(error)) from None
    try:
        folder = OutputFolder(out, "saliency")
    except OutputRefusedError as error:
        raise DataError(str(error)) from None
    try:
        engine, source = _engine(model, settings)
        _note_provenance(folder, source)
        summary = Summary(len(plan))
        for image in plan.images():
            reason = ""
            try:
                if folder.size(image.output):
                    summary.there += 1
                else:
                    values = engine(read_image(plan.location(image), MAX_PIXELS, MAX_BYTES).pixels)
                    folder.write(image.output, png(Image.fromarray(values)))
                    summary.made += 1
            except (ImageError, OutputRefusedError) as error:
                reason = summary.failures[image.name] = str(error)
            if progress is not None:
                progress(summary, image.name, reason)
    finally:
        folder.close()
    return summary


def _note_provenance(folder: OutputFolder, source: dict[str, Any]) -> None:
    path = folder.path / PROVENANCE
    if path.is_file():
        there = read_json(path)
        if {**there, "version": ""} != {**source, "version": ""}:
            other = there.get("model", "unknown") if isinstance(there, dict) else "unknown"
            hint = "give a folder of its own with --out"
            raise DataError(f"saliency: {shown(folder.path)} holds maps made otherwise (by {shown(str(other))}). Hint: {hint}")
    else:
        folder.write(PROVENANCE, (json.dumps(source, indent=2) + "\n").encode())


def _engine(model: str | Path, settings: SaliencySettings) -> tuple[Engine, dict[str, Any]]:
    """What makes a map, and what provenance.json says of it."""
    source: dict[str, Any] = {"tool": "wsss saliency", "version": __version__}
    if str(model) == CLASSICAL:
        from wsss_fast.data import boundary_saliency

        return boundary_saliency.saliency, {**source, "model": CLASSICAL, "method": "boundary connectivity"}
    path = Path(model)
    if not path.is_file():
        hint = f"an .onnx file, or '{CLASSICAL}'"
        raise DataError(f"saliency: there is no file {shown(path)}. Hint: {hint}")
    if path.stat().st_size > LARGEST_MODEL:
        raise DataError(f"saliency: {shown(path)} is larger than 2 GiB")
    data = path.read_bytes()
    network = OnnxNetwork(data, path.name, settings)
    given = {name: list(getattr(settings, name)) for name in ("mean", "std")} | {"activation": settings.activation}
    made_by = {"model": path.name, "sha256": hashlib.sha256(data).hexdigest()}
    read_as = {"output": network.output, "size": list(network.size)}
    return network, {**source, **made_by, **read_as, **given}


class OnnxNetwork:
    """An ONNX file with one image input [1, 3, H, W] and a map among its outputs."""

    def __init__(self, data: bytes, name: str, settings: SaliencySettings) -> None:
        onnxruntime = require("onnxruntime", "saliency")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = len(_machine.usable_cores())
        self.name, self.settings = shown(name), settings
        self.size = self._checked_size(data)
        try:
            # From memory: a file from elsewhere may not name further files to be read.
            self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise DataError(hinted(f"saliency: {self.name} cannot be used: {shown(_first_line(error))}", _ONE_FILE)) from None
        self.input = self.session.get_inputs()[0].name
        outputs = [item.name for item in self.session.get_outputs()]
        self.output = settings.output or outputs[0]
        if self.output not in outputs:
            _settings.choice("saliency", "output", self.output, outputs)

    def _checked_size(self, data: bytes) -> tuple[int, int]:
        """Height and width of what the network takes, of a file that is safe to open."""
        from wsss_fast.export import foreign

        onnx = require("onnx", "saliency")
        try:
            model = onnx.load_model_from_string(data)
        except Exception as error:  # of protobuf
            raise DataError(hinted(f"saliency: {self.name} cannot be used: {shown(_first_line(error))}", _ONE_FILE)) from None
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [entry for entry in model.graph.input if entry.name not in weights]
        kinds = [entry.type.tensor_type for entry in inputs]
        # A size is a number, or the name of one that the file leaves open.
        shapes = [[side.dim_param or side.dim_value for side in kind.shape.dim] for kind in kinds]
        fits = len(shapes) == 1 and len(shapes[0]) == 4 and kinds[0].elem_type == onnx.TensorProto.FLOAT
        if not fits or (isinstance(shapes[0][1], int) and shapes[0][1] not in (0, 3)):
            told = ", ".join(f"{entry.name} {shape}" for entry, shape in zip(inputs, shapes, strict=True))
            raise DataError(f"saliency: {self.name} must have one input of float32 [1, 3, H, W], got {shown(told)}")
        height, width = (side if isinstance(side, int) and side > 0 else self.settings.side for side in shapes[0][2:])
        found = foreign.complaint(model, (1, 3, height, width))
        if found:
            raise DataError(hinted(f"saliency: {self.name} cannot be used: {shown(found)}", _ONE_FILE))
        return height, width

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(pixels).resize(self.size[::-1], Image.Resampling.BILINEAR)
        given = (np.asarray(image) / 255 - self.settings.mean) / self.settings.std
        batch = np.ascontiguousarray(given.transpose(2, 0, 1)[None], np.float32)
        try:
            (found,) = self.session.run([self.output], {self.input: batch})
        except Exception as error:
            raise DataError(f"saliency: {self.name} fails: {shown(_first_line(error))}") from None
        values = self._in_range(np.asarray(found, np.float32))
        picture = Image.fromarray(values).resize(pixels.shape[1::-1], Image.Resampling.BILINEAR)
        return np.rint(np.asarray(picture).clip(0, 1) * 255).astype(np.uint8)

    def _in_range(self, found: np.ndarray) -> np.ndarray:
        values = found.reshape(found.shape[-2:]) if found.ndim >= 2 and found.size == np.prod(found.shape[-2:]) else None
        if values is None or values.size == 0 or not np.isfinite(values).all():
            what = f"shape {list(found.shape)}" if values is None or values.size == 0 else "values that are no numbers"
            raise DataError(f"saliency: the output '{shown(self.output)}' of {self.name} must be one map, got {what}")
        if self.settings.activation == "sigmoid":
            return 1 / (1 + np.exp(-values.clip(-80, 80)))
        if self.settings.activation == "minmax":
            spread = values.max() - values.min()
            return (values - values.min()) / (spread if spread > 0 else 1)
        if values.min() < -1e-3 or values.max() > 1 + 1e-3:
            told = f"{values.min():.3g} to {values.max():.3g}"
            hint = "--activation sigmoid for a network that gives logits, minmax for one without a fixed range"
            raise DataError(f"saliency: {self.name} must give values from 0 to 1, got {told}. Hint: {hint}")
        return values


_ONE_FILE = "the network must be one whole .onnx file, without external data"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
