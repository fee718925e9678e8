// pcm on CUDA, forward (the backward pass is in pcm_cuda_backward.cu).
//
//     out[:, j] = sum_i cam[:, i] A_ij / r_j,   r_j = sum_i A_ij + eps,   A_ij = max(f_i . f_j, 0)
//
// Three kernels: pack (pcm_pack.cuh); accumulate, which forms a 128 x 64 tile of A on the tensor cores, applies the ReLU in
// registers and multiplies at once with [1; cam], so that the row of ones yields r; reduce, which adds the partial sums and
// divides. There is no maximum and no exponential as in attention: sums over keys simply add up, in any cut.
//
// Types: bfloat16 and float16 multiply as they are, float32 as sums of two 16-bit terms (pcm_tile.cuh); all sums in float32.
// Memory: no P x P matrix; the workspace holds the packed operands and the partial sums. Deterministic: no atomics, and the cut
// depends on the shape alone (from 24 classes on also on whether the GPU's shared memory holds the wide slabs).
// NaN, Inf: a NaN or Inf in one pixel's feature makes every result of its image NaN, as f_i . f_j is NaN for all j; a non-finite
// cam value makes results of its class non-finite where PyTorch's are (Inf may become NaN). Padding adds exactly nothing.
#include "pcm/pcm.h"
#include "pcm/pcm_pack.cuh"

namespace wsss::pcm {

constexpr int kAccumulateWarps = 4;
constexpr int kAccumulateThreads = 32 * kAccumulateWarps;
constexpr int kRowTiles = 2;  // of 16 rows a warp: each key fragment read from shared memory serves two products
static_assert(kAccumulateWarps * kRowTiles * 16 == kQueryTile, "the warps cover the query tile");
constexpr int kStages = 3;          // chunks in flight
constexpr int kNarrow = 3;          // 8-row tiles of values a block handles: 24 rows hold the 21 classes of VOC and the ones,
constexpr int kWide = 8;            // more classes take slabs of 64 rows; each slab computes the affinities again
constexpr int kRegisterChunks = 3;  // 177 to 192 feature channels: the query rows live in registers
constexpr int kReduceThreads = 256;

struct AccumulateArguments {
    const uint16_t* rows;
    const uint16_t* values;
    float* partial;  // [slot][128 pixels][slab rows]
    int64_t padded_pixels, padded_depth, value_rows, query_tiles, slabs;
    Work work;
    bool resident;  // the query tile stays in shared memory; otherwise its chunks travel with those of the keys
};

template <class T, class Scheme>
__global__ void __launch_bounds__(kPackThreads) pcm_pack_kernel(PackArguments<T> arguments) {
    pack_feature<T, Scheme>(arguments, blockIdx.x);
}

template <class Scheme>
size_t accumulate_shared_bytes(int64_t depth_chunks, int tiles, bool resident) {
    return carve_bytes<uint16_t>((resident ? Scheme::kRowTerms * depth_chunks : kStages) * kQueryTile * kChunk) +
           carve_bytes<uint16_t>(kStages * kKeyTile * kChunk) +
           carve_bytes<uint16_t>(kStages * Scheme::kTerms * tiles * 8 * kKeyTile);
}

// sums += relu(S) V^T for one tile: S (this warp's 32 x 64) turns from an accumulator into an A operand without moving.
template <class E, int kTerms, int kTiles>
__device__ __forceinline__ void multiply_values(float (&sums)[kRowTiles][kTiles][4], const float (&s)[kRowTiles][8][4],
                                                const uint16_t* values, int active) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // 32 keys
        uint32_t a[kTerms][kRowTiles][2][4];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const float* const pair = &s[m][half * 4 + i / 2][i % 2 * 2];
                uint32_t terms[kTerms];
                split2_relu<E, kTerms>(pair[0], pair[1], terms);
#pragma unroll
                for (int term = 0; term < kTerms; ++term) a[term][m][i / 4][i % 4] = terms[term];
            }
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
            if (n >= active) break;
