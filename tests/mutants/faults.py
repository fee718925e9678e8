"""The seeded faults: mistakes somebody could make, each a text that stands exactly once in a file and what it becomes.

To add one, name the tests that must fail with it; they are run with `--impl` set to the implementations given.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    name: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    impl: tuple[str, ...] = ("plain",)
    module: str = "_kernels"  # what has to be built again: _kernels, _simt, or "" for a fault in Python


PCM = "tests/ops/test_pcm.py"
FORWARD = (f"{PCM}::test_forward",)
GRADIENTS = (f"{PCM}::test_gradients",)
MANY_TILES = (f"{PCM}::test_many_tiles",)

PAIR = "tests/ops/test_complementary.py"
SLIC = ("tests/ops/test_slic.py::test_equals_the_reference",)
CRF_TESTS = "tests/ops/test_dense_crf.py"
CRF = "csrc/dense_crf/dense_crf_cpu_body.h"
LATTICE = "csrc/dense_crf/lattice_body.h"
CPU = "csrc/pcm/pcm_cpu_body.h"
CUDA = "csrc/pcm/pcm_cuda.cu"
GRADIENT = "csrc/pcm/pcm_gradient.cuh"

FAULTS = (
    Fault(
        "reference-axis",
        "the reference normalises over pixels instead of channels",
        "wsss_fast/ops/_reference/pcm.py",
        "vector_norm(x, dim=1, keepdim=True)",
        "vector_norm(x, dim=2, keepdim=True)",
        (f"{PCM}::test_definition_by_hand",),
        module="",
    ),
    Fault(
        "backward-without-eps",
        "eps does not reach the backward pass",
        "wsss_fast/ops/pcm.py",
        "feature, out, denominator, ctx.eps, want, ctx.impl)",
        "feature, out, denominator, 0.0, want, ctx.impl)",
        GRADIENTS,
        module="",
    ),
    Fault(
        "halved-eps",
        "half of eps is added to the norm",
        CPU,
        "scale[i] = norm == 0 ? 0 : 1 / (norm + work.eps);",
        "scale[i] = norm == 0 ? 0 : 1 / (norm + work.eps / 2);",
        FORWARD,
    ),
    Fault(
        "signs-by-luck",
        "cosines within rounding of 0 keep the sign float32 gave them",
        CPU,
        "constexpr Sum kDoubt = sizeof(Sum) == 4 ? Sum(1e-6) : Sum(0), kTiny",
        "constexpr Sum kDoubt = Sum(0), kTiny",
        (f"{PCM}::test_signs_near_zero",),
    ),
    Fault(
        "swapped-offsets",
        "rows and columns exchange their strides in a panel",
        CPU,
        "offset[i] = y * source.y + x * source.x;",
        "offset[i] = y * source.x + x * source.y;",
        (f"{PCM}::test_layouts",),
    ),
    Fault(
        "wrong-stride-in-pack",
        "the second image reads features of the first",
        CPU,
        "pixels.load(feature.data + image * feature.n + d * feature.channel, row);",
        "pixels.load(feature.data + image * feature.channel + d * feature.channel, row);",
        FORWARD,
    ),
    Fault(
        "lost-tail",
        "pixels beyond the last full super-block meet nobody",
        CPU,
        "const int64_t players = ceil_div(work.pixels, kSuperBlock), pairs",
        "const int64_t players = std::max<int64_t>(1, work.pixels / kSuperBlock), pairs",
        MANY_TILES,
    ),
    Fault(
        "dropped-transposed-side",
        "a tile off the diagonal serves one of its two sides",
        CPU,
        "if (a == b) return;",
        "if (a <= b) return;",
        MANY_TILES,
    ),
    Fault(
        "dropped-ones",
        "the last pixel of a panel is missing from the column of ones, so from the denominators",
        CPU,
        "for (int i = 0; i < pixels.count; ++i) values[i * width + shape.c] = 1;",
        "for (int i = 0; i + 1 < pixels.count; ++i) values[i * width + shape.c] = 1;",
        FORWARD,
    ),
    Fault(
        "sign-of-d",
        "the term of the normalisation is added instead of subtracted in backward",
        CPU,
        "right[(2 * shape.c + 1) * kPanel<Sum> + i] = -inner[i];",
        "right[(2 * shape.c + 1) * kPanel<Sum> + i] = inner[i];",
        GRADIENTS,
    ),
    Fault(
        "inverted-mask",
        "the gradient passes where the affinity was cut off, and nowhere else",
        "csrc/common/tile_product.h",
        "*c = *c == 0 ? V{} : value;",
        "*c = *c == 0 ? value : V{};",
        GRADIENTS,
    ),
    Fault(
        "half-rounding",
        "bfloat16 is cut off instead of rounded",
        "csrc/common/half.h",
        "(bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16",
        "bits >> 16",
        ("tests/ops/test_rounding.py",),
    ),
    Fault(
        "pool-after-fork",
        "a forked process keeps the parent's thread pool, whose threads it does not have",
        "csrc/common/threads.cpp",
        "current_pool = new Pool;\n            inside_a_task = false;",
        "inside_a_task = false;",
        ("tests/ops/test_pcm_operation.py::test_data_loader_worker",),
        impl=(),
    ),
    Fault(
        "cuda-dropped-barrier",
        "the sums are read before all warps have written them",
        CUDA,
        "__syncthreads();\n        if (slab == 0 && warp == 0) {",
        "if (slab == 0 && warp == 0) {",
        FORWARD,
        ("simt",),
        "_simt",
    ),
    Fault(
        "cuda-early-wait",
        "a tile is used while its copy may still be under way",
        CUDA,
        "cp_async_wait<kStages - 2>();",
        "cp_async_wait<kStages - 1>();",
        FORWARD,
        ("simt",),
        "_simt",
    ),
    Fault(
        "cuda-lost-tail",
        "the last pixels, which do not fill a group, are not written",
        CUDA,
        "const int64_t blocks = geometry.images * ceil_div(geometry.pixels, kPixelGroup);",
        "const int64_t blocks = geometry.images * (geometry.pixels / kPixelGroup + (geometry.pixels < kPixelGroup));",
        FORWARD,
        ("simt",),
        "_simt",
    ),
    Fault(
        "cuda-shared-slot",
        "two row tiles of one worker write their partial sums to the same place",
        "csrc/pcm/pcm_tile.cuh",
        "{ return worker + row_tile; }",
        "{ return worker; }",
        MANY_TILES,
        ("simt",),
        "_simt",
    ),
    Fault(
        "cuda-inverted-mask",
        "the gradient passes where the affinity was cut off",
        GRADIENT,
        "[n][e] <= 0.0f ?",
        "[n][e] > 0.0f ?",
        GRADIENTS,
        ("simt",),
        "_simt",
    ),
    Fault(
        "cuda-sign-of-d",
        "d' has the wrong sign on the GPU",
        "csrc/pcm/pcm_cuda_backward.cu",
        "offset += scaled * loaded[2][i];",
        "offset -= scaled * loaded[2][i];",
        GRADIENTS,
        ("simt",),
        "_simt",
    ),
    Fault(
        "cuda-ring-barrier",
        "a stage of the ring is read before all warps have waited for their copies",
        CUDA,
        "cp_async_wait<kStages - 2>();\n            __syncthreads();",
        "cp_async_wait<kStages - 2>();",
        FORWARD,
        ("simt",),
        "_simt",
    ),
    Fault(
        "crf-blur-one-sided",
        "the lattice's blur takes the left neighbour twice",
        LATTICE,
        "row.add_scaled(from + unsigned_index(neighbours[2 * v + 1]) * length, 0.5f);",
        "row.add_scaled(from + unsigned_index(neighbours[2 * v]) * length, 0.5f);",
        (f"{CRF_TESTS}::test_against_the_definition",),
    ),
    Fault(
        "crf-wrong-normalisation",
        "the symmetric normalisation divides by n instead of its root",
        LATTICE,
        "*= 1.0f / std::sqrt(norm);",
        "*= 1.0f / norm;",
        (f"{CRF_TESTS}::test_against_the_definition",),
    ),
    Fault(
        "crf-lost-tail",
        "the last, partial block of pixels is not splat",
        CRF,
        "for (Term& term : terms) splat_all<kSlab>(g, term, first, count, result);",
        "for (Term& term : terms) splat_all<kSlab>(g, term, first, count < kBlock ? 0 : count, result);",
        (f"{CRF_TESTS}::test_against_the_definition",),
    ),
    Fault(
        "crf-compat-sign",
        "a vector compat is added instead of subtracted",
        CRF,
        "row[l] -= sum;",
        "row[l] += sum;",
        (f"{CRF_TESTS}::test_compatibilities",),
    ),
    Fault(
        "pair-draws-one-less",
        "one segment fewer than asked for is hidden",
        "csrc/complementary/complementary_cpu.cpp",
        "limit = uint64_t{numbers[hidden - 1]} + 1;",
        "limit = uint64_t{numbers[hidden - 1]};",
        (f"{PAIR}::test_definition", f"{PAIR}::test_many_cells"),
    ),
    Fault(
        "pair-masked-counted",
        "masked pixels count in the share",
        "csrc/complementary/complementary_cpu.cpp",
        "block.counted += w - masked;",
        "block.counted += w;",
        (f"{PAIR}::test_definition",),
    ),
    Fault(
        "cuda-pair-digit-order",
        "the select looks at the numbers of every digit, not of those that agree with the chosen ones before",
        "csrc/complementary/complementary_cuda.cu",
        "if (uint64_t{number} >> (shift + kDigitBits) == prefix)",
        "if (shift >= 0)",
        (f"{PAIR}::test_many_cells",),
        ("simt",),
        "_simt",
    ),
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
        "slic_floor_div(2 * kSlicFraction * sum + count, 2 * count)",
        "slic_floor_div(kSlicFraction * sum, count)",
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
