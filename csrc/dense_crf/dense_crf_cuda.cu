// dense_crf on CUDA: mean field inference on the lattices of lattice.cuh.
//
// The build is some fifteen launches. Then two cooperative kernels, whose phases are separated by grid barriers:
//     normalise: filters ones and folds the normalisation into the weights of the splat and of the slice
//     field:     for every iteration, per 16 x 16 tile: slice all terms, add the unary, softmax, and sum the new Q over the runs
//                of the tile, all without Q leaving the block; then add up the runs of each vertex; then blur, two axes a phase.
// Terms without dimensions read the Q that the tile had one step before.
// An iteration at D = 5 is five phases, and takes labels in chunks of 4: 3 labels cost 4, 21 cost 24.
//
// Types: float32. Memory: see lattice_plan.cuh. Deterministic: every sum has a fixed order, whatever the number of blocks.
// NaN and infinities of the unary spread as softmax and the filter spread them.
#include "dense_crf/dense_crf.h"

#include "dense_crf/lattice_plan.cuh"
#include "dense_crf/mean_field.cuh"

namespace wsss::dense_crf {

// ---- normalisation ---------------------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kFieldThreads) dense_crf_normalise_kernel(Lattices g, float* values, float* other) {
    WSSS_SHARED(factors, float[kTilePixels]);
    const int tiles = g.tiles.count;
    for (int k = 0; k < g.terms; ++k)
        for (int64_t i = blockIdx.x; i < int64_t{g.term[k].images} * tiles; i += gridDim.x)
            splat_tile<float, 1>(g, k, i / tiles, static_cast<int>(i % tiles), 0, 1, other, [](int, int) { return 1.0f; });
    grid_sync();
    add_runs<float, 1>(g, 1, 1, other, values);
    grid_sync();
    const int passes = blur_passes(g);
    for (int pass = 0; pass < passes; ++pass) {
        blur_pass<float, 1>(g, pass, passes, 1, 1, values, other);
        grid_sync();
        float* const swapped = values;
        values = other;
        other = swapped;
    }
    for (int k = 0; k < g.terms; ++k) {
        const Term& term = g.term[k];
        const Normalisation kind = term.normalisation;
        if (kind == Normalisation::kNone) continue;
        for (int64_t i = blockIdx.x; i < int64_t{term.images} * tiles; i += gridDim.x) {
            const Tile tile = g.tiles.at(static_cast<int>(i % tiles));
            const int64_t first = g.tile_entry(k, i / tiles, tile);
            const int entries = tile.pixels() * term.sides;
            if (static_cast<int>(threadIdx.x) < tile.pixels()) {
                const int64_t mine = first + threadIdx.x * term.sides;
                const float sum = slice(term.sides, values + term.first_row, g.vertex + mine, g.weight + mine, 1);
                const float norm = sum * lattice_scale(term.dims) + 1e-20f;
                factors[threadIdx.x] = kind == Normalisation::kSymmetric ? 1.0f / sqrtf(norm) : 1.0f / norm;
            }
            __syncthreads();
            for (int e = threadIdx.x; e < entries; e += kFieldThreads) {
                if (kind != Normalisation::kBefore) g.weight[first + e] *= factors[e / term.sides];
                if (kind != Normalisation::kAfter) g.splat_weight[first + e] *= factors[g.splat_pixel[first + e]];
            }
            __syncthreads();  // the factors are free for the next tile
        }
    }
}

// ---- mean field ------------------------------------------------------------------------------------------------------------

struct Field {
    Lattices lattices;
    const float *unary, *initial;  // [images][labels][H][W]; initial may be null
    float* out;
    float4 *logits, *kept, *first, *second, *tile_rows, *filtered;
    int images, labels, chunks, steps;
    bool message, probability;  // probability: unary holds probabilities
};

template <class Change>
__device__ __forceinline__ float4 read_labels(const Field& f, const float* planes, int64_t place, int chunk, float padding,
                                              const Change& change) {
    const auto label = [&](int i) {
        return chunk * 4 + i < f.labels ? change(planes[place + (chunk * 4 + i) * f.lattices.pixels]) : padding;
    };
    return make_float4(label(0), label(1), label(2), label(3));
}

// What the filtered map of each of four labels is multiplied by; matrices are another matter.
__device__ __forceinline__ float4 coefficients(const Field& f, const Term& term, int chunk) {
    const float scale = lattice_scale(term.dims);
    if (!term.vector) {
        const float c = term.compat[0] * scale;
        return make_float4(c, c, c, c);
    }
    const auto label = [&](int i) { return chunk * 4 + i < f.labels ? -scale * term.compat[chunk * 4 + i] : 0.0f; };
    return make_float4(label(0), label(1), label(2), label(3));
}

