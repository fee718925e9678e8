// prcm on CUDA: what its forward and backward kernels share. Both are one cooperative launch: phases with a barrier of the whole
// grid between them, since a softmax over all pixels stands between two products. A phase is a list of tasks, cut by the shape of
// one image alone, that the blocks take in turn; what tasks add up to goes through partial sums that the next phase adds in
// order. Memory: partial sums, at most kMostChunks times C C2 and kMostSeedChunks times C C1 numbers an image. Determinism: no
// atomics; the same bits on every run, and for an image alone or in a batch.
#pragma once

#include "common/strided.cuh"
#include "common/workspace.h"
#include "prcm/prcm.h"

namespace wsss::prcm {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kTile = 32;            // pixels of a product that keeps pixels: one a lane
constexpr int kClassTile = 24;       // classes of such a product: in registers
constexpr int kDepthTile = 96;       // channels of the query in shared memory
constexpr int kMostChunks = 128;     // of such tiles, an image
constexpr int kMostSeedChunks = 64;  // of the pixels that Z sums over

// Pixels in tiles, tiles in at most `most` chunks.
struct Cut {
    int64_t pixels, chunk, chunks;  // pixels a chunk: a multiple of the tile
    Cut() = default;
    Cut(int64_t pixels, int64_t tile, int64_t most)
        : pixels(pixels),
          chunk(ceil_div(ceil_div(pixels, tile), most) * tile),
          chunks(pixels > 0 ? ceil_div(pixels, chunk) : 0) {}
    __device__ __forceinline__ int64_t end(int64_t index) const {
        return (index + 1) * chunk < pixels ? (index + 1) * chunk : pixels;
    }
};

__device__ __forceinline__ float rectified(float value) {
    return value <= 0.0f ? 0.0f : value;  // NaN stays
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
}

// A softmax in parts: the maximum of a part, and the sum of exp(value - base). A part that is -Inf throughout sums to 0.
__device__ __forceinline__ float softmax_base(float maximum) {
    return maximum == -INFINITY ? 0.0f : maximum;
}

// Maximum and sum of the whole out of its parts; all lanes of a warp call it and get both.
__device__ __forceinline__ float2 join_softmax(const float2* parts, int64_t count) {
    const int lane = threadIdx.x & 31;
    float maximum = -INFINITY, sum = 0.0f;
    for (int64_t i = lane; i < count; i += 32) maximum = fmaxf(maximum, parts[i].x);
    maximum = warp_max(maximum);
    for (int64_t i = lane; i < count; i += 32) sum += expf(parts[i].x - maximum) * parts[i].y;
    return make_float2(maximum, warp_sum(sum));
}

// As many blocks as can run together, or fewer if there is less to do.
template <class Arguments>
void launch_phases(void (*kernel)(Arguments), int64_t tasks, cudaStream_t stream, const Arguments& arguments) {
    const int64_t most = cooperative_blocks("prcm", kernel, dim3(kThreads), 0);
    const int64_t blocks = tasks < most ? tasks : most;
    launch_cooperative("prcm", kernel, dim3(static_cast<unsigned>(blocks < 1 ? 1 : blocks)), dim3(kThreads), 0, stream,
                       arguments);
}

}  // namespace wsss::prcm
