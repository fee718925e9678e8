"""What this installation has, lacks and can use. A probe may raise, hang or crash: the report comes anyway.

Probes that load compiled code run in a process of their own: a broken library can end the process that loads it. Every finding
that is not "ok" says what to do.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict

from wsss_fast.doctor import installed, machine, tested
from wsss_fast.doctor.finding import CHILD_SECONDS, FAILED, MISSING, OK, WARN, Finding, Probe

__all__ = ["FAILED", "MISSING", "OK", "PROBES", "WARN", "Finding", "Probe", "examine"]

_PROBE_SECONDS = 20.0


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


# (name, probe, seconds it may take)
PROBES: tuple[tuple[str, Probe, float], ...] = (
    ("wsss_fast", installed.package, _PROBE_SECONDS),
    ("kernels", installed.kernels, CHILD_SECONDS + 5),
    ("python", machine.python, _PROBE_SECONDS),
    ("platform", machine.system, _PROBE_SECONDS),
    ("cpu", machine.cpu, _PROBE_SECONDS),
    ("memory", machine.memory, _PROBE_SECONDS),
    ("torch", installed.torch, CHILD_SECONDS + 5),
    ("gpu", machine.gpu, _PROBE_SECONDS),
    ("threads", machine.threads, _PROBE_SECONDS),
    ("compiler", machine.compiler, _PROBE_SECONDS),
    ("nvcc", machine.nvcc, _PROBE_SECONDS),
    ("packages", installed.core, _PROBE_SECONDS),
    ("versions", tested.versions, _PROBE_SECONDS),
    ("decoders", installed.pillow, _PROBE_SECONDS),
    *((f"extra {extra}", installed.extra(extra), _PROBE_SECONDS) for extra in installed.EXTRAS),
    ("weights", installed.weights, _PROBE_SECONDS),
    ("onnxruntime", installed.onnxruntime, CHILD_SECONDS + 5),
    *((f"engine {engine}", installed.tensorrt(engine), CHILD_SECONDS + 5) for engine in installed.TENSORRT),
    ("environment", machine.environment, _PROBE_SECONDS),
    ("writing", machine.writing, _PROBE_SECONDS),
    ("disk", machine.disk, _PROBE_SECONDS),
    ("limits", machine.limits, _PROBE_SECONDS),
)
