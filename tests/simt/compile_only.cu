// Compiled by nvcc, never run: everything the emulator's tests use, and sort and scan, must also be CUDA.
#include "common/sort_scan.cuh"
#include "faulty_kernels.cuh"
#include "good_kernels.cuh"

namespace wsss {

void launch_all(float* f, int* i, uint32_t* u, uint16_t* h, cudaStream_t stream) {
    launch("block_sum", good::block_sum_kernel, 1, 96, 0, stream, f, f, 1);
    launch("mma", good::mma_plain_kernel<bf16>, 1, 32, 0, stream, static_cast<bf16*>(nullptr), static_cast<bf16*>(nullptr), f);
    launch("mma", good::mma_plain_kernel<f16>, 1, 32, 0, stream, static_cast<f16*>(nullptr), static_cast<f16*>(nullptr), f);
    launch("attention", good::relu_attention_kernel<bf16>, 1, 32, 4096, stream, static_cast<bf16*>(nullptr),
           static_cast<bf16*>(nullptr), static_cast<bf16*>(nullptr), f);
    launch("ldmatrix", good::ldmatrix_kernel, 1, 32, 0, stream, h, u);
    launch_cluster("ring", 2, good::cluster_ring_kernel, 2, 32, 0, stream, i);
    launch_cooperative("grid_sum", good::grid_sum_kernel, 2, 32, 0, stream, i, i, i);
}

int64_t sort_and_sum(const uint32_t* keys, uint32_t* sorted, const uint64_t* wide, uint64_t* wide_sorted, uint32_t* values,
                     int64_t count, void* workspace, int64_t bytes, cudaStream_t stream) {
    sort_pairs("sort", keys, sorted, values, values + count, count, 0, 32, workspace, bytes, stream);
    sort_pairs("sort", wide, wide_sorted, values, values + count, count, 3, 40, workspace, bytes, stream);
    inclusive_sum("sum", keys, sorted, count, workspace, bytes, stream);
    exclusive_sum("sum", keys, sorted, count, workspace, bytes, stream);
    return sort_pairs_workspace<uint64_t>("sort", count) + sum_workspace<int64_t>("sum", count) +
           sum_workspace<int32_t>("sum", count);
}

}  // namespace wsss
