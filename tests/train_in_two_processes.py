"""Started by torchrun with two processes (test_train_processes.py): what they do together, written to the folder argv[1]."""

from __future__ import annotations

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


main(Path(sys.argv[1]))
