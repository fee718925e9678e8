// prcm backward on CUDA, in three phases of one cooperative launch (see prcm.cuh), with t = gate o g o cam:
//     1. over pixels: the sums of t, in parts
//     2. dS of some pixels; dquery = K^T dS; dK = dS query^T of these pixels, in the order of key: a part of dkey
//     3. dphi = [key > 0] dkey Z out of the parts: a task is a row of phi
// Memory: the query is read once and its gradient written once; nothing of P x C2 besides.
#include "prcm/prcm.cuh"

namespace wsss::prcm {

constexpr int kSumTile = 256;                      // pixels of a part of phase 1, at least
constexpr int kWarpDepth = kDepthTile / kWarps;    // channels of dquery a thread
constexpr int kWarpClasses = kClassTile / kWarps;  // classes of dK a thread ...
constexpr int kLaneDepth = kDepthTile / 32;        // ... and its channels
constexpr int kKeyPitch = kDepthTile + 4;          // rows of shared memory: few bank conflicts along classes
constexpr int kPixelPitch = kTile + 1;             // none along channels

template <class T>
struct BackwardArguments {
    Shape shape;
    Options options;
    StridedPixels<T> grad, cam, query;
    const float *gate, *proxy, *key;
    T *grad_query, *grad_phi;  // null: not wanted
    Cut sum, map;
    float* sums;       // [N][C][sum chunks]
    float* key_parts;  // [N][map chunks][C2][C]

    __host__ __device__ int64_t sum_tasks() const { return options.over_classes ? 0 : shape.n * shape.c * sum.chunks; }
    __host__ __device__ int64_t map_tasks() const { return shape.n * map.chunks; }
    __host__ __device__ int64_t phi_ranges() const { return (shape.c1 + kThreads - 1) / kThreads; }
    __host__ __device__ int64_t phi_tasks() const { return grad_phi ? shape.c2 * phi_ranges() : 0; }

