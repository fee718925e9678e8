"""What an exported file holds, told without running it: no engine library and no GPU are needed, and no code in it is loaded."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from wsss_fast.files.names import printable
from wsss_fast.files.whole import file_sha256

_LARGEST_RECORD = 1 << 24
_MOST_SHOWN, _FIRST = 40, 6  # entries of a list, in text


def inspect(path: str | Path) -> dict[str, Any]:
    """Of an .onnx, .pt2, .engine or .safetensors file: size, hash, the description of its network, and what the format tells."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"inspect: '{path}' {'is a folder' if path.is_dir() else 'does not exist'}")
    readers = {".onnx": _onnx, ".pt2": _aoti, ".engine": _engine, ".plan": _engine, ".safetensors": _checkpoint}
    if path.suffix.lower() not in readers:
        raise ValueError(f"inspect: '{path}' must end in {', '.join(readers)}")
    told = {"file": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
    return {**told, **readers[path.suffix.lower()](path)}


def _onnx(path: Path) -> dict[str, Any]:
    import math

    from wsss_fast.export import foreign
    from wsss_fast.export.functions import DOMAIN, nodes

    model = foreign.checked(path)
    weights: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        weights[_type_name(tensor.data_type)] += math.prod(tensor.dims)
    return {
        "kind": "onnx",
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": [_value(entry) for entry in model.graph.input],
        "outputs": [_value(entry) for entry in model.graph.output],
        "nodes": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "plugin_nodes": [
            {"node": node.name, "operation": f"{DOMAIN}::{node.op_type}", "attributes": _attributes(node)}
            for node in nodes(model)
        ],
        "weights": dict(weights),
        "network": _description({entry.key: entry.value for entry in model.metadata_props}.get("wsss_fast")),
    }


def _aoti(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [info for info in archive.infolist() if info.filename.endswith("wrapper_metadata.json")]
            if len(entries) != 1 or entries[0].file_size > _LARGEST_RECORD:
                raise ValueError("no description")
            told = json.loads(archive.read(entries[0]))
            if not isinstance(told, dict):
                raise ValueError("no description")
    except (zipfile.BadZipFile, ValueError, RuntimeError, RecursionError) as error:
        raise ValueError(f"inspect: '{path}' is no AOTInductor package ({error})") from None
    return {"kind": "aoti", "device": told.get("wsss_fast_device"), "network": _description(told.get("wsss_fast"))}


def _engine(path: Path) -> dict[str, Any]:
    """An engine itself says nothing without TensorRT; the record beside it does."""
    record = path.with_name(path.name + ".json")
    if not record.is_file() or record.stat().st_size > _LARGEST_RECORD:
        return {"kind": "trt", "record": None}
    try:
        return {"kind": "trt", "record": json.loads(record.read_text(encoding="utf-8"))}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"inspect: '{record}' cannot be read ({error})") from None


def _checkpoint(path: Path) -> dict[str, Any]:
    from wsss_fast.nets import weights

    return {"kind": "checkpoint", "network": weights.describe(path) or None}


def _description(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None


def _value(value: Any) -> str:
    sizes = ", ".join(size.dim_param or str(size.dim_value) for size in value.type.tensor_type.shape.dim)
    return f"{value.name}: {_type_name(value.type.tensor_type.elem_type)} [{sizes}]"


def _type_name(number: int) -> str:
    import onnx

    return onnx.TensorProto.DataType.Name(number).lower() if number in onnx.TensorProto.DataType.values() else str(number)


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    values = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return {name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for name, value in values.items()}


def as_text(told: dict[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in told.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{printable(name)}:", as_text(value, indent + "  ").rstrip("\n")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{indent}{printable(name)}:")
            lines += [f"{indent}  - {printable(json.dumps(entry))}" for entry in value]
        else:
            shown = value if isinstance(value, str) else json.dumps(value)
            if isinstance(value, list) and len(value) > _MOST_SHOWN:
                shown = f"{json.dumps(value[:_FIRST])[:-1]}, …]  ({len(value)} entries)"
            lines.append(f"{indent}{printable(name)}: {printable(shown)}")
    return "\n".join(lines) + "\n"
