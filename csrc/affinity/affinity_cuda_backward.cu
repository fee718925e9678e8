// affinity on CUDA, backward.
//
//     dL/dfeature_c(p) = sum_o w_o(p) sign(feature_c(p) - feature_c(p + o)) over the whole disc, w = -grad out / C
//
// Two kernels: one forms the weights of all pairs; in the other a block holds a tile of 8 x 32 pixels and its surroundings in
// shared memory for 16 channels, a thread has one pixel and its 16 sums, and each weight serves all of them. A pixel visits the
// pairs it begins and those it ends, so nothing is added atomically.
//
// Memory: the weights, one plane set in float32. Deterministic.
#include <algorithm>

#include "common/pair_tile.cuh"

namespace wsss::affinity {
namespace {

constexpr int kRows = 8;
constexpr int kThreads = 32 * kRows;
constexpr int kManyChannels = 16, kFewChannels = 2;  // a block; few where the surroundings are wide
constexpr int64_t kSharedFloats = 24 * 1024;         // what every supported GPU grants a block

template <class T>
struct WeightArguments {
    Strided<T> grad;
    const T* out;
    float* weights;  // [N][E][H][W]
    PixelTiles tiles;
    int64_t count, offsets, channels;
    int radius;
};

template <class T>
__global__ void __launch_bounds__(kThreads) affinity_weight_kernel(WeightArguments<T> g) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (at >= g.count) return;
    const int64_t plane = at / (g.tiles.h * g.tiles.w) % g.offsets, image = at / (g.tiles.h * g.tiles.w) / g.offsets;
    const int64_t y = at / g.tiles.w % g.tiles.h, x = at % g.tiles.w;
    const PairOffset offset = offset_of(g.radius, static_cast<int>(plane));
    float weight = 0.0f;
    if (g.tiles.inside(y + offset.dy, x + offset.dx)) {
        const float grad = to_float(g.grad.data[image * g.grad.n + plane * g.grad.channel + y * g.grad.y + x * g.grad.x]);
        weight = -grad * to_float(g.out[at]) / static_cast<float>(g.channels);
    }
    g.weights[at] = weight;
}

template <class T>
struct GatherArguments {
    Strided<T> feature;
    const float* weights;
    T* gradient;  // [N][C][H][W]
    PixelTiles tiles;
    int64_t channels, offsets;
    int radius;
};

inline int64_t copy_size(int radius) {  // floats a channel
    return (kRows + 2 * (radius - 1)) * (kTileColumns + 2 * (radius - 1));
}

template <class T, int kChannels>
__global__ void __launch_bounds__(kThreads) affinity_gather_kernel(GatherArguments<T> g) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, reach = g.radius - 1;
    const int rows = kRows + 2 * reach, pitch = kTileColumns + 2 * reach, size = rows * pitch;
    WSSS_DYNAMIC_SHARED(base);
    size_t offset = 0;
    WSSS_CARVE(float, copy, base, offset, kChannels* size);
    const int64_t image = g.tiles.image(blockIdx.x), tile_y = g.tiles.y(blockIdx.x), tile_x = g.tiles.x(blockIdx.x);
    const int64_t first = static_cast<int64_t>(blockIdx.y) * kChannels;
    const int channels = g.channels - first < kChannels ? static_cast<int>(g.channels - first) : kChannels;

    const T* const from = g.feature.data + image * g.feature.n + first * g.feature.channel;
    for (int line = warp; line < kChannels * rows; line += kRows) {
        const int c = line / rows;
        const int64_t y = tile_y - reach + line % rows;
        for (int column = lane; column < pitch; column += 32) {
            const int64_t x = tile_x - reach + column;
            const bool there = c < channels && g.tiles.inside(y, x);
            copy[line * pitch + column] =
                there ? to_float(from[c * g.feature.channel + y * g.feature.y + x * g.feature.x]) : 0.0f;
        }
    }
    __syncthreads();

