// Includes the file WSSS_SIMD_BODY once an instruction set, each time inside a namespace of that name (see simd.h).
//
// The body may use Vec<T> and Half<T> (a full and a half vector of T), kLanes<T>, load and save of a Vec at any address, and
// everything its includer included before. It must include nothing itself: standard headers compiled for a wide target could be
// merged by the linker with the copies that narrow processors run. No include guard: every kernel file includes this once.

#if !defined(WSSS_SIMD_BODY)
#error "define WSSS_SIMD_BODY before including simd_foreach.h"
#endif

// The compiler cannot see through it: what was computed is rounded and in a register, and is not loaded or computed again.
#if defined(__x86_64__)
#define WSSS_SIMD_OPAQUE(value) asm("" : "+x"(value))
#else
#define WSSS_SIMD_OPAQUE(value) static_cast<void>(value)
#endif

#define WSSS_SIMD_TYPES                                                                      \
    template <class T>                                                                       \
    constexpr int kLanes = WSSS_SIMD_BYTES / static_cast<int>(sizeof(T));                    \
    template <class T, int kBytes>                                                           \
    struct VectorOf {                                                                        \
        typedef T type __attribute__((vector_size(kBytes), aligned(alignof(T)), may_alias)); \
    };                                                                                       \
    template <class T>                                                                       \
    using Vec = typename VectorOf<T, WSSS_SIMD_BYTES>::type;                                 \
    template <class T>                                                                       \
    using Half = typename VectorOf<T, WSSS_SIMD_BYTES / 2>::type;                            \
    template <class T>                                                                       \
    inline __attribute__((always_inline)) Vec<T> load(const T* from) {                       \
        return *reinterpret_cast<const Vec<T>*>(from);                                       \
    }                                                                                        \
    template <class T>                                                                       \
    inline __attribute__((always_inline)) void save(T* to, Vec<T> value) {                   \
        *reinterpret_cast<Vec<T>*>(to) = value;                                              \
    }                                                                                        \
    template <class V>                                                                       \
    inline __attribute__((always_inline)) V opaque(V value) {                                \
        WSSS_SIMD_OPAQUE(value);                                                             \
        return value;                                                                        \
    }

namespace plain {
#define WSSS_SIMD_BYTES 16
#define WSSS_SIMD_ROWS 4
WSSS_SIMD_TYPES
#include WSSS_SIMD_BODY
#undef WSSS_SIMD_BYTES
#undef WSSS_SIMD_ROWS
}  // namespace plain

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
namespace avx2 {
#define WSSS_SIMD_BYTES 32
#define WSSS_SIMD_ROWS 4
WSSS_SIMD_TYPES
#include WSSS_SIMD_BODY
#undef WSSS_SIMD_BYTES
#undef WSSS_SIMD_ROWS
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
namespace avx512 {
#define WSSS_SIMD_BYTES 64
#define WSSS_SIMD_ROWS 8
WSSS_SIMD_TYPES
#include WSSS_SIMD_BODY
#undef WSSS_SIMD_BYTES
#undef WSSS_SIMD_ROWS
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // __x86_64__

#undef WSSS_SIMD_TYPES
#undef WSSS_SIMD_OPAQUE
#undef WSSS_SIMD_BODY
