// The CUDA vector types the kernels use, with CUDA's sizes and alignments (UBSan then finds misaligned vector accesses).
#pragma once

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

// Name##2 and Name##4 of one scalar type with make_ functions, as CUDA spells them.
#define WSSS_SIMT_VECTORS(Name, Scalar)                                     \
    struct alignas(2 * sizeof(Scalar)) Name##2 {                            \
        Scalar x, y;                                                        \
    };                                                                      \
    struct alignas(sizeof(Scalar) == 8 ? 16 : 4 * sizeof(Scalar)) Name##4 { \
        Scalar x, y, z, w;                                                  \
    };                                                                      \
    inline Name##2 make_##Name##2(Scalar x, Scalar y) {                     \
        return {x, y};                                                      \
    }                                                                       \
    inline Name##4 make_##Name##4(Scalar x, Scalar y, Scalar z, Scalar w) { \
        return {x, y, z, w};                                                \
    }

WSSS_SIMT_VECTORS(char, signed char)
WSSS_SIMT_VECTORS(uchar, unsigned char)
WSSS_SIMT_VECTORS(short, short)
WSSS_SIMT_VECTORS(ushort, unsigned short)
WSSS_SIMT_VECTORS(int, int)
WSSS_SIMT_VECTORS(uint, unsigned)
WSSS_SIMT_VECTORS(longlong, long long)
WSSS_SIMT_VECTORS(ulonglong, unsigned long long)
WSSS_SIMT_VECTORS(float, float)
WSSS_SIMT_VECTORS(double, double)
#undef WSSS_SIMT_VECTORS

struct float3 {
    float x, y, z;
};
struct int3 {
    int x, y, z;
};
inline float3 make_float3(float x, float y, float z) {
    return {x, y, z};
}
inline int3 make_int3(int x, int y, int z) {
    return {x, y, z};
}
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) {
    return {x, y, z};
}
