"""Probes of the machine: processor, memory, GPU and driver, compilers, folders, limits."""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from wsss_fast._machine import usable_cores
from wsss_fast.doctor import finding
from wsss_fast.doctor.finding import MISSING, OK, WARN, Finding, gib


def python() -> Finding:
    detail = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    return Finding("python", OK, detail, data={"version": platform.python_version(), "executable": sys.executable})


def system() -> Finding:
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


def cpu() -> Finding:
    text = finding.read("/proc/cpuinfo")
    model = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    present = set(flags.group(1).split()) if flags else set()
    features = [name for name in _FEATURES if name in present]
    usable = len(usable_cores())
    name = model.group(1).strip() if model else platform.processor() or "unknown"
    detail = f"{name}, {usable} of {os.cpu_count()} cores usable, {' '.join(features) or 'no known vector extensions'}"
    return Finding("cpu", OK, detail, data={"model": name, "cores": os.cpu_count(), "usable": usable, "features": features})


def memory() -> Finding:
    values = {
        key: int(size) * 1024 for key, size in re.findall(r"^(\w+):\s+(\d+) kB", finding.read("/proc/meminfo"), re.MULTILINE)
    }
    total, free = values["MemTotal"], values.get("MemAvailable", 0)
    limit = _memory_limit()
    detail = f"{gib(free)} of {gib(total)} available" + (f", limited to {gib(limit)} here" if limit else "")
    short = min(free, limit or free) < 2 << 30
    hint = "labelling needs about 1 GiB, up to 4 GiB for very large images: --max-side and --workers 0 need less" if short else ""
    return Finding("memory", WARN if short else OK, detail, hint, {"total": total, "available": free, "limit": limit})


def _memory_limit() -> int | None:
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            value = int(finding.read(place))
        except (OSError, ValueError):
            continue
        return value if value < 1 << 60 else None
    return None


def driver_cuda() -> str | None:
    """The newest CUDA that the driver can run, as nvidia-smi says; None without a driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    answer = subprocess.run([tool], capture_output=True, text=True, timeout=10, check=False, stdin=subprocess.DEVNULL)
    found = re.search(r"CUDA Version:\s*([\d.]+)", answer.stdout)
    return found.group(1) if found else None


def gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding(
            "gpu", MISSING, "no nvidia-smi: no NVIDIA driver here", "only needed to use a GPU; everything works on the CPU"
        )
    query = ["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    answer = subprocess.run([tool, *query], capture_output=True, text=True, timeout=10, check=False, stdin=subprocess.DEVNULL)
    lines = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    if answer.returncode != 0 or not lines:
        reason = (answer.stderr or answer.stdout).strip().splitlines() or ["no device"]
        return Finding(
            "gpu",
            WARN,
            f"nvidia-smi: {reason[0]}",
            "restart after a driver update; in a container start it with its GPUs (--gpus all)",
        )
    return Finding("gpu", OK, "; ".join(lines), data={"devices": lines})


def compiler() -> Finding:
    wanted = [os.environ["CXX"].split()[0]] if os.environ.get("CXX", "").strip() else ["c++", "g++", "clang++"]
    tool = next((path for path in map(shutil.which, wanted) if path), None)
    if tool is None:
        hint = "only needed to build from source and for --engine aoti: install g++ 12 or later, or set CXX"
        return Finding("compiler", MISSING, f"no C++ compiler ({', '.join(wanted)})", hint)
    answer = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=10, check=True, stdin=subprocess.DEVNULL)
    return Finding("compiler", OK, f"{answer.stdout.splitlines()[0]} at {tool}", data={"path": tool})


def nvcc() -> Finding:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    tool = os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which(str(Path(home) / "bin" / "nvcc"))
    if tool is None:
        return Finding(
            "nvcc",
            MISSING,
            "no CUDA compiler",
            "only needed to build the CUDA kernels from source: install the CUDA toolkit, or set CUDACXX",
        )
    answer = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=10, check=True, stdin=subprocess.DEVNULL)
    release = re.search(r"release ([\d.]+)", answer.stdout)
    return Finding("nvcc", OK, f"{release.group(1) if release else 'unknown release'} at {tool}", data={"path": tool})


def threads() -> Finding:
    """More threads than cores wait for each other; a container's share of time is not seen by the libraries."""
    usable = len(usable_cores())
    share = _processor_share()
    cores = max(1, min(usable, round(share))) if share else usable
    text = os.environ.get("OMP_NUM_THREADS", "")
    data = {"cores": cores, "OMP_NUM_THREADS": text}
    detail = f"{cores} to use" + (f" (a container's share is {share:.1f} of {usable} cores)" if share and share < usable else "")
    if text and not text.isdecimal():
        return Finding("threads", WARN, f"{detail}; OMP_NUM_THREADS is {text!r}", f"export OMP_NUM_THREADS={cores}", data)
    asked = int(text) if text else usable
    if asked > cores:
        hint = f"more threads than that slow each other down: export OMP_NUM_THREADS={cores}"
        return Finding("threads", WARN, f"{detail}; libraries start {asked}", hint, data)
    return Finding("threads", OK, f"{detail}; libraries start {asked}", data=data)


