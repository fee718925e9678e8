"""An exported file as a model of Triton Inference Server: ``DIR/NAME/config.pbtxt``, ``README.md`` and ``1/model.onnx``.

Names, types and sizes in the configuration are read from the file. Never served by a Triton server so far.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss_fast._version import __version__
from wsss_fast.export import foreign
from wsss_fast.export.engine import EngineMeta
from wsss_fast.export.onnx import META
from wsss_fast.export.settings import ExportSettings
from wsss_fast.files.names import printable

_MARK = "# Written by wsss export, which replaces it. README.md says how to serve it.\n"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_BACKENDS = {".onnx": ("onnxruntime", "model.onnx"), ".engine": ("tensorrt", "model.plan")}
_OURS = {"config.pbtxt", "README.md", *(f"1/{model}" for _, model in _BACKENDS.values())}
_BATCH = 4  # of an ONNX file, which takes any; an engine has its own
_WAIT_MICROSECONDS = 2000  # of a request for others of the same size to share its batch


@dataclass(frozen=True)
class _Tensor:
    name: str
    type: str
    sizes: tuple[int, ...]  # of one image; -1: any

    def text(self) -> str:
        return f"`{self.name}`, float32 [{', '.join(['N', *('any' if size < 0 else str(size) for size in self.sizes)])}]"


@dataclass(frozen=True)
class _Told:
    """What the exported file says of itself."""

    inputs: list[_Tensor]
    outputs: list[_Tensor]
    batch: int  # the largest
    runs_with: str  # for people; empty: anything that reads ONNX


def check(settings: ExportSettings, out: Path) -> None:
    """Refuses what could not be written, before anything is built."""
    _place(settings, out)
    if settings.engine == "trt" and settings.shapes is not None:
        _batch_of(settings.shapes)


def write(settings: ExportSettings, out: Path, meta: EngineMeta) -> Path:
    """Puts the exported file `out` into the model repository `settings.triton`; gives the model's folder."""
    place = _place(settings, out)
    backend, model = _BACKENDS[out.suffix.lower()]
    told = _told_by(out)
    config = _config(place.name, backend, told, meta, settings.device)
    readme = _readme(place.name, backend, told, meta)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".wsss-", dir=place.parent) as staging:
            new, old = Path(staging) / "new", Path(staging) / "old"
            (new / "1").mkdir(parents=True)
            shutil.copyfile(out, new / "1" / model)
            (new / "config.pbtxt").write_text(config, encoding="utf-8")
            (new / "README.md").write_text(readme, encoding="utf-8")
            _keep(new / "1" / model, new / "config.pbtxt", new / "README.md")
            if place.exists():
                place.rename(old)
            try:
                new.rename(place)
            except OSError:
                if old.exists():
                    old.rename(place)
                raise
    except OSError as error:
        raise OSError(f"export: cannot write '{place}': {error.strerror or error}. '{out}' is in place") from None
    return place


def _place(settings: ExportSettings, out: Path) -> Path:
    """The model's folder, if nothing stands there that others made."""
    name, repository = out.stem, Path(settings.triton or "")
    if not _NAME.fullmatch(name):
        hint = "letters, digits, '_', '-' and '.', as in --out seam.onnx"
        raise ValueError(f"export: '--triton' names the model after --out, which cannot be '{printable(name)}'. Hint: {hint}")
    place = repository / name
    if repository.exists() and not repository.is_dir():
        raise NotADirectoryError(f"export: '--triton' must be a folder, got '{repository}'")
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise FileExistsError(f"export: '--triton' would replace '{place}', which is no folder. Hint: another folder")
    found = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_symlink() or not path.is_dir())
    strange = [path for path in found if path not in _OURS]
    if not strange and found and not _is_marked(place / "config.pbtxt"):
        strange = found
    if strange:
        told = f"'{printable(strange[0])}', which it did not write"
        raise FileExistsError(f"export: '--triton' would replace '{place}', which holds {told}. Hint: another folder")
    return place


def _is_marked(config: Path) -> bool:
    try:
        return config.read_bytes().startswith(_MARK.encode())
    except OSError:
        return False


def _keep(*files: Path) -> None:
    for path in files:
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _batch_of(shapes: str) -> int:
    """Images that an engine takes at most; Triton sends single ones too."""
    from wsss_fast.export.trt import parse_shapes

    profile = parse_shapes(shapes)
    if profile.least[0] != 1:
        hint = "let the first of --shapes begin with 1x"
        raise ValueError(f"export: '--triton' needs an engine for single images, got {shapes}. Hint: {hint}")
    return profile.most[0]


