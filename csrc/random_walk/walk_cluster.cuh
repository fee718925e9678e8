// random_walk for small grids and radius 5: one launch, everything on chip, a cluster of 8 blocks for each image and class.
//
// A block owns a strip of rows, a thread two pixels, one above the other, with all their 2 x 68 weights in registers. The state
// lies in shared memory, twice, with a halo of 4 rows and columns; a state value that a thread loads serves both of its pixels,
// so a step loads 78 values for 136 multiply-adds. New values near an edge of the strip are also written into the halos of the
// neighbours (distributed shared memory); one cluster barrier ends a step. Nothing but the inputs and the result touches memory.
#pragma once

#include "common/workspace.h"
#include "random_walk/walk_problem.cuh"

namespace wsss::random_walk {

constexpr int kClusterRadius = 5, kReach = kClusterRadius - 1;
constexpr int kClusterBlocks = 8;
constexpr int kClusterThreads = 256;  // 2 warps a scheduler: up to 255 registers each
constexpr int kPairs = 34;
constexpr size_t kClusterShared = 224 * 1024;

// The strips of a grid, and a plane of state: a strip with its halo. The pitch lets the 32 lanes of a warp, which may lie in two
// rows of threads, hit different banks.
struct Strips {
    int rows = 0, pitch = 0, threads = 0;
    int plane = 0, staged = 0;  // floats: of the state; of the weights of one offset, which need no rows below
    bool fits = false;

