// Kernels without a fault, each using a part of the vocabulary of common/cuda.cuh and common/prim.cuh as real kernels do. The
// emulator must run them to the right result under every schedule and report nothing. They also compile with nvcc.
#pragma once

#include "common/prim.cuh"

namespace wsss {
namespace good {

constexpr uint32_t kAll = 0xffffffffu;

// out[block] = sum over the block's share of x: grid-stride loop, shuffles, one barrier.
__global__ void __launch_bounds__(96) block_sum_kernel(const float* x, float* out, int64_t count) {
    WSSS_SHARED(partial, float[3]);
    float sum = 0.0f;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
         i += static_cast<int64_t>(gridDim.x) * blockDim.x)
        sum += __ldg(x + i);
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) out[blockIdx.x] = partial[0] + partial[1] + partial[2];
}

// out = transposed in; the tile's last column is padding. Two barriers a turn: the tile is used again.
__global__ void transpose_kernel(const float* in, float* out, int rows, int columns) {
    WSSS_SHARED(tile, float[16][17]);
    for (int row = 0; row < rows; row += 16) {
        const int y = row + threadIdx.y, x = blockIdx.x * 16 + threadIdx.x;
        if (y < rows && x < columns) tile[threadIdx.y][threadIdx.x] = in[static_cast<int64_t>(y) * columns + x];
        __syncthreads();
        const int to_y = blockIdx.x * 16 + threadIdx.y, to_x = row + threadIdx.x;
        if (to_y < columns && to_x < rows) out[static_cast<int64_t>(to_y) * rows + to_x] = tile[threadIdx.x][threadIdx.y];
        __syncthreads();
    }
}

// One warp, d = a b with fragments filled by plain loads as the table in prim.cuh says. a is 16 x 16, b 16 x 8, both row-major.
template <class T>
__global__ void mma_plain_kernel(const T* a, const T* b, float* d) {
    const int g = threadIdx.x / 4, t = 2 * (threadIdx.x % 4);
    const auto pair_of_a = [&](int row, int column) { return pack2(a[row * 16 + column], a[row * 16 + column + 1]); };
    const auto pair_of_b = [&](int row) { return pack2(b[row * 8 + g], b[(row + 1) * 8 + g]); };
    const uint32_t left[4] = {pair_of_a(g, t), pair_of_a(g + 8, t), pair_of_a(g, t + 8), pair_of_a(g + 8, t + 8)};
    const uint32_t right[2] = {pair_of_b(t), pair_of_b(t + 8)};
    float sum[4] = {1.0f, 1.0f, 1.0f, 1.0f};  // accumulates: the result is 1 + a b
    mma_16816<T>(sum, left, right);
    d[g * 8 + t] = sum[0];
    d[g * 8 + t + 1] = sum[1];
    d[(g + 8) * 8 + t] = sum[2];
    d[(g + 8) * 8 + t + 1] = sum[3];
}

// One warp, out = relu(q k^T) v for 16 queries, 32 keys, depth 16, width 8: the pattern of attention and of pcm. ldmatrix feeds q
// and k, the accumulators of the first product become the left operand of the second, ldmatrix_trans feeds v.
template <class T>
__global__ void relu_attention_kernel(const T* q, const T* k, const T* v, float* out) {
    WSSS_DYNAMIC_SHARED(base);
    size_t offset = 0;
    WSSS_CARVE(T, queries, base, offset, 16 * 16);
    WSSS_CARVE(T, keys, base, offset, 32 * 16);
    WSSS_CARVE(T, values, base, offset, 32 * 8);
    const int lane = threadIdx.x, g = lane / 4, t = 2 * (lane % 4);
    cp_async_16(queries + lane * 8, q + lane * 8, true);
    cp_async_16(keys + lane * 8, k + lane * 8, true);
    cp_async_16(keys + 256 + lane * 8, k + 256 + lane * 8, true);
    cp_async_16(values + lane * 8, v + lane * 8, true);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();

    uint32_t left[4];
    ldmatrix_x4(left, queries + (lane % 16) * 16 + (lane / 16) * 8);
    float sum[4] = {};
    for (int first = 0; first < 32; first += 16) {
        uint32_t right[4];  // keys first..first+7 in 0 and 1, first+8..first+15 in 2 and 3
        ldmatrix_x4(right, keys + (first + lane % 8 + lane / 16 * 8) * 16 + (lane / 8 % 2) * 8);
        float s[2][4] = {};
        mma_16816<T>(s[0], left, {right[0], right[1]});
        mma_16816<T>(s[1], left, {right[2], right[3]});
        uint32_t weights[4];
        for (int half = 0; half < 2; ++half) {
            weights[2 * half] = pack2_from_float<T>(fmaxf(s[half][0], 0.0f), fmaxf(s[half][1], 0.0f));
            weights[2 * half + 1] = pack2_from_float<T>(fmaxf(s[half][2], 0.0f), fmaxf(s[half][3], 0.0f));
        }
        uint32_t columns[2];
        ldmatrix_x2_trans(columns, values + (first + lane % 16) * 8);
        mma_16816<T>(sum, weights, columns);
    }
    out[g * 8 + t] = sum[0];
    out[g * 8 + t + 1] = sum[1];
    out[(g + 8) * 8 + t] = sum[2];
    out[(g + 8) * 8 + t + 1] = sum[3];
}

