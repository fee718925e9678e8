// Warp-level matrix primitives and asynchronous copies: PTX under nvcc, twins of the same meaning under simt.
// Every lane of a full warp calls mma and ldmatrix. With g = lane / 4 and t = lane % 4, the fragments of m16n8k16 are
//     a[0]: (g, 2t..2t+1)   a[1]: (g+8, 2t..)   a[2]: (g, 2t+8..)   a[3]: (g+8, 2t+8..)        A row-major, 16 x 16
//     b[0]: (k=2t..2t+1, n=g)                   b[1]: (k=2t+8.., n=g)                          B column-major, 16 x 8
//     d[0], d[1]: (g, 2t..2t+1)                 d[2], d[3]: (g+8, 2t..)                        float, accumulated in place
// ldmatrix reads 8 x 8 blocks of 16-bit values; lanes 8i..8i+7 give the rows of block i; the lane gets (g, 2t..2t+1) of each
// block, or with _trans (2t..2t+1, g).
// cp.async: a thread waits for its own copies only; others see them after the next barrier.
#pragma once

#include "common/cuda.cuh"

namespace wsss {

#ifdef __CUDACC__

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row_address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row_address))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row_address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row_address))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* row_address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row_address))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row_address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row_address))
                 : "memory");
}

__device__ __forceinline__ void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bf16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], f16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <class T>
__device__ __forceinline__ void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_16816(d, a, b, T{});
}

// valid = false: the bytes become zero and the source is not read.
__device__ __forceinline__ void cp_async_16(void* shared_dst, const void* global_src, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared_dst)), "l"(global_src),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void cp_async_4(void* shared_dst, const void* global_src, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared_dst)), "l"(global_src),
                 "r"(valid ? 4 : 0)
                 : "memory");
}

__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#else

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row_address, simt::Site site = simt::here()) {
    simt::ldmatrix(r, 4, false, row_address, site);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row_address, simt::Site site = simt::here()) {
    simt::ldmatrix(r, 4, true, row_address, site);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row_address, simt::Site site = simt::here()) {
    simt::ldmatrix(r, 2, false, row_address, site);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row_address, simt::Site site = simt::here()) {
    simt::ldmatrix(r, 2, true, row_address, site);
}

inline void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bf16, simt::Site site = simt::here()) {
    simt::mma_16816_bf16(d, a, b, site);
}
inline void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], f16, simt::Site site = simt::here()) {
    simt::mma_16816_f16(d, a, b, site);
}
template <class T>
inline void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], simt::Site site = simt::here()) {
    mma_16816(d, a, b, T{}, site);
}

inline void cp_async_16(void* shared_dst, const void* global_src, bool valid, simt::Site site = simt::here()) {
    simt::cp_async(shared_dst, global_src, 16, valid, site);
}
inline void cp_async_4(void* shared_dst, const void* global_src, bool valid, simt::Site site = simt::here()) {
    simt::cp_async(shared_dst, global_src, 4, valid, site);
}
inline void cp_async_commit() {
    simt::async_commit();
}
template <int N>
inline void cp_async_wait() {
    simt::cp_async_wait(N);
}

#endif

}  // namespace wsss
