// affinity on CUDA, forward (the backward pass is in affinity_cuda_backward.cu).
//
//     out[e, p] = exp(-mean_c |feature_c(p) - feature_c(p + o_e)|)
//
// A block holds a tile of 8 x 32 pixels and its surroundings, a few channels at a time. A warp has the offsets of one column dx
// and up to five rows dy (a strip); a lane has a column of 8 pixels, whose 40 sums stay in registers. 20 loads from shared memory
// serve 40 differences, and a difference with its sum is two instructions. While one slice of channels is computed, the next
// one travels into registers. Small images split the channels over blocks, so that they fill the GPU; a second kernel adds the
// parts in order and takes the exponential.
//
// Memory: one plane set a split (float32) where channels are split. Deterministic: no atomics, and the cut depends on the shape
// alone.
#include <algorithm>
#include <cmath>

#include "common/pair_tile.cuh"

namespace wsss::affinity {
namespace {

constexpr int kRows = 8;
constexpr int kStripRows = 5;
constexpr int kWarps = 9;  // the strips of radius 5
constexpr int kThreads = 32 * kWarps;
constexpr int kCopies = 16;  // values a thread brings for a slice
constexpr int kLines = kCopies * kWarps;
constexpr int kFinishThreads = 256;
#ifdef __CUDACC__
constexpr int64_t kProcessors = 132;  // the H100 and H200; a constant, so that results do not depend on the device
#else
constexpr int64_t kProcessors = 12;  // so that small test shapes already split their channels
#endif
constexpr int64_t kLeastChannels = 8;  // a split

struct Strip {
    int dx, dy, count;  // offsets (dy .. dy + count - 1, dx); none: 0
};

constexpr int strips_of_column(int radius, int dx) {
    return (half_width(radius, dx < 0 ? -dx : dx) + (dx > 0 ? 1 : 0) + kStripRows - 1) / kStripRows;
}

constexpr int strip_count(int radius) {
    int count = 0;
    for (int dx = 1 - radius; dx < radius; ++dx) count += strips_of_column(radius, dx);
    return count;
}
static_assert(strip_count(5) == kWarps);

constexpr Strip strip_at(int radius, int index) {
    for (int dx = 1 - radius; dx < radius; ++dx) {
        const int here = strips_of_column(radius, dx);
        if (index < here) {
            const int dy = (dx > 0 ? 0 : 1) + index * kStripRows, end = half_width(radius, dx < 0 ? -dx : dx) + 1;
            return {dx, dy, end - dy < kStripRows ? end - dy : kStripRows};
        }
        index -= here;
    }
    return {0, 0, 0};
}

// The shared copy: lines of 32 columns, [channel][row][lines a row].
struct Copy {
    int rows, lines_a_row, channels;
    Copy() = default;
    explicit Copy(int radius)
        : rows(kRows + radius - 1), lines_a_row((kTileColumns + 2 * (radius - 1) + 31) / 32), channels(kLines / lines()) {}
    __host__ __device__ int lines() const { return rows * lines_a_row; }  // a channel
    __host__ __device__ int pitch() const { return lines_a_row * 32; }
};

template <class T>
struct ForwardArguments {
    Strided<T> feature;
    PixelTiles tiles;
    Copy copy;
    T* out;
    float* parts;  // [splits][N][E][H][W]; null: one split, which writes `out`
    int64_t n, channels, offsets, channels_a_split;
    int radius;
};

template <int kCount>
__device__ __forceinline__ void add_channel(float (&sums)[kStripRows][kRows], const float* own, const float* other, int pitch) {
    float values[kRows];
#pragma unroll
    for (int row = 0; row < kRows; ++row) values[row] = own[row * pitch];
#pragma unroll
    for (int i = 0; i < kRows + kCount - 1; ++i) {
        const float neighbour = other[i * pitch];
#pragma unroll
        for (int row = 0; row < kRows; ++row)
            if (i >= row && i - row < kCount) sums[i - row][row] += fabsf(values[row] - neighbour);
    }
}

__device__ __forceinline__ float affinity_of(float sum, int64_t channels) {
    return expf(-sum / static_cast<float>(channels > 0 ? channels : 1));
}

template <class T>
__global__ void __launch_bounds__(kThreads) affinity_kernel(ForwardArguments<T> g) {
    WSSS_SHARED(copy, float[kLines * 32]);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, pitch = g.copy.pitch(), reach = g.radius - 1;
    const int64_t image = g.tiles.image(blockIdx.x), y = g.tiles.y(blockIdx.x), x = g.tiles.x(blockIdx.x);
    const int64_t first = blockIdx.z * g.channels_a_split;
    const int64_t end = first + g.channels_a_split < g.channels ? first + g.channels_a_split : g.channels;

    // Where this thread's values of a slice stand in the first slice; -1 outside the image.
    int64_t place[kCopies];
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
        const int line = warp + i * kWarps, row = line / g.copy.lines_a_row % g.copy.rows;
        const int64_t at_y = y + row, at_x = x - reach + line % g.copy.lines_a_row * 32 + lane;
        place[i] =
            g.tiles.inside(at_y, at_x) ? line / g.copy.lines() * g.feature.channel + at_y * g.feature.y + at_x * g.feature.x : -1;
    }
    float travelling[kCopies];
    const auto fetch = [&](int64_t channel) {
        const T* const from = g.feature.data + image * g.feature.n + channel * g.feature.channel;
        const int64_t channels = end - channel < g.copy.channels ? end - channel : g.copy.channels;
        const int lines = channels > 0 ? static_cast<int>(channels) * g.copy.lines() : 0;
#pragma unroll
        for (int i = 0; i < kCopies; ++i)
            travelling[i] = warp + i * kWarps < lines && place[i] >= 0 ? to_float(from[place[i]]) : 0.0f;
    };

