// What the CUDA kernels of pcm share: the packed operands, the tiles in shared memory, the products on tensor cores, and the
// way work is cut over blocks.
//
// Packed operands (workspace, 16-bit, zero padded so that no kernel needs an edge case):
//     rows    [N][terms][padded pixels][padded depth]     features over a power of two, one pixel a row
//     values  [N][terms][value rows][padded pixels]       the weight of the denominator, then the classes, one class a row
//     scales  [N][padded pixels]                          float: what turns a row into the unit feature (pcm_pack.cuh)
// Two terms store a float as the sum of two 16-bit values, high + low; a product of two such sums is high*high + high*low +
// low*high. Their relative error is 2^-23 for rows (f16, whose range the power of two guarantees: the sign of a cosine near 0
// decides a gradient, so float32 features need all their bits) and 2^-17 for values and gradients (bf16, for any range).
//
// Tiles: `rows` x 64 columns, 128 bytes a row, cut into 16-byte units; unit u of row r lies at position u ^ (r % 8), so the
// eight rows that one ldmatrix phase reads fall into different banks.
//
// Work: a row tile (128 pixels) needs all key tiles (64 pixels). All (row tile, key tile) pairs form one line, cut into equal
// runs, one a block: batch 1 fills the chip and a large batch leaves no ragged last wave. A run may cover several row tiles;
// each (worker, row tile) meeting has a slot of its own for partial sums, which a second kernel adds in worker order.
// Determinism: the number of workers is a constant, never asked from the device, and nothing is added atomically.
#pragma once

#include <type_traits>

#include "common/check.h"
#include "common/prim.cuh"
#include "common/strided.cuh"
#include "common/view.h"
#include "common/workspace.h"

namespace wsss::pcm {

constexpr int kChunk = 64;          // columns of a tile
constexpr int kQueryTile = 128;     // rows of a query tile, and what pixels are padded to
constexpr int kKeyTile = 64;        // pixels of a key tile
constexpr int kPixelGroup = 32;     // pixels a block of the packing and reducing kernels handles: one a lane
constexpr int kDepthBlock = 192;    // feature columns handled at once where they pass through registers or static shared memory
constexpr float kRowScale = 64.0f;  // rows have norms in [64, 128): small low terms stay clear of f16's smallest numbers

#ifdef __CUDACC__
constexpr int64_t kProcessors = 132;  // the H100 and H200; a constant, so that results do not depend on the device
#else
constexpr int64_t kProcessors = 4;  // so that small test shapes already spread a row tile over several blocks and back
#endif

// The line of (row tile, key tile) pairs and its cut into runs.
struct Work {
    int64_t row_tiles, key_tiles, workers;