    __device__ __forceinline__ float gate_at(int64_t image, int64_t c, int64_t p) const {
        return gate[(image * shape.c + c) * map.pixels + p];
    }
    __device__ __forceinline__ float move(int64_t image, int64_t c, int64_t p) const {  // t
        return gate_at(image, c, p) * grad.at(image, c, p) * cam.at(image, c, p);
    }
};

template <class T>
__device__ void sum_moves(const BackwardArguments<T>& a, int64_t task) {  // one warp a task
    const int64_t row = task / a.sum.chunks, chunk = task % a.sum.chunks, image = row / a.shape.c, c = row % a.shape.c;
    float sum = 0.0f;
    for (int64_t p = chunk * a.sum.chunk + (threadIdx.x & 31); p < a.sum.end(chunk); p += 32) sum += a.move(image, c, p);
    sum = warp_sum(sum);
    if ((threadIdx.x & 31) == 0) a.sums[task] = sum;
}

// The sum of t over all pixels of a class; all lanes of a warp call it and get it.
template <class T>
__device__ __forceinline__ float class_sum(const BackwardArguments<T>& a, int64_t image, int64_t c) {
    float sum = 0.0f;
    for (int64_t i = threadIdx.x & 31; i < a.sum.chunks; i += 32) sum += a.sums[(image * a.shape.c + c) * a.sum.chunks + i];
    return warp_sum(sum);
}

// The sum of t over all classes of one pixel a lane.
template <class T>
__device__ float pixel_sum(const BackwardArguments<T>& a, int64_t image, int64_t p, bool inside) {
    WSSS_SHARED(parts, float[kWarps][kTile]);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    float sum = 0.0f;
    if (inside)
        for (int64_t c = warp; c < a.shape.c; c += kWarps) sum += a.move(image, c, p);
    __syncthreads();
    parts[warp][lane] = sum;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += parts[w][lane];
    return total;
}

template <class T>
__device__ void differentiate_tile(const BackwardArguments<T>& a, int64_t image, int64_t chunk, int64_t tile) {
    WSSS_SHARED(queries, float[kDepthTile][kPixelPitch]);
    WSSS_SHARED(keys, float[kClassTile][kKeyPitch]);
    WSSS_SHARED(moves, float[kClassTile][kTile]);  // dS
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int64_t p = tile + lane, key_size = a.shape.c2 * a.shape.c;
    const bool inside = p < a.map.pixels;
    const T* const pixel = a.query.pixel(image, inside ? p : 0);
    const float* const key = a.key + image * key_size;
    float* const key_part = a.key_parts + (image * a.map.chunks + chunk) * key_size;
    const float over_classes = a.options.over_classes ? pixel_sum(a, image, p, inside) : 0.0f;
    for (int64_t depth = 0; depth < a.shape.c2; depth += kDepthTile) {
        __syncthreads();
#pragma unroll 4
        for (int d = warp; d < kDepthTile; d += kWarps) {
            const float query = inside && depth + d < a.shape.c2 ? to_float(pixel[(depth + d) * a.query.channel]) : 0.0f;
            queries[d][lane] = a.options.rectify ? rectified(query) : query;
        }
        float gradient[kWarpDepth] = {};
        for (int64_t first = 0; first < a.shape.c; first += kClassTile) {
            if (first > 0) __syncthreads();
            for (int j = warp; j < kClassTile; j += kWarps) {
                const int64_t c = first + j;
                float move = 0.0f;
                if (c < a.shape.c) {
                    const float sum = a.options.over_classes ? over_classes : class_sum(a, image, c);
                    if (inside) move = static_cast<float>(a.options.scale) * (a.move(image, c, p) - a.gate_at(image, c, p) * sum);
                }
                moves[j][lane] = move;
            }
            for (int i = threadIdx.x; i < kDepthTile * kClassTile; i += kThreads) {
                const int64_t d = depth + i / kClassTile, c = first + i % kClassTile;
                keys[i % kClassTile][i / kClassTile] =
                    d < a.shape.c2 && c < a.shape.c ? key[Options::key_index(a.shape, a.options.view, c, d)] : 0.0f;
            }
            __syncthreads();
            if (a.grad_query)
                for (int j = 0; j < kClassTile; ++j) {
                    const float move = moves[j][lane];
#pragma unroll
                    for (int i = 0; i < kWarpDepth; ++i) gradient[i] += keys[j][warp * kWarpDepth + i] * move;
                }
            if (!a.grad_phi) continue;
            float sums[kLaneDepth][kWarpClasses] = {};
            for (int q = 0; q < kTile; ++q)
#pragma unroll
                for (int i = 0; i < kLaneDepth; ++i) {
                    const float query = queries[lane + 32 * i][q];
#pragma unroll
                    for (int j = 0; j < kWarpClasses; ++j) sums[i][j] += query * moves[warp * kWarpClasses + j][q];
                }
#pragma unroll
            for (int i = 0; i < kLaneDepth; ++i)
#pragma unroll
                for (int j = 0; j < kWarpClasses; ++j) {
                    const int64_t d = depth + lane + 32 * i, c = first + warp * kWarpClasses + j;
                    if (d >= a.shape.c2 || c >= a.shape.c) continue;
                    float* const to = key_part + Options::key_index(a.shape, a.options.view, c, d);
                    *to = tile == chunk * a.map.chunk ? sums[i][j] : *to + sums[i][j];  // no other thread has this place
                }
        }
        if (a.grad_query && inside)
#pragma unroll
            for (int i = 0; i < kWarpDepth; ++i) {
                const int d = warp * kWarpDepth + i;
                if (depth + d >= a.shape.c2) break;
                const bool cut = a.options.rectify && queries[d][lane] <= 0.0f;
                a.grad_query[(image * a.shape.c2 + depth + d) * a.map.pixels + p] = from_float<T>(cut ? 0.0f : gradient[i]);
            }
    }
}

template <class T>
__device__ void sum_phi(const BackwardArguments<T>& a, int64_t task) {
    WSSS_SHARED(parts, float[kWarps][32]);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int64_t d = task / a.phi_ranges(), k = task % a.phi_ranges() * kThreads + threadIdx.x;
    const int64_t key_size = a.shape.c2 * a.shape.c;
    float sum = 0.0f;
    for (int64_t image = 0; image < a.shape.n; ++image)
        for (int64_t first = 0; first < a.shape.c; first += 32) {
            const int64_t c = first + lane, place = d * a.shape.c + c;
            float part = 0.0f;
            if (c < a.shape.c) {
                const float* from = a.key_parts + image * a.map.chunks * key_size + place;
#pragma unroll 8
                for (int64_t chunk = warp; chunk < a.map.chunks; chunk += kWarps) part += from[chunk * key_size];
                if (a.key[image * key_size + place] <= 0.0f) part = 0.0f;
            }
            __syncthreads();
            parts[warp][lane] = part;
            __syncthreads();
            if (k >= a.shape.c1) continue;
            const float* proxy = a.proxy + (image * a.shape.c + first) * a.shape.c1 + k;
            for (int j = 0; j < 32 && first + j < a.shape.c; ++j) {
                float key = 0.0f;
#pragma unroll
                for (int w = 0; w < kWarps; ++w) key += parts[w][j];
                sum += key * proxy[j * a.shape.c1];
            }
        }
    if (k < a.shape.c1) a.grad_phi[d * a.shape.c1 + k] = from_float<T>(sum);
}

template <class T>
__global__ void __launch_bounds__(kThreads) prcm_backward_kernel(BackwardArguments<T> a) {
    if (!a.options.over_classes) {
        const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarps;
        for (int64_t task = blockIdx.x * kWarps + (threadIdx.x >> 5); task < a.sum_tasks(); task += warps) sum_moves(a, task);
        grid_sync();
    }
    for (int64_t task = blockIdx.x; task < a.map_tasks(); task += gridDim.x) {
        const int64_t image = task / a.map.chunks, chunk = task % a.map.chunks;
        for (int64_t tile = chunk * a.map.chunk; tile < a.map.end(chunk); tile += kTile)
            differentiate_tile(a, image, chunk, tile);
    }
    if (!a.grad_phi) return;
    grid_sync();
    for (int64_t task = blockIdx.x; task < a.phi_tasks(); task += gridDim.x) sum_phi(a, task);
}

// ---- host -------------------------------------------------------------------------------------------------

namespace {

struct BackwardWorkspace {
    Carver carver;
    Cut sum, map;
    float *sums, *key_parts;

