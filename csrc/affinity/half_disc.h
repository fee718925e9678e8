// The pairs of an affinity graph: pixels less than `radius` apart, each pair once.
//
// Offsets (dy, dx) run through the half disc dy^2 + dx^2 < radius^2 in the order of AffinityNet: row 0 to the right of the
// centre, then the rows below it from left to right. Radius 5 gives 34 of them, radius 10 gives 152.
#pragma once

#include <cstdint>

namespace wsss {

constexpr int kMaxAffinityRadius = 32;

struct PairOffset {
    int dy, dx;
};

// Calls visit(index, PairOffset) for each offset in order and returns how many there are.
template <class Visit>
constexpr int64_t for_each_pair_offset(int radius, Visit&& visit) {
    int64_t count = 0;
    for (int dy = 0; dy < radius; ++dy)
        for (int dx = dy == 0 ? 1 : 1 - radius; dx < radius; ++dx)
            if (dy * dy + dx * dx < radius * radius) visit(count++, PairOffset{dy, dx});
    return count;
}

constexpr int64_t pair_offset_count(int radius) {
    return for_each_pair_offset(radius, [](int64_t, PairOffset) {});
}

static_assert(pair_offset_count(5) == 34 && pair_offset_count(10) == 152);

}  // namespace wsss
