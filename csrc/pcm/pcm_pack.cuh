// pcm, first step: inputs of any strides become the packed operands of pcm_tile.cuh.
//
//     rows:   x_i = 64 feature_i 2^-e, 2^e <= ||feature_i|| < 2^(e+1): exact for bfloat16, to 2^-31 of the
//             norm for float16; no product overflows
//     scales: s_i = 2^e / (||feature_i|| + eps), so that f_i = s_i x_i / 64 and A_ij = s_i s_j max(x_i . x_j, 0) / 64^2
//     values: s_i times a row of ones, then s_i cam_i (or s_i grad_i / r_i)
// The accumulation then needs no scaling but the one of its result by s_j; and the sign of x_i . x_j, which the backward pass
// turns on, is that of the caller's features, not of rounded unit vectors.
// A block packs 32 pixels. Memory: each feature is read once (twice above 192 channels). Determinism: sums in a fixed order.
#pragma once

#include "pcm/pcm_tile.cuh"

namespace wsss::pcm {

constexpr int kPackThreads = 256;
constexpr int kPackWarps = kPackThreads / 32;

using PixelTile = float[kPixelGroup][kDepthBlock + 1];  // odd rows: free of bank conflicts along pixels and along channels
using WarpSums = float[kPackWarps][kPixelGroup];

// Up to 192 channels of 32 pixels: a lane is a pixel, the warps share the channels; channels from `count` on are 0.
constexpr int kBatch = kDepthBlock / kPackWarps;
template <class T>
__device__ __forceinline__ void read_channels(float (&value)[kBatch], const T* pixel, int64_t stride, int64_t count,
                                              bool inside) {
    const int warp = threadIdx.x >> 5;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {  // all loads start before the first is used: one trip to memory
        const int channel = warp + i * kPackWarps;
        value[i] = inside && channel < count ? to_float(pixel[channel * stride]) : 0.0f;
    }
}

// The same into a tile; returns the sum of squares read.
template <class T>
__device__ __forceinline__ float load_pixels(PixelTile& tile, const T* pixel, int64_t stride, int64_t count, bool inside) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    float value[kBatch];
    read_channels(value, pixel, stride, count, inside);
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
        tile[lane][warp + i * kPackWarps] = value[i];
        squares += value[i] * value[i];
    }
    return squares;
}

// The sum over warps of one number a lane; every thread gets the sum of its lane. Ends with a barrier passed.
__device__ __forceinline__ float sum_over_warps(WarpSums& sums, float value) {
    const int lane = threadIdx.x & 31;
    sums[threadIdx.x >> 5][lane] = value;
    __syncthreads();
    float total = 0.0f;
    for (unsigned warp = 0; warp < kPackWarps; ++warp) total += sums[warp][lane];
    return total;
}

template <class T>
struct PackArguments {
    StridedPixels<T> feature, value;
    const float* denominator;  // [N, P]: values are divided by it, and have no row of ones; or null
    uint16_t* rows;
    uint16_t* rows_bf16;  // the rows once more, in bf16 terms; null: not wanted
    uint16_t* values;     // null: not wanted
    float* scales;        // [N][padded pixels]
    float* norms;         // the same; null: not wanted
    int64_t pixels, padded_pixels, depth, padded_depth, classes, value_rows, blocks;
    float eps;

    void set_sizes(const Geometry& geometry) {
        pixels = geometry.pixels;
        padded_pixels = geometry.padded_pixels;
        depth = geometry.depth;
        padded_depth = geometry.padded_depth;
        classes = geometry.classes;
        value_rows = geometry.value_rows;
        blocks = geometry.pixel_count() / kPixelGroup;
    }
};

// 2^-e for the e above; what makes x / Inf = 0 and Inf / Inf = NaN come out as PyTorch's division does.
__device__ __forceinline__ float power_below(float norm) {
    if (norm == 0.0f) return 1.0f;
    if (!(norm < INFINITY)) return norm == INFINITY ? 0.0f : norm;
    return __int_as_float((254 << 23) - (__float_as_int(norm) & (255 << 23)));
}

