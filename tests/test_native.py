"""The package around the kernels: what import costs, what the build tells, how a missing or foreign module is reported."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import wsss_fast
from wsss_fast import _native

ROOT = Path(__file__).resolve().parents[1]


def test_build_info() -> None:
    info = wsss_fast.build_info()
    assert isinstance(info["cuda"], bool)
    assert isinstance(info["cuda_archs"], list) and bool(info["cuda_archs"]) == info["cuda"]
    assert info["simd"] in ("plain", "avx2", "avx512")
    assert info["compiler"]
    assert info["version"] == wsss_fast.__version__


def test_import_is_cheap() -> None:
    code = "import sys, wsss_fast; wsss_fast.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_operations_need_torch_and_numpy_alone() -> None:
    others = {"PIL", "jsonargparse", "rich", "safetensors", "yaml"}
    code = f"import sys, wsss_fast.ops; sys.exit(str({others} & set(sys.modules)) if {others} & set(sys.modules) else 0)"
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'wsss_fast' has no attribute 'lable'"):
        wsss_fast.lable  # noqa: B018
    assert {"ops", "label", "build_info", "__version__"} <= set(dir(wsss_fast))


def test_simd_level_by_name() -> None:
    kernels = _native.load()
    try:
        kernels.set_simd("plain")
        assert wsss_fast.build_info()["simd"] == "plain"
        with pytest.raises(ValueError, match="must be auto, plain, avx2 or avx512, got sse9"):
            kernels.set_simd("sse9")
    finally:
        kernels.set_simd("auto")
    assert wsss_fast.build_info()["simd"] == wsss_fast.build_info()["simd_detected"]


def test_simd_level_by_environment() -> None:
    code = "import wsss_fast; print(wsss_fast.build_info()['simd'])"
    environment = {"WSSS_SIMD": "plain", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "plain"


def test_missing_module_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"compiled module wsss_fast._nothing was not found .*\(pip install"):
        _native.load("_nothing")


def test_module_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "__version__", "99.0")
    _native.load.cache_clear()
    try:
        with pytest.raises(RuntimeError, match=r"is of version .*, the Python files are of 99.0. Install"):
            _native.load()
    finally:
        _native.load.cache_clear()


@pytest.mark.skipif(shutil.which("nvcc") is None or shutil.which("cmake") is None, reason="no CUDA compiler, or no CMake")
def test_a_build_for_several_architectures(tmp_path: Path) -> None:
    """The list goes through CMake as one definition; it was once cut at its semicolon, and the default build failed."""
    pybind = subprocess.run([sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True, check=True)
    options = {
        "WSSS_CUDA": "ON",
        "WSSS_CUDA_ARCHS": "80-real;90",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind.stdout.strip(),
        "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
    }
    command = ["cmake", "-S", ROOT, "-B", tmp_path, "-G", "Ninja", *(f"-D{key}={value}" for key, value in options.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "compile_commands.json").read_text())
    commands = [shlex.split(row["command"]) for row in rows if "-DWSSS_MODULE=_kernels" in row["command"]]
    assert commands and all('-DWSSS_CUDA_ARCHS="80-real,90"' in words for words in commands)
    cuda = [shlex.split(row["command"]) for row in rows if row["file"].endswith(".cu") and "sm_" in row["command"]]
    assert cuda and all(any("sm_80" in word for word in words) and any("sm_90" in word for word in words) for words in cuda)
