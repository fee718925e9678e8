// x^t as a series of Chebyshev polynomials, for |x| <= 1:
//
//     x^t = sum over k = t, t-2, ... of c_k T_k(x),   c_k = 2^(1-t) binomial(t, (t-k)/2)   (half of that for k = 0)
//
// All c_k are positive and sum to 1, and fall off like exp(-k^2 / 2t). Terms that together are small enough are dropped, and the
// others divided by their sum, so that the cut series p is exact at x = 1 and wrong by `bound` at most anywhere in [-1, 1].
//
// T = D^1/2 S D^-1/2 with S symmetric, D its column sums, so pixel j of cam (p(T) - T^t) is at most, by Cauchy and Schwarz,
// bound * sqrt(sum_i cam_i^2 d_i / d_j) <= bound * max|cam| * sqrt(P max d / min d), and 1 <= d <= 2E + 1.
//
// The series is cut on the host, for both devices; its coefficients are stepped through where they are used.
#pragma once

#include <cmath>
#include <cstdint>

namespace wsss::random_walk {

struct Series {
    int64_t steps;  // t
    int64_t last;   // the highest k that is kept
    double first;   // the coefficient of the lowest k, which is t % 2
};

// c_(k+2) from c_k, k of the parity of t.
constexpr double next_coefficient(double coefficient, int64_t steps, int64_t k) {
    return coefficient * (k == 0 ? 2.0 : 1.0) * static_cast<double>(steps - k) / static_cast<double>(steps + k + 2);
}

// The coefficients in turn: to be called for k = 1, 2, ... with `last`, which starts as series.first.
constexpr double coefficient_of(const Series& series, int64_t k, double* last) {
    if ((series.steps - k) % 2 != 0) return 0;
    if (k >= 2) *last = next_coefficient(*last, series.steps, k - 2);
    return *last;
}

inline Series cut_series(int64_t steps, double bound) {
    constexpr double kNegligible = 1e-20;  // of the sum: what float64 cannot tell from nothing
    const int64_t lowest = steps % 2;
    int64_t last = lowest;
    double coefficient = 1, sum = 1;  // relative to the lowest
    for (; last < steps && coefficient > kNegligible * sum; last += 2) {
        coefficient = next_coefficient(coefficient, steps, last);
        sum += coefficient;
    }
    const double allowed = sum * bound / (2 + bound);
    double dropped = 0;
    for (; last > lowest && dropped + coefficient <= allowed; last -= 2) {
        dropped += coefficient;
        coefficient /= next_coefficient(1.0, steps, last - 2);
    }
    return {steps, last, 1 / (sum - dropped)};
}

// The series for maps of `pixels` pixels that keeps every pixel of the result within tolerance * max|cam|.
inline Series series_for(int64_t steps, double tolerance, int64_t pixels, int64_t pairs) {
    return cut_series(steps, tolerance / std::sqrt(static_cast<double>(pixels) * static_cast<double>(2 * pairs + 1)));
}

}  // namespace wsss::random_walk
