// The 16-bit types of kernels: to and from float, their bits, and pairs of them in a register.
#pragma once

#include "common/compiler.cuh"
#include "common/view.h"

namespace wsss {

#ifdef __CUDACC__

using bf16 = __nv_bfloat16;
using f16 = __half;

__host__ __device__ __forceinline__ float to_float(float value) {
    return value;
}
__host__ __device__ __forceinline__ float to_float(bf16 value) {
    return __bfloat162float(value);
}
__host__ __device__ __forceinline__ float to_float(f16 value) {
    return __half2float(value);
}

template <class T>
__host__ __device__ __forceinline__ T from_float(float value);
template <>
__host__ __device__ __forceinline__ float from_float<float>(float value) {
    return value;
}
template <>
__host__ __device__ __forceinline__ bf16 from_float<bf16>(float value) {
    return __float2bfloat16_rn(value);
}
template <>
__host__ __device__ __forceinline__ f16 from_float<f16>(float value) {
    return __float2half_rn(value);
}

__device__ __forceinline__ uint32_t bits_of(bf16 value) {
    return __bfloat16_as_ushort(value);
}
__device__ __forceinline__ uint32_t bits_of(f16 value) {
    return __half_as_ushort(value);
}
template <class T>
__device__ __forceinline__ T from_bits(uint32_t bits);
template <>
__device__ __forceinline__ bf16 from_bits<bf16>(uint32_t bits) {
    return __ushort_as_bfloat16(static_cast<unsigned short>(bits));
}
template <>
__device__ __forceinline__ f16 from_bits<f16>(uint32_t bits) {
    return __ushort_as_half(static_cast<unsigned short>(bits));
}

#else  // the emulator

using bf16 = HostBFloat16;
using f16 = HostHalf;

template <class T>
inline T from_float(float value) {
    T converted;
    store(&converted, value);
    return converted;
}

inline uint32_t bits_of(bf16 value) {
    return value.bits;
}
inline uint32_t bits_of(f16 value) {
    return value.bits;
}
template <class T>
inline T from_bits(uint32_t bits) {
    return T{static_cast<uint16_t>(bits)};
}

#endif

// Two 16-bit values in one register, the first in the low half: the order mma and ldmatrix use.
template <class T>
__device__ __forceinline__ uint32_t pack2(T low, T high) {
    return bits_of(low) | (bits_of(high) << 16);
}

template <class T>
__device__ __forceinline__ uint32_t pack2_from_float(float low, float high) {
    return pack2(from_float<T>(low), from_float<T>(high));
}

template <class T>
__device__ __forceinline__ float2 unpack2(uint32_t pair) {
    return make_float2(to_float(from_bits<T>(pair & 0xffffu)), to_float(from_bits<T>(pair >> 16)));
}

// From the type of a call to that of its kernels: with_device_type(cam.dtype, [&](auto type) { run<decltype(type)>(...); });
template <class Run>
auto with_device_type(DType type, Run&& run) {
    if (type == DType::kFloat16) return run(f16{});
    if (type == DType::kBFloat16) return run(bf16{});
    return run(float{});
}

}  // namespace wsss
