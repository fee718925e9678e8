// The pairs of an affinity graph: pixels less than `radius` apart, each pair once.
//
// Offsets (dy, dx) run through the half disc dy^2 + dx^2 < radius^2 in the order of AffinityNet: row 0 to the right of the
// centre, then the rows below it from left to right. Radius 5 gives 34 of them, radius 10 gives 152.
#pragma once

#include <cstdint>

namespace wsss {

constexpr int kMaxPairRadius = 32;

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

// ---- The same by arithmetic, for kernels -----------------------------------------------------------------------------------

// The largest |dx| in row dy of the disc, and the largest dy in column dx.
constexpr int half_width(int radius, int dy) {
    int width = radius - 1;
    while (width * width + dy * dy >= radius * radius) --width;
    return width;
}

// The plane of an offset.
constexpr int plane_of(int radius, int dy, int dx) {
    if (dy == 0) return dx - 1;
    int before = radius - 1;
    for (int row = 1; row < dy; ++row) before += 2 * half_width(radius, row) + 1;
    return before + half_width(radius, dy) + dx;
}

constexpr PairOffset offset_of(int radius, int plane) {
    if (plane < radius - 1) return {0, plane + 1};
    plane -= radius - 1;
    for (int dy = 1;; ++dy) {
        const int width = half_width(radius, dy);
        if (plane <= 2 * width) return {dy, plane - width};
        plane -= 2 * width + 1;
    }
}

constexpr bool offsets_agree(int radius) {
    bool good = true;
    for_each_pair_offset(radius, [&](int64_t plane, PairOffset offset) {
        const PairOffset found = offset_of(radius, static_cast<int>(plane));
        good = good && found.dy == offset.dy && found.dx == offset.dx && plane_of(radius, offset.dy, offset.dx) == plane;
    });
    return good;
}
static_assert(offsets_agree(1) && offsets_agree(2) && offsets_agree(5) && offsets_agree(10));

}  // namespace wsss
