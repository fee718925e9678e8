"""`wsss doctor` reports whatever happens to its probes."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time

import pytest

from wsss_fast import cli, doctor
from wsss_fast.doctor import Finding, examine


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
    started = time.monotonic()
    findings = examine(probes)
    release.set()
    assert time.monotonic() - started < 3
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
    monkeypatch.setattr(doctor, "_KERNELS_CHILD", program)
    monkeypatch.setattr(doctor, "_CHILD_SECONDS", 1.0 if "sleep" in program else 20.0)
    (finding,) = examine([("kernels", doctor._kernels, 30.0)])
    assert finding.status == status and text in finding.detail, finding
    assert finding.hint or "JSON" in text


def test_a_broken_nvidia_smi_is_a_warning(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'driver mismatch' >&2\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (finding,) = examine([("gpu", doctor._gpu, 10.0)])
    assert finding.status == doctor.WARN and "driver mismatch" in finding.detail
    monkeypatch.setattr(subprocess, "run", _times_out)
    (finding,) = examine([("gpu", doctor._gpu, 10.0)])
    assert finding.status == doctor.FAILED and "TimeoutExpired" in finding.detail


def _times_out(*arguments, **options):
    raise subprocess.TimeoutExpired("nvidia-smi", 10)


def test_missing_packages_say_how_to_install_them(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    (torch_finding, core, extra) = examine(
        [("torch", doctor._torch, 5.0), ("packages", doctor._core, 5.0), ("extra demo", doctor._extra("demo"), 5.0)]
    )
    assert torch_finding.status == core.status == extra.status == doctor.MISSING
    assert extra.hint == 'pip install "wsss_fast[demo]"'


def test_a_machine_without_proc_is_still_reported(monkeypatch):
    def absent(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(doctor, "_read", absent)
    findings = examine([entry for entry in doctor.PROBES if entry[0] in ("cpu", "memory", "disk")])
    assert {finding.name: finding.status for finding in findings} == {"cpu": "failed", "memory": "failed", "disk": "ok"}
