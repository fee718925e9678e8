"""Faults in slic."""

from __future__ import annotations

from faults._fault import Fault

FAULTS = (
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
