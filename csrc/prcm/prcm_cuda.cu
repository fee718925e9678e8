// prcm forward on CUDA, in four phases of one cooperative launch (see prcm.cuh):
//     1. maxima and sums of the seed's softmax and Z, in parts: a task is some pixels and 32 channels of x
//     2. Z out of its parts, key = max(phi Z^T, 0): a task is a class and 64 rows of phi
//     3. S = scale K query: a task is some pixels; over classes also its softmax and the result, else parts of its softmax
//     4. over pixels: the softmax and the result
// Memory: x and the query are read once, S stays in the gate. The arithmetic (51 MFLOP at 56 x 56) is far below what the memory
// allows: three barriers and four dependent trips to memory decide.
#include "prcm/prcm.cuh"

namespace wsss::prcm {

constexpr int kSeedTile = 128;    // pixels of phase 1 in shared memory
constexpr int kSeedClasses = 8;   // classes at a time: one a warp
constexpr int kSeedChannels = 4;  // channels of x a warp
constexpr int kSeedGroup = kWarps * kSeedChannels;
constexpr int kKeyRows = 8;           // rows of phi a warp
constexpr int kRange = 4 * kThreads;  // pixels a task of phase 4

template <class T>
struct ForwardArguments {
    Shape shape;
    Options options;
    StridedPixels<T> cam, x, query;
    const T* phi;
    int64_t phi_row, phi_column;
    T* out;
    float *gate, *proxy, *key;
    Cut seed, map;
    float2* seed_parts;  // [N][C][seed chunks]         maximum, sum
    float* seed_sums;    // [N][seed chunks][C][C1]
    float2* gate_parts;  // [N][C][map chunks]

    __host__ __device__ int64_t seed_groups() const { return shape.c1 > 0 ? (shape.c1 + kSeedGroup - 1) / kSeedGroup : 1; }
    __host__ __device__ int64_t seed_tasks() const { return shape.n * seed.chunks * seed_groups(); }
    __host__ __device__ int64_t key_slices() const {
        return shape.c2 > 0 ? (shape.c2 + kKeyRows * kWarps - 1) / (kKeyRows * kWarps) : 1;
    }
    __host__ __device__ int64_t key_tasks() const { return shape.n * shape.c * key_slices(); }
    __host__ __device__ int64_t map_tasks() const { return shape.n * map.chunks; }
    __host__ __device__ int64_t ranges() const { return (map.pixels + kRange - 1) / kRange; }
    __host__ __device__ int64_t finish_tasks() const { return options.over_classes ? 0 : shape.n * shape.c * ranges(); }
};

// Lane l gets the sum over lanes of value[l]: 31 shuffles for 32 sums. The steps are template arguments, so that the array stays
// in registers.
template <int kStep>
__device__ __forceinline__ float sum_to_lanes(float (&value)[32]) {
    const bool upper = (threadIdx.x & kStep) != 0;
#pragma unroll
    for (int i = 0; i < kStep; ++i) {
        const float kept = upper ? value[i + kStep] : value[i], sent = upper ? value[i] : value[i + kStep];
        value[i] = kept + __shfl_xor_sync(0xffffffffu, sent, kStep);
    }
    if constexpr (kStep > 1)
        return sum_to_lanes<kStep / 2>(value);
    else
        return value[0];
}

template <class T>
__device__ void sum_seed(const ForwardArguments<T>& a, int64_t task) {
    WSSS_SHARED(weights, float[kSeedClasses][kSeedTile]);
    static_assert(kSeedClasses == kWarps && kSeedClasses * kSeedChannels == 32, "one class a warp, one sum a lane");
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int64_t group = task % a.seed_groups(), chunk = task / a.seed_groups() % a.seed.chunks;
    const int64_t image = task / a.seed_groups() / a.seed.chunks, begin = chunk * a.seed.chunk, end = a.seed.end(chunk);
    const int64_t channel = group * kSeedGroup + warp * kSeedChannels;
    for (int64_t first = 0; first < a.shape.c; first += kSeedClasses) {
        const int64_t c = first + warp;
        float maximum = -INFINITY, sum = 0.0f;
        if (c < a.shape.c)
            for (int64_t p = begin + lane; p < end; p += 32) maximum = fmaxf(maximum, a.cam.at(image, c, p));
        maximum = warp_max(maximum);
        const float base = softmax_base(maximum);
        float sums[32] = {};
        for (int64_t tile = begin; tile < end; tile += kSeedTile) {
            __syncthreads();
            for (int i = lane; i < kSeedTile; i += 32) {
                const float weight = c < a.shape.c && tile + i < end ? expf(a.cam.at(image, c, tile + i) - base) : 0.0f;
                weights[warp][i] = weight;
                sum += weight;
            }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < kSeedTile / 32; ++i) {
                const int64_t p = tile + i * 32 + lane;
                const T* pixel = a.x.pixel(image, p < end ? p : begin);
                float x[kSeedChannels];
#pragma unroll
                for (int r = 0; r < kSeedChannels; ++r)
                    x[r] = p < end && channel + r < a.shape.c1 ? to_float(pixel[(channel + r) * a.x.channel]) : 0.0f;
#pragma unroll
                for (int j = 0; j < kSeedClasses; ++j) {
                    const float weight = weights[j][i * 32 + lane];
#pragma unroll
                    for (int r = 0; r < kSeedChannels; ++r) sums[j * kSeedChannels + r] += weight * x[r];
                }
            }
        }
        const float total = sum_to_lanes<16>(sums);
        const int64_t to = first + lane / kSeedChannels, k = channel + lane % kSeedChannels;
        if (to < a.shape.c && k < a.shape.c1)
            a.seed_sums[((image * a.seed.chunks + chunk) * a.shape.c + to) * a.shape.c1 + k] = total;
        sum = warp_sum(sum);
        if (group == 0 && lane == 0 && c < a.shape.c)
            a.seed_parts[(image * a.shape.c + c) * a.seed.chunks + chunk] = make_float2(maximum, sum);
    }
}

