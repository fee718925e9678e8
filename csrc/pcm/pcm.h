// PCM, the pixel correlation module of SEAM (and of CPN, EPS, L2G): a class map refined by the cosine affinity of features.
//
//     f_i  = feature_i / (||feature_i||_2 + eps)           pixels i, j; P = H*W of them
//     A_ij = max(f_i . f_j, 0)
//     r_j  = sum_i A_ij + eps
//     out[:, j] = sum_i cam[:, i] A_ij / r_j
//
// Time O(P^2 (C + D)), memory O(P (C + D)): the P x P matrix only ever exists as tiles. Results are the same bits on every
// run and for every number of threads.
//
// Types: float32, float16, bfloat16; float64 on the CPU. cam, feature, out and the gradients share one type; sums are kept in
// float32 (float64 for float64). NaN or Inf in one pixel's feature makes every output of that image NaN, as in PyTorch.
#pragma once

#include <cmath>
#include <string>

#include "common/dispatch.h"
#include "common/view.h"

namespace wsss::pcm {

struct Shape {
    int64_t n, c, d, h, w;
    int64_t pixels() const { return h * w; }
};

// CPU implementation (threads: context.threads)
int64_t forward_workspace_cpu(const Shape& shape, DType dtype, const Context& context);
int64_t backward_workspace_cpu(const Shape& shape, DType dtype, const Context& context);
void forward_cpu(const View& cam, const View& feature, double eps, const View& out, const View& denominator,
                 const View& workspace, const Context& context);
void backward_cpu(const View& grad, const View& cam, const View& feature, const View& out, const View& denominator, double eps,
                  const View& grad_cam, const View& grad_feature, const View& workspace, const Context& context);

// CUDA implementation (enqueued on context.stream; no allocation, no synchronisation)
int64_t forward_workspace_cuda(const Shape& shape, DType dtype, const Context& context);
int64_t backward_workspace_cuda(const Shape& shape, DType dtype, const Context& context);
void forward_cuda(const View& cam, const View& feature, double eps, const View& out, const View& denominator,
                  const View& workspace, const Context& context);
void backward_cuda(const View& grad, const View& cam, const View& feature, const View& out, const View& denominator, double eps,
                   const View& grad_cam, const View& grad_feature, const View& workspace, const Context& context);

// ---- The functions to call: checked, on either device --------------------------------------------------------------------

inline Shape shape_of(const View& cam, const View& feature) {
    return {cam.size[0], cam.size[1], feature.size[1], cam.size[2], cam.size[3]};
}

inline Shape check_inputs(const View& cam, const View& feature, double eps, const Context& context) {
    check_ndim("pcm", "cam", cam, 4, "[N, C, H, W]");
    check_shape("pcm", "feature", feature, {cam.size[0], -1, cam.size[2], cam.size[3]}, "[N, D, H, W]");
    check_float("pcm", "cam", cam, context);
    check_same_dtype("pcm", "feature", feature, "cam", cam);
    check_device("pcm", "cam", cam, context);
    check_device("pcm", "feature", feature, context);
    check_number("pcm", "eps", eps, 0);
    const Shape shape = shape_of(cam, feature);
    checked_product("pcm", "cam", {shape.n, shape.c + 64, shape.h + 64, shape.w + 64, 8});
    checked_product("pcm", "feature", {shape.n, shape.d + 64, shape.h + 64, shape.w + 64, 8});
    return shape;
}

inline void check_sums(const Shape& shape, const View& cam, const View& out, const View& denominator, const Context& context) {
    check_shape("pcm", "out", out, {shape.n, shape.c, shape.h, shape.w}, "[N, C, H, W]");
    check_same_dtype("pcm", "out", out, "cam", cam);
    check_contiguous("pcm", "out", out);
    check_shape("pcm", "denominator", denominator, {shape.n, shape.pixels()}, "[N, H*W]");
    check_dtype("pcm", "denominator", denominator, {sum_type(cam.dtype)});
    check_contiguous("pcm", "denominator", denominator);
    check_device("pcm", "out", out, context);
    check_device("pcm", "denominator", denominator, context);
}

// Bytes of workspace the two calls below need; an upper bound.
inline int64_t forward_workspace(const View& cam, const View& feature, const Context& context) {
    const Shape shape = check_inputs(cam, feature, 0, context);
    return WSSS_RUN("pcm", forward_workspace, context, shape, cam.dtype, context);
}

inline int64_t backward_workspace(const View& cam, const View& feature, const Context& context) {
    const Shape shape = check_inputs(cam, feature, 0, context);
    return WSSS_RUN("pcm", backward_workspace, context, shape, cam.dtype, context);
}

inline void forward(const View& cam,      // [N, C, H, W], any strides
                    const View& feature,  // [N, D, H, W], any strides, not normalised
                    double eps,
                    // outputs
                    const View& out,          // [N, C, H, W], contiguous
                    const View& denominator,  // [N, H*W], contiguous: r, for the backward pass
                    const View& workspace, const Context& context) {
    const Shape shape = check_inputs(cam, feature, eps, context);
    check_sums(shape, cam, out, denominator, context);
    if (shape.n == 0 || shape.pixels() == 0) return;
    check_workspace("pcm", workspace, WSSS_RUN("pcm", forward_workspace, context, shape, cam.dtype, context));
    WSSS_RUN("pcm", forward, context, cam, feature, eps, out, denominator, workspace, context);
}

inline void backward(const View& grad,  // [N, C, H, W], any strides: dL/dout
                     const View& cam, const View& feature,
                     const View& out,          // what forward returned
                     const View& denominator,  // likewise
                     double eps,
                     // outputs
                     const View& grad_cam,      // [N, C, H, W], contiguous; null if not wanted
                     const View& grad_feature,  // [N, D, H, W], contiguous; null if not wanted
                     const View& workspace, const Context& context) {
    const Shape shape = check_inputs(cam, feature, eps, context);
    check_sums(shape, cam, out, denominator, context);
    check_shape("pcm", "grad", grad, {shape.n, shape.c, shape.h, shape.w}, "[N, C, H, W]");
    check_same_dtype("pcm", "grad", grad, "cam", cam);
    check_device("pcm", "grad", grad, context);
    if (grad_cam) {
        check_shape("pcm", "grad_cam", grad_cam, {shape.n, shape.c, shape.h, shape.w}, "[N, C, H, W]");
        check_same_dtype("pcm", "grad_cam", grad_cam, "cam", cam);
        check_contiguous("pcm", "grad_cam", grad_cam);
        check_device("pcm", "grad_cam", grad_cam, context);
    }
    if (grad_feature) {
        check_shape("pcm", "grad_feature", grad_feature, {shape.n, shape.d, shape.h, shape.w}, "[N, D, H, W]");
        check_same_dtype("pcm", "grad_feature", grad_feature, "cam", cam);
        check_contiguous("pcm", "grad_feature", grad_feature);
        check_device("pcm", "grad_feature", grad_feature, context);
    }
    if (shape.n == 0 || shape.pixels() == 0 || (!grad_cam && !grad_feature)) return;
    check_workspace("pcm", workspace, WSSS_RUN("pcm", backward_workspace, context, shape, cam.dtype, context));
    WSSS_RUN("pcm", backward, context, grad, cam, feature, out, denominator, eps, grad_cam, grad_feature, workspace, context);
}

}  // namespace wsss::pcm
