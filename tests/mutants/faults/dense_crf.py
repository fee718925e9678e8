"""Faults in dense_crf."""

from __future__ import annotations

from faults._fault import Fault

CRF_TESTS = "tests/ops/test_dense_crf.py"
CRF = "csrc/dense_crf/dense_crf_cpu_body.h"
LATTICE = "csrc/dense_crf/lattice_body.h"

FAULTS = (
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
        "crf-no-zero-feature",
        "lattices lack the vertices of feature 0",
        LATTICE,
        "first + p < pixels ? from[p] : 0;",
        "first + p < pixels ? from[p] : from[0];",
        (f"{CRF_TESTS}::test_pixels_that_4_does_not_divide",),
    ),
    Fault(
        "crf-identity-too-early",
        "positions in units of half a pixel count as apart",
        "wsss_fast/ops/dense_crf.py",
        "max(sigma_x, sigma_y) <= 1 / 3",
        "max(sigma_x, sigma_y) <= 3 / 4",
        (f"{CRF_TESTS}::test_pixels_that_4_does_not_divide",),
        module="",
    ),
    Fault(
        "crf-compat-sign",
        "a vector compat is added instead of subtracted",
        CRF,
        "row[l] -= sum;",
        "row[l] += sum;",
        (f"{CRF_TESTS}::test_compatibilities",),
    ),
)
