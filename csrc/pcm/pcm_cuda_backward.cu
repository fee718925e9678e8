// pcm on CUDA, backward. With g = dL/dout, g'_j = g_j / r_j (a vector over classes) and d'_j = g'_j . out_j:
//
//     dL/dcam_i = sum_j A_ij g'_j                                     the forward accumulation with g' in place of cam
//     W_ij      = [s_ij > 0] (cam_i . g'_j + g'_i . cam_j - d'_i - d'_j),   s_ij = f_i . f_j
//     dL/df_i   = sum_j W_ij f_j                                      W is symmetric: each row is complete, no scattering
//     dL/dx     = (df - x (x . df) / (n m)) / m,   n = ||x||, m = n + eps   (second term 0 where n = 0)
//
// Kernels: pack; gradient, which forms a 128 x 64 tile of S and of the bracket on the tensor cores, combines them in registers
// and multiplies with the keys' features; finish, which adds partial sums and goes back through the normalisation.
//
// Types: S as in the forward pass; the bracket and W in bf16, one term for bfloat16 inputs, two for float16 and float32, since
// g / r and W are known to no factor and half's range would overflow or flush them to zero.
// d' is computed from the rounded g', and enters in float32: the bracket is then the exact one of a slightly different g, and
// its two halves, whose weighted sums over i are zero, still cancel.
// Memory: no P x P matrix; workspace of packed operands and partial sums. Deterministic: no atomics, cut by shape.
// NaN, Inf: as in the forward pass; a pixel whose norm is 0 gets df / eps, which is 0, as its affinities are.
#include "pcm/pcm.h"
#include "pcm/pcm_gradient.cuh"
#include "pcm/pcm_pack.cuh"

namespace wsss::pcm {

constexpr int kClassBlock = 64;

// ---- pack -------------------------------------------------------------------------------------------------

template <class T>
struct GradientPackArguments {
    StridedPixels<T> grad, cam;
    const T* out;
    const float* denominator;
    uint16_t* pair_queries;  // [N][terms][padded pixels][pair depth]: cam_i, g'_i
    uint16_t* pair_keys;     // the same with g'_j, cam_j
    float* offsets;          // [N][padded pixels]: d'
    int64_t pixels, padded_pixels, classes, pair_depth;
};

template <class T, int kTerms>
__device__ void pack_gradient(const GradientPackArguments<T>& a, int64_t block) {
    WSSS_SHARED(cams, float[kPixelGroup][kClassBlock + 1]);
    WSSS_SHARED(grads, float[kPixelGroup][kClassBlock + 1]);
    WSSS_SHARED(sums, WarpSums);
    constexpr int kLoads = kClassBlock / kPackWarps;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int64_t groups = a.padded_pixels / kPixelGroup, image = block / groups, first = block % groups * kPixelGroup;
    const bool inside = first + lane < a.pixels;
    const int64_t p = inside ? first + lane : 0;
    const T* const grad = a.grad.pixel(image, p);
    const T* const cam = a.cam.pixel(image, p);
    const T* const out = a.out + image * a.classes * a.pixels + p;
    const float r = a.denominator[image * a.pixels + p];
    const auto put_pair = [&](uint16_t* pairs, int pixel, int64_t column, float value) {
        bf16 terms[kTerms];
        split<bf16, kTerms>(value, terms);
        for (int term = 0; term < kTerms; ++term)
            pairs[((image * kTerms + term) * a.padded_pixels + first + pixel) * a.pair_depth + column] = to_bits(terms[term]);
    };

    float offset = 0.0f;
    for (int64_t c0 = 0; c0 < a.classes; c0 += kClassBlock) {
        float loaded[3][kLoads];
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            const int64_t c = c0 + warp + i * kPackWarps;
            const bool real = inside && c < a.classes;
            loaded[0][i] = real ? to_float(grad[c * a.grad.channel]) : 0.0f;
            loaded[1][i] = real ? to_float(cam[c * a.cam.channel]) : 0.0f;
            loaded[2][i] = real ? to_float(out[c * a.pixels]) : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            const int column = warp + i * kPackWarps;
            if (c0 + column >= a.classes) break;
            const float scaled = inside ? rounded<bf16, kTerms>(loaded[0][i] / r) : 0.0f;
            offset += scaled * loaded[2][i];
            grads[lane][column] = scaled;
            cams[lane][column] = loaded[1][i];
        }
        __syncthreads();
        for (int pixel = warp; pixel < kPixelGroup; pixel += kPackWarps)
            for (int column = lane; column < kClassBlock && c0 + column < a.classes; column += 32) {
                put_pair(a.pair_queries, pixel, c0 + column, cams[pixel][column]);
                put_pair(a.pair_queries, pixel, a.classes + c0 + column, grads[pixel][column]);
                put_pair(a.pair_keys, pixel, c0 + column, grads[pixel][column]);
                put_pair(a.pair_keys, pixel, a.classes + c0 + column, cams[pixel][column]);
            }
        __syncthreads();
    }
    for (int pixel = warp; pixel < kPixelGroup; pixel += kPackWarps)
        for (int64_t column = 2 * a.classes + lane; column < a.pair_depth; column += 32) {
            put_pair(a.pair_queries, pixel, column, 0.0f);
            put_pair(a.pair_keys, pixel, column, 0.0f);
        }
    const float total = sum_over_warps(sums, offset);
    if (warp == 0) a.offsets[image * a.padded_pixels + first + lane] = total;
}

