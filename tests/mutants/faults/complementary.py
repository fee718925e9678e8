"""Faults in complementary."""

from __future__ import annotations

from faults._fault import Fault

PAIR = "tests/ops/test_complementary.py"

FAULTS = (
    Fault(
        "pair-draws-one-less",
        "one segment fewer than asked for is hidden",
        "csrc/complementary/complementary_cpu.cpp",
        "limit = uint64_t{numbers[hidden - 1]} + 1;",
        "limit = uint64_t{numbers[hidden - 1]};",
        (f"{PAIR}::test_against_the_definition", f"{PAIR}::test_many_cells"),
    ),
    Fault(
        "pair-masked-counted",
        "masked pixels count in the share",
        "csrc/complementary/complementary_cpu.cpp",
        "block.counted += w - masked;",
        "block.counted += w;",
        (f"{PAIR}::test_against_the_definition",),
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
)
