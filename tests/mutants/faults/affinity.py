"""Faults in affinity."""

from __future__ import annotations

from faults._fault import Fault

AFFINITY_TESTS = "tests/ops/test_affinity.py"
AFFINITY = (f"{AFFINITY_TESTS}::test_forward_and_gradients",)
AFFINITY_CPU = "csrc/affinity/affinity_cpu_body.h"
AFFINITY_CUDA = "csrc/affinity/affinity_cuda.cu"

FAULTS = (
    Fault(
        "affinity-lost-channels",
        "the last, partial slice of channels is not added",
        AFFINITY_CPU,
        "first < shape.c; first += kSlice) {",
        "first + kSlice <= shape.c; first += kSlice) {",
        AFFINITY,
    ),
    Fault(
        "affinity-sign-of-zero",
        "equal features count as smaller",
        AFFINITY_CPU,
        "value[c] < other ? weight",
        "value[c] <= other ? weight",
        (f"{AFFINITY_TESTS}::test_gradient_of_equal_features_is_zero",),
    ),
    Fault(
        "affinity-one-end",
        "pairs that end at a pixel take the weight of those that begin there",
        AFFINITY_CPU,
        "dy = end * offset.dy, dx = end * offset.dx;",
        "dy = 0 * offset.dy, dx = 0 * offset.dx;",
        AFFINITY,
    ),
    Fault(
        "cuda-affinity-barrier",
        "a slice of channels is overwritten while other warps still read it",
        AFFINITY_CUDA,
        "__syncthreads();  // the slice before has been used",
        "",
        (f"{AFFINITY_TESTS}::test_affinitynet_channels",),
        ("simt",),
        "_simt",
    ),
    Fault(
        "cuda-affinity-lost-part",
        "the last part of split channels is not added",
        AFFINITY_CUDA,
        "for (int64_t split = 0; split < g.splits; ++split)",
        "for (int64_t split = 0; split + 1 < g.splits; ++split)",
        (f"{AFFINITY_TESTS}::test_affinitynet_channels",),
        ("simt",),
        "_simt",
    ),
)