    __host__ __device__ int64_t units() const { return row_tiles * key_tiles; }
    __host__ __device__ int64_t begin(int64_t worker) const { return worker * units() / workers; }
    __host__ __device__ int64_t owner(int64_t unit) const { return ((unit + 1) * workers - 1) / units(); }
    // How many of the units from `unit` to `end` belong to the row tile of the first.
    __host__ __device__ int run(int64_t unit, int64_t end) const {
        const int64_t left = key_tiles - unit % key_tiles;
        return static_cast<int>(left < end - unit ? left : end - unit);
    }
    // Walking along the line, every new meeting of a worker and a row tile raises this sum: it numbers the meetings.
    __host__ __device__ static int64_t slot(int64_t worker, int64_t row_tile) { return worker + row_tile; }
    __host__ __device__ int64_t slots() const { return workers + row_tiles - 1; }
};

inline Work make_work(int64_t row_tiles, int64_t key_tiles, int64_t most_workers) {
    const int64_t units = row_tiles * key_tiles;
    return {row_tiles, key_tiles, units < most_workers ? units : most_workers};
}

// How a type of input is computed: the 16-bit types and numbers of terms of rows, and of values and gradients.
struct Bf16Scheme {
    using Row = bf16;
    using Value = bf16;
    static constexpr int kRowTerms = 1, kTerms = 1;
};
struct F16Scheme {
    using Row = f16;
    using Value = f16;
    static constexpr int kRowTerms = 1, kTerms = 1;
};
struct F16GradientScheme {  // g / r and W have no known range: half would overflow or flush to zero; two terms hold its 11 bits
    using Row = f16;
    using Value = bf16;
    static constexpr int kRowTerms = 1, kTerms = 2;
};
struct F32Scheme {
    using Row = f16;
    using Value = bf16;
    static constexpr int kRowTerms = 2, kTerms = 2;
};

// ---- values as sums of 16-bit terms -----------------------------------------------------------------------

__host__ __device__ constexpr int products(int terms) {
    return terms == 2 ? 3 : 1;
}
// The terms that product number 0, 1, 2 multiplies: high*high, high*low, low*high.
__device__ __forceinline__ int query_term(int product) {
    return product == 2 ? 1 : 0;
}
__device__ __forceinline__ int key_term(int product) {
    return product == 1 ? 1 : 0;
}

template <class E, int kTerms>
__device__ __forceinline__ void split(float value, E (&terms)[kTerms]) {
    terms[0] = from_float<E>(value);
    if constexpr (kTerms == 2) {
        const float high = to_float(terms[0]);
        terms[1] = from_float<E>(fabsf(high) < INFINITY ? value - high : 0.0f);  // Inf - Inf would turn Inf into NaN
    }
}

template <class E>
__device__ __forceinline__ uint16_t to_bits(E value) {
    return static_cast<uint16_t>(bits_of(value));
}

// The value that the terms stand for.
template <class E, int kTerms>
__device__ __forceinline__ float rounded(float value) {
    E terms[kTerms];
    split<E, kTerms>(value, terms);
    float sum = to_float(terms[0]);
    if constexpr (kTerms == 2) sum += to_float(terms[1]);
    return sum;
}

// Two values to registers of an mma operand, one register a term.
template <class E, int kTerms>
__device__ __forceinline__ void split2(float low, float high, uint32_t (&pair)[kTerms]) {
    pair[0] = pack2_from_float<E>(low, high);
    if constexpr (kTerms == 2) {
        const float2 first = unpack2<E>(pair[0]);
        pair[1] = pack2_from_float<E>(low - first.x, high - first.y);
    }
}

// max(x, 0) that keeps NaN: fmaxf(NaN, 0) is 0 and would hide a broken feature.
__device__ __forceinline__ float relu(float x) {
    return x < 0.0f ? 0.0f : x;
}

// split2 of relu; one instruction for a single term (its relu turns NaN into NaN, too).
template <class E, int kTerms>
__device__ __forceinline__ void split2_relu(float low, float high, uint32_t (&pair)[kTerms]) {
#ifdef __CUDACC__
    if constexpr (kTerms == 1) {
        if constexpr (std::is_same<E, bf16>::value)
            asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(pair[0]) : "f"(high), "f"(low));
        else
            asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(pair[0]) : "f"(high), "f"(low));
        return;
    }
#endif
    split2<E, kTerms>(relu(low), relu(high), pair);
}

// ---- tiles in shared memory -------------------------------------------------------------------------------

template <class Bits>  // uint16_t, const or not: tiles do not know which type they hold
__device__ __forceinline__ Bits* unit_address(Bits* tile, int row, int unit) {
    return tile + row * kChunk + ((unit ^ (row & 7)) << 3);
}

// Starts copying `rows` (at most kRows) x `width` (a multiple of 16, at most 64) into a tile.
template <int kThreads, int kRows>
__device__ __forceinline__ void load_tile(uint16_t* tile, const uint16_t* source, int row_stride, int width, int rows = kRows) {
    constexpr int kUnits = kRows * 8;
#pragma unroll
    for (int first = 0; first < kUnits; first += kThreads) {
        const int i = first + threadIdx.x, row = i >> 3, unit = i & 7;
        if (row < rows && unit * 8 < width)
            cp_async_16(unit_address(tile, row, unit), source + static_cast<int64_t>(row) * row_stride + unit * 8, true);
    }
}

