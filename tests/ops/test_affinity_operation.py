"""affinity and edge_affinity as torch operations: what they alone refuse, and what the compiled functions refuse."""

from __future__ import annotations

import pytest
import torch
from affinity_cases import BOTH, Case

from wsss_fast import _native, ops


@pytest.fixture(params=BOTH, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


# ---- bad input ------------------------------------------------------------------------------------------------------------

FEATURE, LABELS = torch.rand(2, 6, 4, 5), torch.zeros(2, 4, 5, dtype=torch.uint8)
BAD = {
    "radius 0": (lambda: ops.affinity(FEATURE, 0), ValueError, "affinity: 'radius' must be a whole number from 1 to 32, got 0"),
    "radius 33": (
        lambda: ops.affinity(FEATURE, 33),
        ValueError,
        "affinity: 'radius' must be a whole number from 1 to 32, got 33",
    ),
    "radius 2.5": (lambda: ops.affinity(FEATURE, 2.5), ValueError, "affinity: 'radius' must be a whole number .* got 2.5"),
    "radius True": (
        lambda: ops.affinity_offsets(True),
        ValueError,
        "affinity_offsets: 'radius' must be a whole number .* got True",
    ),
    "two edges": (
        lambda: ops.edge_affinity(FEATURE, 5),
        ValueError,
        r"edge_affinity: 'edge' must have shape \[N, 1, H, W\] = \[any, 1, any, any\].*, got \[2, 6, 4, 5\]",
    ),
    "edge radius": (lambda: ops.edge_affinity(FEATURE[:, :1], -1), ValueError, "edge_affinity: 'radius' must be a whole number"),
    "planes of another radius": (
        lambda: ops.affinity_pairs(FEATURE),
        ValueError,
        r"affinity_pairs: 'planes' must have shape .* = \[any, 34, any, any\] \(E for radius 5\), got \[2, 6, 4, 5\]",
    ),
    "float labels": (lambda: ops.affinity_labels(LABELS.float()), TypeError, "affinity_labels: 'labels' must be of type uint8"),
    "label channels": (
        lambda: ops.affinity_labels(LABELS[None]),
        ValueError,
        r"affinity_labels: 'labels' must have shape \[N, H, W\]",
    ),
    "border": (
        lambda: ops.affinity_labels(LABELS, border="half"),
        ValueError,
        "affinity_labels: 'border' must be 'full' or 'published', got 'half'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


VIEW = (16, 0, 0, 0, (1, 1, 3, 4), (12, 12, 4, 1))
PLANES = (16, 0, 0, 0, (1, 12, 3, 4), (144, 12, 4, 1))
CPU = (0, 0, 1, 0)


def test_the_compiled_function_checks_too(case: Case) -> None:
    """Called without the Python checks, they refuse what does not fit before they touch memory."""
    module = _native.load()
    forward, backward = (getattr(module, f"{case.name}_{part}") for part in ("forward", "backward"))
    workspace = getattr(module, f"{case.name}_forward_workspace")
    planes = (PLANES, VIEW, PLANES) if case.channels is None else (PLANES, VIEW)
    for radius in (0, -(2**40), 33, 2**40):
        with pytest.raises(ValueError, match=rf"{case.name}: 'radius' must be a whole number from 1 to 32, got {radius}"):
            workspace(VIEW, radius, CPU)
    with pytest.raises(ValueError, match=rf"{case.name}: 'out' must have shape \[N, E, H, W\] = \[1, 34, 3, 4\], got"):
        forward(VIEW, 5, PLANES, None, CPU)
    with pytest.raises(TypeError, match=rf"{case.name}: 'out' must have the type of"):
        forward(VIEW, 3, (16, 2, *PLANES[2:]), None, CPU)
    with pytest.raises(ValueError, match=rf"{case.name}: 'out' must be contiguous"):
        forward(VIEW, 3, (*PLANES[:5], (144, 1, 48, 12)), None, CPU)
    with pytest.raises(ValueError, match=rf"{case.name}: 'workspace' must hold at least \d+ bytes, got"):
        forward(VIEW, 3, PLANES, None, CPU)
    with pytest.raises(ValueError, match=rf"{case.name}: 'grad_\w+' must have shape"):
        backward(*planes, 3, PLANES, None, CPU)
