// Kernels with one planted fault each; tests/test_simt.py says which build and schedule must find which. They compile with nvcc
// without a word, as real mistakes do.
#pragma once

#include "common/prim.cuh"

namespace wsss {
namespace faulty {

constexpr uint32_t kAll = 0xffffffffu;

// ---- barriers ----------------------------------------------------------------------------------------------------------------

__global__ void divergent_barrier_kernel(int* out) {
    if (threadIdx.x < 32) {
        out[threadIdx.x] = 1;
        __syncthreads();
    } else {
        out[threadIdx.x] = 2;
        __syncthreads();
    }
}

__global__ void exit_before_barrier_kernel(int* out, int count) {
    if (static_cast<int>(threadIdx.x) >= count) return;
    out[threadIdx.x] = 1;
    __syncthreads();
}

__global__ void unequal_trips_kernel(int* out) {
    for (unsigned i = 0; i < 1 + threadIdx.x / 32; ++i) {
        out[threadIdx.x] = static_cast<int>(i);
        __syncthreads();
    }
}

__global__ void missing_barrier_kernel(int* out, int shift) {  // reads what a neighbour wrote, without waiting
    WSSS_SHARED(row, int[64]);
    row[threadIdx.x] = static_cast<int>(threadIdx.x);
    out[threadIdx.x] = row[(threadIdx.x + shift) % 64];
}

__global__ void missing_second_barrier_kernel(int* out, int turns) {  // write after read: a fast thread overwrites the row
    WSSS_SHARED(row, int[64]);
    int sum = 0;
    for (int turn = 0; turn < turns; ++turn) {
        row[threadIdx.x] = turn * 100 + static_cast<int>(threadIdx.x);
        __syncthreads();
        sum += row[63 - threadIdx.x];
    }
    out[threadIdx.x] = sum;
}

__global__ void shuffle_as_fence_kernel(int* out) {  // one warp: a shuffle does not order memory
    WSSS_SHARED(row, int[32]);
    row[threadIdx.x] = static_cast<int>(threadIdx.x);
    const int lane = __shfl_sync(kAll, static_cast<int>(threadIdx.x), 31 - static_cast<int>(threadIdx.x));
    out[threadIdx.x] = row[lane];
}

__global__ void missing_cluster_barrier_kernel(int* out) {
    WSSS_SHARED(box, int[1]);
    if (threadIdx.x == 0) {
        box[0] = static_cast<int>(blockIdx.x);
        out[blockIdx.x] = *cluster_map(&box[0], cluster_rank() ^ 1u);
    }
    cluster_sync();
}

// ---- warps
// ---------------------------------------------------------------------------------------------------------------------

__global__ void shuffle_absent_lane_kernel(int* out) {
    if (threadIdx.x < 31) out[threadIdx.x] = __shfl_sync(kAll, static_cast<int>(threadIdx.x), 0);
}

__global__ void shuffle_source_kernel(int* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, static_cast<int>(threadIdx.x), 16 + threadIdx.x % 16);
}

__global__ void partial_warp_kernel(int* out) {  // launched with 40 threads: the last warp has 8 lanes
    out[threadIdx.x] = __popc(__ballot_sync(kAll, 1));
}

__global__ void warp_divergence_kernel(int* out) {
    if (threadIdx.x < 16)
        out[threadIdx.x] = __shfl_sync(kAll, 1, 0);
    else
        out[threadIdx.x] = __any_sync(kAll, 1);
}

__global__ void own_lane_kernel(int* out) {
    out[threadIdx.x] = __any_sync(0x7fffffffu, 1);
}

// ---- bounds
// ----------------------------------------------------------------------------------------------------------------------

__global__ void carve_overflow_kernel(float* out, int count) {  // writes one element too many, into the neighbour's bytes
    WSSS_DYNAMIC_SHARED(base);
    size_t offset = 0;
    WSSS_CARVE(float, left, base, offset, 32);
    WSSS_CARVE(float, right, base, offset, 32);
    for (int i = threadIdx.x; i <= count; i += blockDim.x) left[i] = static_cast<float>(i);
    right[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = left[threadIdx.x];
}

__global__ void carve_beyond_kernel(float* out) {  // the launch gives less than the kernel carves
    WSSS_DYNAMIC_SHARED(base);
    size_t offset = 0;
    WSSS_CARVE(float, left, base, offset, 32);
    WSSS_CARVE(float, right, base, offset, 33);
    left[threadIdx.x] = right[threadIdx.x] = 1.0f;
    out[threadIdx.x] = left[threadIdx.x];
}

__global__ void static_overflow_kernel(int* out, int shift) {
    WSSS_SHARED(row, int[64]);
    int* const end = row + threadIdx.x;  // through a pointer: the compiler does not see the bound
    end[shift] = 1;
    __syncthreads();
    out[threadIdx.x] = row[threadIdx.x / 2 + 1];
}

__global__ void static_overread_kernel(int* out, int shift) {
    WSSS_SHARED(row, int[64]);
    row[threadIdx.x] = 1;
    __syncthreads();
    const int* const end = row + threadIdx.x;
    out[threadIdx.x] = end[shift];
}

__global__ void row_spill_kernel(int* out, int width) {  // column 8 of row r is column 0 of row r + 1
    WSSS_SHARED(tile, int[8][8]);
    for (int column = 0; column <= width; ++column)
        if (threadIdx.x < 7) tile[threadIdx.x][column] = static_cast<int>(threadIdx.x);
    __syncthreads();
    if (threadIdx.x < 7) out[threadIdx.x] = tile[threadIdx.x][1];
}

__global__ void global_overflow_kernel(int* out, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= count) out[i] = i;
}

__global__ void misaligned_vector_kernel(const float* in, float* out) {
    out[threadIdx.x] = reinterpret_cast<const float4*>(in + 1)[threadIdx.x].x;
}

__global__ void misaligned_ldmatrix_kernel(uint32_t* out) {
    WSSS_SHARED(tile, uint16_t[32 * 9]);
    for (int i = threadIdx.x; i < 32 * 9; i += 32) tile[i] = 1;
    __syncwarp();
    uint32_t r[4];
    ldmatrix_x4(r, tile + threadIdx.x * 9);  // rows of 18 bytes
    out[threadIdx.x] = r[0];
}

// ---- values
// ------------------------------------------------------------------------------------------------------------------------

__global__ void uninitialised_shared_kernel(float* out) {
    WSSS_SHARED(row, float[64]);
    if (threadIdx.x < 63) row[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = fmaxf(row[threadIdx.x], 0.0f);  // NaN becomes 0, so the result looks harmless
}

__global__ void cp_async_early_kernel(const float* in, float* out) {  // reads before waiting for its own copy
    WSSS_SHARED(row, float[64]);
    cp_async_4(&row[threadIdx.x], in + threadIdx.x, true);
    cp_async_commit();
    out[threadIdx.x] = row[threadIdx.x];
    cp_async_wait<0>();
}

__global__ void cp_async_group_kernel(const float* in, float* out) {  // waits with one group too many in flight
    WSSS_SHARED(row, float[2][64]);
    for (int i = 0; i < 2; ++i) {
        cp_async_4(&row[i][threadIdx.x], in + 64 * i + threadIdx.x, true);
        cp_async_commit();
    }
    cp_async_wait<1>();
    out[threadIdx.x] = row[0][threadIdx.x] + row[1][threadIdx.x];
    cp_async_wait<0>();
}

__global__ void cp_async_refill_kernel(const float* in, float* out, int tiles) {  // refills a buffer others still read
    WSSS_SHARED(row, float[64]);
    float sum = 0.0f;
    for (int tile = 0; tile < tiles; ++tile) {
        cp_async_4(&row[threadIdx.x], in + 64 * tile + threadIdx.x, true);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        sum += row[63 - threadIdx.x];
    }
    out[threadIdx.x] = sum;
}

// ---- blocks
// ------------------------------------------------------------------------------------------------------------------------

__global__ void cross_block_add_kernel(float* total) {
    if (threadIdx.x == 0) *total += 1.0f;
}

__global__ void missing_fence_kernel(float* partial, unsigned* ticket, float* total) {
    if (threadIdx.x != 0) return;
    partial[blockIdx.x] = 1.0f;
    if (atomicAdd(ticket, 1) != gridDim.x - 1) return;
    float sum = 0.0f;
    for (unsigned i = 0; i < gridDim.x; ++i) sum += partial[i];
    *total = sum;
}

__global__ void endless_wait_kernel(int* flag) {
    while (atomicAdd(flag, 0) == 0) {
    }
}

}  // namespace faulty
}  // namespace wsss
