// Atomics, on shared and on global memory. Relaxed, as on the device: they order nothing else, so ThreadSanitizer reports data
// that is handed over by an atomic without __threadfence() on both sides.
#pragma once

#include <cstdint>
#include <cstring>

#include "simt/runtime.h"

namespace wsss {
namespace simt {

template <size_t Bytes>
struct BitsOf;
template <>
struct BitsOf<4> {
    using type = uint32_t;
};
template <>
struct BitsOf<8> {
    using type = uint64_t;
};

// Applies `change` to *address in one indivisible step and returns the old value.
template <class T, class F>
inline T atomic_update(T* address, F change) {
    using Bits = typename BitsOf<sizeof(T)>::type;
    count_atomic();
    Bits* const place = reinterpret_cast<Bits*>(address);
    Bits old_bits = __atomic_load_n(place, __ATOMIC_RELAXED);
    for (;;) {
        T old_value;
        std::memcpy(&old_value, &old_bits, sizeof old_value);
        const T new_value = change(old_value);
        Bits new_bits;
        std::memcpy(&new_bits, &new_value, sizeof new_bits);
        if (__atomic_compare_exchange_n(place, &old_bits, new_bits, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return old_value;
    }
}

// The second argument converts to the pointed-to type, as with CUDA's overloads: atomicAdd(&count_u32, 1).
template <class T>
struct Same {
    using type = T;
};
template <class T>
using SameT = typename Same<T>::type;

}  // namespace simt
}  // namespace wsss

template <class T>
inline T atomicAdd(T* address, wsss::simt::SameT<T> value) {
    return wsss::simt::atomic_update(address, [value](T old) { return static_cast<T>(old + value); });
}
template <class T>
inline T atomicSub(T* address, wsss::simt::SameT<T> value) {
    return wsss::simt::atomic_update(address, [value](T old) { return static_cast<T>(old - value); });
}
template <class T>
inline T atomicMax(T* address, wsss::simt::SameT<T> value) {
    return wsss::simt::atomic_update(address, [value](T old) { return old < value ? value : old; });
}
template <class T>
inline T atomicMin(T* address, wsss::simt::SameT<T> value) {
    return wsss::simt::atomic_update(address, [value](T old) { return value < old ? value : old; });
}
template <class T>
inline T atomicOr(T* address, wsss::simt::SameT<T> value) {
    return wsss::simt::atomic_update(address, [value](T old) { return static_cast<T>(old | value); });
}
template <class T>
inline T atomicAnd(T* address, wsss::simt::SameT<T> value) {
    return wsss::simt::atomic_update(address, [value](T old) { return static_cast<T>(old & value); });
}
template <class T>
inline T atomicXor(T* address, wsss::simt::SameT<T> value) {
    return wsss::simt::atomic_update(address, [value](T old) { return static_cast<T>(old ^ value); });
}
template <class T>
inline T atomicExch(T* address, wsss::simt::SameT<T> value) {
    return wsss::simt::atomic_update(address, [value](T) { return value; });
}
template <class T>
inline T atomicCAS(T* address, wsss::simt::SameT<T> expected, wsss::simt::SameT<T> value) {
    return wsss::simt::atomic_update(address, [expected, value](T old) { return old == expected ? value : old; });
}
inline unsigned atomicInc(unsigned* address, unsigned limit) {
    return wsss::simt::atomic_update(address, [limit](unsigned old) { return old >= limit ? 0u : old + 1u; });
}
