// The random walk of AffinityNet (PSA) and IRN: class maps spread over an affinity graph of neighbouring pixels.
//
//     T_ij = A_ij^beta / sum_k A_kj^beta        A symmetric, A_ii = 1, A_ij the affinity of pixels less than `radius` apart
//     out  = cam T^steps                        cam [C, P] of each image, P = H*W
//
// T is never a matrix: a step is a stencil of 2E + 1 weights a pixel, E the offsets of half_disc.h (radius 5: 69 weights).
// "chebyshev": T is similar to the symmetric D^-1/2 A^beta D^-1/2 with its spectrum in [-1, 1], so T^steps is a series of
// Chebyshev polynomials of T, cut so that no pixel is wrong by more than tolerance * max|cam| (series.h): some 5 sqrt(steps)
// stencils.
// An affinity of 0 is no pair, for every beta. "published" drops the pairs whose first pixel is outside rows [0, H - radius + 1)
// or columns [radius - 1, W - radius + 1).
//
// Time O(steps C P E), memory O(P (E + C)). Types: float32, float16, bfloat16; float64 on the CPU; weights and state are float32
// (float64 for float64). Results are the same bits on every run and for every number of threads.
#pragma once

#include <cmath>
#include <string>

#include "common/half_disc.h"
#include "common/dispatch.h"
#include "common/view.h"

namespace wsss::random_walk {

struct Settings {
    int64_t radius = 5;
    double beta = 8;
    int64_t steps = 256;
    bool chebyshev = false;
    double tolerance = 1e-3;
    bool published = false;
};

struct Shape {
    int64_t n, c, h, w;
    int64_t pixels() const { return h * w; }
};

// Where the planes of a disc's offsets begin, and how wide it is.
struct Disc {
    int reach = 0;                   // radius - 1
    int width[kMaxPairRadius] = {};  // the largest |dx| in the row, or |dy| in the column, that far from the centre
    int first[kMaxPairRadius] = {};  // the plane of offset (dy, 0); -1 for (0, 0), which has none

    constexpr explicit Disc(int radius) : reach(radius - 1) {
        for (int d = 0, planes = 0; d <= reach; ++d) {
            width[d] = half_width(radius, d);
            first[d] = d == 0 ? -1 : planes + width[d];
            planes += d == 0 ? width[d] : 2 * width[d] + 1;
        }
    }
    constexpr int plane(int dy, int dx) const { return first[dy] + dx; }
};

// A beta that is whole and small is applied by multiplications.
constexpr int kMaxWholeBeta = 64;
inline int whole_beta(double beta) {
    return beta <= kMaxWholeBeta && beta == std::floor(beta) ? static_cast<int>(beta) : -1;
}

int64_t workspace_cpu(const Shape& shape, DType dtype, const Settings& settings, const Context& context);
int64_t workspace_cuda(const Shape& shape, DType dtype, const Settings& settings, const Context& context);
void run_cpu(const View& cam, const View& affinity, const Settings& settings, const View& out, const View& workspace,
             const Context& context);
void run_cuda(const View& cam, const View& affinity, const Settings& settings, const View& out, const View& workspace,
              const Context& context);

// ---- The functions to call: checked, on either device --------------------------------------------------------------------

inline Shape check_inputs(const View& cam, const View& affinity, const Settings& settings, const Context& context) {
    const char* const op = "random_walk";
    check_ndim(op, "cam", cam, 4, "[N, C, H, W]");
    check_whole(op, "radius", settings.radius, 1, kMaxPairRadius);
    const int64_t pairs = pair_offset_count(static_cast<int>(settings.radius));
    check_shape(op, "affinity", affinity, {cam.size[0], pairs, cam.size[2], cam.size[3]}, "[N, E, H, W]");
    check_float(op, "cam", cam, context);
    check_same_dtype(op, "affinity", affinity, "cam", cam);
    check_device(op, "cam", cam, context);
    check_device(op, "affinity", affinity, context);
    check_number(op, "beta", settings.beta, 0);
    check_whole(op, "steps", settings.steps, 0, INT32_MAX);
    if (!(settings.tolerance >= 0 && settings.tolerance < 1))
        fail(op, "tolerance", "be a number from 0 to below 1", std::to_string(settings.tolerance));
    const Shape shape{cam.size[0], cam.size[1], cam.size[2], cam.size[3]};
    checked_product(op, "cam", {shape.n, shape.c + 64, shape.h + 128, shape.w + 128, 8});
    checked_product(op, "affinity", {shape.n, 2 * pairs + 64, shape.h + 128, shape.w + 128, 8});
    return shape;
}

// Bytes of workspace the call below needs; an upper bound.
inline int64_t workspace(const View& cam, const View& affinity, const Settings& settings, const Context& context) {
    const Shape shape = check_inputs(cam, affinity, settings, context);
    return WSSS_RUN("random_walk", workspace, context, shape, cam.dtype, settings, context);
}

inline void run(const View& cam,       // [N, C, H, W], any strides
                const View& affinity,  // [N, E, H, W], any strides, values from 0 to 1
                const Settings& settings,
                // outputs
                const View& out,  // [N, C, H, W], contiguous
                const View& workspace, const Context& context) {
    const Shape shape = check_inputs(cam, affinity, settings, context);
    check_shape("random_walk", "out", out, {shape.n, shape.c, shape.h, shape.w}, "[N, C, H, W]");
    check_same_dtype("random_walk", "out", out, "cam", cam);
    check_contiguous("random_walk", "out", out);
    check_device("random_walk", "out", out, context);
    if (shape.n == 0 || shape.c == 0 || shape.pixels() == 0) return;
    check_workspace("random_walk", workspace, WSSS_RUN("random_walk", workspace, context, shape, cam.dtype, settings, context));
    WSSS_RUN("random_walk", run, context, cam, affinity, settings, out, workspace, context);
}

}  // namespace wsss::random_walk