#pragma unroll
            for (int term = 0; term < kTerms; ++term) {
                uint32_t b[4];
                ldmatrix_x4(b, unit_address(values + term * kTiles * 8 * kKeyTile, n * 8 + (lane & 7), half * 4 + (lane >> 3)));
                const uint32_t b_first[2] = {b[0], b[1]}, b_second[2] = {b[2], b[3]};
#pragma unroll
                for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
                    for (int other = 0; other < kTerms - term; ++other) {
                        mma_16816<E>(sums[m][n], a[other][m][0], b_first);
                        mma_16816<E>(sums[m][n], a[other][m][1], b_second);
                    }
            }
        }
    }
}

template <class Scheme, int kTiles, int kRegistered>
__global__ void __launch_bounds__(kAccumulateThreads, 2) pcm_accumulate_kernel(AccumulateArguments arguments) {
    using Row = typename Scheme::Row;
    constexpr int kRowTerms = Scheme::kRowTerms, kTerms = Scheme::kTerms;
    const AccumulateArguments& g = arguments;
    constexpr int kQueryElements = kQueryTile * kChunk, kKeyElements = kKeyTile * kChunk;
    constexpr int kValueElements = kTerms * kTiles * 8 * kKeyTile, kSteps = kChunk / 16;
    const int depth = static_cast<int>(g.padded_depth), chunks = (depth + kChunk - 1) / kChunk;
    const int steps = products(kRowTerms) * chunks;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, first_row = warp * kRowTiles * 16;
    WSSS_DYNAMIC_SHARED(base);
    size_t offset = 0;
    WSSS_CARVE(uint16_t, queries, base, offset, (g.resident ? kRowTerms * chunks : kStages) * kQueryElements);
    WSSS_CARVE(uint16_t, keys, base, offset, (kStages * kKeyElements));
    WSSS_CARVE(uint16_t, values, base, offset, (kStages * kValueElements));

    const int64_t worker = blockIdx.x, end = g.work.begin(worker + 1);
    int count = 0;  // key tiles of this row tile
    for (int64_t unit = g.work.begin(worker); unit < end; unit += count) {
        const int64_t row_tile = unit / g.work.key_tiles, first_key = unit % g.work.key_tiles;
        count = g.work.run(unit, end);
        const int64_t query = row_tile % g.query_tiles * kQueryTile, image = row_tile / g.query_tiles / g.slabs;
        const int64_t first_tile = row_tile / g.query_tiles % g.slabs * kTiles;
        const int active = g.value_rows / 8 - first_tile < kTiles ? static_cast<int>(g.value_rows / 8 - first_tile) : kTiles;
        const uint16_t* const rows = g.rows + image * kRowTerms * g.padded_pixels * g.padded_depth;
        const uint16_t* const value_rows = g.values + (image * kTerms * g.value_rows + first_tile * 8) * g.padded_pixels;

        const auto row_chunk = [&](int term, int64_t pixel, int chunk) {
            return rows + (term * g.padded_pixels + pixel) * g.padded_depth + chunk * kChunk;
        };
        const auto load_queries = [&](uint16_t* tile, int term, int chunk) {
            load_tile<kAccumulateThreads, kQueryTile>(tile, row_chunk(term, query, chunk), depth, chunk_width(depth, chunk));
        };
        int loaded_keys = 0, load_step = 0;
        const auto load_next = [&](int stage) {  // commits a group even at the end: the count of groups is what is waited for
            if (loaded_keys < count) {
                const int64_t pixel = (first_key + loaded_keys) * kKeyTile;
                const int product = kRowTerms == 1 ? 0 : load_step / chunks, chunk = load_step - product * chunks;
                load_tile<kAccumulateThreads, kKeyTile>(keys + stage * kKeyElements, row_chunk(key_term(product), pixel, chunk),
                                                        depth, chunk_width(depth, chunk));
                if (!g.resident) load_queries(queries + stage * kQueryElements, query_term(product), chunk);
                if (++load_step == steps) {
                    for (int term = 0; term < kTerms; ++term)
                        load_tile<kAccumulateThreads, kTiles * 8>(values + stage * kValueElements + term * kTiles * 8 * kKeyTile,
                                                                  value_rows + term * g.value_rows * g.padded_pixels + pixel,
                                                                  static_cast<int>(g.padded_pixels), kKeyTile, active * 8);
                    load_step = 0;
                    ++loaded_keys;
                }
            }
            cp_async_commit();
        };
        __syncthreads();  // all warps have left the previous row tile
        if (g.resident)
            for (int i = 0; i < kRowTerms * chunks; ++i) load_queries(queries + i * kQueryElements, i / chunks, i % chunks);
        for (int stage = 0; stage < kStages - 1; ++stage) load_next(stage);

        int stage = kStages - 1;  // the stage last used, which is the next to be refilled
        const auto next_stage = [&]() {
            cp_async_wait<kStages - 2>();
            __syncthreads();
            load_next(stage);
            stage = stage + 1 == kStages ? 0 : stage + 1;
        };
        float sums[kRowTiles][kTiles][4] = {};
        [[maybe_unused]] uint32_t registered[kRegistered > 0 ? kRegistered * kSteps : 1][kRowTiles][4];
        for (int i = 0; i < count; ++i) {
            float s[kRowTiles][8][4] = {};
            if constexpr (kRegistered > 0) {
#pragma unroll
                for (int chunk = 0; chunk < kRegistered; ++chunk) {  // the depth is kRegistered full chunks
                    next_stage();
                    if (i == 0 && chunk == 0) {
#pragma unroll
                        for (int j = 0; j < kRegistered * kSteps; ++j)
#pragma unroll
                            for (int m = 0; m < kRowTiles; ++m)
                                load_query(registered[j][m], queries + j / kSteps * kQueryElements, first_row + m * 16,
                                           j % kSteps);
                    }
#pragma unroll
                    for (int k = 0; k < kSteps; ++k)
                        multiply_step<Row>(s, registered[chunk * kSteps + k], keys + stage * kKeyElements, 0, k);
                }
            } else {
                for (int step = 0; step < steps; ++step) {
                    const int product = kRowTerms == 1 ? 0 : step / chunks, chunk = step - product * chunks;
                    next_stage();
                    const int tile = g.resident ? query_term(product) * chunks + chunk : stage;
                    multiply_chunk<Row>(s, queries + tile * kQueryElements, first_row, keys + stage * kKeyElements, 0,
                                        chunk_width(depth, chunk));
                }
            }
            multiply_values<typename Scheme::Value, kTerms, kTiles>(sums, s, values + stage * kValueElements, active);
        }

        float* const target = g.partial + Work::slot(worker, row_tile) * kQueryTile * kTiles * 8;
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
            for (int n = 0; n < kTiles; ++n) {
                if (n >= active) break;
                float* const place = target + (first_row + m * 16 + lane / 4) * kTiles * 8 + n * 8 + lane % 4 * 2;
                *reinterpret_cast<float2*>(place) = make_float2(sums[m][n][0], sums[m][n][1]);
                *reinterpret_cast<float2*>(place + 8 * kTiles * 8) = make_float2(sums[m][n][2], sums[m][n][3]);
            }
    }
}