    BackwardWorkspace(void* start, const Shape& s)
        : carver(start), sum(s.pixels(), kSumTile, kMostSeedChunks), map(s.pixels(), kTile, kMostChunks) {
        sums = carver.take<float>(s.n * s.c * sum.chunks);
        key_parts = carver.take<float>(s.n * map.chunks * s.c2 * s.c);
    }
};

template <class T>
void run_backward(const Shape& shape, const Options& options, const BackwardInputs& in, const Gradients& out,
                  const View& workspace, cudaStream_t stream) {
    const BackwardWorkspace space(workspace.data, shape);
    BackwardArguments<T> a{};
    a.shape = shape;
    a.options = options;
    a.grad = StridedPixels<T>(in.grad);
    a.cam = StridedPixels<T>(in.cam);
    a.query = StridedPixels<T>(in.query);
    a.gate = in.gate.as<const float>();
    a.proxy = in.proxy.as<const float>();
    a.key = in.key.as<const float>();
    a.grad_query = out.query.as<T>();
    a.grad_phi = out.phi.as<T>();
    a.sum = space.sum;
    a.map = space.map;
    a.sums = space.sums;
    a.key_parts = space.key_parts;
    int64_t tasks = a.map_tasks();
    for (const int64_t other : {ceil_div(a.sum_tasks(), kWarps), a.phi_tasks()}) tasks = tasks < other ? other : tasks;
    launch_phases(prcm_backward_kernel<T>, tasks, stream, a);
}

}  // namespace

int64_t backward_workspace_cuda(const Shape& shape, DType, const Context&) {
    return BackwardWorkspace(nullptr, shape).carver.used();
}

void backward_cuda(const Shape& shape, const Options& options, const BackwardInputs& in, const Gradients& out,
                   const View& workspace, const Context& context) {
    const DeviceGuard guard(context.device.index);
    const cudaStream_t stream = stream_of(context);
    if (in.cam.numel() == 0) {  // nothing was computed, nothing moves
        for (const View& gradient : {out.query, out.phi})
            if (gradient)
                fill_bytes("prcm", gradient.data, 0, static_cast<size_t>(gradient.numel() * bytes(gradient.dtype)), stream);
        return;
    }
    with_device_type(in.cam.dtype, [&](auto type) { run_backward<decltype(type)>(shape, options, in, out, workspace, stream); });
}

}  // namespace wsss::prcm
