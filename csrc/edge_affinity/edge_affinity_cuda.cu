// edge_affinity on CUDA, forward and backward.
//
//     out[e, p] = 1 - max of edge over the path from p to p + o_e
//
// A block holds a tile of 8 x 32 pixels and what their paths reach in shared memory, and takes eight offsets: it writes the rows
// of their paths into shared memory once, then every thread runs along them for its pixel. Backward: the same kernel writes the
// place of each maximum, as a byte; then a thread a pixel visits all pairs whose path holds it and takes the gradients of those
// that have their maximum there. No atomics, deterministic.
//
// Memory: none forward, E H W bytes an image backward.
#include "common/pair_tile.cuh"
#include "edge_affinity/edge_affinity.h"

namespace wsss::edge_affinity {
namespace {

constexpr int kRows = 8, kGatherRows = 4;
constexpr int kPlanes = 8;  // a block
using Place = uint8_t;

struct PathRows {
    PairOffset offset[kPlanes];
    PathRow row[kPlanes][kMaxPairRadius];
};

// Rows of the paths of `count` planes from `first` on; all threads of the block take part.
__device__ void find_path_rows(PathRows& rows, int radius, int first, int count, int threads) {
    for (int i = threadIdx.x; i < count * kMaxPairRadius; i += threads) {
        const int plane = i / kMaxPairRadius, y = i % kMaxPairRadius;
        const PairOffset offset = offset_of(radius, first + plane);
        if (y == 0) rows.offset[plane] = offset;
        if (y <= offset.dy) rows.row[plane][y] = path_row(offset, path_reach(offset), y);
    }
}

template <class T>
struct MaximumArguments {
    Strided<T> edge;
    PixelTiles tiles;
    T* out;         // or null:
    Place* places;  // the number of the maximum in its path; [N][E][H][W]
    int64_t offsets;
    int radius;
};

template <class T>
__global__ void __launch_bounds__(32 * kRows) edge_maximum_kernel(MaximumArguments<T> g) {
    WSSS_SHARED(paths, PathRows);
    WSSS_DYNAMIC_SHARED(base);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, reach = g.radius - 1;
    const int rows = kRows + reach, pitch = kTileColumns + 2 * reach;
    size_t offset = 0;
    WSSS_CARVE(float, copy, base, offset, rows* pitch);
    const int64_t image = g.tiles.image(blockIdx.x), tile_y = g.tiles.y(blockIdx.x), tile_x = g.tiles.x(blockIdx.x);
    const int first = blockIdx.y * kPlanes;
    const int count = g.offsets - first < kPlanes ? static_cast<int>(g.offsets - first) : kPlanes;
    find_path_rows(paths, g.radius, first, count, 32 * kRows);
    for (int row = warp; row < rows; row += kRows)
        for (int column = lane; column < pitch; column += 32) {
            const int64_t y = tile_y + row, x = tile_x - reach + column;
            copy[row * pitch + column] =
                g.tiles.inside(y, x) ? to_float(g.edge.data[image * g.edge.n + y * g.edge.y + x * g.edge.x]) : 0.0f;
        }
    __syncthreads();

    const int64_t y = tile_y + warp, x = tile_x + lane;
    if (!g.tiles.inside(y, x)) return;
    const float* const own = copy + warp * pitch + reach + lane;
    for (int plane = 0; plane < count; ++plane) {
        const PairOffset to = paths.offset[plane];
        const int64_t at = ((image * g.offsets + first + plane) * g.tiles.h + y) * g.tiles.w + x;
        float best = own[paths.row[plane][0].first];
        int place = 0, number = 0;
        for (int dy = 0; dy <= to.dy; ++dy) {
            const PathRow row = paths.row[plane][dy];
            for (int dx = row.first; dx <= row.last; ++dx, ++number) {
                const float value = own[dy * pitch + dx];
                if (value > best || (value != value && best == best)) {  // nothing is larger than a NaN
                    best = value;
                    place = number;
                }
            }
        }
        if (g.places)
            g.places[at] = static_cast<Place>(place);
        else
            g.out[at] = from_float<T>(g.tiles.inside(y + to.dy, x + to.dx) ? 1.0f - best : 0.0f);
    }
}

template <class T>
struct GatherArguments {
    Strided<T> grad;
    const Place* places;
    T* gradient;  // [N][H][W]
    PixelTiles tiles;
    int64_t offsets;
    int radius;
};

template <class T>
__global__ void __launch_bounds__(32 * kGatherRows) edge_gather_kernel(GatherArguments<T> g) {
    WSSS_SHARED(paths, PathRows);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int64_t image = g.tiles.image(blockIdx.x), y = g.tiles.y(blockIdx.x) + warp, x = g.tiles.x(blockIdx.x) + lane;
    float sum = 0.0f;
    for (int first = 0; first < g.offsets; first += kPlanes) {
        const int count = g.offsets - first < kPlanes ? static_cast<int>(g.offsets - first) : kPlanes;
        __syncthreads();  // the rows before have been used
        find_path_rows(paths, g.radius, first, count, 32 * kGatherRows);
        __syncthreads();
        for (int plane = 0; plane < count; ++plane) {
            const PairOffset to = paths.offset[plane];
            const Place* const places = g.places + (image * g.offsets + first + plane) * g.tiles.h * g.tiles.w;
            int number = 0;
            for (int dy = 0; dy <= to.dy; ++dy) {
                const PathRow row = paths.row[plane][dy];
                for (int dx = row.first; dx <= row.last; ++dx, ++number) {
                    const int64_t from_y = y - dy, from_x = x - dx;  // the pair's source
                    if (g.tiles.inside(from_y, from_x) && g.tiles.inside(from_y + to.dy, from_x + to.dx) &&
                        places[from_y * g.tiles.w + from_x] == number)
                        sum -= to_float(g.grad.data[image * g.grad.n + (first + plane) * g.grad.channel + from_y * g.grad.y +
                                                    from_x * g.grad.x]);
                }
            }
        }
    }
    if (g.tiles.inside(y, x)) g.gradient[(image * g.tiles.h + y) * g.tiles.w + x] = from_float<T>(sum);
}

template <class T>
void run_maximum(const PairShape& shape, const View& edge, T* out, Place* places, const Context& context) {
    if (shape.offsets() == 0) return;
    const PixelTiles tiles(shape, kRows);
    const int reach = shape.radius - 1;
    const size_t shared = carve_bytes<float>(static_cast<size_t>((kRows + reach) * (kTileColumns + 2 * reach)));
    MaximumArguments<T> arguments{};
    arguments.edge = Strided<T>(edge);
    arguments.tiles = tiles;
    arguments.out = out;
    arguments.places = places;
    arguments.offsets = shape.offsets();
    arguments.radius = shape.radius;
    launch("edge_affinity", edge_maximum_kernel<T>,
           dim3(grid_size("edge_affinity", tiles.count(shape.n)), static_cast<unsigned>(ceil_div(shape.offsets(), kPlanes))),
           dim3(32 * kRows), shared, stream_of(context), arguments);
}

template <class T>
void run_backward(const PairShape& shape, const View& grad, const View& edge, const View& grad_edge, const View& workspace,
                  const Context& context) {
    Carver carver(workspace.data);
    Place* const places = carver.take<Place>(shape.n * shape.offsets() * shape.pixels());
    run_maximum<T>(shape, edge, nullptr, places, context);
    const PixelTiles tiles(shape, kGatherRows);
    GatherArguments<T> arguments{};
    arguments.grad = Strided<T>(grad);
    arguments.places = places;
    arguments.gradient = grad_edge.as<T>();
    arguments.tiles = tiles;
    arguments.offsets = shape.offsets();
    arguments.radius = shape.radius;
    launch("edge_affinity", edge_gather_kernel<T>, dim3(grid_size("edge_affinity", tiles.count(shape.n))), dim3(32 * kGatherRows),
           0, stream_of(context), arguments);
}

template <class T>
void run_forward(const PairShape& shape, const View& edge, const View& out, const Context& context) {
    run_maximum<T>(shape, edge, out.as<T>(), nullptr, context);
}

}  // namespace

int64_t forward_workspace_cuda(const PairShape&, DType, const Context&) {
    return 0;
}

int64_t backward_workspace_cuda(const PairShape& shape, DType, const Context&) {
    Carver measure;
    measure.take<Place>(shape.n * shape.offsets() * shape.pixels());
    return measure.used();
}

void forward_cuda(const PairShape& shape, const View& edge, const View& out, const View&, const Context& context) {
    const DeviceGuard guard(context.device.index);
    with_device_type(edge.dtype, [&](auto type) { run_forward<decltype(type)>(shape, edge, out, context); });
}

void backward_cuda(const PairShape& shape, const View& grad, const View& edge, const View& grad_edge, const View& workspace,
                   const Context& context) {
    const DeviceGuard guard(context.device.index);
    with_device_type(edge.dtype,
                     [&](auto type) { run_backward<decltype(type)>(shape, grad, edge, grad_edge, workspace, context); });
}

}  // namespace wsss::edge_affinity