template <class T>
struct ReduceArguments {
    const float* partial;
    const float* scales;
    T* out;              // [N, C, P]
    float* denominator;  // [N, P], or null: no division
    int64_t pixels, padded_pixels, classes, query_tiles, slabs, slab_rows;
    Work work;
    float eps;
};

template <class T>
__global__ void __launch_bounds__(kReduceThreads) pcm_reduce_kernel(ReduceArguments<T> g) {
    WSSS_SHARED(tile, float[kPixelGroup][kWide * 8 + 1]);
    WSSS_SHARED(sums, float[kPixelGroup]);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int64_t groups = (g.pixels + kPixelGroup - 1) / kPixelGroup;
    const int64_t image = blockIdx.x / groups, first = blockIdx.x % groups * kPixelGroup;
    const int slab_rows = static_cast<int>(g.slab_rows);
    const bool inside = first + lane < g.pixels;
    const float scale = g.scales[image * g.padded_pixels + first + lane] / (kRowScale * kRowScale);
    for (int64_t slab = 0; slab < g.slabs; ++slab) {
        const int64_t row_tile = (image * g.slabs + slab) * g.query_tiles + first / kQueryTile;
        const int64_t first_worker = g.work.owner(row_tile * g.work.key_tiles);
        const int64_t last_worker = g.work.owner((row_tile + 1) * g.work.key_tiles - 1);
        const int64_t slot_size = kQueryTile * g.slab_rows, before = slab * g.slab_rows;
        const int rows = g.classes + 1 - before < slab_rows ? static_cast<int>(g.classes + 1 - before) : slab_rows;
        __syncthreads();  // the tile of the previous slab has been read
        for (int i = threadIdx.x; i < kPixelGroup * slab_rows; i += kReduceThreads) {
            const int p = i / slab_rows, row = i % slab_rows;
            if (row >= rows) continue;
            const float* source = g.partial + Work::slot(first_worker, row_tile) * slot_size + first % kQueryTile * slab_rows + i;
            float sum = 0.0f;
#pragma unroll 4
            for (int64_t worker = first_worker; worker <= last_worker; ++worker, source += slot_size) sum += *source;
            tile[p][row] = sum;
        }
        __syncthreads();
        if (slab == 0 && warp == 0) {
            sums[lane] = g.denominator ? tile[lane][0] * scale + g.eps : 1.0f;
            if (g.denominator && inside) g.denominator[image * g.pixels + first + lane] = sums[lane];
        }
        __syncthreads();
        for (int row = warp; row < rows; row += kReduceThreads / 32)
            if (inside && before + row > 0)
                g.out[(image * g.classes + before + row - 1) * g.pixels + first + lane] =
                    from_float<T>(tile[lane][row] * scale / sums[lane]);
    }
}

