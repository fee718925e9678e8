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

#include "common/pair_planes.h"
#include "common/dispatch.h"

namespace wsss::affinity {

// CPU implementation (threads: context.threads)
int64_t forward_workspace_cpu(const PairShape& shape, DType dtype, const Context& context);
int64_t backward_workspace_cpu(const PairShape& shape, DType dtype, const Context& context);
void forward_cpu(const PairShape& shape, const View& feature, const View& out, const View& workspace, const Context& context);
void backward_cpu(const PairShape& shape, const View& grad, const View& feature, const View& out, const View& grad_feature,
                  const View& workspace, const Context& context);

// CUDA implementation (enqueued on context.stream; no allocation, no synchronisation)
int64_t forward_workspace_cuda(const PairShape& shape, DType dtype, const Context& context);
int64_t backward_workspace_cuda(const PairShape& shape, DType dtype, const Context& context);
void forward_cuda(const PairShape& shape, const View& feature, const View& out, const View& workspace, const Context& context);
void backward_cuda(const PairShape& shape, const View& grad, const View& feature, const View& out, const View& grad_feature,
                   const View& workspace, const Context& context);

// ---- The functions to call: checked, on either device -----------------------------------------------------------------------

// Bytes of workspace the two calls below need; an upper bound.
inline int64_t forward_workspace(const View& feature, int64_t radius, const Context& context) {
    const PairShape shape = check_pair_input("affinity", "feature", feature, "[N, C, H, W]", radius, context);
    if (shape.n * shape.pixels() == 0) return 0;
    return WSSS_RUN("affinity", forward_workspace, context, shape, feature.dtype, context);
}

inline int64_t backward_workspace(const View& feature, int64_t radius, const Context& context) {
    const PairShape shape = check_pair_input("affinity", "feature", feature, "[N, C, H, W]", radius, context);
    if (shape.n * shape.pixels() == 0) return 0;
    return WSSS_RUN("affinity", backward_workspace, context, shape, feature.dtype, context);
}

inline void forward(const View& feature,  // [N, C, H, W], any strides
                    int64_t radius,
                    const View& out,  // [N, E, H, W], contiguous
                    const View& workspace, const Context& context) {
    const PairShape shape = check_pair_input("affinity", "feature", feature, "[N, C, H, W]", radius, context);
    check_pair_planes("affinity", "out", out, shape, "feature", feature, context);
    check_contiguous("affinity", "out", out);
    if (out.numel() == 0) return;
    check_workspace("affinity", workspace, WSSS_RUN("affinity", forward_workspace, context, shape, feature.dtype, context));
    WSSS_RUN("affinity", forward, context, shape, feature, out, workspace, context);
}

inline void backward(const View& grad,  // [N, E, H, W], any strides: dL/dout
                     const View& feature,
                     const View& out,  // what forward returned
                     int64_t radius,
                     const View& grad_feature,  // [N, C, H, W], contiguous
                     const View& workspace, const Context& context) {
    const PairShape shape = check_pair_input("affinity", "feature", feature, "[N, C, H, W]", radius, context);
    check_pair_planes("affinity", "out", out, shape, "feature", feature, context);
    check_contiguous("affinity", "out", out);
    check_pair_planes("affinity", "grad", grad, shape, "feature", feature, context);
    check_pair_gradient("affinity", "grad_feature", grad_feature, "feature", feature, context);
    if (feature.numel() == 0) return;
    check_workspace("affinity", workspace, WSSS_RUN("affinity", backward_workspace, context, shape, feature.dtype, context));
    WSSS_RUN("affinity", backward, context, shape, grad, feature, out, grad_feature, workspace, context);
}

}  // namespace wsss::affinity
