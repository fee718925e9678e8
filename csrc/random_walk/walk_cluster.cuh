// random_walk for small grids and radius 5: one launch, everything on chip, a cluster of 8 blocks for each image and class.
//
// A block owns a strip of rows, a thread two pixels, one above the other, with all their 2 x 68 weights in registers. The state
// lies in shared memory, twice, with a halo of 4 rows and columns; a state value that a thread loads serves both of its pixels,
// so a step loads 78 values for 136 multiply-adds. New values near an edge of the strip are also written into the halos of the
// neighbours (distributed shared memory); one cluster barrier ends a step. Nothing but the inputs and the result touches memory.
//
// Estimate for an H200 (never measured): at 56x56, 224 threads a block, 550 cycles of shared memory loads and a barrier of 300
// ns: 0.6 to 0.7 us a step, so 160 to 180 us for 256 steps and 50 us for the 76 of the series; 16 clusters run at once.
#pragma once

#include "common/workspace.h"
#include "random_walk/walk_problem.cuh"

namespace wsss {
namespace walk {

constexpr int kClusterRadius = 5, kReach = kClusterRadius - 1;
constexpr int kClusterBlocks = 8;
constexpr int kClusterThreads = 320;  // 204 registers each
constexpr int kNeighbours = 68;

// The strips of a grid, and a plane of state: a strip with its halo. The pitch lets the 32 lanes of a warp, which may lie in two
// rows of threads, hit different banks.
struct Strips {
    int rows, pitch, threads, plane;

    Strips(int64_t h, int64_t w) {
        const int64_t height = 2 * ceil_div(h, 2 * kClusterBlocks);
        fits = w <= kClusterThreads && height / 2 * w <= kClusterThreads;
        if (!fits) return;
        rows = static_cast<int>(height);
        pitch = static_cast<int>(w) + 2 * kReach;
        while ((2 * pitch - static_cast<int>(w)) % 32 > 1) ++pitch;
        threads = static_cast<int>(round_up(height / 2 * w, 32));
        plane = (rows + 2 * kReach) * pitch;
    }
    size_t shared_bytes() const { return carve_bytes<float>(2 * static_cast<size_t>(plane)); }

    bool fits = false;
};

// The 68 weights of one pixel, column by column of the disc, and what its column of T is to be divided by.
template <class T>
__device__ __forceinline__ float read_weights(const Problem<T>& p, int64_t image, int y, int x, float (&weight)[kNeighbours]) {
    constexpr WalkDisc kDisc(kClusterRadius);
    float sum = 1.0f;
    int i = 0;
#pragma unroll
    for (int dx = -kReach; dx <= kReach; ++dx) {
        const int height = kDisc.width[dx < 0 ? -dx : dx];
#pragma unroll
        for (int dy = -height; dy <= height; ++dy) {
            if (dy == 0 && dx == 0) continue;
            const bool first = dy > 0 || (dy == 0 && dx > 0);
            weight[i] = first ? p.weight(image, kDisc.plane(dy, dx), dy, dx, y, x)
                              : p.weight(image, kDisc.plane(-dy, -dx), -dy, -dx, y + dy, x + dx);
            sum += weight[i++];
        }
    }
    return sum;
}

template <class T>
__global__ void __launch_bounds__(kClusterThreads) random_walk_cluster_kernel(Problem<T> p, Strips strips) {
    constexpr WalkDisc kDisc(kClusterRadius);
    WSSS_DYNAMIC_SHARED(base);
    size_t offset = 0;
    WSSS_CARVE(float, planes, base, offset, 2 * strips.plane);
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
    float weight[2][kNeighbours], share[2], value[2], before[2] = {0.0f, 0.0f}, total[2];
    share[0] = upper ? 1.0f / read_weights(p, image, y, x, weight[0]) : 0.0f;
    share[1] = lower ? 1.0f / read_weights(p, image, y + 1, x, weight[1]) : 0.0f;
    for (int row = 0; row < 2; ++row) {
        value[row] = (row == 0 ? upper : lower) ? p.cam.at(image, c, y + row, x) : 0.0f;
        total[row] = first_share(p) * value[row];
    }
    if (!lower)
        for (int i = 0; i < kNeighbours; ++i) weight[1][i] = 0.0f;
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
            float sum[2] = {value[0], value[1]};
            int i = 0;
#pragma unroll
            for (int dx = -kReach; dx <= kReach; ++dx) {
                const int height = kDisc.width[dx < 0 ? -dx : dx];
                const float* const column = now + mine + (kReach - height) * strips.pitch + kReach + dx;
#pragma unroll
                for (int row = 0; row <= 2 * height + 1; ++row) {  // rows y - height to y + 1 + height
                    const float neighbour = column[row * strips.pitch];
                    // in the middle column the pixel itself has no weight, and those below it stand one earlier
                    const int above = i + row - (dx == 0 && row > height), below = i + row - 1 - (dx == 0 && row - 1 > height);
                    if (row <= 2 * height && !(dx == 0 && row == height)) sum[0] += weight[0][above] * neighbour;
                    if (row >= 1 && !(dx == 0 && row - 1 == height)) sum[1] += weight[1][below] * neighbour;
                }
                i += 2 * height + 1 - (dx == 0);
            }
#pragma unroll
            for (int row = 0; row < 2; ++row) {
                const float next = step_on(p, k, sum[row] * share[row], before[row]);
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
    const float* const result = p.chebyshev ? total : value;
    if (upper) p.out[p.place(image, c, y, x)] = from_float<T>(result[0]);
    if (lower) p.out[p.place(image, c, y + 1, x)] = from_float<T>(result[1]);
}

}  // namespace walk
}  // namespace wsss
