"""Implementations as a parameter, threads that wait quietly, and the rule that a skip must be on the committed list."""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

# Before torch comes: its threads are to sleep, not spin, while one waits for another. On a busy machine the many small operations
# of the reference would wait fifty times longer than they take.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from helpers import CPU_LEVELS, IMPLEMENTATIONS, Implementation, why_not
from toml import read_toml

# Files that take seconds to make and that all processes of a run share: workers inherit the name of the folder.
if "WSSS_TEST_FILES" not in os.environ:
    _files = TemporaryDirectory(prefix="wsss-tests-")
    os.environ["WSSS_TEST_FILES"] = _files.name
    os.environ["WSSS_CACHE"] = f"{_files.name}/cache"  # never the user's own

ALLOWED_SKIPS = Path(__file__).parent / "allowed_skips.toml"


def pytest_addoption(parser: pytest.Parser) -> None:
    choices = ("reference", "cpu", *CPU_LEVELS, "simt", "cuda")
    parser.addoption("--impl", action="append", choices=choices, help="run only these implementations (may be repeated)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, kernels_only in (("impl", False), ("kernel", True)):
        if fixture in metafunc.fixturenames:
            asked = metafunc.config.getoption("--impl")
            chosen = [
                pytest.param(impl, id=impl.id, marks=[pytest.mark.cuda] if impl.name == "cuda" else [])
                for impl in IMPLEMENTATIONS
                if not (kernels_only and impl.name == "reference") and (not asked or impl.name in asked or impl.id in asked)
            ]
            metafunc.parametrize(fixture, chosen, indirect=True)


def _implementation(request: pytest.FixtureRequest) -> Implementation:
    impl: Implementation = request.param
    if reason := why_not(impl):
        pytest.skip(reason)
    return impl


@pytest.fixture
def impl(request: pytest.FixtureRequest):
    """Every implementation in turn, the reference included."""
    chosen = _implementation(request)
    with chosen.active():
        yield chosen


@pytest.fixture
def kernel(request: pytest.FixtureRequest):
    """Every implementation but the reference."""
    chosen = _implementation(request)
    with chosen.active():
        yield chosen


@pytest.fixture
def one_thread():
    """Two OpenMP threads that wait for each other on a busy machine take five times as long as one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


_skipped: list[tuple[str, str]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skipped.append((report.nodeid, reason.removeprefix("Skipped: ")))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    allowed = read_toml(ALLOWED_SKIPS)[kind]
    unexpected = [
        (test, reason)
        for test, reason in _skipped
        if not any(fnmatch.fnmatch(test, rule["test"]) and rule["reason"] in reason for rule in allowed)
    ]
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if unexpected and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if reporter:
        for reason, count in Counter(reason for _, reason in _skipped).most_common():
            reporter.write_line(f"\n{count} skipped: {reason}")
    for test, reason in unexpected:
        if reporter:
            reporter.write_line(f"\nskip that is not on {ALLOWED_SKIPS.name} for a {kind} machine: {test}: {reason}", red=True)
