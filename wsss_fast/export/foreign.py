"""ONNX files are data from strangers: what an engine may open, and why not.

A file may reach beyond its own bytes only here: tensors kept in other files, operations of unknown libraries, nodes that unfold
into more memory than there is. All of that is refused before an engine sees the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast._extras import require
from wsss_fast.export.engine import EngineMeta
from wsss_fast.export.sizes import Sizes
from wsss_fast.files.names import printable

DOMAINS = ("", "ai.onnx", "wsss")
_LARGEST_FILE = (1 << 31) - 1  # of protobuf


def checked_meta(path: Path) -> EngineMeta:
    return checked_sizes(path)[0]


def checked_sizes(path: Path) -> tuple[EngineMeta, Sizes]:
    """The description of a file that is safe to open, and what tells how large its tensors are for an image."""
    model = _opened(path)
    meta = meta_of(model, path)
    return meta, _sized(model, path)


def checked(path: Path) -> Any:
    """The model of a file that is safe to open."""
    model = _opened(path)
    _sized(model, path)
    return model


def complaint(model: Any, image: tuple[int, ...] | None = None) -> str:
    """Why no engine may open this model, or nothing."""
    found = next(_complaints(require("onnx"), model), "")
    return found or (Sizes(model).complaint(image) if image else Sizes(model).complaint())


def _sized(model: Any, path: Path) -> Sizes:
    sizes = Sizes(model)
    found = sizes.complaint()
    if found:
        raise ValueError(f"load_engine: '{path}' is refused: {printable(found)}")
    return sizes


def _opened(path: Path) -> Any:
    onnx = require("onnx")
    if not path.is_file():
        raise FileNotFoundError(f"load_engine: '{path}' does not exist")
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"load_engine: '{path}' is larger than an ONNX file can be")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # of protobuf, whose classes are not ours to import
        reason = (str(error) or type(error).__name__).split("\n")[0][:200]
        raise ValueError(f"load_engine: '{path}' is no ONNX file ({reason}). Hint: is the download complete?") from None
    found = next(_complaints(onnx, model), None)
    if found is not None:
        raise ValueError(f"load_engine: '{path}' is refused: {printable(found)}")
    return model


def meta_of(model: Any, path: Path) -> EngineMeta:
    """The description in a file that `wsss export` wrote, and whose graph is what it describes."""
    props = {entry.key: entry.value for entry in model.metadata_props}
    if "wsss_fast" not in props:
        hint = "`wsss export` writes files that describe themselves"
        raise ValueError(f"load_engine: '{path}' does not say what its network expects of images. Hint: {hint}")
    meta = EngineMeta.from_json(props["wsss_fast"], f"'{path}'")
    if [value.name for value in model.graph.input] != ["image"] or _sizes(model.graph.input[0])[1:2] != [3]:
        raise ValueError(f"load_engine: '{path}' must take one input, 'image' [N, 3, H, W]")
    if [value.name for value in model.graph.output] != list(meta.outputs):
        raise ValueError(f"load_engine: '{path}' must give {', '.join(meta.outputs)}, as it says of itself")
    channels = _sizes(model.graph.output[0])[1:2]
    wanted = meta.num_classes + (meta.background is not None)
    if meta.outputs in (("maps",), ("logits",)) and channels != [wanted]:
        raise ValueError(f"load_engine: '{path}' says {meta.num_classes} classes and gives {channels} channels, not {wanted}")
    return meta


def _sizes(value: Any) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def _complaints(onnx: Any, model: Any) -> Iterator[str]:
    functions = {(entry.domain, entry.name) for entry in model.functions}
    for entry in model.functions:
        if entry.domain != "wsss":
            yield f"it defines '{entry.domain}::{entry.name}' in its own way"
    for entry in (*model.opset_import, *model.functions):
        if entry.domain not in DOMAINS:
            yield f"it needs operations of '{entry.domain}', which no engine here has"
    for name, tensor in _tensors(model):
        yield from _tensor_complaints(onnx, name, tensor)
    if model.graph.sparse_initializer:
        yield "it holds sparse tensors"
    for nodes in (model.graph.node, *(entry.node for entry in model.functions)):
        for node in nodes:
            if node.domain not in DOMAINS or (node.domain == "wsss" and (node.domain, node.op_type) not in functions):
                yield f"node '{node.name or node.op_type}' is '{node.domain}::{node.op_type}', which the file does not define"
            if any(entry.type in (entry.GRAPH, entry.GRAPHS) for entry in node.attribute):
                yield f"node '{node.name or node.op_type}' holds a graph of its own ({node.op_type})"


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    yield from ((tensor.name, tensor) for tensor in model.graph.initializer)
    for nodes in (model.graph.node, *(entry.node for entry in model.functions)):
        for node in nodes:
            for entry in node.attribute:
                if entry.type == entry.TENSOR:
                    yield node.name or (node.output[0] if node.output else node.op_type), entry.t
                elif entry.type in (entry.TENSORS, entry.SPARSE_TENSOR, entry.SPARSE_TENSORS):
                    yield node.name or node.op_type, None


def _tensor_complaints(onnx: Any, name: str, tensor: Any) -> Iterator[str]:
    if tensor is None:
        yield f"node '{name}' holds a list of tensors or a sparse one"
        return
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "another file")
        yield f"tensor '{name}' is kept in '{place}'. Hint: one file holds the whole network; save it without external data"
        return
    try:
        wanted = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        yield f"tensor '{name}' is of an unknown type"
        return
    held = len(tensor.raw_data) if tensor.HasField("raw_data") else tensor.ByteSize()
    # outside raw_data small numbers take fewer bytes than their type
    if min(tensor.dims, default=0) < 0 or (held != wanted if tensor.HasField("raw_data") else wanted > 8 * held):
        yield f"tensor '{name}' says it has {list(tensor.dims)} elements and holds {held} bytes"
        return
    if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
        values = onnx.numpy_helper.to_array(tensor)
        # one number alone may stand for no bound, as in a maximum of nothing yet
        if np.isnan(values).any() or (values.size > 1 and np.isinf(values).any()):
            yield f"tensor '{name}' holds values that are no numbers"
