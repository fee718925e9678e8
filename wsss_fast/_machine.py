"""What a measurement has to say about the machine it was taken on. Every reading is optional: none can fail a run."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

MALLOC_TUNABLES = "GLIBC_TUNABLES"


def describe(device: str) -> dict[str, Any]:
    import torch

    import wsss_fast

    info: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cpu": _first(r"^(?:model name|Hardware)\s*:\s*(.+)$", _read("/proc/cpuinfo")) or platform.processor(),
        "cpu_flags": [flag for flag in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "hypervisor") if flag in _flags()],
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "caches": _caches(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "transparent_huge_pages": _first(r"\[(\w+)\]", _read("/sys/kernel/mm/transparent_hugepage/enabled")),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        "load_average": load_average(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "wsss_fast": wsss_fast.__version__,
        "revision": revision(Path(wsss_fast.__file__).parent),
        "build": wsss_fast.build_info(),
    }
    if device == "cuda":
        info["gpu"] = _gpu()
    return info


def usable_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def load_average() -> list[float] | None:
    with contextlib.suppress(OSError, AttributeError):
        return [round(value, 2) for value in os.getloadavg()]
    return None


def busy_seconds(cores: list[int]) -> float | None:
    """Seconds the cores have worked for anybody since the machine started, time stolen by its host included."""
    total = 0.0
    for core in cores:
        line = _first(rf"^cpu{core} (.+)$", _read("/proc/stat"))
        if line is None:
            return None
        user, nice, system, _idle, _wait, interrupt, soft, steal = (int(part) for part in line.split()[:8])
        total += (user + nice + system + interrupt + soft + steal) / os.sysconf("SC_CLK_TCK")
    return total


def _gpu() -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(0)
    answer = {
        "name": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
    }
    query = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        line = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=10, check=True, stdin=subprocess.DEVNULL,
        ).stdout.splitlines()[0]  # fmt: skip
        answer |= dict(zip(query.split(","), (part.strip() for part in line.split(",")), strict=False))
    return answer


def revision(folder: Path) -> str | None:
    """The commit of the checkout that a package belongs to; None if it is not in one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        git("ls-files", "--error-unmatch", "__init__.py")  # an installed package may lie inside somebody else's checkout
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", "--", ".", "../csrc") else "")
    return None


def _caches() -> dict[str, str]:
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_read(folder / name).strip() for name in ("level", "type", "size"))
        if level:
            found[f"L{level}" + {"Data": "d", "Instruction": "i"}.get(kind, "")] = size
    return found


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _memory_gib() -> float:
    return round(memory_bytes() / 2**30, 1)


def _flags() -> set[str]:
    return set((_first(r"^(?:flags|Features)\s*:\s*(.+)$", _read("/proc/cpuinfo")) or "").split())


def _version(distribution: str) -> str | None:
    import importlib.metadata

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(distribution)
    return None


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1).strip() if found else None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