// One chunk of K Q at a pixel, K being that of term k.
__device__ __forceinline__ float4 filtered_pixel(const Field& f, const float4* values, int k, int64_t image, int rank, int chunk,
                                                 int chunks) {
    const Lattices& g = f.lattices;
    const Term& term = g.term[k];
    if (term.dims == 0) return f.kept[(image * g.pixels + rank) * chunks + chunk];
    const int64_t copy = term.shared ? image * g.counts[2 * k] : 0;
    const int64_t entry = term.first_entry + ((term.shared ? 0 : image) * g.pixels + rank) * term.sides;
    return slice(term.sides, values + (term.first_row + copy) * chunks + chunk, g.vertex + entry, g.weight + entry, chunks);
}

// rows -= M (K Q) for the terms with a matrix: a pixel's filtered labels meet in the block's part of `filtered`.
__device__ __forceinline__ void add_matrix_terms(const Field& f, const float4* values, int64_t image, const Tile& tile,
                                                 int chunks, float4* rows) {
    const int stride = chunks | 1, items = tile.pixels() * chunks;
    float4* const filtered = f.filtered + int64_t{blockIdx.x} * kTilePixels * stride;
    for (int k = 0; k < f.lattices.terms; ++k) {
        const Term& term = f.lattices.term[k];
        if (!term.matrix) continue;
        for (int i = threadIdx.x; i < items; i += kFieldThreads) {
            const int pixel = i / chunks, chunk = i - pixel * chunks;
            filtered[pixel * stride + chunk] = filtered_pixel(f, values, k, image, tile.first + pixel, chunk, chunks);
        }
        __syncthreads();
        const float scale = lattice_scale(term.dims);
        for (int i = threadIdx.x; i < items; i += kFieldThreads) {
            const int pixel = i / chunks, chunk = i - pixel * chunks;
            const float* const from = reinterpret_cast<const float*>(filtered + pixel * stride);
            float* const to = reinterpret_cast<float*>(rows + pixel * stride + chunk);
            for (int j = 0; j < 4 && chunk * 4 + j < f.labels; ++j) {
                const float* const row = term.compat + (chunk * 4 + j) * int64_t{f.labels};
                float sum = 0.0f;
                for (int m = 0; m < f.labels; ++m) sum += row[m] * from[m];
                to[j] -= scale * sum;
            }
        }
        __syncthreads();
    }
}

// Padding is -infinity before and 0 after.
template <int kChunks>
__device__ __forceinline__ void softmax_row(float4* row, int run_chunks) {
    const int chunks = kChunks > 0 ? kChunks : run_chunks;
    float best = -INFINITY, sum = 0.0f;
    float4 kept[kChunks > 0 ? kChunks : 1];
#pragma unroll
    for (int c = 0; c < chunks; ++c) {
        const float4 v = row[c];
        best = fmaxf(best, fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)));
        if (kChunks > 0) kept[c] = v;
    }
#pragma unroll
    for (int c = 0; c < chunks; ++c) {
        float4 v = kChunks > 0 ? kept[c] : row[c];
        v = make_float4(expf(v.x - best), expf(v.y - best), expf(v.z - best), expf(v.w - best));
        sum += (v.x + v.y) + (v.z + v.w);
        if (kChunks > 0)
            kept[c] = v;
        else
            row[c] = v;
    }
    const float scale = 1.0f / sum;
#pragma unroll
    for (int c = 0; c < chunks; ++c) {
        const float4 v = kChunks > 0 ? kept[c] : row[c];
        row[c] = make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale);
    }
}

