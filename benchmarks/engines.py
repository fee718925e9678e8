"""Every engine of every kind that this machine can build and run, beside the network in PyTorch: made, tried, measured.

    python benchmarks/engines.py [--device cuda] [--json FILE] [--seconds 400]

Each engine is one `wsss export` and one `wsss export --bench` (docs/export.md), in processes of their own: an engine that is
missing or crashes is a row that says so, and the others go on. Weights are random: every machine measures the same network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsss_fast import _machine

NETWORKS = {"seam": "resnet38", "cpn": "resnet38", "cam": "efficientnet-lite0", "deeplab": "resnet38"}
ENGINES = {"aoti": ".pt2", "ort": ".onnx", "trt-rtx": ".engine", "trt": ".engine"}
PLUGINS = {"seam", "cpn"}  # networks with layers that our TensorRT library replaces
ONLY_GPU = ("trt-rtx", "trt")
WSSS = "import sys; from wsss_fast.cli import main; sys.exit(main())"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--size", default="1x448x448")
    parser.add_argument("--precisions", nargs="+", default=["fp16", "fp32"])
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--seconds", type=float, default=400.0, help="nothing is begun later")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    ends = time.monotonic() + given.seconds
    results: dict[str, Any] = {"machine": _machine.describe(given.device), "size": given.size, "engines": []}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(given):
            name = " ".join(str(part) for part in case.values() if part)
            if time.monotonic() > ends:
                row = {**case, "outcome": "not run: no time left"}
            else:
                row = {**case, **tried(case, given, Path(folder), ends)}
            results["engines"].append(row)
            sys.stdout.write(f"{name}: {told(row)}\n")
            sys.stdout.flush()
            if given.json is not None:
                given.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def cases(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The most wanted first: time may end."""
    for precision in given.precisions:
        for network in given.networks:
            for engine in ENGINES:
                if given.device == "cpu" and (engine in ONLY_GPU or precision == "fp16"):
                    continue
                yield {"network": network, "engine": engine, "precision": precision, "plugins": ""}
                if network in PLUGINS and engine in ONLY_GPU:
                    yield {"network": network, "engine": engine, "precision": precision, "plugins": "plugins"}


def tried(case: dict[str, Any], given: argparse.Namespace, folder: Path, ends: float) -> dict[str, Any]:
    file = folder / f"{'-'.join(filter(None, case.values()))}{ENGINES[case['engine']]}"
    network = ["--method", case["network"], "--backbone", NETWORKS[case["network"]], "--random-weights", "0"]
    network += ["--device", given.device]
    make = ["--engine", case["engine"], "--precision", case["precision"], "--out", str(file), *network]
    make += ["--shapes", f"1x64x64,{given.size},{given.size}"] if case["engine"] in ONLY_GPU else []
    make += ["--plugins"] if case["plugins"] else []
    started = time.monotonic()
    problem = wsss(make, ends)[1]
    if problem:
        return {"outcome": f"not made: {problem}"}
    made = time.monotonic() - started
    text, problem = wsss(["--bench", str(file), "--size", given.size, "--json", *network], ends)
    if problem:
        return {"outcome": f"made, not measured: {problem}", "made_in_seconds": made}
    return {"outcome": "made, tried, measured", "made_in_seconds": made, **json.loads(text)}


def wsss(arguments: list[str], ends: float) -> tuple[str, str]:
    """What `wsss export` prints, and what went wrong."""
    limit = max(ends - time.monotonic(), 5) + 30
    try:
        done = subprocess.run([sys.executable, "-c", WSSS, "export", *arguments], capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return "", f"stopped after {limit:.0f} s"
    if done.returncode == 0:
        return done.stdout, ""
    return "", f"exit status {done.returncode}: {done.stderr.strip()[-600:]}"


def told(row: dict[str, Any]) -> str:
    times = [f"{name} {found['p50_ms']:.2f} ms" for name, found in row.get("measured", {}).items()]
    return row["outcome"] + (f" ({', '.join(times)})" if times else "")


if __name__ == "__main__":
    sys.exit(main())