// Two neighbouring columns of one pixel's row, in every term.
template <class E, int kTerms>
__device__ __forceinline__ void put_columns(uint16_t* rows, int64_t image, int64_t padded_pixels, int64_t pixel,
                                            int64_t padded_depth, int64_t column, float left, float right) {
    uint32_t pair[kTerms];
    split2<E, kTerms>(left, right, pair);
#pragma unroll
    for (int term = 0; term < kTerms; ++term) {
        const int64_t row = (image * kTerms + term) * padded_pixels + pixel;
        *reinterpret_cast<uint32_t*>(rows + row * padded_depth + column) = pair[term];
    }
}

template <class T, class Scheme>
__device__ void pack_feature(const PackArguments<T>& a, int64_t block) {
    using Value = typename Scheme::Value;
    WSSS_SHARED(tile, PixelTile);
    WSSS_SHARED(sums, WarpSums);
    WSSS_SHARED(factors, float[kPixelGroup]);
    constexpr int kEarlyRows = 4;  // rows of values a warp reads while the features travel: 32 rows in all
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int64_t groups = a.padded_pixels / kPixelGroup, image = block / groups, first = block % groups * kPixelGroup;
    const bool inside = first + lane < a.pixels;
    const int64_t p = inside ? first + lane : 0;
    const T* const pixel = a.feature.pixel(image, p);
    const T* const value_pixel = a.value.pixel(image, p);
    const auto read_value = [&](int64_t row) {
        if (!inside || row > a.classes) return 0.0f;
        if (row == 0) return a.denominator ? 0.0f : 1.0f;
        return to_float(value_pixel[(row - 1) * a.value.channel]);
    };
    float early[kEarlyRows] = {};
    if (a.values)
#pragma unroll
        for (int i = 0; i < kEarlyRows; ++i) early[i] = read_value(warp + i * kPackWarps);

    float squares = 0.0f;
    for (int64_t d = 0; d < a.padded_depth; d += kDepthBlock) {
        if (d > 0) __syncthreads();
        squares += load_pixels(tile, pixel + d * a.feature.channel, a.feature.channel, a.depth - d, inside);
    }
    const float norm = sqrtf(sum_over_warps(sums, squares)), factor = power_below(norm);
    float scale = 1.0f / factor / (norm + a.eps);
    if (norm == 0.0f) scale = norm / (norm + a.eps);  // 0; NaN where eps = 0, as in PyTorch
    if (!inside || norm == INFINITY) scale = 0.0f;
    const int64_t position = image * a.padded_pixels + first + lane;
    if (warp == 0) {
        factors[lane] = kRowScale * factor;
        a.scales[position] = scale;
        if (a.norms) a.norms[position] = norm;
    }
    if (a.values) {
        const float weight = inside && a.denominator ? scale / a.denominator[image * a.pixels + first + lane] : scale;
        const auto put_value = [&](int64_t row, float value) {
            if (row >= a.value_rows) return;
            Value terms[Scheme::kTerms];
            split<Value, Scheme::kTerms>(inside ? value * weight : 0.0f, terms);
#pragma unroll
            for (int term = 0; term < Scheme::kTerms; ++term)
                a.values[((image * Scheme::kTerms + term) * a.value_rows + row) * a.padded_pixels + first + lane] =
                    to_bits(terms[term]);
        };
#pragma unroll
        for (int i = 0; i < kEarlyRows; ++i) put_value(warp + i * kPackWarps, early[i]);
        for (int64_t row = warp + kEarlyRows * kPackWarps; row < a.value_rows; row += kPackWarps) put_value(row, read_value(row));
    }
    for (int64_t d = 0; d < a.padded_depth; d += kDepthBlock) {
        if (a.padded_depth > kDepthBlock) {  // the tile holds another block of channels
            __syncthreads();
            load_pixels(tile, pixel + d * a.feature.channel, a.feature.channel, a.depth - d, inside);
        }
        __syncthreads();
        for (int q = warp; q < kPixelGroup; q += kPackWarps)
            for (int column = 2 * lane; column < kDepthBlock && d + column < a.padded_depth; column += 64) {
                const float left = tile[q][column] * factors[q], right = tile[q][column + 1] * factors[q];
                put_columns<typename Scheme::Row, Scheme::kRowTerms>(a.rows, image, a.padded_pixels, first + q, a.padded_depth,
                                                                     d + column, left, right);
                if (a.rows_bf16)
                    put_columns<bf16, Scheme::kTerms>(a.rows_bf16, image, a.padded_pixels, first + q, a.padded_depth, d + column,
                                                      left, right);
            }
    }
}

}  // namespace wsss::pcm
