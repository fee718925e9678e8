// The merge kernel of cam_merge: upsamples, un-flips and adds the maps of one plane, and notes its greatest and least value.
//
// A thread owns kRows x kColumns output pixels. Map size by map size it walks down its columns: a source row is read at a column
// (across) once, for all maps of that size together, and serves every output row between it and the next; so a pixel costs few
// reads and a multiply-add or two a map size. Rows and weights down are the same for all threads of a block: a table in shared
// memory. Blocks of a class that is not present write its zeros.
//
// Memory: tables of at most 5 KiB a block. Deterministic: maxima and minima do not depend on the order.
#pragma once

#include "cam_merge/cam_merge.h"
#include "common/cuda.cuh"
#include "common/strided.h"

namespace wsss::cam_merge {

constexpr int kRows = 8;
constexpr int kColumns = 2;
constexpr int kMergeThreads = 128;
constexpr int kTileWidth = kMergeThreads * kColumns;
constexpr int kMostSlots = 512;  // blocks a plane, each with a partial maximum that every scale block of the plane reads
// An output point x lies at (x * step + start) / unit of a map's axis; the unit is the same for all maps.
struct Axis {
    int64_t step, start;
};
struct Unit {
    int64_t size;
    float inverse;  // 1 / size
};

template <class T>
struct Map {
    Strided<T> pixels;
    bool flipped;
};

struct Group {
    Axis across, down;
    int h, w, first_map, map_count;
};

// Greatest and least value as bits: NaNs are above all numbers that are not negative.
struct Range {
    int top, low;
};

template <class T>
struct MergeArguments {
    Map<T> maps[kMaxMaps];  // those of a group side by side
    Group groups[kMaxMaps];
    int group_count;
    Unit across, down;
    bool relu_first;
    float share;  // what a map counts: 1, or 1 / maps
    int64_t classes, h, w, tiles_across, tiles, slots;
    const bool* present;   // [N, C] or null
    float* merged;         // class 0 of image 0
    int64_t merged_image;  // elements from image to image
    Range* ranges;         // [planes][slots]
    unsigned char* out;    // class 0 of image 0
    int64_t out_image;     // elements from image to image
    int out_element;       // bytes
};
static_assert(sizeof(MergeArguments<float>) <= 4096, "kernel arguments");

// Where a point reads on an axis: the first source pixel (which may lie outside the map) and the weights of the taps.
template <int kTaps>
struct Taps {
    int first;
    float weight[kTaps];
};

template <int kTaps>
__device__ __forceinline__ Taps<kTaps> taps_at(const Axis& axis, const Unit& unit, int64_t point) {
    int64_t place = point * axis.step + axis.start;
    if (kTaps == 2 && place < 0) place = 0;
    int below = static_cast<int>(floorf(static_cast<float>(place) * unit.inverse));
    int64_t rest = place - below * unit.size;  // whole numbers: the float was a guess, as a rule right
    for (; rest < 0; rest += unit.size) --below;
    for (; rest >= unit.size; rest -= unit.size) ++below;
    const float t = static_cast<float>(rest) * unit.inverse;
    Taps<kTaps> taps;
    if constexpr (kTaps == 2) {
        taps.first = below;
        taps.weight[0] = 1.0f - t;
        taps.weight[1] = t;
    } else {
        constexpr float kA = -0.75f;
        const auto near = [](float x) { return ((kA + 2) * x - (kA + 3)) * x * x + 1; };
        const auto far = [](float x) { return ((kA * x - 5 * kA) * x + 8 * kA) * x - 4 * kA; };
        taps.first = below - 1;
        taps.weight[0] = far(t + 1);
        taps.weight[1] = near(t);
        taps.weight[2] = near(1 - t);
        taps.weight[3] = far(2 - t);
    }
    return taps;
}

__device__ __forceinline__ int clamp_index(int i, int length) {
    return i < 0 ? 0 : i >= length ? length - 1 : i;
}

template <class E>
__device__ void write_zeros(unsigned char* to, int64_t count, int64_t from, int64_t step) {
    for (int64_t i = from; i < count; i += step) reinterpret_cast<E*>(to)[i] = 0;
}

// The columns of one thread in one group.
template <int kTaps>
struct Columns {
    int index[kColumns][kTaps];
    float weight[kColumns][kTaps];
};

// Source row `y`, all maps of the group added, at the columns.
template <class T, int kTaps>
__device__ __forceinline__ void read_row(const MergeArguments<T>& a, const Group& group, const Columns<kTaps>& columns, int64_t n,
                                         int64_t c, int y, float (&row)[kColumns]) {
    y = clamp_index(y, group.h);
#pragma unroll
    for (int j = 0; j < kColumns; ++j) row[j] = 0;
    for (int k = group.first_map; k < group.first_map + group.map_count; ++k) {
        const Map<T>& map = a.maps[k];
        const T* const from = map.pixels.data + n * map.pixels.n + c * map.pixels.channel + y * map.pixels.y;
#pragma unroll
        for (int j = 0; j < kColumns; ++j)
#pragma unroll
            for (int t = 0; t < kTaps; ++t) {
                const int x = map.flipped ? group.w - 1 - columns.index[j][t] : columns.index[j][t];
                const float value = to_float(from[x * map.pixels.x]);
                row[j] += columns.weight[j][t] * (a.relu_first && value < 0 ? 0.0f : value);
            }
    }
}

template <class T, int kTaps>
__global__ void __launch_bounds__(kMergeThreads) cam_merge_merge_kernel(MergeArguments<T> a) {
    WSSS_SHARED(first, int[kMaxMaps][kRows]);
    WSSS_SHARED(weights, float[kMaxMaps][kRows][kTaps]);
    WSSS_SHARED(warp_ranges, Range[kMergeThreads / 32]);
    const int64_t plane = blockIdx.x / a.slots, slot = blockIdx.x % a.slots;
    const int64_t n = plane / a.classes, c = plane % a.classes, pixels = a.h * a.w;
    if (a.present && !a.present[plane]) {
        unsigned char* const out = a.out + (n * a.out_image + c * pixels) * a.out_element;
        const int64_t from = slot * kMergeThreads + threadIdx.x, step = a.slots * kMergeThreads;
        if (a.out_element == 4)
            write_zeros<uint32_t>(out, pixels, from, step);
        else if (a.out_element == 2)
            write_zeros<uint16_t>(out, pixels, from, step);
        else
            write_zeros<uint8_t>(out, pixels, from, step);
        return;
    }
    float* const merged = a.merged + n * a.merged_image + c * pixels;
    int top = 0, low = 0x7f800000;
    for (int64_t tile = slot; tile < a.tiles; tile += a.slots) {
        const int64_t y0 = tile / a.tiles_across * kRows, x0 = tile % a.tiles_across * kTileWidth + threadIdx.x;
        __syncthreads();
        for (int i = threadIdx.x; i < a.group_count * kRows; i += kMergeThreads) {
            const int g = i / kRows, y = i % kRows;
            const Taps<kTaps> taps = taps_at<kTaps>(a.groups[g].down, a.down, y0 + y < a.h ? y0 + y : a.h - 1);
            first[g][y] = taps.first;
#pragma unroll
            for (int t = 0; t < kTaps; ++t) weights[g][y][t] = taps.weight[t] * a.share;
        }
        __syncthreads();
        float sum[kRows][kColumns] = {};
        for (int g = 0; g < a.group_count; ++g) {
            const Group& group = a.groups[g];
            Columns<kTaps> columns;
#pragma unroll
            for (int j = 0; j < kColumns; ++j) {
                const int64_t x = x0 + j * kMergeThreads;
                const Taps<kTaps> taps = taps_at<kTaps>(group.across, a.across, x < a.w ? x : a.w - 1);
#pragma unroll
                for (int t = 0; t < kTaps; ++t) {
                    columns.index[j][t] = clamp_index(taps.first + t, group.w);
                    columns.weight[j][t] = taps.weight[t];
                }
            }
            float rows[kTaps][kColumns];  // source rows at, at + 1, ...
            int at = first[g][0];
#pragma unroll
            for (int t = 0; t < kTaps; ++t) read_row<T, kTaps>(a, group, columns, n, c, at + t, rows[t]);
#pragma unroll
            for (int y = 0; y < kRows; ++y) {
                const int wanted = first[g][y];
                if (wanted > at + kTaps) at = wanted - kTaps;  // rows nobody reads
                for (; at < wanted; ++at) {                    // the same for all threads of the block
#pragma unroll
                    for (int t = 0; t + 1 < kTaps; ++t)
#pragma unroll
                        for (int j = 0; j < kColumns; ++j) rows[t][j] = rows[t + 1][j];
                    read_row<T, kTaps>(a, group, columns, n, c, at + kTaps, rows[kTaps - 1]);
                }
#pragma unroll
                for (int t = 0; t < kTaps; ++t)
#pragma unroll
                    for (int j = 0; j < kColumns; ++j) sum[y][j] += weights[g][y][t] * rows[t][j];
            }
        }
#pragma unroll
        for (int y = 0; y < kRows; ++y)
#pragma unroll
            for (int j = 0; j < kColumns; ++j) {
                const int64_t x = x0 + j * kMergeThreads;
                if (y0 + y >= a.h || x >= a.w) continue;
                const float value = sum[y][j] < 0 ? 0.0f : sum[y][j];
                const int bits = __float_as_int(value) & 0x7fffffff;
                top = bits > top ? bits : top;
                low = bits < low ? bits : low;
                merged[(y0 + y) * a.w + x] = value;
            }
    }
    for (int step = 16; step > 0; step /= 2) {
        const int other_top = __shfl_xor_sync(0xffffffffu, top, step), other_low = __shfl_xor_sync(0xffffffffu, low, step);
        top = other_top > top ? other_top : top;
        low = other_low < low ? other_low : low;
    }
    if (threadIdx.x % 32 == 0) warp_ranges[threadIdx.x / 32] = {top, low};
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (const Range& range : warp_ranges) {
        top = range.top > top ? range.top : top;
        low = range.low < low ? range.low : low;
    }
    a.ranges[plane * a.slots + slot] = {top, low};
}

}  // namespace wsss::cam_merge