template <class T>
__device__ void make_key(const ForwardArguments<T>& a, int64_t task) {
    WSSS_SHARED(weights, float[kMostSeedChunks]);
    WSSS_SHARED(proxy, float[kThreads]);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, thread = threadIdx.x;
    const int64_t slice = task % a.key_slices(), c = task / a.key_slices() % a.shape.c, image = task / a.key_slices() / a.shape.c;
    const float2* const parts = a.seed_parts + (image * a.shape.c + c) * a.seed.chunks;
    const float2 whole = join_softmax(parts, a.seed.chunks);
    __syncthreads();  // the task before reads them no more
    if (thread < a.seed.chunks) weights[thread] = expf(parts[thread].x - whole.x) / whole.y;
    __syncthreads();
    float sums[kKeyRows] = {};
    for (int64_t first = 0; first < a.shape.c1; first += kThreads) {
        float value = 0.0f;
        if (first + thread < a.shape.c1) {
            const float* part = a.seed_sums + (image * a.seed.chunks * a.shape.c + c) * a.shape.c1 + first + thread;
#pragma unroll 8
            for (int64_t chunk = 0; chunk < a.seed.chunks; ++chunk)
                value += weights[chunk] * part[chunk * a.shape.c * a.shape.c1];
            if (slice == 0) a.proxy[(image * a.shape.c + c) * a.shape.c1 + first + thread] = value;
        }
        if (first > 0) __syncthreads();
        proxy[thread] = value;
        __syncthreads();
#pragma unroll
        for (int r = 0; r < kKeyRows; ++r) {
            const int64_t d = (slice * kWarps + warp) * kKeyRows + r;
            if (d < a.shape.c2)
                for (int k = lane; k < kThreads && first + k < a.shape.c1; k += 32)
                    sums[r] += to_float(a.phi[d * a.phi_row + (first + k) * a.phi_column]) * proxy[k];
        }
    }
#pragma unroll
    for (int r = 0; r < kKeyRows; ++r) {
        const int64_t d = (slice * kWarps + warp) * kKeyRows + r;
        const float sum = warp_sum(sums[r]);
        if (lane == 0 && d < a.shape.c2) a.key[(image * a.shape.c2 + d) * a.shape.c + c] = rectified(sum);
    }
}