def _told_by(out: Path) -> _Told:
    if out.suffix.lower() == ".onnx":
        graph = foreign.checked(out).graph
        return _Told([_of_graph(value) for value in graph.input], [_of_graph(value) for value in graph.output], _BATCH, "")
    from wsss_fast.export.trt.cache import read_record, record_path

    record = read_record(record_path(out)) or {}
    facts = record["facts"]
    # what ForwardCam has at both ends, whatever is inside
    outputs = [_Tensor(name, "TYPE_FP32", _of_one(name, sizes)) for name, sizes in record["outputs"].items()]
    runs_with = f"TensorRT {facts['library']} on {facts['gpu']}"
    return _Told([_Tensor("image", "TYPE_FP32", (3, -1, -1))], outputs, _batch_of(facts["profile"]), runs_with)


def _of_graph(value: Any) -> _Tensor:
    import onnx

    told = value.type.tensor_type
    if told.elem_type != onnx.TensorProto.FLOAT:
        raise ValueError(f"export: '--triton' needs float32 at both ends, '{value.name}' is not. Hint: export the network again")
    return _Tensor(
        value.name, "TYPE_FP32", _of_one(value.name, [-1 if size.dim_param else size.dim_value for size in told.shape.dim])
    )


def _of_one(name: str, sizes: list[int]) -> tuple[int, ...]:
    if not sizes or sizes[0] != -1:
        raise ValueError(f"export: '--triton' needs a file for any batch, '{name}' has {sizes}. Hint: export the network again")
    return tuple(sizes[1:])


def _config(name: str, backend: str, told: _Told, meta: EngineMeta, device: str) -> str:
    """In protobuf's text format, for Triton's `ModelConfig`."""
    kind = {"auto": "KIND_AUTO", "cpu": "KIND_CPU"}.get(device, "KIND_GPU") if backend == "onnxruntime" else "KIND_GPU"
    lines = [f"name: {_quoted(name)}", f"backend: {_quoted(backend)}", f"max_batch_size: {told.batch}"]
    for field, tensors in (("input", told.inputs), ("output", told.outputs)):
        for tensor in tensors:
            sizes = ", ".join(map(str, tensor.sizes))
            lines.append(f"{field} {{ name: {_quoted(tensor.name)} data_type: {tensor.type} dims: [{sizes}] }}")
    if told.batch > 1:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {_WAIT_MICROSECONDS} }}")
    lines.append(f"instance_group {{ count: 1 kind: {kind} }}")
    if backend == "onnxruntime" and meta.precision == "fp32" and kind != "KIND_CPU":
        lines.append("# fp32 is float32: without a word CUDA would round to TF32")
        option = 'name: "cuda" parameters { key: "use_tf32" value: "0" }'
        lines.append(f"optimization {{ execution_accelerators {{ gpu_execution_accelerator {{ {option} }} }} }}")
    lines.append("# the description of the network, which clients can ask for")
    lines.append(f"parameters {{ key: {_quoted(META)} value: {{ string_value: {_quoted(meta.to_json())} }} }}")
    return _MARK + "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A string of protobuf's text format; JSON's escapes mean the same there, as long as no character beyond ASCII is escaped."""
    return json.dumps(text, ensure_ascii=False)


def _readme(name: str, backend: str, told: _Told, meta: EngineMeta) -> str:
    sent, given = told.inputs[0], told.outputs
    gives = "\n".join(f"- {tensor.text()}" for tensor in given)
    server = f"The engine runs with {told.runs_with} alone: the server must have both.\n\n" if told.runs_with else ""
    order = "" if meta.normalisation.order == "rgb" else "[..., ::-1]"
    return f"""# {name}

{meta.method} on {meta.backbone}, {meta.num_classes} classes, {meta.precision}, for Triton's {backend} backend.
Written by wsss_fast {__version__}.

{server}Serve the folder above this one:

```sh
tritonserver --model-repository=MODELS
```

Send {sent.text()}: `(value - mean) / std` of values from 0 to 255, in
{meta.normalisation.order.upper()} order. The server gives, at one scale, {meta.output_stride} pixels a cell:

{gives}

Requests of one size share a batch of up to {told.batch}. With `pip install "tritonclient[http]" pillow`:

```python
import json

import numpy
from PIL import Image
from tritonclient import http

client = http.InferenceServerClient("localhost:8000")
network = json.loads(client.get_model_config("{name}")["parameters"]["{META}"]["string_value"])
mean, std = (numpy.float32(network["normalisation"][part]) for part in ("mean", "std"))

pixels = numpy.asarray(Image.open("photo.jpg").convert("RGB")){order}
image = ((pixels - mean) / std).transpose(2, 0, 1)[None]
request = http.InferInput("{sent.name}", list(image.shape), "FP32")
request.set_data_from_numpy(numpy.ascontiguousarray(image))
{given[0].name} = client.infer("{name}", [request]).as_numpy("{given[0].name}")
```
"""