    const Strip strip = strip_at(g.radius, blockIdx.y * kWarps + warp);
    float sums[kStripRows][kRows] = {};
    fetch(first);
    for (int64_t channel = first; channel < end; channel += g.copy.channels) {
        __syncthreads();  // the slice before has been used
#pragma unroll
        for (int i = 0; i < kCopies; ++i) copy[(warp + i * kWarps) * 32 + lane] = travelling[i];
        __syncthreads();
        fetch(channel + g.copy.channels);
        const int channels = end - channel < g.copy.channels ? static_cast<int>(end - channel) : g.copy.channels;
        const float* own = copy + reach + lane;
        const float* other = own + strip.dy * pitch + strip.dx;
        const int step = g.copy.lines() * 32;
        for (int c = 0; c < channels; ++c, own += step, other += step) {
            switch (strip.count) {  // the same for all lanes
                case 5:
                    add_channel<5>(sums, own, other, pitch);
                    break;
                case 4:
                    add_channel<4>(sums, own, other, pitch);
                    break;
                case 3:
                    add_channel<3>(sums, own, other, pitch);
                    break;
                case 2:
                    add_channel<2>(sums, own, other, pitch);
                    break;
                case 1:
                    add_channel<1>(sums, own, other, pitch);
                    break;
                default:
                    break;
            }
        }
    }

#pragma unroll
    for (int k = 0; k < kStripRows; ++k) {
        if (k >= strip.count) break;
        const int64_t plane = plane_of(g.radius, strip.dy + k, strip.dx);
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
            const int64_t at_y = y + row, at_x = x + lane;
            if (!g.tiles.inside(at_y, at_x)) continue;
            const int64_t at = ((image * g.offsets + plane) * g.tiles.h + at_y) * g.tiles.w + at_x;
            const bool there = g.tiles.inside(at_y + strip.dy + k, at_x + strip.dx);
            if (g.parts)
                g.parts[blockIdx.z * g.n * g.offsets * g.tiles.h * g.tiles.w + at] = sums[k][row];
            else
                g.out[at] = from_float<T>(there ? affinity_of(sums[k][row], g.channels) : 0.0f);
        }
    }
}

