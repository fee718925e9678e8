"""The pairs of an affinity graph: offsets (dy, dx) with dy^2 + dx^2 < radius^2, each pair once, in AffinityNet's order."""

from __future__ import annotations

MAX_RADIUS = 32  # wsss::kMaxPairRadius in csrc/common/half_disc.h


def half_disc(radius: int) -> list[tuple[int, int]]:
    """Row 0 to the right of the centre, then the rows below it from left to right: 34 offsets for radius 5, 152 for 10."""
    return [
        (dy, dx)
        for dy in range(radius)
        for dx in range(1 if dy == 0 else 1 - radius, radius)
        if dy * dy + dx * dx < radius * radius
    ]