// Step 0 starts from the unary or the initial Q; the last step writes the result, the others leave the sums of the runs.
template <int kChunks>
__device__ __forceinline__ void step_of_tile(const Field& f, int step, int64_t image, int tile_index, const float4* values,
                                             float4* sums, float4* rows) {
    const Lattices& g = f.lattices;
    const int chunks = kChunks > 0 ? kChunks : f.chunks, stride = chunks | 1;
    const Tile tile = g.tiles.at(tile_index);
    const int pixels = tile.pixels();
    const auto place_of_pixel = [&](int pixel) {
        return static_cast<int64_t>(tile.y + pixel / tile.width) * g.tiles.width + tile.x + pixel % tile.width;
    };
    bool matrices = false;
    for (int i = threadIdx.x; i < pixels * chunks; i += kFieldThreads) {
        const int pixel = i / chunks, chunk = i - pixel * chunks;
        const int64_t row = (image * g.pixels + tile.first + pixel) * chunks + chunk;
        float4 value;
        if (step == 0) {
            const int64_t place = image * f.labels * g.pixels + place_of_pixel(pixel);
            value = read_labels(f, f.unary, place, chunk, -INFINITY, [&](float u) {
                return f.probability ? logf(u < kLeastProbability ? kLeastProbability : u) : -u;  // NaN stays
            });
            if (f.steps > 0 && !f.message) f.logits[row] = value;
            if (f.initial) value = read_labels(f, f.initial, place, chunk, 0.0f, [](float q) { return q; });
        } else {
            if (f.message)
                set_zero(value);
            else
                value = f.logits[row];
            for (int k = 0; k < g.terms; ++k) {
                if (g.term[k].matrix) continue;
                const float4 filtered = filtered_pixel(f, values, k, image, tile.first + pixel, chunk, chunks);
                const float4 factor = coefficients(f, g.term[k], chunk);
                value = make_float4(value.x + factor.x * filtered.x, value.y + factor.y * filtered.y,
                                    value.z + factor.z * filtered.z, value.w + factor.w * filtered.w);
            }
        }
        rows[pixel * stride + chunk] = value;
    }
    for (int k = 0; k < g.terms; ++k) matrices = matrices || g.term[k].matrix;
    if (step > 0 && matrices) add_matrix_terms(f, values, image, tile, chunks, rows);
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < pixels && !(step == 0 ? f.initial != nullptr : f.message))
        softmax_row<kChunks>(rows + threadIdx.x * stride, chunks);
    __syncthreads();
    if (step == f.steps) {
        const float* const tile_values = reinterpret_cast<const float*>(rows);
        float* const out = f.out + image * f.labels * g.pixels;
        const int pixel = threadIdx.x;
        if (pixel < pixels)
            for (int label = 0; label < f.labels; ++label)
                out[label * g.pixels + place_of_pixel(pixel)] = tile_values[pixel * stride * 4 + label];
    } else {
        if (f.kept)
            for (int i = threadIdx.x; i < pixels * chunks; i += kFieldThreads) {
                const int pixel = i / chunks, chunk = i - pixel * chunks;
                f.kept[(image * g.pixels + tile.first) * chunks + i] = rows[pixel * stride + chunk];
            }
        for (int k = 0; k < g.terms; ++k) {
            if (g.term[k].dims == 0) continue;
            const bool shared = g.term[k].shared;
            splat_tile<float4, kChunks>(g, k, shared ? 0 : image, tile_index, shared ? image : 0, chunks, sums,
                                        [&](int pixel, int chunk) { return rows[pixel * stride + chunk]; });
        }
    }
    __syncthreads();  // the next tile overwrites the rows
}

template <int kChunks>
__global__ void __launch_bounds__(kFieldThreads, 3) dense_crf_field_kernel(Field f) {
    WSSS_SHARED(tile_values, float4[kTilePixels * (kChunks | 1)]);
    const Lattices& g = f.lattices;
    const int chunks = kChunks > 0 ? kChunks : f.chunks;
    float4* const rows = kChunks > 0 ? tile_values : f.tile_rows + int64_t{blockIdx.x} * kTilePixels * (chunks | 1);
    const int64_t tiles = int64_t{f.images} * g.tiles.count;
    float4 *values = f.first, *other = f.second;
    const int passes = blur_passes(g);
    for (int step = 0;; ++step) {
        for (int64_t i = blockIdx.x; i < tiles; i += gridDim.x)
            step_of_tile<kChunks>(f, step, i / g.tiles.count, static_cast<int>(i % g.tiles.count), values, other, rows);
        if (step == f.steps) break;
        grid_sync();
        add_runs<float4, kChunks>(g, f.images, chunks, other, values);
        grid_sync();
        for (int pass = 0; pass < passes; ++pass) {
            blur_pass<float4, kChunks>(g, pass, passes, f.images, chunks, values, other);
            grid_sync();
            float4* const swapped = values;
            values = other;
            other = swapped;
        }
    }
}

// ---- host ------------------------------------------------------------------------------------------------------------------

