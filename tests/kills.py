"""Live jobs that are killed: a process that has imported everything forks a job, in a group of its own, for each command.

Importing takes longer than the jobs of the tests. Only `wsss` commands are run, as `wsss_fast.cli.main` takes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PROGRAM = """
import json, os, sys
sys.path[:0] = [{tests!r}]
{preface}
from wsss_fast.cli import main
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # ours is for the answers below
        status = 1
        try:
            status = main(json.loads(line))
        finally:
            os._exit(status)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Jobs:
    """Runs commands one after another, each in a fork."""

    def __init__(self, preface: str = "") -> None:
        """preface: a program that imports what the jobs need, or puts stand-ins in place."""
        program = _PROGRAM.format(tests=str(Path(__file__).parent), preface=preface)
        paths = os.pathsep.join(entry for entry in sys.path if entry)
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout.readline() == "ready\n"

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def begin(self, command: list[object]) -> int:
        """The process that runs the command, and whose group it leads."""
        self._process.stdin.write(json.dumps([str(word) for word in command]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def end(self) -> int:
        """The exit status of the running command; minus a signal that ended it."""
        return int(self._process.stdout.readline())

    def run(self, command: list[object]) -> float:
        """Seconds that a command took that has to succeed."""
        started = time.monotonic()
        self.begin(command)
        assert self.end() == 0
        return time.monotonic() - started

    def kill(self, group: int) -> int:
        """Kills the running command's group with no chance to tidy up; its exit status."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended, or not begun its group
            os.killpg(group, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(group, signal.SIGKILL)
        return self.end()