template <class E>
__device__ __forceinline__ void mma_pair(float (&left)[4], float (&right)[4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
    const uint32_t b_left[2] = {b[0], b[1]}, b_right[2] = {b[2], b[3]};
    mma_16816<E>(left, a, b_left);
    mma_16816<E>(right, a, b_right);
}

// 16 query rows x 16 columns (columns 16k..) as an A operand.
__device__ __forceinline__ void load_query(uint32_t (&a)[4], const uint16_t* tile, int first_row, int k) {
    const int lane = threadIdx.x & 31;
    ldmatrix_x4(a, unit_address(tile, first_row + (lane & 15), 2 * k + (lane >> 4)));
}

// 16 keys x 16 columns as two B operands: the reduction runs over the columns.
__device__ __forceinline__ void load_keys(uint32_t (&b)[4], const uint16_t* tile, int first_key, int k) {
    const int lane = threadIdx.x & 31;
    ldmatrix_x4(b, unit_address(tile, first_key + (lane & 7) + ((lane & 16) >> 1), 2 * k + ((lane >> 3) & 1)));
}

// 16 keys x 16 columns as two B operands: the reduction runs over the keys.
__device__ __forceinline__ void load_keys_transposed(uint32_t (&b)[4], const uint16_t* tile, int first_key, int column_unit) {
    const int lane = threadIdx.x & 31;
    ldmatrix_x4_trans(b, unit_address(tile, first_key + (lane & 15), column_unit + (lane >> 4)));
}

// sums += A B^T for one step of 16 columns: A = kRowTiles x 16 rows in registers, B = kKeyTiles x 8 keys of a tile.
template <class E, int kRowTiles, int kKeyTiles>
__device__ __forceinline__ void multiply_step(float (&sums)[kRowTiles][kKeyTiles][4], const uint32_t (&a)[kRowTiles][4],
                                              const uint16_t* keys, int first_key, int k) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; n += 2) {
        uint32_t b[4];
        load_keys(b, keys, first_key + n * 8, k);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) mma_pair<E>(sums[m][n], sums[m][n + 1], a[m], b);
    }
}

// The same for a whole chunk. A full chunk has a path without branches, along which loads can move ahead of products.
template <class E, int kRowTiles, int kKeyTiles>
__device__ __forceinline__ void multiply_chunk(float (&sums)[kRowTiles][kKeyTiles][4], const uint16_t* queries, int first_row,
                                               const uint16_t* keys, int first_key, int width) {
    const auto step = [&](int k) {
        uint32_t a[kRowTiles][4];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) load_query(a[m], queries, first_row + m * 16, k);
        multiply_step<E>(sums, a, keys, first_key, k);
    };
    if (width == kChunk) {
#pragma unroll
        for (int k = 0; k < kChunk / 16; ++k) step(k);
    } else {
        for (int k = 0; k * 16 < width; ++k) step(k);
    }
}

__host__ __device__ constexpr int chunk_width(int columns, int chunk) {
    return columns - chunk * kChunk < kChunk ? columns - chunk * kChunk : kChunk;
}

// ---- host: sizes, and the accumulation that both passes use -----------------------------------------------

struct Geometry {
    int64_t images, classes, depth, pixels;
    int64_t padded_pixels, padded_depth, depth_chunks, value_rows, query_tiles, key_tiles;

    Geometry(int64_t n, int64_t c, int64_t d, int64_t p)
        : images(n),
          classes(c),
          depth(d),
          pixels(p),
          padded_pixels(round_up(p, kQueryTile)),
          padded_depth(round_up(d > 0 ? d : 1, 16)),
          depth_chunks(ceil_div(padded_depth, kChunk)),
          value_rows(round_up(c + 1, 8)),
          query_tiles(ceil_div(p, kQueryTile)),
          key_tiles(ceil_div(p, kKeyTile)) {
        // Strides and counters within one image are int in the kernels; larger images would run for weeks.
        if (c > kMost || d > kMost || p > kMost)
            fail("pcm", "feature", "have at most 2^28 pixels, channels and classes on CUDA",
                 std::to_string(p) + ", " + std::to_string(d) + " and " + std::to_string(c));
    }

    static constexpr int64_t kMost = int64_t{1} << 28;

    int64_t pixel_count() const { return images * padded_pixels; }
    int64_t rows_count(int terms) const { return images * terms * padded_pixels * padded_depth; }
    int64_t values_count(int terms) const { return images * terms * value_rows * padded_pixels; }
};

// Shared memory a block of the current device may ask for.
inline size_t shared_limit() {
#ifdef __CUDACC__
    return static_cast<size_t>(device_attribute("pcm", cudaDevAttrMaxSharedMemoryPerBlockOptin));
#else
    return 227 * 1024;
#endif
}

struct Operands {
    const uint16_t* rows;
    const uint16_t* values;
    const float* scales;
};

// sums[c, j] = s_j sum_i values[c, i] relu(x_i . x_j), then
//     denominator given:  r = sums[0] + eps is written to it, and out[c] = sums[c + 1] / r
//     denominator null:   out[c] = sums[c + 1]
template <class T, class Scheme>
void accumulate(const Geometry& geometry, const Operands& operands, float* partial, T* out, float* denominator, float eps,
                cudaStream_t stream);
int64_t accumulate_partial_count(const Geometry& geometry);

}  // namespace wsss::pcm
