"""The adapter uses nothing that TensorRT 10, 11 or TensorRT-RTX does not have: each attribute is looked up in the real bindings.

TensorRT's bindings come from the package index; its libraries, gigabytes of them, do not. The bindings are imported over empty
libraries, which tells every class, function and property, and runs none of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tensorrt_surface
import tensorrt_wheels
from helpers import ROOT, tool
from tensorrt_uses import uses
from tensorrt_wheels import BUILD, bindings, one_at_a_time, run

# what import and linking ask for
_ENTRIES = (
    *(
        f"create{name}_INTERNAL"
        for name in ("InferBuilder", "InferRefitter", "InferRuntime", "NvOnnxParser", "NvOnnxParserRefitter")
    ),
    *("getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins"),
)
# used behind `flavour.builds_without_gpu`, which asks for the second of them
ONLY_RTX = {"ComputeCapability", "IBuilderConfig.set_compute_capability", "IBuilderConfig.num_compute_capabilities"}
LIBRARIES = {"10": ONLY_RTX, "11": ONLY_RTX, "rtx": set()}


def empty_libraries(version: str) -> Path:
    folder = BUILD / f"tensorrt-stubs-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "stubs.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _ENTRIES))
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = f"lib{name}.so.{version}"
        run(tool("cc"), "-shared", "-fPIC", f"-Wl,-soname,{library}", source, "-o", folder / library)
    return folder


@cache
def surface(version: str) -> dict[str, Any]:
    if version == "rtx":
        if find_spec("tensorrt_rtx") is None:
            pytest.skip("tensorrt-rtx cannot be had here")
        arguments = ["tensorrt_rtx"]
    else:
        with one_at_a_time(f"tensorrt-stubs-{version}"):
            arguments = ["tensorrt_bindings", str(bindings(version)), str(empty_libraries(version))]
    # in a process of its own: two of these libraries in one would share their names
    command = [sys.executable, tensorrt_surface.__file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sources() -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "wsss_fast/export/trt").glob("*.py")}


@pytest.mark.parametrize("version", LIBRARIES)
def test_the_adapter_uses_what_is_there(version: str) -> None:
    told = uses(sources(), surface(version))
    assert told.missing == LIBRARIES[version] and not told.lost
    # types were followed to the ends of the longest ways
    assert {
        "Builder.build_serialized_network", "BuilderFlag.TF32", "IBuilderConfig.clear_flag", "DataType.name", "ITensor.dtype",
        "IOptimizationProfile.set_shape", "IPluginRegistry.load_library", "IProgressMonitor.step_complete", "ILogger.log",
        "ITimingCache.serialize", "LayerType.PLUGIN_V3", "OnnxParser.parse", "ParserError.desc",
        "ICudaEngine.create_execution_context",
        "IExecutionContext.execute_async_v3", "IExecutionContext.set_tensor_address", "Runtime.deserialize_cuda_engine",
    } <= told.found  # fmt: skip


# a change of the adapter, and what must be told of it
CHANGES = {
    "of the module": (
        "build",
        "trt = flavour.require(spec.flavour)\n",
        "trt = flavour.require(spec.flavour); trt.Bilder\n",
        "Bilder",
    ),
    "of an object": ("child", "builder.create_builder_config()", "builder.create_config()", "Builder.create_config"),
    "set": ("child", "config.builder_optimization_level =", "config.optimization_level =", "IBuilderConfig.optimization_level"),
    "of an enumeration": ("child", "trt.BuilderFlag.TF32", "trt.BuilderFlag.TF23", "BuilderFlag.TF23"),
    "of a result's result": ("child", ".desc() for", ".description() for", "ParserError.description"),
    "of a loop's variable": ("child", "layer.type ==", "layer.kind ==", "ILayer.kind"),
    "of self": ("run", "self._context.execute_async_v3", "self._context.execute_async", "IExecutionContext.execute_async"),
    "called by TensorRT": ("child", "def phase_start(", "def phase_begin(", "IProgressMonitor.phase_begin"),
    "in another file": ("timing", "config.set_timing_cache(", "config.use_timing_cache(", "IBuilderConfig.use_timing_cache"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_attribute_that_is_not_there_is_found(change: str) -> None:
    file, old, new, told = CHANGES[change]
    changed = sources()
    assert old in changed[file]
    changed[file] = changed[file].replace(old, new)
    assert uses(changed, surface("rtx")).missing == {told}


def test_a_wheel_is_the_pinned_one_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_wheels, "BUILD", tmp_path)
    monkeypatch.setattr(tensorrt_wheels, "ROOT", tmp_path)
    refused = subprocess.CompletedProcess([], 1, "", "no such host")
    monkeypatch.setattr(tensorrt_wheels.subprocess, "run", lambda *command, **rest: refused)
    with pytest.raises(pytest.skip.Exception, match=r"a==1 cannot be fetched: no such host"):
        tensorrt_wheels.fetched("a==1", "a.whl", "0" * 64)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").write_bytes(b"another")
    with pytest.raises(AssertionError, match=r"a\.whl is not the file that is pinned"):
        tensorrt_wheels.fetched("a==1", "a.whl", "0" * 64)
