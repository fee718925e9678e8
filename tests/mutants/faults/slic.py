"""Faults in slic."""

from __future__ import annotations

from faults._fault import Fault

SLIC = ("tests/ops/test_slic.py::test_equals_the_reference",)

FAULTS = (
    Fault(
        "slic-lost-rows",
        "the lower half of a tile is missing from the means",
        "csrc/slic/slic_cpu_body.h",
        "first < rows.count; first += 8",
        "first < rows.count; first += 16",
        SLIC,
    ),
    Fault(
        "slic-no-slope-in-x",
        "the distance in x counts from the corner of the tile only",
        "csrc/slic/slic_cpu.cpp",
        "pair_of(cost.b, cost.x)",
        "pair_of(cost.b, 0)",
        SLIC,
    ),
    Fault(
        "slic-mask-of-the-first-vector",
        "each vector of a row takes the mask of the first",
        "csrc/slic/slic_cpu_body.h",
        "valid >> (v * kLanes<int32_t>)",
        "valid",
        SLIC,
    ),
    Fault(
        "slic-one-neighbour-below",
        "a small segment sees one of the runs below it",
        "csrc/slic/slic_connect_body.h",
        "runs.start[other + 1] - width > start",
        "other == runs.below[run]",
        SLIC,
    ),
    Fault(
        "slic-means-cut-off",
        "means are cut off instead of rounded",
        "csrc/slic/slic_rules.h",
        "floor_div(2 * kFraction * sum + count, 2 * count)",
        "floor_div(kFraction * sum, count)",
        SLIC,
    ),
    Fault(
        "cuda-slic-lost-link",
        "a link that another thread made at the same time is forgotten when pieces are united",
        "csrc/slic/slic_assign.cuh",
        "a = found;",
        "(void)found;",
        ("tests/ops/test_slic.py::test_equals_the_reference_at_size",),
        ("simt",),
        "_simt",
    ),
    Fault(
        "cuda-slic-early-barrier",
        "pieces are gathered while others still unite theirs",
        "csrc/slic/slic_cuda.cu",
        "join_across_tiles(work);\n    grid_sync();",
        "join_across_tiles(work);",
        ("tests/ops/test_slic.py::test_equals_the_reference_at_size",),
        ("simt",),
        "_simt",
    ),
)