// ldmatrix in its four forms on one 32 x 8 tile of 16-bit numbers; every lane writes the registers it got.
__global__ void ldmatrix_kernel(const uint16_t* in, uint32_t* out) {
    WSSS_SHARED(tile, uint16_t[32][8]);
    const int lane = threadIdx.x;
    for (int column = 0; column < 8; ++column) tile[lane][column] = in[lane * 8 + column];
    __syncwarp();
    uint32_t four[4], two[2];
    ldmatrix_x4(four, tile[lane]);
    for (int i = 0; i < 4; ++i) out[lane * 12 + i] = four[i];
    ldmatrix_x4_trans(four, tile[lane]);
    for (int i = 0; i < 4; ++i) out[lane * 12 + 4 + i] = four[i];
    ldmatrix_x2(two, tile[lane % 16]);
    for (int i = 0; i < 2; ++i) out[lane * 12 + 8 + i] = two[i];
    ldmatrix_x2_trans(two, tile[lane % 16]);
    for (int i = 0; i < 2; ++i) out[lane * 12 + 10 + i] = two[i];
}

// out[i] = sum over the tiles of x (64 numbers each) at place i reversed: a two-stage cp.async pipeline with a short last tile.
__global__ void pipeline_kernel(const float* x, float* out, int count) {
    WSSS_SHARED(stage, float[2][64]);
    const int tiles = (count + 63) / 64, lane = threadIdx.x;
    const auto load = [&](int tile) {
        const int at = tile * 64 + lane;
        cp_async_4(&stage[tile % 2][lane], x + at, at < count);
    };
    load(0);
    cp_async_commit();
    float sum = 0.0f;
    for (int tile = 0; tile < tiles; ++tile) {
        if (tile + 1 < tiles) load(tile + 1);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        sum += stage[tile % 2][63 - lane];
        __syncthreads();
    }
    out[lane] = sum;
}

// counts[v] = how often v occurs: shared atomics, then global ones.
__global__ void histogram_kernel(const uint8_t* x, uint32_t* counts, int count) {
    WSSS_SHARED(local, uint32_t[16]);
    if (threadIdx.x < 16) local[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) atomicAdd(&local[x[i]], 1);
    __syncthreads();
    if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);
}

// total = sum of x by the block that finishes last: fences on both sides of the ticket make the partial sums visible to it.
__global__ void last_block_kernel(const float* x, float* partial, unsigned* ticket, float* total) {
    if (threadIdx.x != 0) return;
    partial[blockIdx.x] = x[2 * blockIdx.x] + x[2 * blockIdx.x + 1];
    __threadfence();
    const bool last = atomicAdd(ticket, 1) == gridDim.x - 1;
    __threadfence();
    if (!last) return;
    float sum = 0.0f;
    for (unsigned i = 0; i < gridDim.x; ++i) sum += partial[i];
    *total = sum;
}

// Warp 1 waits in a loop for a flag that warp 0 sets.
__global__ void flag_kernel(int* out) {
    WSSS_SHARED(flag, int[1]);
    WSSS_SHARED(message, int[1]);
    if (threadIdx.x == 0) flag[0] = 0;
    __syncthreads();
    if (threadIdx.x == 0) {
        message[0] = 42;
        __threadfence_block();
        atomicExch(&flag[0], 1);
    } else if (threadIdx.x == 32) {
        while (atomicAdd(&flag[0], 0) == 0) {
        }
        __threadfence_block();
        out[0] = message[0];
    }
}

// 48 threads: votes and shuffles with the masks of a full and of half a warp, and of a diverged quarter.
__global__ void masks_kernel(int* out) {
    const int lane = threadIdx.x % 32;
    const uint32_t mask = threadIdx.x < 32 ? kAll : 0xffffu;
    const uint32_t odd = __ballot_sync(mask, lane & 1);
    int value = __shfl_down_sync(mask, lane, 1, 16);
    value += __shfl_up_sync(mask, lane, 2, 16);
    if (lane < 8)
        value += 100 * __shfl_sync(0xffu, lane, 7 - lane, 8);
    else if (__any_sync(mask & ~0xffu, lane == 9))
        value += 1000 * __popc(__match_any_sync(mask & ~0xffu, lane / 4));
    __syncwarp(mask);
    out[threadIdx.x] = value + (odd == (mask & 0xaaaaaaaau) ? 10000 : 0) + (__all_sync(mask, lane < 32) ? 20000 : 0);
}

// Blocks of a cluster pass a number to the right through shared memory.
__global__ void cluster_ring_kernel(int* out) {
    WSSS_SHARED(box, int[1]);
    if (threadIdx.x == 0) box[0] = static_cast<int>(blockIdx.x) * 10;
    cluster_sync();
    if (threadIdx.x == 0) out[blockIdx.x] = *cluster_map(&box[0], cluster_rank() ^ 1u);
    cluster_sync();  // no block may leave while another reads its memory
}

// Every block adds its part; after the grid's barrier every block sees the whole.
__global__ void grid_sum_kernel(const int* x, int* total, int* out) {
    if (threadIdx.x == 0) atomicAdd(total, x[blockIdx.x]);
    grid_sync();
    if (threadIdx.x == 0) out[blockIdx.x] = *total;
}

// 8 rows of shared memory reused by three phases, with barriers that also count votes.
__global__ void votes_kernel(int* out) {
    WSSS_SHARED(row, int[64]);
    int count = 0;
    for (int turn = 0; turn < 3; ++turn) {
        row[threadIdx.x] = static_cast<int>(threadIdx.x) * (turn + 1);
        count += __syncthreads_count(row[threadIdx.x] % 3 == 0);
        count +=
            row[(threadIdx.x + 17) % 64] + 1000 * __syncthreads_or(threadIdx.x == 5) + 2000 * __syncthreads_and(threadIdx.x != 5);
        __syncthreads();
    }
    out[threadIdx.x] = count;
}

}  // namespace good
}  // namespace wsss
