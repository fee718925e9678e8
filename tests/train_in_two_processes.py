"""Started by torchrun with two processes (test_train_processes.py): what they do together, written to the
folder argv[1]; argv[2] says which part."""

from __future__ import annotations

import atexit
import sys
from pathlib import Path

import torch
from training import RandomFeed, fit, narrow, still

from wsss_fast.train import processes


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with processes.joined("cpu") as joined:

        def run(name: str, training, **options):
            return fit(folder / name, training, RandomFeed(rank=joined.rank, size=joined.size), joined, **options)

        run("same", still(narrow()))
        run("accumulated", still(narrow(accumulate=2)))
        asked = []
        outcome = run("cut", narrow(), stop=lambda: asked.append(1) or (joined.rank == 1 and len(asked) == 2))
        assert (outcome.step, outcome.stopped) == (2, True)
        run("cut", narrow(seed=joined.rank + 5))
        run("whole", narrow())
        broken = narrow()
        if joined.rank == 1:
            broken.register_forward_hook(lambda module, given, terms: {name: value / 0 for name, value in terms.items()})
        try:
            run("broken", broken)
        except FloatingPointError as error:
            (folder / f"broken-{joined.rank}.txt").write_text(str(error))
        total = processes.distributed.get_world_size()
        (folder / f"done-{joined.rank}.txt").write_text(str(total))
    (folder / f"threads-{joined.rank}.txt").write_text(str(threads_of_gloo()))


def one_fails(folder: Path) -> None:
    """The second process raises in the middle of the training."""
    with processes.joined("cpu") as joined:
        feed = RandomFeed(rank=joined.rank, size=joined.size)

        def fail(epoch: int, place: int) -> None:
            if (joined.rank, epoch, place) == (1, 0, 2):
                raise ZeroDivisionError("on purpose")

        feed.before = fail
        try:
            fit(folder / "failed", narrow(), feed, joined)
        except Exception as error:
            (folder / f"failed-{joined.rank}.txt").write_text(f"{type(error).__name__}: {error}")
            raise
        finally:
            atexit.register(lambda: (folder / f"failed-threads-{joined.rank}.txt").write_text(str(threads_of_gloo())))


def threads_of_gloo() -> int:
    """Threads that still run what was asked of the group."""
    return sum(path.read_text().strip() == "pt_gloo_runloop" for path in Path("/proc/self/task").glob("*/comm"))


{"main": main, "one_fails": one_fails}[sys.argv[2]](Path(sys.argv[1]))
