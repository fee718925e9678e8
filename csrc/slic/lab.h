// uint8 sRGB to integer CIELAB (D65) in quarters of a unit: L in 0..400, a and b within +-432.
//
// Integers and tables only, so that every compiler and device gives the same numbers:
//     X, Y, Z = contributions of red, green and blue, relative to white, 2^16 = 1, each rounded; summed in one 64-bit word
//     f       = table of the cube root (linear near 0) at 2^13 + 1 steps, 2^14 = 1
//     L = 116 f(Y) - 16,  a = 500 (f(X) - f(Y)),  b = 200 (f(Y) - f(Z))
// The tables (22 KiB) are made at compile time.
#pragma once

#include <cstdint>

namespace wsss::slic {

constexpr int kLabUnit = 4;             // steps in one unit of L, a and b
constexpr int kLabRootSteps = 1 << 13;  // f is tabulated at multiples of 1 / kLabRootSteps
constexpr int kLabField = 21;           // bits of X, Y and Z in a packed word

struct LabTables {
    uint64_t xyz[3][256];             // what a value of red, green or blue adds to X, Y (<< 21) and Z (<< 42)
    int16_t root[kLabRootSteps + 1];  // f
};

struct Lab {
    int32_t l, a, b;
};

// The sRGB transfer function, to a precision far below the rounding that follows. x^2.4 = x^2 (x^(1/5))^2.
constexpr double linear_light(int value) {
    const double v = value / 255.0;
    if (v <= 0.04045) return v / 12.92;
    const double x = (v + 0.055) / 1.055;
    double root = 1;
    for (int i = 0; i < 20; ++i) {
        const double fourth = root * root * root * root;
        root -= (root * fourth - x) / (5 * fourth);
    }
    return x * x * root * root;
}

constexpr LabTables make_lab_tables() {
    constexpr double kPart[3][3] = {
        {0.412453, 0.357580, 0.180423}, {0.212671, 0.715160, 0.072169}, {0.019334, 0.119193, 0.950227}};
    constexpr double kWhite[3] = {0.95047, 1.0, 1.08883};
    LabTables tables{};
    for (int value = 0; value < 256; ++value) {
        const double light = linear_light(value);
        for (int channel = 0; channel < 3; ++channel)
            for (int axis = 0; axis < 3; ++axis) {
                const double share = kPart[axis][channel] / kWhite[axis] * light * 65536.0;
                tables.xyz[channel][value] |= static_cast<uint64_t>(share + 0.5) << (kLabField * axis);
            }
    }
    constexpr int64_t kSteps = kLabRootSteps, kOne = 1 << 14;
    int64_t root = 0;
    for (int64_t i = 0; i <= kSteps; ++i) {
        while ((2 * root + 1) * (2 * root + 1) * (2 * root + 1) <= 8 * i * (kOne * kOne * kOne / kSteps)) ++root;
        // below (6/29)^3: 841/108 t + 4/29
        const int64_t line = 841 * i * 29 + 4 * 108 * kSteps, unit = 108 * kSteps * 29;
        const bool linear = i * 24389 <= 216 * kSteps;
        tables.root[i] = static_cast<int16_t>(linear ? (2 * kOne * line + unit) / (2 * unit) : root);
    }
    return tables;
}

constexpr Lab lab_of_roots(int32_t fx, int32_t fy, int32_t fz) {
    return {(116 * kLabUnit * fy - (16 * kLabUnit << 14) + (1 << 13)) >> 14, (500 * kLabUnit * (fx - fy) + (1 << 13)) >> 14,
            (200 * kLabUnit * (fy - fz) + (1 << 13)) >> 14};
}

// `tables` may stand in any memory: a kernel copies kLabTables to where it is quick to read.
constexpr Lab lab_of(const LabTables& tables, int red, int green, int blue) {
    const uint64_t xyz = tables.xyz[0][red] + tables.xyz[1][green] + tables.xyz[2][blue];
    constexpr uint64_t kMask = (uint64_t{1} << kLabField) - 1;
    return lab_of_roots(tables.root[(xyz & kMask) >> 3], tables.root[(xyz >> kLabField & kMask) >> 3],
                        tables.root[xyz >> (2 * kLabField) >> 3]);
}

constexpr LabTables kLabTables = make_lab_tables();

static_assert(lab_of(kLabTables, 255, 255, 255).l == 400 && lab_of(kLabTables, 0, 0, 0).l == 0);

}  // namespace wsss::slic
