"""A network as one ONNX file for every engine: any batch, height and width; our operations as nodes with a body.

The graph is ``forward_cam`` with normalisation layers folded in. Its input ``image`` and its outputs are float32 whatever it
computes in; a description of the network (`EngineMeta`) stands in the file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_fast import nets
from wsss_fast._extras import require
from wsss_fast._version import __version__
from wsss_fast.export.engine import PRECISIONS, EngineMeta, as_tuple
from wsss_fast.files.whole import whole_file

META = "wsss_fast"  # the entry of the file's metadata that holds the description
OPSETS = {"fp32": 20, "fp16": 20, "bf16": 22}  # bfloat16 convolutions are standard from 22 on
AXES = {0: "batch", 2: "height", 3: "width"}
TRACED = (2, 3, 65, 97)


class ForwardCam(nn.Module):
    """What is exported. float32 at both ends, so that callers need not know what is inside."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.model = model
        self.type = PRECISIONS[precision]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model.forward_cam(image.to(self.type))
        return tuple(output.float() for output in as_tuple(outputs))


def exportable(model: nn.Module, precision: str) -> ForwardCam:
    """The folded network in the given precision; `model` stays as it is."""
    folded = nets.fold(model).requires_grad_(False).cpu().to(PRECISIONS[precision])
    for name, value in folded.state_dict().items():
        if not value.isfinite().all():
            hint = "--precision bf16 or fp32"
            raise ValueError(f"export: weights '{name}' must be finite, some are not in {precision}. Hint: {hint}")
    return ForwardCam(folded, precision).eval()


def example(device: torch.device | str = "cpu") -> Tensor:
    """What is traced: no axis is 1, which the tracer would take for a constant."""
    return torch.zeros(TRACED, device=device)


def dynamic_shapes() -> dict[str, dict[int, Any]]:
    from torch.export import Dim

    return {"image": {axis: Dim(name, min=1 if name == "batch" else 33, max=2**15) for axis, name in AXES.items()}}


def write_onnx(
    model: nn.Module, path: str | os.PathLike[str], precision: str = "fp32", classes: tuple[str, ...] = ()
) -> EngineMeta:
    """Writes the network `model` of `methods.create` as one ONNX file; an existing file is replaced once the new one is whole.

    Args:
        model: in eval mode; not changed.
        path: ends in ``.onnx``.
        precision: "fp32", "fp16" or "bf16": of weights and arithmetic. PCM, PRCM, affinities and group normalisation compute in
            float32.
        classes: names of the object classes.

    Returns:
        the description that stands in the file.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise ValueError(f"export: 'path' must end in .onnx, got '{path.name}'")
    meta = EngineMeta.of(model, classes, precision)
    onnx = require("onnx")
    require("onnxscript")
    with whole_file(path) as part:
        program = trace(exportable(model, precision), meta)
        proto = _finished(program, meta)
        del program
        onnx.save(proto, part)
        del proto
        # from the file, so that what is checked is what was written
        onnx.checker.check_model(part, full_check=True)
    return meta


def trace(module: ForwardCam, meta: EngineMeta) -> Any:
    from wsss_fast.export.functions import known_nodes, translations

    with _quiet(), known_nodes(), torch.no_grad():
        return torch.onnx.export(
            module,
            (example(),),
            dynamo=True,
            input_names=["image"],
            output_names=list(meta.outputs),
            dynamic_shapes=dynamic_shapes(),
            custom_translation_table=translations(),
            opset_version=OPSETS[meta.precision],
            verbose=False,
        )


def _finished(program: Any, meta: EngineMeta) -> Any:
    import onnx

    from wsss_fast.export.functions import complete
    from wsss_fast.export.half import keep_sums_in_float32

    proto = program.model_proto
    complete(proto)
    keep_sums_in_float32(proto)
    demand_dynamic(proto, meta)
    _forget_paths(proto)
    versions = {**meta.versions, "onnx": onnx.__version__, "onnxscript": require("onnxscript").__version__}
    onnx.helper.set_model_props(proto, {META: replace(meta, versions=versions).to_json()})
    proto.producer_name, proto.producer_version = "wsss_fast", __version__
    proto.graph.name = meta.method
    return proto


def _forget_paths(proto: Any) -> None:
    """Where a node was traced from is a path of this machine, which is nobody else's business."""
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in nodes:
            kept = [entry for entry in node.metadata_props if not entry.key.endswith("stack_trace")]
            del node.metadata_props[:]
            node.metadata_props.extend(kept)


def demand_dynamic(proto: Any, meta: EngineMeta) -> None:
    """An axis that the exporter fixed without a word would fail on the first image of another size."""
    (image,) = proto.graph.input
    for value, fixed in ((image, (1,)), *((output, (1,)) for output in proto.graph.output)):
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if axis not in fixed and not size.dim_param:
                raise RuntimeError(f"export: {meta.method}: axis {axis} of '{value.name}' became the constant {size.dim_value}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of libraries that it could use and we do not."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