    const int64_t y = tile_y + warp, x = tile_x + lane, plane_size = g.tiles.h * g.tiles.w;
    if (!g.tiles.inside(y, x)) return;
    const float* const own = copy + (warp + reach) * pitch + reach + lane;
    const float* weight = g.weights + image * g.offsets * plane_size + y * g.tiles.w + x;
    float value[kChannels], sum[kChannels], total = 0.0f;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
        value[c] = own[c * size];
        sum[c] = 0.0f;
    }
    const auto add = [&](float w, int step) {
        total += w;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
            const float other = own[c * size + step];
            if (value[c] > other) sum[c] += w;
            if (value[c] < other) sum[c] -= w;
        }
    };
    for (int dy = 0; dy <= reach; ++dy) {
        const int width = half_width(g.radius, dy);
        for (int dx = dy == 0 ? 1 : -width; dx <= width; ++dx, weight += plane_size) {
            if (g.tiles.inside(y + dy, x + dx)) add(*weight, dy * pitch + dx);
            if (g.tiles.inside(y - dy, x - dx)) add(*(weight - dy * g.tiles.w - dx), -dy * pitch - dx);
        }
    }
    // total * 0 is 0, but NaN if a weight is NaN or infinite, also where features do not differ
#pragma unroll
    for (int c = 0; c < kChannels; ++c)
        if (c < channels)
            g.gradient[(image * g.channels + first + c) * plane_size + y * g.tiles.w + x] = from_float<T>(sum[c] + total * 0.0f);
}

template <class T, int kChannels>
void run_gather(const PairShape& shape, const GatherArguments<T>& arguments, cudaStream_t stream) {
    const dim3 grid(grid_size("affinity", arguments.tiles.count(shape.n)), static_cast<unsigned>(ceil_div(shape.c, kChannels)));
    launch("affinity", affinity_gather_kernel<T, kChannels>, grid, dim3(kThreads),
           carve_bytes<float>(static_cast<size_t>(kChannels * copy_size(shape.radius))), stream, arguments);
}

template <class T>
void run_backward(const PairShape& shape, const View& grad, const View& feature, const View& out, const View& grad_feature,
                  const View& workspace, const Context& context) {
    Carver carver(workspace.data);
    float* const weights = carver.take<float>(out.numel());
    const PixelTiles tiles(shape, kRows);
    const cudaStream_t stream = stream_of(context);
    if (out.numel() > 0) {
        WeightArguments<T> arguments{};
        arguments.grad = Strided<T>(grad);
        arguments.out = out.as<const T>();
        arguments.weights = weights;
        arguments.tiles = tiles;
        arguments.count = out.numel();
        arguments.offsets = shape.offsets();
        arguments.channels = shape.c;
        arguments.radius = shape.radius;
        launch("affinity", affinity_weight_kernel<T>, dim3(grid_size("affinity", ceil_div(out.numel(), kThreads))),
               dim3(kThreads), 0, stream, arguments);
    }
    GatherArguments<T> arguments{};
    arguments.feature = Strided<T>(feature);
    arguments.weights = weights;
    arguments.gradient = grad_feature.as<T>();
    arguments.tiles = tiles;
    arguments.channels = shape.c;
    arguments.offsets = shape.offsets();
    arguments.radius = shape.radius;
    if (kManyChannels * copy_size(shape.radius) <= kSharedFloats)
        run_gather<T, kManyChannels>(shape, arguments, stream);
    else
        run_gather<T, kFewChannels>(shape, arguments, stream);
}

}  // namespace

int64_t backward_workspace_cuda(const PairShape& shape, DType, const Context&) {
    Carver measure;
    measure.take<float>(shape.n * shape.offsets() * shape.pixels());
    return measure.used();
}

void backward_cuda(const PairShape& shape, const View& grad, const View& feature, const View& out, const View& grad_feature,
                   const View& workspace, const Context& context) {
    const DeviceGuard guard(context.device.index);
    with_device_type(feature.dtype, [&](auto type) {
        run_backward<decltype(type)>(shape, grad, feature, out, grad_feature, workspace, context);
    });
}

}  // namespace wsss::affinity
