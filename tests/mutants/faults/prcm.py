"""Faults in prcm."""

from __future__ import annotations

from faults._fault import Fault

PRCM = "tests/ops/test_prcm.py"
PRCM_CPU = "csrc/prcm/prcm_cpu_body.h"
PRCM_CPU_BACKWARD = "csrc/prcm/prcm_cpu_backward_body.h"

FAULTS = (
    Fault(
        "prcm-transposed-view",
        "layout 'view' transposes after all",
        "csrc/prcm/prcm.h",
        "return view ? c * shape.c2 + d : d * shape.c + c;",
        "return d * shape.c + c;",
        (f"{PRCM}::test_definition_by_hand",),
    ),
    Fault(
        "prcm-open-mask",
        "the gradient of phi passes where the key's ReLU was closed",
        PRCM_CPU_BACKWARD,
        "gradient[i] = key[i] <= 0 ? 0 : product[d * work.width + c];",
        "gradient[i] = product[d * work.width + c];",
        (f"{PRCM}::test_gradients_by_hand",),
    ),
    Fault(
        "prcm-lost-tail",
        "pixels beyond the last full block weigh nothing in the class's average",
        PRCM_CPU,
        "std::fill(row + count, row + kBlock, Sum(0));\n    }\n    turn_into_weights",
        "std::fill(row + (count < kBlock ? 0 : count), row + kBlock, Sum(0));\n    }\n    turn_into_weights",
        (f"{PRCM}::test_many_tiles",),
    ),
    Fault(
        "prcm-wrong-axis",
        "the gradient subtracts the sum over pixels where the gate sums to 1 over classes",
        PRCM_CPU_BACKWARD,
        "if (!work.options.over_classes) std::fill(inner",
        "if (work.options.over_classes) std::fill(inner",
        (f"{PRCM}::test_forward_and_gradients",),
    ),
    Fault(
        "prcm-cuda-barrier",
        "the partial sums of the key's classes are read before all warps have written them",
        "csrc/prcm/prcm_cuda_backward.cu",
        "parts[warp][lane] = part;\n            __syncthreads();",
        "parts[warp][lane] = part;",
        (f"{PRCM}::test_forward_and_gradients",),
        ("simt",),
        "_simt",
    ),
    Fault(
        "prcm-cuda-base",
        "parts of a softmax are added without bringing them to one maximum",
        "csrc/prcm/prcm.cuh",
        "sum += expf(parts[i].x - maximum) * parts[i].y;",
        "sum += parts[i].y;",
        (f"{PRCM}::test_many_tiles",),
        ("simt",),
        "_simt",
    ),
)