// ---- host -------------------------------------------------------------------------------------------------

namespace {

Work accumulate_work(const Geometry& geometry, int tiles) {
    const int64_t slabs = ceil_div(geometry.value_rows, tiles * 8);
    return make_work(geometry.images * slabs * geometry.query_tiles, geometry.key_tiles, 2 * kProcessors);
}

template <class T, class Scheme, int kTiles>
void run_accumulate(const Geometry& geometry, const Operands& operands, float* partial, T* out, float* denominator, float eps,
                    bool resident, cudaStream_t stream) {
    const Work work = accumulate_work(geometry, kTiles);
    const int64_t slabs = ceil_div(geometry.value_rows, kTiles * 8);
    AccumulateArguments arguments{};
    arguments.rows = operands.rows;
    arguments.values = operands.values;
    arguments.partial = partial;
    arguments.padded_pixels = geometry.padded_pixels;
    arguments.padded_depth = geometry.padded_depth;
    arguments.value_rows = geometry.value_rows;
    arguments.query_tiles = geometry.query_tiles;
    arguments.slabs = slabs;
    arguments.work = work;
    arguments.resident = resident;
    auto kernel = pcm_accumulate_kernel<Scheme, kTiles, 0>;
    if constexpr (Scheme::kRowTerms == 1 && Scheme::kTerms == 1 && kTiles == kNarrow)
        if (resident && geometry.padded_depth == kRegisterChunks * kChunk)
            kernel = pcm_accumulate_kernel<Scheme, kTiles, kRegisterChunks>;
    launch("pcm", kernel, dim3(grid_size("pcm", work.workers)), dim3(kAccumulateThreads),
           accumulate_shared_bytes<Scheme>(geometry.depth_chunks, kTiles, resident), stream, arguments);
    ReduceArguments<T> reduce{};
    reduce.partial = partial;
    reduce.scales = operands.scales;
    reduce.out = out;
    reduce.denominator = denominator;
    reduce.pixels = geometry.pixels;
    reduce.padded_pixels = geometry.padded_pixels;
    reduce.classes = geometry.classes;
    reduce.query_tiles = geometry.query_tiles;
    reduce.slabs = slabs;
    reduce.slab_rows = kTiles * 8;
    reduce.work = work;
    reduce.eps = eps;
    const int64_t blocks = geometry.images * ceil_div(geometry.pixels, kPixelGroup);
    launch("pcm", pcm_reduce_kernel<T>, dim3(grid_size("pcm", blocks)), dim3(kReduceThreads), 0, stream, reduce);
}

// The workspace of the forward pass; with a null start, its size.
struct ForwardWorkspace {
    Carver carver;
    uint16_t *rows, *values;
    float *scales, *partial;

