"""Faults in edge_affinity."""

from __future__ import annotations

from faults._fault import Fault

TESTS = "tests/ops/test_affinity.py"
CPU = "csrc/edge_affinity/edge_affinity_cpu_body.h"

FAULTS = (
    Fault(
        "edge-last-maximum",
        "the last of equal maxima takes the gradient",
        CPU,
        "(value > best) |",
        "(value >= best) |",
        (f"{TESTS}::test_the_first_of_equal_edges_takes_the_gradient",),
    ),
    Fault(
        "edge-lost-nan",
        "a NaN on a path is passed over",
        CPU,
        "((value != value) & (best == best))",
        "((value != value) & (best != best))",
        (f"{TESTS}::test_not_finite",),
    ),
)
