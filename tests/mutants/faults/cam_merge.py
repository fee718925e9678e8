"""Faults in cam_merge."""

from __future__ import annotations

from faults._fault import Fault

CAM_TESTS = "tests/ops/test_cam_merge.py"
CAM = "csrc/cam_merge/cam_merge_cpu_body.h"

FAULTS = (
    Fault(
        "cam-flip-forgotten",
        "a mirrored map starts at its last pixel, and is then read forwards",
        CAM,
        "const int64_t step = flip ? -map.stride[3] : map.stride[3];",
        "const int64_t step = flip ? 0 : map.stride[3];",
        (f"{CAM_TESTS}::test_definition_by_hand",),
    ),
    Fault(
        "cam-maximum-of-a-lane",
        "the maximum of a class leaves out the last lane of its vectors",
        CAM,
        "for (int lane = 1; lane < kLanes<Sum>; ++lane) {",
        "for (int lane = 1; lane + 1 < kLanes<Sum>; ++lane) {",
        (f"{CAM_TESTS}::test_against_the_definition",),
    ),
    Fault(
        "cam-halved-eps",
        "half of eps is added to the maximum",
        CAM,
        "divisor = range.top - below + eps;",
        "divisor = range.top - below + eps / 2;",
        (f"{CAM_TESTS}::test_mean_and_minmax_by_hand",),
    ),
    Fault(
        "cam-cuda-lost-rows",
        "a walk that has to skip source rows goes on with the rows it holds",
        "csrc/cam_merge/merge.cuh",
        "if (wanted > at + kTaps) at = wanted - kTaps;",
        "if (wanted > at + kTaps) at = wanted;",
        (f"{CAM_TESTS}::test_against_the_definition",),
        ("simt",),
        "_simt",
    ),
    Fault(
        "cam-cuda-dropped-barrier",
        "the table of rows and weights is read while it is written",
        "csrc/cam_merge/merge.cuh",
        "weights[g][y][t] = taps.weight[t] * a.share;\n        }\n        __syncthreads();",
        "weights[g][y][t] = taps.weight[t] * a.share;\n        }",
        (f"{CAM_TESTS}::test_against_the_definition",),
        ("simt",),
        "_simt",
    ),
)