template <class T, class Scheme>
__global__ void __launch_bounds__(kPackThreads)
    pcm_gradient_pack_kernel(PackArguments<T> feature, GradientPackArguments<T> gradient) {
    const int64_t block = blockIdx.x;
    if (block < feature.blocks)
        pack_feature<T, Scheme>(feature, block);
    else
        pack_gradient<T, Scheme::kTerms>(gradient, block - feature.blocks);
}

// ---- finish: partial sums, then back through the normalisation --------------------------------------------

template <class T>
struct FinishArguments {
    StridedPixels<T> feature;
    const float* partial;
    const float* norms;
    T* grad_feature;  // [N, D, P]
    int64_t pixels, padded_pixels, depth, query_tiles, slabs, slab_width;
    Work work;
    float eps;
};

template <class T>
__global__ void __launch_bounds__(kPackThreads) pcm_finish_kernel(FinishArguments<T> g) {
    WSSS_SHARED(tile, PixelTile);
    WSSS_SHARED(sums, WarpSums);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int64_t groups = (g.pixels + kPixelGroup - 1) / kPixelGroup;
    const int64_t image = blockIdx.x / groups, first = blockIdx.x % groups * kPixelGroup, slot_size = kQueryTile * g.slab_width;
    const bool inside = first + lane < g.pixels;
    const T* const pixel = g.feature.pixel(image, inside ? first + lane : 0);

    float x[kBatch];
    const auto gather = [&](int64_t slab) {  // x and, in the tile, df: 192 channels of 32 pixels
        read_channels(x, pixel + slab * kDepthBlock * g.feature.channel, g.feature.channel, g.depth - slab * kDepthBlock, inside);
        const int64_t row_tile = (image * g.slabs + slab) * g.query_tiles + first / kQueryTile;
        const int64_t first_worker = g.work.owner(row_tile * g.work.key_tiles);
        const int64_t last_worker = g.work.owner((row_tile + 1) * g.work.key_tiles - 1);
        const float* const slot = g.partial + Work::slot(first_worker, row_tile) * slot_size;
        for (int p = warp; p < kPixelGroup; p += kPackWarps)
            for (int column = 2 * lane; column < g.slab_width && slab * kDepthBlock + column < g.depth; column += 64) {
                const float* source = slot + (first % kQueryTile + p) * g.slab_width + column;
                float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll 4
                for (int64_t worker = first_worker; worker <= last_worker; ++worker, source += slot_size) {
                    const float2 part = *reinterpret_cast<const float2*>(source);
                    sum.x += part.x;
                    sum.y += part.y;
                }
                tile[p][column] = sum.x / kRowScale;
                tile[p][column + 1] = sum.y / kRowScale;
            }
        __syncthreads();
    };
    float dot = 0.0f;
    for (int64_t slab = 0; slab < g.slabs; ++slab) {
        if (slab > 0) __syncthreads();
        gather(slab);
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
            if (slab * kDepthBlock + warp + i * kPackWarps < g.depth) dot += x[i] * tile[lane][warp + i * kPackWarps];
    }
    dot = sum_over_warps(sums, dot);
    const float norm = g.norms[image * g.padded_pixels + first + lane], length = norm + g.eps;
    const float along = norm > 0.0f ? dot / norm / length : 0.0f;  // this order: n m^2 could overflow
    for (int64_t slab = 0; slab < g.slabs; ++slab) {
        if (g.slabs > 1) {
            __syncthreads();
            gather(slab);
        }
        T* const target = g.grad_feature + (image * g.depth + slab * kDepthBlock) * g.pixels + first + lane;
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int channel = warp + i * kPackWarps;
            if (inside && slab * kDepthBlock + channel < g.depth)
                target[channel * g.pixels] = from_float<T>((tile[lane][channel] - x[i] * along) / length);
        }
    }
}

