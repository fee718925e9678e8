"""wsss bench: contestants agree before they are timed, figures are complete, conditions are judged, failures are told."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import relative_error
from torch import Tensor

from wsss_fast import bench, ops
from wsss_fast.bench import _memory, _session, _train_step, _worker, pcm
from wsss_fast.bench._definition import OURS, Case, Condition
from wsss_fast.cli import main

ROOT = Path(__file__).resolve().parents[1]
SMALL = (2, 9, 3, 6, 7)


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def document() -> dict:
    cases = [Case(SMALL, mode, "float32", (OURS, "eager")) for mode in ("fwd", "fwdbwd", "bwd")]
    made = _session.run(pcm.OPERATION, cases, _session.Settings(rounds=3, memory=False), quiet)
    # Memory takes a process for each contestant and case: one is enough here.
    one = _session.run(pcm.OPERATION, [Case(SMALL, "fwd", "float32", (OURS,))], _session.Settings(rounds=3), quiet)
    made["results"][0]["contestants"][OURS] |= {
        key: value for key, value in one["results"][0]["contestants"][OURS].items() if "memory" in key
    }
    return made


@pytest.mark.parametrize("name", ["eager", "blocks", "late"])
def test_peers_compute_the_same(name: str) -> None:
    cam, feature = (x.double() for x in pcm.inputs(SMALL).values())
    leaves = cam.requires_grad_(), feature.requires_grad_()
    got, expected = pcm.OPERATION.contestant(name).prepare()(*leaves), ops.pcm(*leaves, impl="reference")
    grad = torch.randn(got.shape, dtype=torch.float64)
    assert relative_error(got, expected) < 1e-12
    for a, b in zip(torch.autograd.grad(got, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True):
        assert relative_error(a, b) < 1e-12


@pytest.mark.parametrize("name", bench.names())
def test_sizes_are_as_the_axes_say(name: str) -> None:
    operation = bench.load(name)
    assert {len(size) for size in (*operation.sizes, *operation.cuda_sizes)} == {len(operation.axes.split("x"))}
    assert {condition.size for condition in operation.conditions} <= set(operation.sizes)


@pytest.mark.parametrize(("name", "terms"), [("seam", 5), ("cpn", 6)])
def test_training_steps_of_both_are_the_same(name: str, terms: int) -> None:
    given = _train_step.inputs((2, 3, 40, 40)).values()
    kinds = (False, torch.float32), (True, torch.float32), (True, torch.float64)
    ours, eager, exact = (_train_step.step(name, *kind, width=1 / 16)(*given) for kind in kinds)
    assert ours.shape == bench.load(f"{name}_step").result_shape(_train_step.CROP) == (terms + len(_train_step.GRADIENTS),)
    assert ours.isfinite().all() and (ours - exact).abs().max() < 1e-3 and (eager - exact).abs().max() < 1e-3


def test_document(document: dict) -> None:
    json.dumps(document)
    assert document["machine"]["cores"] and document["machine"]["load_average"] and document["machine"]["build"]["simd"]
    assert [result["case"]["mode"] for result in document["results"]] == ["fwd", "fwdbwd", "bwd"]
    for result in document["results"]:
        assert result["rounds"] == 3 and result["malloc"] == "default"
        for name in (OURS, "eager"):
            entry = result["contestants"][name]
            times = entry["times"]["call"]
            assert len(times["each_ms"]) == 3 and 0 < times["min_ms"] <= times["median_ms"] <= times["max_ms"]
            assert entry["error"] < 1e-5
            assert (entry["gradient_error"] > 0) == (result["case"]["mode"] != "fwd")
        ratio = result["contestants"]["eager"]["ours_is_faster"]["call"]
        assert 0 < ratio["worst_round"] <= ratio["median_of_rounds"]


def test_memory_is_measured(document: dict) -> None:
    entry = document["results"][0]["contestants"][OURS]
    assert 0 <= entry["memory_mib"] < 64 and entry["memory_measured"]


def test_memory_is_what_the_call_takes() -> None:
    # above 32 MiB malloc always asks the system; below, memory that earlier tests freed may serve
    call = lambda: torch.ones(96 << 20, dtype=torch.uint8)  # noqa: E731
    call()
    growth, how = _memory.peak_growth(call)
    assert 95.5 < growth < 98 or how != "exact"


@pytest.mark.parametrize(("operation", "name"), [("slic", "fast-slic"), ("dense_crf", "pydensecrf")])
def test_a_missing_peer_is_named(operation: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = name.replace("-", "_")
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=f"bench: {package} is not installed. Hint: make peers"):
        bench.load(operation).contestant(name).prepare()


def test_a_wrong_contestant_is_not_timed() -> None:
    case = Case(SMALL, "fwdbwd", "float32", ())
    problem = _worker.Problem(pcm.OPERATION, case, "cpu")
    problem.solve_exactly()

    def wrong(cam: Tensor, feature: Tensor) -> Tensor:
        return ops.pcm(cam, feature, impl="reference") * 1.01

    assert problem.agrees(*problem.errors(problem.call(pcm.published)()))
    assert not problem.agrees(*problem.errors(problem.call(wrong)()))
    assert not problem.agrees(float("nan"), 0.0)


def test_conditions_are_judged(document: dict) -> None:
    conditions = (
        Condition(SMALL, "fwd", "ratio", 1e-9, "eager"),
        Condition(SMALL, "fwd", "ratio", 1e9, "eager"),
        Condition(SMALL, "fwdbwd", "gradient error", 1e-3),
        Condition(SMALL, "fwd", "memory", 1000.0),
        Condition((1, 1, 1, 1, 1), "fwd", "error", 1.0),
    )
    rows = _session.judge(replace(pcm.OPERATION, conditions=conditions), document)
    assert [row["holds"] for row in rows] == [True, False, True, True, False]
    assert rows[-1]["measured"] is None


def test_conditions_of_pcm_are_all_planned() -> None:
    cases = _session.plan_conditions(pcm.OPERATION)
    for condition in pcm.OPERATION.conditions:
        (case,) = [case for case in cases if (case.size, case.mode) == (condition.size, condition.mode)]
        assert OURS in case.contestants and (not condition.against or condition.against in case.contestants)


def test_a_measuring_process_that_fails_is_told() -> None:
    broken = replace(pcm.OPERATION, name="nothing")
    document = _session.run(broken, [Case(SMALL, "fwd", "float32", (OURS,))], _session.Settings(memory=False), quiet)
    assert "no operation 'nothing'" in document["failed"] and not document["results"]


def test_a_used_up_budget_skips() -> None:
    case = Case(SMALL, "fwd", "float32", (OURS,))
    document = _session.run(pcm.OPERATION, [case], _session.Settings(budget=0.0, memory=False), quiet)
    assert document["results"][0]["skipped"]


def test_command(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = "1x5x2x4x4"
    options = ["--sizes", small, "--modes", "fwd", "--impl", "ours,late", "--rounds", "3", "--no-memory"]
    assert main(["bench", "pcm", *options, "--json", str(tmp_path / "out.json")]) == 0
    assert "late" in capfd.readouterr().out
    (document,) = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert document["operation"] == "pcm" and document["results"][0]["case"]["size"] == [1, 5, 2, 4, 4]
    assert main(["bench", "pcm", *options, "--malloc", "tuned", "--json", "-"]) == 0
    assert json.loads(capfd.readouterr().out)[0]["results"][0]["malloc"] == "tuned"


def test_list_names_every_operation(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list"]) == 0
    said = capfd.readouterr().out
    assert all(name in said for name in bench.names())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: OPERATION"),
        (["nothing"], "unknown operation 'nothing'"),
        (["pcm", "--sizes", "big"], "--sizes: expected numbers"),
        (["pcm", "--malloc", "jemalloc"], "--malloc: expected default or tuned"),
        (["pcm", "--device", "tpu"], "--device: expected cpu or cuda"),
        (["pcm", "--conditions", "--threads", "2"], "--conditions are about a CPU"),
        (["pcm", "--rounds", "0"], "--rounds: expected 1 or more"),
        (["pcm", "--no-such"], "unknown option"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pcm", "--sizes", "1x2"], "a size of pcm is NxDxCxHxW"),
        (["pcm", "--modes", "sideways"], "no mode 'sideways'"),
        (["pcm", "--impl", "flex"], "cannot run on cpu"),
        (["pcm", "--threads", "100000"], "100000 threads need as many cores"),
    ],
)
def test_what_an_operation_does_not_have(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 1
    assert message in capfd.readouterr().err


def test_cuda_without_a_device(capfd: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        return
    assert main(["bench", "pcm", "--device", "cuda"]) == 1
    assert "no CUDA device" in capfd.readouterr().err


@pytest.mark.cuda
def test_on_cuda(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--sizes", "1x32x5x16x16", "--rounds", "3", "--impl", "ours,eager", "--json", str(tmp_path / "out.json")]
    assert main(["bench", "pcm", "--device", "cuda", *options]) == 0
    (document,) = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    for result in document["results"]:
        assert result["floor_ms"] > 0
        assert set(result["contestants"][OURS]["times"]) == {"call", "graph", "cold"}, result["contestants"][OURS]["note"]


def test_scripts() -> None:
    subprocess.run(["bash", "-n", ROOT / "benchmarks" / "on_gpu.sh"], check=True, timeout=30)
    command = [sys.executable, ROOT / "benchmarks" / "sanitize.py", "--impl", "cpu"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert all(f"{name} " in said for name in bench.names() if (ROOT / "csrc" / name).is_dir())  # the rest joins operations
