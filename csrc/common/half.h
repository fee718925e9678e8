// 16-bit floats on the host: storage types and conversions (round to nearest even), for any compiler.
#pragma once

#include <cstdint>
#include <cstring>

namespace wsss {

struct HostHalf {
    uint16_t bits;
};
struct HostBFloat16 {
    uint16_t bits;
};

inline float float_from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float to_float(float value) {
    return value;
}
inline double to_float(double value) {
    return value;
}
inline float to_float(HostBFloat16 value) {
    return float_from_bits(static_cast<uint32_t>(value.bits) << 16);
}

inline float to_float(HostHalf value) {
    const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
    const uint32_t rest = value.bits & 0x7fffu, shifted = rest << 13;
    // Never through a float denormal, which FlushDenormals would read as 0: half's denormals m 2^-24 are 2^-14 (1 + m / 1024) -
    // 2^-14. Otherwise the exponent's bias goes from 15 to 127; that of Inf and NaN from 31 to 255.
    const uint32_t denormal = bits_of(float_from_bits(0x38800000u | shifted) - 0x1p-14f);
    const uint32_t normal = shifted + (rest >= 0x7c00u ? 0x70000000u : 0x38000000u);
    return float_from_bits(sign | (rest < 0x400u ? denormal : normal));
}

inline void store(float* to, float value) {
    *to = value;
}
inline void store(double* to, double value) {
    *to = value;
}

inline void store(HostBFloat16* to, float value) {
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        to->bits = static_cast<uint16_t>((bits >> 16) | 0x40u);  // keep NaN a NaN
    } else {
        to->bits = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
}

inline void store(HostHalf* to, float value) {
    const uint32_t bits = bits_of(value), sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
    uint32_t half;
    if (rest > 0x7f800000u) {
        half = 0x7e00u;
    } else if (rest >= 0x477ff000u) {
        half = 0x7c00u;  // 65520 and above round to infinity
    } else if (rest < 0x38800000u) {
        half = bits_of(float_from_bits(rest) + 0.5f) - 0x3f000000u;  // the addition rounds at half's denormal step, 2^-24
    } else {
        half = (rest + 0xfffu + ((rest >> 13) & 1u) - 0x38000000u) >> 13;
    }
    to->bits = static_cast<uint16_t>(sign | half);
}

}  // namespace wsss