    ForwardWorkspace(void* start, const Geometry& geometry, int terms) : carver(start) {
        rows = carver.take<uint16_t>(geometry.rows_count(terms));
        values = carver.take<uint16_t>(geometry.values_count(terms));
        scales = carver.take<float>(geometry.pixel_count());
        partial = carver.take<float>(accumulate_partial_count(geometry));
    }
};

template <class T, class Scheme>
void run_forward(const View& cam, const View& feature, float eps, const View& out, const View& denominator, const View& workspace,
                 cudaStream_t stream) {
    static_assert(Scheme::kRowTerms == Scheme::kTerms, "one number of terms sizes the workspace");
    const Geometry geometry(cam.size[0], cam.size[1], feature.size[1], cam.size[2] * cam.size[3]);
    const ForwardWorkspace space(aligned_start(workspace.data), geometry, Scheme::kTerms);
    PackArguments<T> arguments{};
    arguments.feature = StridedPixels<T>(feature);
    arguments.value = StridedPixels<T>(cam);
    arguments.rows = space.rows;
    arguments.values = space.values;
    arguments.scales = space.scales;
    arguments.set_sizes(geometry);
    arguments.eps = eps;
    launch("pcm", pcm_pack_kernel<T, Scheme>, dim3(grid_size("pcm", arguments.blocks)), dim3(kPackThreads), 0, stream, arguments);
    accumulate<T, Scheme>(geometry, {space.rows, space.values, space.scales}, space.partial, out.as<T>(), denominator.as<float>(),
                          eps, stream);
}

}  // namespace

int64_t accumulate_partial_count(const Geometry& geometry) {
    const int64_t narrow = accumulate_work(geometry, kNarrow).slots() * kNarrow,
                  wide = accumulate_work(geometry, kWide).slots() * kWide;
    return (geometry.value_rows <= kNarrow * 8 || narrow > wide ? narrow : wide) * 8 * kQueryTile;
}

template <class T, class Scheme>
void accumulate(const Geometry& geometry, const Operands& operands, float* partial, T* out, float* denominator, float eps,
                cudaStream_t stream) {
    const size_t limit = shared_limit();
    const auto fits = [&](int tiles, bool resident) {
        return accumulate_shared_bytes<Scheme>(geometry.depth_chunks, tiles, resident) <= limit;
    };
    if (geometry.value_rows > kNarrow * 8 && fits(kWide, false))
        run_accumulate<T, Scheme, kWide>(geometry, operands, partial, out, denominator, eps, fits(kWide, true), stream);
    else
        run_accumulate<T, Scheme, kNarrow>(geometry, operands, partial, out, denominator, eps, fits(kNarrow, true), stream);
}

// What the backward pass calls for the gradient of cam.
template void accumulate<float, F32Scheme>(const Geometry&, const Operands&, float*, float*, float*, float, cudaStream_t);
template void accumulate<f16, F16GradientScheme>(const Geometry&, const Operands&, float*, f16*, float*, float, cudaStream_t);
template void accumulate<bf16, Bf16Scheme>(const Geometry&, const Operands&, float*, bf16*, float*, float, cudaStream_t);

int64_t forward_workspace_cuda(const Shape& shape, DType dtype, const Context&) {
    const Geometry geometry(shape.n, shape.c, shape.d, shape.pixels());
    if (shape.n == 0 || geometry.pixels == 0) return 0;
    return ForwardWorkspace(nullptr, geometry, dtype == DType::kFloat32 ? 2 : 1).carver.used() + kStartAlignment;
}

void forward_cuda(const View& cam, const View& feature, double eps, const View& out, const View& denominator,
                  const View& workspace, const Context& context) {
    const DeviceGuard guard(context.device.index);
    const cudaStream_t stream = stream_of(context);
    const auto run = [&](auto tag, auto scheme) {
        run_forward<decltype(tag), decltype(scheme)>(cam, feature, static_cast<float>(eps), out, denominator, workspace, stream);
    };
    if (cam.dtype == DType::kFloat32) return run(float{}, F32Scheme{});
    if (cam.dtype == DType::kFloat16) return run(f16{}, F16Scheme{});
    return run(bf16{}, Bf16Scheme{});
}

}  // namespace wsss::pcm