// S of one tile of pixels, a lane each; the warps share the channels.
template <class T>
__device__ void similarity(const ForwardArguments<T>& a, int64_t image, int64_t tile) {
    WSSS_SHARED(keys, float[kDepthTile][kClassTile]);
    WSSS_SHARED(sums, float[kWarps][kClassTile][kTile]);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const bool inside = tile + lane < a.map.pixels;
    const T* const pixel = a.query.pixel(image, inside ? tile + lane : 0);
    const float* const key = a.key + image * a.shape.c2 * a.shape.c;
    for (int64_t first = 0; first < a.shape.c; first += kClassTile) {
        float sum[kClassTile] = {};
        for (int64_t depth = 0; depth < a.shape.c2; depth += kDepthTile) {
            __syncthreads();
            for (int i = threadIdx.x; i < kDepthTile * kClassTile; i += kThreads) {
                const int64_t d = depth + i / kClassTile, c = first + i % kClassTile;
                keys[i / kClassTile][i % kClassTile] =
                    d < a.shape.c2 && c < a.shape.c ? key[Options::key_index(a.shape, a.options.view, c, d)] : 0.0f;
            }
            __syncthreads();
#pragma unroll 4
            for (int d = warp; d < kDepthTile; d += kWarps) {
                float query = inside && depth + d < a.shape.c2 ? to_float(pixel[(depth + d) * a.query.channel]) : 0.0f;
                if (a.options.rectify) query = rectified(query);
#pragma unroll
                for (int j = 0; j < kClassTile; ++j) sum[j] += query * keys[d][j];
            }
        }
#pragma unroll
        for (int j = 0; j < kClassTile; ++j) sums[warp][j][lane] = sum[j];
        __syncthreads();
        for (int j = warp; j < kClassTile && first + j < a.shape.c; j += kWarps) {
            float total = 0.0f;
#pragma unroll
            for (int w = 0; w < kWarps; ++w) total += sums[w][j][lane];
            if (inside)
                a.gate[(image * a.shape.c + first + j) * a.map.pixels + tile + lane] =
                    total * static_cast<float>(a.options.scale);
        }
        __syncthreads();
    }
}

template <class T>
__device__ void make_gate(const ForwardArguments<T>& a, int64_t task) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int64_t image = task / a.map.chunks, chunk = task % a.map.chunks, begin = chunk * a.map.chunk, end = a.map.end(chunk);
    for (int64_t tile = begin; tile < end; tile += kTile) similarity(a, image, tile);
    // what this block wrote of the gate is its own to read, behind the barrier that similarity ends with
    float* const gate = a.gate + image * a.shape.c * a.map.pixels;
    if (a.options.over_classes) {
        for (int64_t p = begin + threadIdx.x; p < end; p += kThreads) {
            float maximum = -INFINITY, sum = 0.0f;
            for (int64_t c = 0; c < a.shape.c; ++c) maximum = fmaxf(maximum, gate[c * a.map.pixels + p]);
            for (int64_t c = 0; c < a.shape.c; ++c) sum += expf(gate[c * a.map.pixels + p] - maximum);
            for (int64_t c = 0; c < a.shape.c; ++c) {
                const float share = expf(gate[c * a.map.pixels + p] - maximum) / sum;
                gate[c * a.map.pixels + p] = share;
                a.out[(image * a.shape.c + c) * a.map.pixels + p] = from_float<T>(a.cam.at(image, c, p) * share);
            }
        }
        return;
    }
    for (int64_t c = warp; c < a.shape.c; c += kWarps) {
        float maximum = -INFINITY, sum = 0.0f;
        for (int64_t p = begin + lane; p < end; p += 32) maximum = fmaxf(maximum, gate[c * a.map.pixels + p]);
        maximum = warp_max(maximum);
        for (int64_t p = begin + lane; p < end; p += 32) sum += expf(gate[c * a.map.pixels + p] - softmax_base(maximum));
        sum = warp_sum(sum);
        if (lane == 0) a.gate_parts[(image * a.shape.c + c) * a.map.chunks + chunk] = make_float2(maximum, sum);
    }
}

