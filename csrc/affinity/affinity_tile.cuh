// What the CUDA kernels of this folder share: the half disc by arithmetic instead of a list, tiles of pixels, strided inputs.
#pragma once

#include "affinity/affinity.h"
#include "common/cuda.cuh"
#include "common/strided.h"
#include "common/workspace.h"

namespace wsss {

constexpr int kTileColumns = 32;  // a warp's lanes

// The largest |dx| in row dy of the disc, and the largest dy in column dx.
constexpr int half_width(int radius, int dy) {
    int width = radius - 1;
    while (width * width + dy * dy >= radius * radius) --width;
    return width;
}

// The plane of an offset, in the order of half_disc.h.
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
        const PairOffset again = offset_of(radius, static_cast<int>(plane));
        good = good && again.dy == offset.dy && again.dx == offset.dx && plane_of(radius, offset.dy, offset.dx) == plane;
    });
    return good;
}
static_assert(offsets_agree(1) && offsets_agree(2) && offsets_agree(5) && offsets_agree(10));

// Tiles of `rows` x 32 pixels, over all images.
struct Tiles {
    int64_t h, w, across, down;
    int rows;
    Tiles(const AffinityShape& shape, int tile_rows)
        : h(shape.h), w(shape.w), across(ceil_div(shape.w, kTileColumns)), down(ceil_div(shape.h, tile_rows)), rows(tile_rows) {}
    int64_t count(int64_t images) const { return images * across * down; }
    __device__ int64_t image(int64_t tile) const { return tile / (across * down); }
    __device__ int64_t y(int64_t tile) const { return tile / across % down * rows; }
    __device__ int64_t x(int64_t tile) const { return tile % across * kTileColumns; }
    __device__ bool inside(int64_t y, int64_t x) const { return y >= 0 && y < h && x >= 0 && x < w; }
};

inline cudaStream_t stream_of(const Context& context) {
    return static_cast<cudaStream_t>(context.stream);
}

}  // namespace wsss
