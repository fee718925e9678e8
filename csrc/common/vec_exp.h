// exp of a vector. Included inside the SIMD namespaces (see simd_foreach.h); no include guard on purpose.

// For -87 <= x <= 88, relative error 2e-7: a power of two times a polynomial.
inline __attribute__((always_inline)) Vec<float> exponential_in_range(Vec<float> x) {
    using V = Vec<float>;
    using I = Vec<int32_t>;
    const V shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the low bits now hold the nearest integer
    const V whole = shifted - 12582912.0f;
    const V r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    V p = V{} + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const I scaled = reinterpret_cast<const I&>(p) + (reinterpret_cast<const I&>(shifted) << 23);
    return reinterpret_cast<const V&>(scaled);
}

// For x <= 88, where softmaxes need it; in double the error is that of std::exp. Below -87 (-700 in double) the result is 0; NaN
// stays NaN.
inline __attribute__((always_inline)) Vec<float> exponential(Vec<float> x) {
    using V = Vec<float>;
    const V low = V{} - 87.0f;
    const V result = x < low ? V{} : exponential_in_range(x > low ? x : low);
    return x == x ? result : x;
}

inline __attribute__((always_inline)) Vec<double> exponential(Vec<double> x) {
    Vec<double> result = {};
    for (int i = 0; i < kLanes<double>; ++i) result[i] = x[i] < -700.0 ? 0.0 : std::exp(x[i]);
    return result;
}