def _processor_share() -> float | None:
    """How many cores' worth of time the control group may use."""
    try:
        quota, period = finding.read("/sys/fs/cgroup/cpu.max").split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def writing() -> Finding:
    """Results go where the command is started, temporary files and built engines to their own places."""
    places = {"here": Path.cwd(), "temporary files": Path(tempfile.gettempdir()), "engine cache": engine_cache()}
    problems, hints = [], []
    for name, place in places.items():
        existing = next(path for path in (place, *place.parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            problems.append(f"{name}: {existing} cannot be written to")
            hints.append(_REMEDIES[name])
        elif name == "engine cache" and existing == place and place.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            problems.append(f"{name}: {place} can be written by others")
            hints.append(f"chmod go-w '{place}'")
    data = {name: str(place) for name, place in places.items()}
    if problems:
        return Finding("writing", WARN, "; ".join(problems), "; ".join(hints), data)
    return Finding("writing", OK, ", ".join(f"{name} {place}" for name, place in places.items()), data=data)


_REMEDIES = {
    "here": "start in a folder of your own, or give --out one",
    "temporary files": "set TMPDIR to a folder of your own",
    "engine cache": "set WSSS_CACHE to a folder of your own (TensorRT engines, and what `wsss export` wrote, are kept there)",
}


def engine_cache() -> Path:
    from wsss_fast.export.trt.cache import cache_folder

    return cache_folder()


def environment() -> Finding:
    names = sorted(
        name
        for name in os.environ
        if name.startswith("WSSS_")
        or name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDACXX")
    )
    data = {name: os.environ[name] for name in names}
    return Finding("environment", OK, " ".join(f"{name}={value}" for name, value in data.items()) or "nothing set", data=data)


def disk() -> Finding:
    places = {"here": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    data = {name: shutil.disk_usage(path).free for name, path in places.items()}
    detail = ", ".join(f"{name} {gib(data[name])} free ({places[name]})" for name in places)
    short = min(data.values()) < 1 << 30
    return Finding(
        "disk",
        WARN if short else OK,
        detail,
        "less than 1 GiB free: remove something, or give --out and TMPDIR another disk" if short else "",
        data,
    )


def limits() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shared = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None
    hints = []
    if soft != resource.RLIM_INFINITY and soft < 1024:
        hints.append("raise the open files with `ulimit -n 4096`")
    if shared is not None and shared < 256 << 20:
        hints.append("data-loader workers need more /dev/shm (containers: --shm-size=1g)")
    room = gib(shared) if shared is not None else "absent"
    detail = f"open files {_amount(soft)} (at most {_amount(hard)}), /dev/shm {room}"
    return Finding("limits", WARN if hints else OK, detail, "; ".join(hints), {"open_files": soft, "shm": shared})


def _amount(value: int) -> str:
    return "unlimited" if value < 0 else str(value)