template <class T>
struct FinishArguments {
    const float* parts;
    T* out;
    PixelTiles tiles;
    int64_t count, splits, offsets, channels;  // count: elements of `out`
    int radius;
};

template <class T>
__global__ void __launch_bounds__(kFinishThreads) affinity_finish_kernel(FinishArguments<T> g) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * kFinishThreads + threadIdx.x;
    if (at >= g.count) return;
    const PairOffset offset = offset_of(g.radius, static_cast<int>(at / (g.tiles.h * g.tiles.w) % g.offsets));
    const int64_t y = at / g.tiles.w % g.tiles.h, x = at % g.tiles.w;
    float sum = 0.0f;
    for (int64_t split = 0; split < g.splits; ++split) sum += g.parts[split * g.count + at];
    g.out[at] = from_float<T>(g.tiles.inside(y + offset.dy, x + offset.dx) ? affinity_of(sum, g.channels) : 0.0f);
}

int64_t groups_of(const PairShape& shape) {
    return ceil_div(strip_count(shape.radius), kWarps);
}

int64_t splits_of(const PairShape& shape) {
    const int64_t blocks = PixelTiles(shape, kRows).count(shape.n) * groups_of(shape);
    return std::max<int64_t>(1, std::min(kProcessors / std::max<int64_t>(blocks, 1), shape.c / kLeastChannels));
}

template <class T>
void run_forward(const PairShape& shape, const View& feature, const View& out, const View& workspace, const Context& context) {
    const PixelTiles tiles(shape, kRows);
    const int64_t wanted = splits_of(shape), channels_a_split = std::max<int64_t>(ceil_div(shape.c, wanted), 1);
    const int64_t splits = std::max<int64_t>(ceil_div(shape.c, channels_a_split), 1);
    Carver carver(workspace.data);
    float* const parts = splits > 1 ? carver.take<float>(splits * out.numel()) : nullptr;
    ForwardArguments<T> arguments{};
    arguments.feature = Strided<T>(feature);
    arguments.tiles = tiles;
    arguments.copy = Copy(shape.radius);
    arguments.out = out.as<T>();
    arguments.parts = parts;
    arguments.n = shape.n;
    arguments.channels = shape.c;
    arguments.offsets = shape.offsets();
    arguments.channels_a_split = channels_a_split;
    arguments.radius = shape.radius;
    const dim3 grid(grid_size("affinity", tiles.count(shape.n)), static_cast<unsigned>(groups_of(shape)),
                    static_cast<unsigned>(splits));
    launch("affinity", affinity_kernel<T>, grid, dim3(kThreads), 0, stream_of(context), arguments);
    if (!parts) return;
    FinishArguments<T> finish{};
    finish.parts = parts;
    finish.out = out.as<T>();
    finish.tiles = tiles;
    finish.count = out.numel();
    finish.splits = splits;
    finish.offsets = shape.offsets();
    finish.channels = shape.c;
    finish.radius = shape.radius;
    launch("affinity", affinity_finish_kernel<T>, dim3(grid_size("affinity", ceil_div(out.numel(), kFinishThreads))),
           dim3(kFinishThreads), 0, stream_of(context), finish);
}

}  // namespace

int64_t forward_workspace_cuda(const PairShape& shape, DType, const Context&) {
    const int64_t splits = splits_of(shape);
    Carver measure;
    if (splits > 1) measure.take<float>(splits * shape.n * shape.offsets() * shape.pixels());
    return measure.used();
}

void forward_cuda(const PairShape& shape, const View& feature, const View& out, const View& workspace, const Context& context) {
    const DeviceGuard guard(context.device.index);
    with_device_type(feature.dtype, [&](auto type) { run_forward<decltype(type)>(shape, feature, out, workspace, context); });
}

}  // namespace wsss::affinity
