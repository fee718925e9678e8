"""What tests of TensorRT take from the package index: TensorRT's headers, and its bindings without the libraries.

Files go to build/wheels and must have the hash that stands here. What cannot be fetched makes tests skip, with the reason; a file
that is not the one that was looked at when these tests were written makes them fail.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from helpers import ROOT, tool

BUILD = ROOT / "build"
# TensorRT 10.14's headers, which 11 and TensorRT-RTX can read too
HEADERS = "kernel_lens-2.0.1-py3-none-any.whl"
BINDINGS = {"10": "10.16.1.11", "11": "11.4.0.106"}
PINNED = {
    HEADERS: "07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0",
    "10.16.1.11-cp310": "c8e171511a01a2678cb3e00ca4792bc1d7ea6c48da9781ab127970f6ad1edc4a",
    "10.16.1.11-cp311": "f986d47980d042cc126506a9b84586e55ad13737a7a46826fe45457c04d66294",
    "10.16.1.11-cp312": "2fb87ac24a5e5f42e43f283c16d1b661dc72ef18568fd847ce2080b7db9ca232",
    "10.16.1.11-cp313": "da17c222ba99f46e77e1dab568cd17c4652b0432d4fae074e4c79285356aa0ac",
    "11.4.0.106-cp310": "1d17853da33a186c4d4d39995c1186bb59f643689aabac9c3e33ae5f0ba402f5",
    "11.4.0.106-cp311": "d072ac2a095e2be749fefc847adfb25d5ebe70303401df62ede8fe67a59f27fc",
    "11.4.0.106-cp312": "5fc7a6c412881f7212030893bd5531b1a0ff415c72c7678dfe4ead7a7765b38d",
    "11.4.0.106-cp313": "bac9a362c9189b5f5dd0444213913846e4b46003237834958e890eff57d86ed5",
    "11.4.0.106-cp314": "233f5f02af7940b7cf15a5b526fc16b203d93181473a58588937bf401ca1d293",
}


@contextmanager
def one_at_a_time(name: str):
    """Several processes of a run may want the same file."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def checked(wheel: Path, digest: str) -> Path:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert found == digest, f"{wheel.name} is not the file that is pinned: its SHA-256 is {found}"
    return wheel


def fetched(requirement: str, name: str, digest: str) -> Path:
    """The wheel `name`, from build/wheels, wheelhouse/ or the package index."""
    for folder in (BUILD / "wheels", ROOT / "wheelhouse"):
        if (folder / name).exists():
            return checked(folder / name, digest)
    quick = ["--retries", "1", "--timeout", "20"]  # without a network the answer is to come soon
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        *quick,
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        BUILD / "wheels",
        requirement,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{requirement} cannot be fetched: no answer")
    wheel = BUILD / "wheels" / name
    if done.returncode != 0 or not wheel.exists():
        pytest.skip(f"{requirement} cannot be fetched: " + " ".join((done.stderr or done.stdout).split())[-200:])
    return checked(wheel, digest)


def unpacked(wheel: Path, folder: Path) -> Path:
    """Anew each time: what lies in a folder may have been changed."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@cache
def headers() -> Path:
    root = os.environ.get("TENSORRT_ROOT")
    if root:
        return Path(root)
    with one_at_a_time("wheels"):
        wheel = fetched("kernel-lens==2.0.1", HEADERS, PINNED[HEADERS])
        folder = BUILD / "tensorrt-headers"
        # files that are written again are compiled again
        if not folder.exists():
            unpacked(wheel, folder.with_suffix(".part")).rename(folder)
    return folder / "kernel_lens" / "include" / "tensorrt"


@cache
def plugin_library() -> Path:
    """export/tensorrt, built as its page says."""
    from shutil import which

    if which("nvcc") is None and "CUDACXX" not in os.environ:
        pytest.skip("no CUDA compiler, which builds the plugin library")
    include = headers()
    folder = BUILD / "tensorrt-plugins"
    with one_at_a_time("tensorrt-plugins"):
        run(
            tool("cmake"), "-S", ROOT / "export" / "tensorrt", "-B", folder, "-G", "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", f"-DTENSORRT_ROOT={include}",
            f"-DCMAKE_CUDA_ARCHITECTURES={os.environ.get('WSSS_CUDA_ARCHS', '90')}",
        )  # fmt: skip
        run(tool("cmake"), "--build", folder, "--parallel", "2")
    return folder / "libwsss_tensorrt.so"


def bindings(version: str) -> Path:
    """A folder with the module ``tensorrt_bindings`` of TensorRT 10 or 11."""
    number, python = BINDINGS[version], f"cp{sys.version_info.major}{sys.version_info.minor}"
    digest = PINNED.get(f"{number}-{python}")
    if digest is None or platform.machine() != "x86_64" or sys.platform != "linux":
        pytest.skip(f"no bindings of TensorRT {version} are pinned for this Python and machine")
    name = f"tensorrt_cu13_bindings-{number}-{python}-none-manylinux_2_28_x86_64.whl"
    with one_at_a_time("wheels"):
        return unpacked(fetched(f"tensorrt_cu13_bindings=={number}", name, digest), BUILD / f"tensorrt-bindings-{number}")


def run(*command: str | Path) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, errors="replace")
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
