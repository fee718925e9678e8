// What the CPU kernels of affinity and edge_affinity share: the cut of an image into tiles, and the padded copy of a tile's
// surroundings.
#pragma once

#include <algorithm>
#include <cstring>

#include "common/half.h"
#include "common/pair_planes.h"
#include "common/strided.h"
#include "common/workspace.h"

namespace wsss {
namespace {

constexpr int64_t kTileRows = 4, kTileColumns = 64;
constexpr int64_t kRowPadding = 16;  // rows of a copy are multiples of the widest vector

struct Tile {
    int64_t image, y, x, rows, columns;
};

inline int64_t tile_count(const PairShape& shape) {
    return shape.n * ceil_div(shape.h, kTileRows) * ceil_div(shape.w, kTileColumns);
}

inline Tile tile_at(const PairShape& shape, int64_t task) {
    const int64_t across = ceil_div(shape.w, kTileColumns), down = ceil_div(shape.h, kTileRows);
    const int64_t y = task / across % down * kTileRows, x = task % across * kTileColumns;
    return {task / across / down, y, x, std::min(kTileRows, shape.h - y), std::min(kTileColumns, shape.w - x)};
}

// The rows and columns around a tile that its pairs reach.
struct Surroundings {
    int64_t above, beside, rows, pitch;
    Surroundings() = default;
    Surroundings(int radius, bool both_ways) {
        beside = radius - 1;
        above = both_ways ? radius - 1 : 0;
        rows = kTileRows + above + radius - 1;
        pitch = round_up(kTileColumns + 2 * beside, kRowPadding);
    }
    int64_t size() const { return rows * pitch; }
    int64_t origin() const { return above * pitch + beside; }  // of the tile's first pixel
};

// One channel of a tile and its surroundings, 0 outside the image.
template <class T, class Sum>
void copy_surroundings(const PairShape& shape, const Strided<T>& source, const Tile& tile, int64_t channel,
                       const Surroundings& around, Sum* to) {
    const int64_t first = std::max<int64_t>(tile.x - around.beside, 0);
    const int64_t end = std::min(tile.x + kTileColumns + around.beside, shape.w);
    const int64_t before = first - (tile.x - around.beside);
    for (int64_t row = 0; row < around.rows; ++row, to += around.pitch) {
        const int64_t y = tile.y - around.above + row;
        if (y < 0 || y >= shape.h) {
            std::memset(to, 0, sizeof(Sum) * around.pitch);
            continue;
        }
        const T* from = source.data + tile.image * source.n + channel * source.channel + y * source.y + first * source.x;
        for (int64_t i = 0; i < before; ++i) to[i] = 0;
        if (source.x == 1)
            for (int64_t i = 0; i < end - first; ++i) to[before + i] = to_float(from[i]);
        else
            for (int64_t i = 0; i < end - first; ++i) to[before + i] = to_float(from[i * source.x]);
        for (int64_t i = before + end - first; i < around.pitch; ++i) to[i] = 0;
    }
}

// Whether p + offset lies inside the image.
inline bool is_pair(const PairShape& shape, int64_t y, int64_t x, PairOffset offset) {
    return y + offset.dy < shape.h && x + offset.dx >= 0 && x + offset.dx < shape.w;
}

}  // namespace
}  // namespace wsss
