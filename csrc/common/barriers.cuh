// Barriers beyond a block, for kernels started by launch_cooperative and launch_cluster; and a cluster's shared memory.
#pragma once

#include "common/compiler.cuh"

namespace wsss {

#ifdef __CUDACC__

__device__ __forceinline__ void grid_sync() {
    cooperative_groups::this_grid().sync();
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__device__ __forceinline__ void cluster_sync() {
    __syncwarp();  // .aligned: the lanes of a warp arrive together
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
__device__ __forceinline__ unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
template <class T>
__device__ __forceinline__ T* cluster_map(T* pointer, unsigned rank) {
    uint64_t mapped;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(mapped) : "l"(reinterpret_cast<uint64_t>(pointer)), "r"(rank));
    return reinterpret_cast<T*>(mapped);
}
#else  // before sm_90 there are no clusters: the code compiles, and stops when reached
__device__ __forceinline__ void cluster_sync() {
    __trap();
}
__device__ __forceinline__ unsigned cluster_rank() {
    __trap();
    return 0;
}
template <class T>
__device__ __forceinline__ T* cluster_map(T* pointer, unsigned) {
    __trap();
    return pointer;
}
#endif

#else  // the emulator

inline void grid_sync(simt::Site site = simt::here()) {
    simt::group_barrier("grid_sync", site);
}
inline void cluster_sync(simt::Site site = simt::here()) {
    simt::group_barrier("cluster_sync", site);
}
inline unsigned cluster_rank() {
    return simt::current_thread->cluster_rank;
}
template <class T>
inline T* cluster_map(T* pointer, unsigned rank, simt::Site site = simt::here()) {
    return static_cast<T*>(simt::map_to_rank(pointer, rank, site));
}

#endif

}  // namespace wsss