// ---- host -------------------------------------------------------------------------------------------------

namespace {

struct GradientPlan {
    int64_t pair_depth, slabs, slab_width;
    Work work;
    bool whole, resident;
    size_t shared_bytes;

    GradientPlan(const Geometry& geometry, int row_terms, int terms, size_t limit)
        : pair_depth(round_up(geometry.classes > 0 ? 2 * geometry.classes : 1, 16)),
          slabs(ceil_div(geometry.depth_chunks, kSlabChunks)),
          slab_width(geometry.padded_depth < kDepthBlock ? geometry.padded_depth : kDepthBlock),
          work(make_work(geometry.images * slabs * geometry.query_tiles, geometry.key_tiles, kProcessors)) {
        const int64_t tiles = row_terms * geometry.depth_chunks + terms * ceil_div(pair_depth, kChunk);
        whole = terms == 1 && slabs == 1 && gradient_shared_bytes(tiles, terms, true, true) <= limit;
        resident = whole || gradient_shared_bytes(tiles, terms, false, true) <= limit;
        shared_bytes = gradient_shared_bytes(tiles, terms, whole, resident);
    }
    int64_t partial_count() const { return work.slots() * kQueryTile * slab_width; }
};

// The workspace of the backward pass; with a null start, its size.
struct GradientWorkspace {
    Carver carver;
    uint16_t *rows, *rows_bf16, *pair_queries, *pair_keys, *values;
    float *norms, *scales, *offsets, *partial;

