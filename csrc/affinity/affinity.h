// affinity: how alike nearby pixels are by their features (AffinityNet).
//
//     out[e, p] = exp(-mean_c |feature_c(p) - feature_c(p + o_e)|)      o_e: the offsets of half_disc.h; 0 outside the image
//
// Time O(E C P) for P = H*W pixels and E offsets (34 for radius 5); memory beyond inputs and outputs does not grow with C.
// The backward pass gathers: pixel p visits both ends' pairs, p + o and p - o, so nothing is added atomically,
//     dL/dfeature_c(p) = sum_o w_o(p) sign(feature_c(p) - feature_c(p + o)),   w_o(p) = -grad_o(p) out_o(p) / C
// over the 2 E offsets o of the whole disc, where a pair has one weight for its two ends. Results are the same bits on every
// run and for every number of threads.
//
// Types: float32, float16, bfloat16; float64 on the CPU. Sums are kept in float32 (float64 for float64). sign(0) = 0. A NaN in
// a pixel's feature makes its pairs NaN, and a NaN (or infinite) weight makes the gradients of both pixels NaN.
#pragma once

#include <string>

#include "affinity/half_disc.h"
#include "common/dispatch.h"
#include "common/view.h"

namespace wsss {

struct AffinityShape {
    int64_t n, c, h, w;
    int radius;
    int64_t pixels() const { return h * w; }
    int64_t offsets() const { return pair_offset_count(radius); }
};

// CPU implementation (threads: context.threads)
int64_t affinity_forward_workspace_cpu(const AffinityShape& shape, DType dtype, const Context& context);
int64_t affinity_backward_workspace_cpu(const AffinityShape& shape, DType dtype, const Context& context);
void affinity_forward_cpu(const AffinityShape& shape, const View& feature, const View& out, const View& workspace,
                          const Context& context);
void affinity_backward_cpu(const AffinityShape& shape, const View& grad, const View& feature, const View& out,
                           const View& grad_feature, const View& workspace, const Context& context);

// CUDA implementation (enqueued on context.stream; no allocation, no synchronisation)
int64_t affinity_forward_workspace_cuda(const AffinityShape& shape, DType dtype, const Context& context);
int64_t affinity_backward_workspace_cuda(const AffinityShape& shape, DType dtype, const Context& context);
void affinity_forward_cuda(const AffinityShape& shape, const View& feature, const View& out, const View& workspace,
                           const Context& context);
void affinity_backward_cuda(const AffinityShape& shape, const View& grad, const View& feature, const View& out,
                            const View& grad_feature, const View& workspace, const Context& context);

// ---- Checks, shared with edge_affinity.h ------------------------------------------------------------------------------------

inline AffinityShape check_affinity_input(const char* op, const char* argument, const View& x, const char* layout, int64_t radius,
                                          const Context& context) {
    check_ndim(op, argument, x, 4, layout);
    check_float(op, argument, x, context);
    check_device(op, argument, x, context);
    check_whole(op, "radius", radius, 1, kMaxAffinityRadius);
    const AffinityShape shape{x.size[0], x.size[1], x.size[2], x.size[3], static_cast<int>(radius)};
    checked_product(op, argument, {shape.n, shape.c + 64, shape.h + 64, shape.w + 64, 8});
    checked_product(op, "out", {shape.n, shape.offsets() + 1, shape.h + 64, shape.w + 64, 64});
    return shape;
}

inline void check_affinity_planes(const char* op, const char* argument, const View& planes, const AffinityShape& shape,
                                  const char* other, const View& x, const Context& context) {
    check_shape(op, argument, planes, {shape.n, shape.offsets(), shape.h, shape.w}, "[N, E, H, W]");
    check_same_dtype(op, argument, planes, other, x);
    check_device(op, argument, planes, context);
}

inline void check_affinity_gradient(const char* op, const char* argument, const View& gradient, const char* other, const View& x,
                                    const Context& context) {
    check_shape(op, argument, gradient, {x.size[0], x.size[1], x.size[2], x.size[3]}, "[N, C, H, W]");
    check_same_dtype(op, argument, gradient, other, x);
    check_contiguous(op, argument, gradient);
    check_device(op, argument, gradient, context);
}

// ---- The functions to call: checked, on either device -----------------------------------------------------------------------

// Bytes of workspace the two calls below need; an upper bound.
inline int64_t affinity_forward_workspace(const View& feature, int64_t radius, const Context& context) {
    const AffinityShape shape = check_affinity_input("affinity", "feature", feature, "[N, C, H, W]", radius, context);
    if (shape.n * shape.pixels() == 0) return 0;
    return WSSS_RUN(affinity, forward_workspace, context, shape, feature.dtype, context);
}

inline int64_t affinity_backward_workspace(const View& feature, int64_t radius, const Context& context) {
    const AffinityShape shape = check_affinity_input("affinity", "feature", feature, "[N, C, H, W]", radius, context);
    if (shape.n * shape.pixels() == 0) return 0;
    return WSSS_RUN(affinity, backward_workspace, context, shape, feature.dtype, context);
}

inline void affinity_forward(const View& feature,  // [N, C, H, W], any strides
                             int64_t radius,
                             const View& out,  // [N, E, H, W], contiguous
                             const View& workspace, const Context& context) {
    const AffinityShape shape = check_affinity_input("affinity", "feature", feature, "[N, C, H, W]", radius, context);
    check_affinity_planes("affinity", "out", out, shape, "feature", feature, context);
    check_contiguous("affinity", "out", out);
    if (out.numel() == 0) return;
    check_workspace("affinity", workspace, WSSS_RUN(affinity, forward_workspace, context, shape, feature.dtype, context));
    WSSS_RUN(affinity, forward, context, shape, feature, out, workspace, context);
}

inline void affinity_backward(const View& grad,  // [N, E, H, W], any strides: dL/dout
                              const View& feature,
                              const View& out,  // what forward returned
                              int64_t radius,
                              const View& grad_feature,  // [N, C, H, W], contiguous
                              const View& workspace, const Context& context) {
    const AffinityShape shape = check_affinity_input("affinity", "feature", feature, "[N, C, H, W]", radius, context);
    check_affinity_planes("affinity", "out", out, shape, "feature", feature, context);
    check_contiguous("affinity", "out", out);
    check_affinity_planes("affinity", "grad", grad, shape, "feature", feature, context);
    check_affinity_gradient("affinity", "grad_feature", grad_feature, "feature", feature, context);
    if (feature.numel() == 0) return;
    check_workspace("affinity", workspace, WSSS_RUN(affinity, backward_workspace, context, shape, feature.dtype, context));
    WSSS_RUN(affinity, backward, context, shape, grad, feature, out, grad_feature, workspace, context);
}

}  // namespace wsss