template <class T>
__device__ void finish_gate(const ForwardArguments<T>& a, int64_t task) {
    const int64_t row = task / a.ranges(), image = row / a.shape.c, c = row % a.shape.c;
    const int64_t first = task % a.ranges() * kRange + threadIdx.x;
    const float2 whole = join_softmax(a.gate_parts + row * a.map.chunks, a.map.chunks);
#pragma unroll
    for (int i = 0; i < kRange / kThreads; ++i) {
        const int64_t p = first + i * kThreads;
        if (p >= a.map.pixels) return;
        const float share = expf(a.gate[row * a.map.pixels + p] - whole.x) / whole.y;
        a.gate[row * a.map.pixels + p] = share;
        a.out[row * a.map.pixels + p] = from_float<T>(a.cam.at(image, c, p) * share);
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) prcm_forward_kernel(ForwardArguments<T> a) {
    for (int64_t task = blockIdx.x; task < a.seed_tasks(); task += gridDim.x) sum_seed(a, task);
    grid_sync();
    for (int64_t task = blockIdx.x; task < a.key_tasks(); task += gridDim.x) make_key(a, task);
    grid_sync();
    for (int64_t task = blockIdx.x; task < a.map_tasks(); task += gridDim.x) make_gate(a, task);
    if (a.options.over_classes) return;
    grid_sync();
    for (int64_t task = blockIdx.x; task < a.finish_tasks(); task += gridDim.x) finish_gate(a, task);
}

// ---- host -------------------------------------------------------------------------------------------------

namespace {

struct ForwardWorkspace {
    Carver carver;
    Cut seed, map;
    float2* seed_parts;
    float* seed_sums;
    float2* gate_parts;

    ForwardWorkspace(void* start, const Shape& s)
        : carver(start), seed(s.pixels(), kSeedTile, kMostSeedChunks), map(s.pixels(), kTile, kMostChunks) {
        seed_parts = carver.take<float2>(s.n * s.c * seed.chunks);
        seed_sums = carver.take<float>(s.n * seed.chunks * s.c * s.c1);
        gate_parts = carver.take<float2>(s.n * s.c * map.chunks);
    }
};

template <class T>
void run_forward(const Shape& shape, const Options& options, const Inputs& in, const Outputs& out, const View& workspace,
                 cudaStream_t stream) {
    const ForwardWorkspace space(workspace.data, shape);
    ForwardArguments<T> a{};
    a.shape = shape;
    a.options = options;
    a.cam = StridedPixels<T>(in.cam);
    a.x = StridedPixels<T>(in.x);
    a.query = StridedPixels<T>(in.query);
    a.phi = in.phi.as<const T>();
    a.phi_row = in.phi.stride[0];
    a.phi_column = in.phi.stride[1];
    a.out = out.out.as<T>();
    a.gate = out.gate.as<float>();
    a.proxy = out.proxy.as<float>();
    a.key = out.key.as<float>();
    a.seed = space.seed;
    a.map = space.map;
    a.seed_parts = space.seed_parts;
    a.seed_sums = space.seed_sums;
    a.gate_parts = space.gate_parts;
    int64_t tasks = a.seed_tasks();
    for (const int64_t other : {a.key_tasks(), a.map_tasks(), a.finish_tasks()}) tasks = tasks < other ? other : tasks;
    launch_phases(prcm_forward_kernel<T>, tasks, stream, a);
}

}  // namespace

int64_t forward_workspace_cuda(const Shape& shape, DType, const Context&) {
    return ForwardWorkspace(nullptr, shape).carver.used();
}

void forward_cuda(const Shape& shape, const Options& options, const Inputs& in, const Outputs& out, const View& workspace,
                  const Context& context) {
    const DeviceGuard guard(context.device.index);
    const cudaStream_t stream = stream_of(context);
    with_device_type(in.cam.dtype, [&](auto type) { run_forward<decltype(type)>(shape, options, in, out, workspace, stream); });
}

}  // namespace wsss::prcm
