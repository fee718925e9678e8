"""Faults in random_walk."""

from __future__ import annotations

from faults._fault import Fault

WALK_TESTS = "tests/ops/test_random_walk.py"
WALK_CPU = "csrc/random_walk/random_walk_cpu_body.h"

FAULTS = (
    Fault(
        "walk-wrong-end",
        "the second pixel of a pair takes its weight from where it stands itself",
        WALK_CPU,
        "grid.plane + grid.at(y + dy, x + dx));",
        "grid.plane + grid.at(y, x));",
        (f"{WALK_TESTS}::test_against_the_definition",),
    ),
    Fault(
        "walk-rows-for-columns",
        "the reference divides by the sums of rows weighted with the map, not of columns of T",
        "wsss_fast/ops/_reference/random_walk.py",
        "return _times_matrix(x, pairs) / degree",
        "return _times_matrix(x / degree, pairs)",
        (f"{WALK_TESTS}::test_definition_by_hand",),
        module="",
    ),
    Fault(
        "walk-published-margin",
        "the published border keeps the pairs at the right margin",
        WALK_CPU,
        "x_end = grid.w - std::max<int64_t>(offset.dx, margin);",
        "x_end = grid.w - std::max<int64_t>(offset.dx, 0);",
        (f"{WALK_TESTS}::test_published_border_leaves_holes", f"{WALK_TESTS}::test_radius"),
    ),
    Fault(
        "walk-zero-to-the-zero",
        "an affinity of 0 becomes a pair of weight 1 when beta is 0",
        WALK_CPU,
        "return base > 0 ? result : Vec<Sum>{};",
        "return result;",
        (f"{WALK_TESTS}::test_beta",),
    ),
    Fault(
        "walk-series-not-divided",
        "what the cut series lacks at 1 is not made up for, so a constant map loses some of its value",
        "csrc/random_walk/series.h",
        "return {steps, last, 1 / (sum - dropped)};",
        "return {steps, last, 0.9999 / (sum - dropped)};",
        (f"{WALK_TESTS}::test_what_is_kept",),
    ),
    Fault(
        "walk-cuda-barrier",
        "a block goes on to the next step before its neighbours have finished theirs",
        "csrc/random_walk/walk_cluster.cuh",
        "prepare_coefficient(p, k + 1, &last, coefficients);\n        cluster_sync();",
        "prepare_coefficient(p, k + 1, &last, coefficients);\n        __syncthreads();",
        (f"{WALK_TESTS}::test_against_the_definition",),
        ("simt",),
        "_simt",
    ),
    Fault(
        "walk-cuda-halo",
        "the block below does not get the last rows of a strip",
        "csrc/random_walk/walk_cluster.cuh",
        "block * strips.rows <= at + kReach; ++block)",
        "block * strips.rows <= at; ++block)",
        (f"{WALK_TESTS}::test_against_the_definition",),
        ("simt",),
        "_simt",
    ),
    Fault(
        "walk-cuda-sign",
        "the second pixel of a pair looks the wrong way",
        "csrc/random_walk/walk_grid.cuh",
        "add_scaled(&sum, weights[e * g.plane - offset], now[-offset]);",
        "add_scaled(&sum, weights[e * g.plane - offset], now[offset]);",
        (f"{WALK_TESTS}::test_radius",),
        ("simt",),
        "_simt",
    ),
)
