// CUDA spellings for the host compiler, so that a .cu file compiles unchanged with -DWSSS_SIMT and runs in the emulator.
// Included by common/cuda.cuh only. No CUDA header is needed; nothing of this is part of an installed package.
// Left out on purpose: __activemask (its value is a property of the hardware) and __shared__ (WSSS_SHARED carries bounds).
#pragma once

#ifndef WSSS_SIMT
#error "compile .cu files with nvcc, or with the host compiler and -DWSSS_SIMT"
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <utility>

#include "common/half.h"
#include "simt/runtime.h"
#include "simt/vector_types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __constant__
#define __grid_constant__
#define __shared__ static_assert(false, "use WSSS_SHARED or WSSS_CARVE: the emulator gives them bounds");
#ifndef __restrict__
#define __restrict__ __restrict
#endif
#define __align__(bytes) alignas(bytes)

#define threadIdx (::wsss::simt::current_thread->thread_index)
#define blockIdx (::wsss::simt::current_thread->block_index)
#define blockDim (::wsss::simt::current_thread->block_dim)
#define gridDim (::wsss::simt::current_thread->grid_dim)
constexpr int warpSize = 32;

using cudaStream_t = void*;

#include "simt/atomics.h"
#include "simt/math.h"
#include "simt/warp.h"

// ---- barriers and fences ---------------------------------------------------------------------------------------------------
inline void __syncthreads(wsss::simt::Site site = wsss::simt::here()) {
    wsss::simt::block_barrier("__syncthreads", 0, site);
}
inline int __syncthreads_count(int predicate, wsss::simt::Site site = wsss::simt::here()) {
    return wsss::simt::block_barrier("__syncthreads_count", predicate, site);
}
inline int __syncthreads_or(int predicate, wsss::simt::Site site = wsss::simt::here()) {
    return wsss::simt::block_barrier("__syncthreads_or", predicate, site) > 0;
}
inline int __syncthreads_and(int predicate, wsss::simt::Site site = wsss::simt::here()) {
    return wsss::simt::block_barrier("__syncthreads_and", predicate == 0, site) == 0;
}
inline void __threadfence() {
    wsss::simt::fence(true);
}
inline void __threadfence_block() {
    wsss::simt::fence(false);
}
inline void __threadfence_system() {
    wsss::simt::fence(true);
}
inline void __nanosleep(unsigned) {
    wsss::simt::give_way();
}
[[noreturn]] inline void __trap(wsss::simt::Site site = wsss::simt::here()) {
    wsss::simt::fault("trap", site, "the kernel called __trap()");
}