    GradientWorkspace(void* start, const Geometry& geometry, int row_terms, int terms, const GradientPlan& plan) : carver(start) {
        const int64_t pairs = terms * geometry.pixel_count() * plan.pair_depth;
        const int64_t cam_partial = accumulate_partial_count(geometry);
        rows = carver.take<uint16_t>(geometry.rows_count(row_terms));
        rows_bf16 = terms == 1 ? rows : carver.take<uint16_t>(geometry.rows_count(terms));
        pair_queries = carver.take<uint16_t>(pairs);
        pair_keys = carver.take<uint16_t>(pairs);
        values = carver.take<uint16_t>(geometry.values_count(terms));
        norms = carver.take<float>(geometry.pixel_count());
        scales = carver.take<float>(geometry.pixel_count());
        offsets = carver.take<float>(geometry.pixel_count());
        partial = carver.take<float>(plan.partial_count() > cam_partial ? plan.partial_count() : cam_partial);  // used in turn
    }
};

template <class T, class Scheme>
void run_backward(const View& grad, const View& cam, const View& feature, const View& out, const View& denominator, float eps,
                  const View& grad_cam, const View& grad_feature, const View& workspace, cudaStream_t stream) {
    const Geometry geometry(cam.size[0], cam.size[1], feature.size[1], cam.size[2] * cam.size[3]);
    const GradientPlan plan(geometry, Scheme::kRowTerms, Scheme::kTerms, shared_limit());
    const GradientWorkspace space(aligned_start(workspace.data), geometry, Scheme::kRowTerms, Scheme::kTerms, plan);
    PackArguments<T> feature_pack{};
    feature_pack.feature = StridedPixels<T>(feature);
    feature_pack.value = StridedPixels<T>(grad);
    feature_pack.denominator = denominator.as<const float>();
    feature_pack.rows = space.rows;
    feature_pack.rows_bf16 = grad_feature && space.rows_bf16 != space.rows ? space.rows_bf16 : nullptr;
    feature_pack.values = grad_cam ? space.values : nullptr;
    feature_pack.scales = space.scales;
    feature_pack.norms = space.norms;
    feature_pack.set_sizes(geometry);
    feature_pack.eps = eps;
    GradientPackArguments<T> gradient_pack{};
    gradient_pack.grad = StridedPixels<T>(grad);
    gradient_pack.cam = StridedPixels<T>(cam);
    gradient_pack.out = out.as<const T>();
    gradient_pack.denominator = denominator.as<const float>();
    gradient_pack.pair_queries = space.pair_queries;
    gradient_pack.pair_keys = space.pair_keys;
    gradient_pack.offsets = space.offsets;
    gradient_pack.pixels = geometry.pixels;
    gradient_pack.padded_pixels = geometry.padded_pixels;
    gradient_pack.classes = geometry.classes;
    gradient_pack.pair_depth = plan.pair_depth;
    launch("pcm", pcm_gradient_pack_kernel<T, Scheme>, dim3(grid_size("pcm", (grad_feature ? 2 : 1) * feature_pack.blocks)),
           dim3(kPackThreads), 0, stream, feature_pack, gradient_pack);
    if (grad_feature) {
        GradientArguments arguments{};
        arguments.rows = space.rows;
        arguments.rows_bf16 = space.rows_bf16;
        arguments.pair_queries = space.pair_queries;
        arguments.pair_keys = space.pair_keys;
        arguments.offsets = space.offsets;
        arguments.scales = space.scales;
        arguments.partial = space.partial;
        arguments.padded_pixels = geometry.padded_pixels;
        arguments.padded_depth = geometry.padded_depth;
        arguments.pair_depth = plan.pair_depth;
        arguments.query_tiles = geometry.query_tiles;
        arguments.slabs = plan.slabs;
        arguments.slab_width = plan.slab_width;
        arguments.work = plan.work;
        arguments.resident = plan.resident;
        auto kernel = pcm_gradient_kernel<Scheme, false>;
        if constexpr (Scheme::kTerms == 1)
            if (plan.whole) kernel = pcm_gradient_kernel<Scheme, true>;
        launch("pcm", kernel, dim3(grid_size("pcm", plan.work.workers)), dim3(kGradientThreads), plan.shared_bytes, stream,
               arguments);
        FinishArguments<T> finish{};
        finish.feature = StridedPixels<T>(feature);
        finish.partial = space.partial;
        finish.norms = space.norms;
        finish.grad_feature = grad_feature.as<T>();
        finish.pixels = geometry.pixels;
        finish.padded_pixels = geometry.padded_pixels;
        finish.depth = geometry.depth;
        finish.query_tiles = geometry.query_tiles;
        finish.slabs = plan.slabs;
        finish.slab_width = plan.slab_width;
        finish.work = plan.work;
        finish.eps = eps;
        const int64_t blocks = geometry.images * ceil_div(geometry.pixels, kPixelGroup);
        launch("pcm", pcm_finish_kernel<T>, dim3(grid_size("pcm", blocks)), dim3(kPackThreads), 0, stream, finish);
    }
    if (grad_cam)
        accumulate<T, Scheme>(geometry, {space.rows, space.values, space.scales}, space.partial, grad_cam.as<T>(), nullptr, eps,
                              stream);
}

}  // namespace

int64_t backward_workspace_cuda(const Shape& shape, DType dtype, const Context&) {
    const Geometry geometry(shape.n, shape.c, shape.d, shape.pixels());
    if (shape.n == 0 || geometry.pixels == 0) return 0;
    const int terms = dtype == DType::kBFloat16 ? 1 : 2, row_terms = dtype == DType::kFloat32 ? 2 : 1;
    const GradientPlan plan(geometry, row_terms, terms, 0);
    return GradientWorkspace(nullptr, geometry, row_terms, terms, plan).carver.used() + kStartAlignment;
}

void backward_cuda(const View& grad, const View& cam, const View& feature, const View& out, const View& denominator, double eps,
                   const View& grad_cam, const View& grad_feature, const View& workspace, const Context& context) {
    const DeviceGuard guard(context.device.index);
    const cudaStream_t stream = stream_of(context);
    const auto run = [&](auto tag, auto scheme) {
        run_backward<decltype(tag), decltype(scheme)>(grad, cam, feature, out, denominator, static_cast<float>(eps), grad_cam,
                                                      grad_feature, workspace, stream);
    };
    if (cam.dtype == DType::kFloat32) return run(float{}, F32Scheme{});
    if (cam.dtype == DType::kFloat16) return run(f16{}, F16GradientScheme{});
    return run(bf16{}, Bf16Scheme{});
}

}  // namespace wsss::pcm
