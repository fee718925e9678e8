// What the CUDA kernels of affinity and edge_affinity share: tiles of pixels.
#pragma once

#include "common/cuda.cuh"
#include "common/pair_planes.h"
#include "common/strided.h"
#include "common/workspace.h"

namespace wsss {

constexpr int kTileColumns = 32;  // a warp's lanes

// Tiles of `rows` x 32 pixels, over all images.
struct PixelTiles {
    int64_t h, w, across, down;
    int rows;
    PixelTiles() = default;
    PixelTiles(const PairShape& shape, int tile_rows)
        : h(shape.h), w(shape.w), across(ceil_div(shape.w, kTileColumns)), down(ceil_div(shape.h, tile_rows)), rows(tile_rows) {}
    int64_t count(int64_t images) const { return images * across * down; }
    __device__ int64_t image(int64_t tile) const { return tile / (across * down); }
    __device__ int64_t y(int64_t tile) const { return tile / across % down * rows; }
    __device__ int64_t x(int64_t tile) const { return tile % across * kTileColumns; }
    __device__ bool inside(int64_t y, int64_t x) const { return y >= 0 && y < h && x >= 0 && x < w; }
};

}  // namespace wsss
