// pcm backward, the heavy step: sums over keys j of W_ij s_j x_j for every query pixel i (notation: pcm_cuda_backward.cu).
//
// A block of 8 warps owns 128 query pixels and walks over tiles of 64 keys:
//     S = x_i . x_j (depth columns)      B = [cam_i, g'_i] . [g'_j, cam_j] - d'_i - d'_j (2 C columns, d' as the starting sum)
//     W = B s_j where S > 0, else 0      df += W x_j
// Two warps share 32 query rows: for S and B each takes half of the keys, for df half of the columns, so that a fragment read
// from shared memory serves 32 rows in both (16 rows a warp would make shared memory the bottleneck). W crosses between the
// two through a tile in shared memory.
// Memory: shared tiles; 32 x 96 sums of df a warp in registers. Deterministic: partial sums in slots of their own (pcm_tile.cuh).
#pragma once

#include "pcm/pcm_tile.cuh"

namespace wsss::pcm {

constexpr int kGradientWarps = 8, kGradientThreads = 32 * kGradientWarps;
constexpr int kGradientRowTiles = 2;  // of 16 rows a warp
constexpr int kGradientKeys = 32;     // keys a warp handles of S and B
static_assert(kGradientWarps / 2 * kGradientRowTiles * 16 == kQueryTile && 2 * kGradientKeys == kKeyTile,
              "the warps cover the tile");
constexpr int kSlabChunks = kDepthBlock / kChunk;  // deeper features take slabs; each slab computes S and B again

// Chunks in flight where keys are streamed: two terms make each chunk three products, which hides as much with one fewer.
__host__ __device__ constexpr int gradient_stages(int terms) {
    return terms == 2 ? 2 : 3;
}

struct GradientArguments {
    const uint16_t* rows;
    const uint16_t* rows_bf16;  // the factor of W
    const uint16_t* pair_queries;
    const uint16_t* pair_keys;
    const float* offsets;
    const float* scales;
    float* partial;  // [slot][128 pixels][slab width]
    int64_t padded_pixels, padded_depth, pair_depth, query_tiles, slabs, slab_width;
    Work work;
    bool resident;
};

// Whole: both operands of a key tile lie in shared memory, the next tile travels meanwhile, and the features read for S serve
// again as the factor of W. Otherwise chunks pass through a ring and the features pass twice, for any depth and class count.
inline size_t gradient_shared_bytes(int64_t tiles, int terms, bool whole, bool resident) {
    const int64_t stages = gradient_stages(terms);
    return carve_bytes<uint16_t>((resident ? tiles : stages) * kQueryTile * kChunk) +
           carve_bytes<uint16_t>((whole ? 2 * tiles : stages) * kKeyTile * kChunk) +
           carve_bytes<uint16_t>(terms * kQueryTile * kKeyTile);
}

template <class Scheme, bool kWhole>
__global__ void __launch_bounds__(kGradientThreads, 1) pcm_gradient_kernel(GradientArguments arguments) {
    const GradientArguments& g = arguments;
    constexpr int kQueryElements = kQueryTile * kChunk, kKeyElements = kKeyTile * kChunk;
    constexpr int kRowTerms = Scheme::kRowTerms, kTerms = Scheme::kTerms, kStages = gradient_stages(kTerms);
    constexpr int kRowTiles = kGradientRowTiles, kKeyTiles = kGradientKeys / 8, kSteps = kKeyTile / 16;
    static_assert(!kWhole || (kTerms == 1 && std::is_same<typename Scheme::Row, bf16>::value), "one tile serves both products");
    const int depth = static_cast<int>(g.padded_depth), chunks = (depth + kChunk - 1) / kChunk;
    const int pair_depth = static_cast<int>(g.pair_depth), pair_chunks = (pair_depth + kChunk - 1) / kChunk;
    const int tiles = kRowTerms * chunks + kTerms * pair_chunks;
    const int lane = threadIdx.x & 31, half = (threadIdx.x >> 5) & 1, first_row = (threadIdx.x >> 6) * kRowTiles * 16;
    const bool resident = kWhole || g.resident;
    WSSS_DYNAMIC_SHARED(base);
    size_t offset = 0;
    WSSS_CARVE(uint16_t, queries, base, offset, (resident ? tiles : kStages) * kQueryElements);
    WSSS_CARVE(uint16_t, keys, base, offset, (kWhole ? 2 * tiles : kStages) * kKeyElements);
    WSSS_CARVE(uint16_t, weights, base, offset, kTerms * kQueryTile * kKeyTile);

    const int64_t worker = blockIdx.x, end = g.work.begin(worker + 1);
    int count = 0;  // key tiles of this row tile
    for (int64_t unit = g.work.begin(worker); unit < end; unit += count) {
        const int64_t row_tile = unit / g.work.key_tiles, first_key = unit % g.work.key_tiles;
        count = g.work.run(unit, end);
        const int64_t query = row_tile % g.query_tiles * kQueryTile, image = row_tile / g.query_tiles / g.slabs;
        const int slab_chunk = static_cast<int>(row_tile / g.query_tiles % g.slabs) * kSlabChunks;
        const int slab_chunks = chunks - slab_chunk < kSlabChunks ? chunks - slab_chunk : kSlabChunks;
        const float* const offsets = g.offsets + image * g.padded_pixels;
        const float* const scales = g.scales + image * g.padded_pixels;

        // `plane` numbers image and term together.
        const auto load_keys_of = [&](uint16_t* tile, const uint16_t* packed, int columns, int64_t plane, int64_t pixel,
                                      int chunk) {
            load_tile<kGradientThreads, kKeyTile>(tile, packed + (plane * g.padded_pixels + pixel) * columns + chunk * kChunk,
                                                  columns, chunk_width(columns, chunk));
        };
        const auto load_queries_of = [&](uint16_t* tile, const uint16_t* packed, int columns, int64_t plane, int chunk) {
            load_tile<kGradientThreads, kQueryTile>(tile, packed + (plane * g.padded_pixels + query) * columns + chunk * kChunk,
                                                    columns, chunk_width(columns, chunk));
        };
        const int64_t plane = image * kTerms, row_plane = image * kRowTerms;
        const int feature_steps = products(kRowTerms) * chunks, pair_steps = products(kTerms) * pair_chunks;
        int loaded_keys = 0, load_step = 0;
        const auto load_next = [&](int stage) {  // one key tile if whole, else one chunk, in the order of use
            if (loaded_keys < count) {
                const int64_t pixel = (first_key + loaded_keys) * kKeyTile;
                uint16_t* const key_tile = keys + stage * (kWhole ? tiles : 1) * kKeyElements;
                if constexpr (kWhole) {
                    for (int i = 0; i < chunks; ++i)
                        load_keys_of(key_tile + i * kKeyElements, g.rows, depth, row_plane, pixel, i);
                    for (int i = 0; i < pair_chunks; ++i)
                        load_keys_of(key_tile + (chunks + i) * kKeyElements, g.pair_keys, pair_depth, plane, pixel, i);
                    ++loaded_keys;
                } else {
                    uint16_t* const query_tile = queries + stage * kQueryElements;
                    if (load_step < feature_steps) {
                        const int product = load_step / chunks, chunk = load_step % chunks;
                        load_keys_of(key_tile, g.rows, depth, row_plane + key_term(product), pixel, chunk);
                        if (!resident) load_queries_of(query_tile, g.rows, depth, row_plane + query_term(product), chunk);
                    } else if (load_step < feature_steps + pair_steps) {
                        const int i = load_step - feature_steps, product = i / pair_chunks, chunk = i % pair_chunks;
                        load_keys_of(key_tile, g.pair_keys, pair_depth, plane + key_term(product), pixel, chunk);
                        if (!resident)
                            load_queries_of(query_tile, g.pair_queries, pair_depth, plane + query_term(product), chunk);
                    } else {
                        const int i = load_step - feature_steps - pair_steps;
                        load_keys_of(key_tile, g.rows_bf16, depth, plane + i % kTerms, pixel, slab_chunk + i / kTerms);
                    }
                    if (++load_step == feature_steps + pair_steps + kTerms * slab_chunks) {
                        load_step = 0;
                        ++loaded_keys;
                    }
                }
            }
            cp_async_commit();
        };
        constexpr int kAhead = kWhole ? 1 : kStages - 1;  // loads in flight while computing
        __syncthreads();                                  // all warps have left the previous row tile
        if (resident) {
            for (int i = 0; i < kRowTerms * chunks; ++i)
                load_queries_of(queries + i * kQueryElements, g.rows, depth, row_plane + i / chunks, i % chunks);
            for (int i = 0; i < kTerms * pair_chunks; ++i)
                load_queries_of(queries + (kRowTerms * chunks + i) * kQueryElements, g.pair_queries, pair_depth,
                                plane + i / pair_chunks, i % pair_chunks);
        }
        for (int stage = 0; stage < kAhead; ++stage) load_next(stage);
        int stage = kAhead;  // the stage last used, which is the next to be refilled
        const auto next_stage = [&]() {
            cp_async_wait<kAhead - 1>();
            __syncthreads();
            load_next(stage);
            stage = stage == kAhead ? 0 : stage + 1;
        };
        // The tiles of the next product, the keys first: they move the ring on.
        const auto next_keys = [&](int position) -> const uint16_t* {
            if constexpr (!kWhole) next_stage();
            return keys + (kWhole ? stage * tiles + position : stage) * kKeyElements;
        };
        const auto queries_of = [&](int position) -> const uint16_t* {
            return queries + (resident ? position : stage) * kQueryElements;
        };

        float df[kRowTiles][kSlabChunks * 4][4] = {};  // columns: of each chunk, the half this warp takes
        float own[kRowTiles][2];
#pragma unroll
        for (int i = 0; i < 2 * kRowTiles; ++i) own[i / 2][i % 2] = offsets[query + first_row + i * 8 + lane / 4];
        for (int i = 0; i < count; ++i) {
            const int64_t column = (first_key + i) * kKeyTile + half * kGradientKeys + lane % 4 * 2;
            float2 of_column[kKeyTiles];  // offsets, later scales; read one product before they are used
#pragma unroll
            for (int n = 0; n < kKeyTiles; ++n) of_column[n] = *reinterpret_cast<const float2*>(offsets + column + n * 8);
            if constexpr (kWhole) next_stage();
            float s[kRowTiles][kKeyTiles][4] = {};
            for (int product = 0; product < products(kRowTerms); ++product)
                for (int chunk = 0; chunk < chunks; ++chunk) {
                    const uint16_t* const key_tile = next_keys(chunk);
                    multiply_chunk<typename Scheme::Row>(s, queries_of(query_term(product) * chunks + chunk), first_row, key_tile,
                                                         half * kGradientKeys, chunk_width(depth, chunk));
                }
            float w[kRowTiles][kKeyTiles][4];
#pragma unroll
            for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
                for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
                    for (int e = 0; e < 4; ++e) w[m][n][e] = -own[m][e / 2] - (e % 2 ? of_column[n].y : of_column[n].x);
                of_column[n] = *reinterpret_cast<const float2*>(scales + column + n * 8);
            }
            for (int product = 0; product < products(kTerms); ++product)
                for (int chunk = 0; chunk < pair_chunks; ++chunk) {
                    const uint16_t* const key_tile = next_keys(chunks + chunk);
                    multiply_chunk<bf16>(w, queries_of(kRowTerms * chunks + query_term(product) * pair_chunks + chunk), first_row,
                                         key_tile, half * kGradientKeys, chunk_width(pair_depth, chunk));
                }
#pragma unroll
            for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
                for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
                    for (int e = 0; e < 4; e += 2) {
                        const float left = s[m][n][e] <= 0.0f ? 0.0f : w[m][n][e];  // a NaN stays
                        const float right = s[m][n][e + 1] <= 0.0f ? 0.0f : w[m][n][e + 1];
                        uint32_t terms[kTerms];
                        split2<bf16, kTerms>(left * of_column[n].x, right * of_column[n].y, terms);
                        const int row = first_row + m * 16 + e * 4 + lane / 4;
#pragma unroll
                        for (int term = 0; term < kTerms; ++term)
                            *reinterpret_cast<uint32_t*>(
                                unit_address(weights + term * kQueryTile * kKeyTile, row, half * (kGradientKeys / 8) + n) +
                                lane % 4 * 2) = terms[term];
                    }
            if constexpr (kWhole) __syncthreads();  // streaming, the wait for the next chunk is one
            uint32_t a[kTerms][kSteps][kRowTiles][4];
#pragma unroll
            for (int c = 0; c < kSlabChunks; ++c) {
                if (c >= slab_chunks) break;
                const int width = chunk_width(depth, slab_chunk + c);
#pragma unroll
                for (int term = 0; term < kTerms; ++term) {
                    const uint16_t* const key_tile = next_keys(c);
                    if (c == 0 && term == 0) {
#pragma unroll
                        for (int j = 0; j < kTerms * kSteps * kRowTiles; ++j) {
                            const int m = j % kRowTiles, k = j / kRowTiles % kSteps, t = j / kRowTiles / kSteps;
                            load_query(a[t][k][m], weights + t * kQueryTile * kKeyTile, first_row + m * 16, k);
                        }
                    }
#pragma unroll
                    for (int q = 0; q < 2; ++q) {
                        const int pair = 2 * half + q;  // 16 columns of the chunk
                        if (pair * 16 >= width) break;
#pragma unroll
                        for (int k = 0; k < kSteps; ++k) {
                            uint32_t b[4];
                            load_keys_transposed(b, key_tile, k * 16, 2 * pair);
#pragma unroll
                            for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
                                for (int other = 0; other < kTerms - term; ++other)
                                    mma_pair<bf16>(df[m][c * 4 + 2 * q], df[m][c * 4 + 2 * q + 1], a[other][k][m], b);
                        }
                    }
                }
            }
        }

        float* const target = g.partial + (Work::slot(worker, row_tile) * kQueryTile + first_row + lane / 4) * g.slab_width;
#pragma unroll
        for (int n = 0; n < kSlabChunks * 4; ++n) {
            const int column = n / 4 * kChunk + half * 32 + n % 4 * 8;
            if (column >= g.slab_width) break;
#pragma unroll
            for (int m = 0; m < kRowTiles; ++m) {
                float* const place = target + m * 16 * g.slab_width + column + lane % 4 * 2;
                *reinterpret_cast<float2*>(place) = make_float2(df[m][n][0], df[m][n][1]);
                *reinterpret_cast<float2*>(place + 8 * g.slab_width) = make_float2(df[m][n][2], df[m][n][3]);
            }
        }
    }
}

}  // namespace wsss::pcm
