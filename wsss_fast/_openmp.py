"""How OpenMP threads of torch wait for each other. To be called before torch is imported."""

from __future__ import annotations

import os


def wait_without_spinning() -> None:
    """Threads that spin hold the cores of those they wait for: on a busy machine labelling ran 2 to 4 times slower."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