    Strips(int64_t h, int64_t w) {
        const int64_t height = 2 * ceil_div(h, 2 * kClusterBlocks);
        if (w > kClusterThreads || height / 2 * w > kClusterThreads) return;
        rows = static_cast<int>(height);
        pitch = static_cast<int>(w) + 2 * kReach;
        while ((2 * pitch - static_cast<int>(w)) % 32 > 1) ++pitch;
        threads = static_cast<int>(round_up(height / 2 * w, 32));
        plane = (rows + 2 * kReach) * pitch;
        staged = (rows + kReach) * pitch;
        fits = shared_bytes() <= kClusterShared;
    }
    size_t shared_bytes() const {
        return carve_bytes<float>(2 * static_cast<size_t>(plane)) + carve_bytes<float>(kPairs * static_cast<size_t>(staged));
    }
};

// The disc as constants, so that weights stay in registers: columns dx of it are `height` rows long to either side, and
// `begin` counts the neighbours in the columns before. The pixel itself is none.
template <int kDx>
struct Column {
    static constexpr int height = Disc(kClusterRadius).width[kDx < 0 ? -kDx : kDx];
    static constexpr int begin = Column<kDx - 1>::begin + 2 * Column<kDx - 1>::height + (kDx - 1 != 0);
    static constexpr __host__ __device__ bool holds(int dy) { return dy >= -height && dy <= height && (kDx != 0 || dy != 0); }
    static constexpr __host__ __device__ int index(int dy) { return begin + height + dy - (kDx == 0 && dy > 0); }
};
template <>
struct Column<-kReach - 1> {
    static constexpr int height = 0, begin = -1;
};
static_assert(Column<kReach>::index(Column<kReach>::height) == 2 * kPairs - 1);

// Calls visit(Column<dx>(), dx) for the columns of the disc.
template <int kDx = -kReach, class Visit>
__device__ __forceinline__ void for_each_column(Visit visit) {
    visit(Column<kDx>(), kDx);
    if constexpr (kDx < kReach) for_each_column<kDx + 1>(visit);
}

// The weights of the pairs that touch this block's strip, once each: [E][rows + kReach][pitch], from kReach rows above it on.
template <class T>
__device__ __forceinline__ void stage_weights(const Problem<T>& p, const Strips& strips, int64_t image, int first_row,
                                              float* staged) {
    const int threads = static_cast<int>(blockDim.x);
    for (int i = static_cast<int>(threadIdx.x); i < strips.staged; i += threads) {
        const int y = first_row - kReach + i / strips.pitch, x = i % strips.pitch - kReach;
        for_each_column([&](auto column, int dx) {
#pragma unroll
            for (int dy = dx > 0 ? 0 : 1; dy <= column.height; ++dy) {
                const int e = p.disc.plane(dy, dx);
                staged[e * strips.staged + i] = p.pair(image, e, dy, dx, y, x);
            }
        });
    }
    // A thread goes on with what it wrote itself: no barrier in between.
    for (int i = static_cast<int>(threadIdx.x); i < strips.staged; i += threads)
#pragma unroll 4
        for (int e = 0; e < kPairs; ++e) staged[e * strips.staged + i] = p.power(staged[e * strips.staged + i]);
}

// The 68 weights of the pixel at `staged`, and its column of T.
template <class T>
__device__ __forceinline__ float2 read_weights(const Problem<T>& p, const Strips& strips, const float* staged,
                                               float (&weight)[2 * kPairs]) {
    ColumnSum sum;
    for_each_column([&](auto column, int dx) {
#pragma unroll
        for (int dy = -column.height; dy <= column.height; ++dy) {
            if (!column.holds(dy)) continue;
            const bool first = dy > 0 || (dy == 0 && dx > 0);
            const int e = first ? p.disc.plane(dy, dx) : p.disc.plane(-dy, -dx);
            const float value = staged[e * strips.staged + (first ? 0 : dy * strips.pitch + dx)];
            weight[column.index(dy)] = value;
            sum.add(value);
        }
    });
    return sum.finish();
}

template <class T>
__global__ void __launch_bounds__(kClusterThreads) random_walk_cluster_kernel(Problem<T> p, Strips strips) {
    WSSS_DYNAMIC_SHARED(base);
    size_t offset = 0;
    WSSS_CARVE(float, planes, base, offset, 2 * strips.plane);
    WSSS_CARVE(float, staged, base, offset, kPairs* strips.staged);
    WSSS_SHARED(coefficients, float[2]);
    const int rank = static_cast<int>(cluster_rank());
    const int64_t image = blockIdx.x / kClusterBlocks / p.classes, c = blockIdx.x / kClusterBlocks % p.classes;
    const int first_row = rank * strips.rows;

    for (int i = threadIdx.x; i < 2 * strips.plane; i += blockDim.x) {
        const int y = first_row - kReach + i / strips.pitch, x = i % strips.pitch - kReach;
        const bool inside = i < strips.plane && y >= 0 && y < p.h && x >= 0 && x < p.w;
        planes[i] = inside ? p.cam.at(image, c, y, x) : 0.0f;
    }
    const int thread = static_cast<int>(threadIdx.x);
    const int x = thread % p.w, strip_y = thread / p.w * 2, y = first_row + strip_y;
    const bool upper = strip_y < strips.rows && y < p.h, lower = strip_y < strips.rows && y + 1 < p.h;
    float weight[2][2 * kPairs], value[2], before[2] = {0.0f, 0.0f}, total[2];
    stage_weights(p, strips, image, first_row, staged);
    __syncthreads();
    const float* const mine_staged = staged + (strip_y + kReach) * strips.pitch + x + kReach;
    float2 column_sum[2] = {make_float2(0.0f, 0.0f), make_float2(0.0f, 0.0f)};
    if (upper) column_sum[0] = read_weights(p, strips, mine_staged, weight[0]);
    if (lower) column_sum[1] = read_weights(p, strips, mine_staged + strips.pitch, weight[1]);
    for (int row = 0; row < 2; ++row) {
        value[row] = (row == 0 ? upper : lower) ? p.cam.at(image, c, y + row, x) : 0.0f;
        total[row] = first_share(p) * value[row];
    }
    if (!lower)
        for (int i = 0; i < 2 * kPairs; ++i) weight[1][i] = 0.0f;
    double last = p.series.first;
    prepare_coefficient(p, 1, &last, coefficients);
    cluster_sync();

    const int64_t products = p.products();
    const int mine = strip_y * strips.pitch + x;  // the corner of this thread's neighbourhood in a plane with its halo
    for (int64_t k = 1; k <= products; ++k) {
        const float* const now = planes + (k + 1) % 2 * strips.plane;
        float* const other = planes + k % 2 * strips.plane;
        const float coefficient = p.chebyshev ? coefficients[k % 2] : 0.0f;
        if (upper) {
            float sum[2] = {0.0f, 0.0f};
            for_each_column([&](auto column, int dx) {
                const float* const from = now + mine + kReach * strips.pitch + kReach + dx;
#pragma unroll
                for (int dy = -column.height; dy <= column.height + 1; ++dy) {
                    const float neighbour = from[dy * strips.pitch];
                    if (column.holds(dy)) sum[0] += weight[0][column.index(dy)] * neighbour;
                    if (column.holds(dy - 1)) sum[1] += weight[1][column.index(dy - 1)] * neighbour;
                }
            });
#pragma unroll
            for (int row = 0; row < 2; ++row) {
                const float next = step_on(p, k, sum[row], column_sum[row], value[row], before[row]);
                before[row] = value[row];
                value[row] = next;
                total[row] += coefficient * next;
                if (row == 1 && !lower) continue;
                const int at = y + row, low = at > kReach ? at - kReach : 0;
                other[mine + (kReach + row) * strips.pitch + kReach] = next;
                for (int block = low / strips.rows; block < kClusterBlocks && block * strips.rows <= at + kReach; ++block)
                    if (block != rank)
                        cluster_map(other, static_cast<unsigned>(
                                               block))[(at - block * strips.rows + kReach) * strips.pitch + kReach + x] = next;
            }
        }
        prepare_coefficient(p, k + 1, &last, coefficients);
        cluster_sync();
    }
    if (upper) p.out[p.place(image, c, y, x)] = from_float<T>(p.chebyshev ? total[0] : value[0]);
    if (lower) p.out[p.place(image, c, y + 1, x)] = from_float<T>(p.chebyshev ? total[1] : value[1]);
}

}  // namespace wsss::random_walk
