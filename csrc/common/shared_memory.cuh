// Shared memory of a block. Kernels take it only through these macros, so that the emulator knows the bounds of every array:
//     WSSS_SHARED(tile, float[16][17]);                  a static array
//     WSSS_DYNAMIC_SHARED(base); size_t offset = 0;      the dynamic block ...
//     WSSS_CARVE(float, sums, base, offset, count);      ... cut into arrays; size it on the host with carve_bytes<float>(count)
#pragma once

#include "common/compiler.cuh"

namespace wsss {

constexpr size_t kCarveAlignment = 128;

template <class T>
__host__ __device__ constexpr size_t carve_bytes(size_t count) {
    return (count * sizeof(T) + kCarveAlignment - 1) / kCarveAlignment * kCarveAlignment;
}

template <class T>
using Identity = T;  // lets a macro declare a variable of array type: Identity<float[4]> x;

#ifdef __CUDACC__

#define WSSS_SHARED(name, ...) __shared__ __align__(16)::wsss::Identity<__VA_ARGS__> name
#define WSSS_DYNAMIC_SHARED(base)                                                \
    extern __shared__ __align__(128) unsigned char wsss_dynamic_shared_memory[]; \
    unsigned char* const base = wsss_dynamic_shared_memory
#define WSSS_CARVE(type, name, base, offset, count)                \
    type* const name = reinterpret_cast<type*>((base) + (offset)); \
    (offset) += ::wsss::carve_bytes<type>(static_cast<size_t>(count))

#else  // the emulator

#define WSSS_SHARED(name, ...)                                 \
    static const char wsss_shared_key_##name = 0;              \
    auto& name = *static_cast<::wsss::Identity<__VA_ARGS__>*>( \
        ::wsss::simt::static_shared(&wsss_shared_key_##name, sizeof(::wsss::Identity<__VA_ARGS__>), #name))
#define WSSS_DYNAMIC_SHARED(base) unsigned char* const base = ::wsss::simt::dynamic_shared()
#define WSSS_CARVE(type, name, base, offset, count)                                                                        \
    type* const name = static_cast<type*>(                                                                                 \
        ::wsss::simt::carve_shared(base, offset, static_cast<size_t>(count) * sizeof(type), #name, ::wsss::simt::here())); \
    (offset) += ::wsss::carve_bytes<type>(static_cast<size_t>(count))

#endif

}  // namespace wsss