namespace {

constexpr int64_t kMaxSharedChunks = 8;  // up to 32 labels a tile's rows lie in shared memory

using FieldKernel = void (*)(Field);
FieldKernel field_kernel(int64_t chunks) {
    static const FieldKernel kernels[] = {dense_crf_field_kernel<0>, dense_crf_field_kernel<1>, dense_crf_field_kernel<2>,
                                          dense_crf_field_kernel<3>, dense_crf_field_kernel<4>, dense_crf_field_kernel<5>,
                                          dense_crf_field_kernel<6>, dense_crf_field_kernel<7>, dense_crf_field_kernel<8>};
    return kernels[chunks <= kMaxSharedChunks ? chunks : 0];
}

template <class... P>
dim3 cooperative_grid(void (*kernel)(P...), int64_t tiles) {
    const int64_t most = std::min(cooperative_blocks("dense_crf", kernel, dim3(kFieldThreads), 0), kMaxFieldBlocks);
    return dim3(static_cast<unsigned>(std::max<int64_t>(std::min(most, tiles), 1)));
}

void run_field(const Plan& plan, Field field, cudaStream_t stream) {
    const FieldKernel kernel = field_kernel(plan.chunks);
    launch_cooperative("dense_crf", kernel, cooperative_grid(kernel, int64_t{field.images} * plan.lattices.tiles.count),
                       dim3(kFieldThreads), 0, stream, field);
}

void normalise(const Plan& plan, cudaStream_t stream) {
    bool wanted = false;
    for (int k = 0; k < plan.lattices.terms; ++k)
        wanted = wanted || (plan.lattices.term[k].dims > 0 && plan.lattices.term[k].normalisation != Normalisation::kNone);
    if (!wanted) return;
    launch_cooperative("dense_crf", dense_crf_normalise_kernel,
                       cooperative_grid(dense_crf_normalise_kernel, plan.lattices.all_tiles), dim3(kFieldThreads), 0, stream,
                       plan.lattices, reinterpret_cast<float*>(plan.first), reinterpret_cast<float*>(plan.second));
}

}  // namespace

int64_t workspace_cuda(const Shape& shape, const std::vector<TermInput>& terms, const Context& context) {
    const DeviceGuard guard(context.device.index);
    if (shape.n == 0 || shape.labels == 0 || shape.pixels() == 0) return 0;
    const bool in_shared_memory = ceil_div(shape.labels, 4) <= kMaxSharedChunks;
    const int64_t images = images_in_flight(shape, terms, in_shared_memory);
    return make_plan(shape, terms, images, in_shared_memory, nullptr, true).bytes + kStartAlignment;
}

void run_cuda(const View& unary, bool probability, const std::vector<TermInput>& terms, int64_t iterations, const View& initial,
              bool message, const View& out, const View& workspace, const Context& context) {
    const DeviceGuard guard(context.device.index);
    const cudaStream_t stream = stream_of(context);
    const Shape shape{unary.size[0], unary.size[1], unary.size[2], unary.size[3]};
    const bool in_shared_memory = ceil_div(shape.labels, 4) <= kMaxSharedChunks;
    const int64_t at_once = images_in_flight(shape, terms, in_shared_memory);
    bool all_shared = true;
    for (const TermInput& term : terms) all_shared = all_shared && term.feature.size[0] == 1;
    const int64_t most = terms.empty() || message ? 1 : int64_t{0x7ffffffe};
    for (int64_t image = 0; image < shape.n; image += at_once) {
        const int64_t images = std::min(at_once, shape.n - image);
        Plan plan = make_plan(shape, terms, images, in_shared_memory, aligned_start(workspace.data), true);
        for (int k = 0; k < plan.lattices.terms; ++k) {
            Term& term = plan.lattices.term[k];
            if (!term.shared) term.feature += image * term.dims * shape.pixels();
        }
        if (image == 0 || !all_shared) {  // the arrays of lattices come first in a plan: shared ones stay where they are
            build_lattices(plan.lattices, plan.build, stream);
            normalise(plan, stream);
        }
        const int64_t before = image * shape.labels * shape.pixels();
        Field field{};
        field.lattices = plan.lattices;
        field.unary = unary.as<float>() + before;
        field.initial = initial ? initial.as<float>() + before : nullptr;
        field.out = out.as<float>() + before;
        field.logits = plan.logits;
        field.kept = plan.kept;
        field.first = plan.first;
        field.second = plan.second;
        field.tile_rows = plan.tile_rows;
        field.filtered = plan.filtered;
        field.images = static_cast<int>(images);
        field.labels = static_cast<int>(shape.labels);
        field.chunks = static_cast<int>(plan.chunks);
        field.steps = static_cast<int>(message ? 1 : std::min(iterations, most));
        field.message = message;
        field.probability = probability;
        run_field(plan, field, stream);
    }
}

}  // namespace wsss::dense_crf
