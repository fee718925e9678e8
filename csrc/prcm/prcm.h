// PRCM, the region correlation module of CPN: a class map gated by the likeness of pixels to the average of their class. For one
// image of P = H*W pixels, with matrices that have a column a pixel:
//
//     Z    = softmax(cam, over pixels) x^T           [C, C1]    "proxy"
//     key  = max(phi Z^T, 0)                         [C2, C]
//     S    = scale * K query                         [C, P]     K = key^T, or with `view` the memory of key read as [C, C2]
//     gate = softmax(S, over pixels or classes)      [C, P]
//     out  = cam o gate
//
// With `rectify` the query is max(query, 0) wherever it stands. Gradients, with g = dL/dout and t = gate o g o cam:
//
//     dS     = scale * (t - gate o sum(t, over the gate's axis))
//     dquery = K^T dS,    dK = dS query^T,    dphi = [key > 0] dkey Z
//
// cam and x are constants. Time O(P C (C1 + C2)), memory O(P C): x is read once, the query once forward and once backward.
// Results are the same bits on every run and for every number of threads.
//
// Types: float32, float16, bfloat16; float64 on the CPU. All inputs, out and the gradients share one type; gate, proxy, key and
// sums are float32 (float64 for float64). NaN and Inf spread as in PyTorch.
#pragma once

#include <cmath>
#include <string>

#include "common/dispatch.h"
#include "common/view.h"

namespace wsss::prcm {

struct Shape {
    int64_t n, c, c1, c2, h, w;
    int64_t pixels() const { return h * w; }
};

struct Options {
    double scale;
    bool over_classes;  // the axis of the gate's softmax: classes, else pixels
    bool view;
    bool rectify;

    // where K[c, d] stands in key
    static constexpr int64_t key_index(const Shape& shape, bool view, int64_t c, int64_t d) {
        return view ? c * shape.c2 + d : d * shape.c + c;
    }
};

struct Inputs {
    View cam, x, query, phi;
};
struct Outputs {
    View out, gate, proxy, key;
};
struct BackwardInputs {
    View grad, cam, query, gate, proxy, key;
};
struct Gradients {
    View query, phi;
};

// CPU implementation (threads: context.threads)
int64_t forward_workspace_cpu(const Shape& shape, DType dtype, const Context& context);
int64_t backward_workspace_cpu(const Shape& shape, DType dtype, const Context& context);
void forward_cpu(const Shape& shape, const Options& options, const Inputs& in, const Outputs& out, const View& workspace,
                 const Context& context);
void backward_cpu(const Shape& shape, const Options& options, const BackwardInputs& in, const Gradients& out,
                  const View& workspace, const Context& context);

// CUDA implementation (enqueued on context.stream; no allocation, no synchronisation)
int64_t forward_workspace_cuda(const Shape& shape, DType dtype, const Context& context);
int64_t backward_workspace_cuda(const Shape& shape, DType dtype, const Context& context);
void forward_cuda(const Shape& shape, const Options& options, const Inputs& in, const Outputs& out, const View& workspace,
                  const Context& context);
void backward_cuda(const Shape& shape, const Options& options, const BackwardInputs& in, const Gradients& out,
                   const View& workspace, const Context& context);

// ---- The functions to call: checked, on either device --------------------------------------------------------------------

inline void check_map(const char* argument, const View& map, int64_t channels, const View& cam, const Context& context) {
    check_shape("prcm", argument, map, {cam.size[0], channels, cam.size[2], cam.size[3]}, "[N, channels, H, W]");
    check_same_dtype("prcm", argument, map, "cam", cam);
    check_device("prcm", argument, map, context);
    checked_product("prcm", argument, {map.size[0], map.size[1] + 64, map.size[2] + 64, map.size[3] + 64, 16});
}

// A contiguous output, or what forward gave to backward.
inline void check_result(const char* argument, const View& result, std::initializer_list<int64_t> sizes, DType type,
                         const Context& context) {
    check_shape("prcm", argument, result, sizes, "its sizes");
    check_dtype("prcm", argument, result, {type});
    check_contiguous("prcm", argument, result);
    check_device("prcm", argument, result, context);
}

inline void check_cam(const View& cam, const Context& context) {
    check_ndim("prcm", "cam", cam, 4, "[N, C, H, W]");
    check_float("prcm", "cam", cam, context);
    check_map("cam", cam, -1, cam, context);
}

inline Shape shape_of(const View& cam, const View& query, int64_t x_channels) {
    Shape shape{};
    shape.n = cam.size[0];
    shape.c = cam.size[1];
    shape.c1 = x_channels;
    shape.c2 = query.size[1];
    shape.h = cam.size[2];
    shape.w = cam.size[3];
    return shape;
}

inline Shape check_inputs(const Inputs& in, const Context& context) {
    const View& cam = in.cam;
    check_cam(cam, context);
    check_map("x", in.x, -1, cam, context);
    check_map("query", in.query, -1, cam, context);
    check_shape("prcm", "phi", in.phi, {in.query.size[1], in.x.size[1]}, "[C2, C1]");
    check_same_dtype("prcm", "phi", in.phi, "cam", cam);
    check_device("prcm", "phi", in.phi, context);
    checked_product("prcm", "phi", {in.phi.size[0] + 64, in.phi.size[1] + 64, 16});
    checked_product("prcm", "phi", {cam.size[0], cam.size[1] + 64, in.phi.size[0] + in.phi.size[1] + 64, 4096});
    return shape_of(cam, in.query, in.x.size[1]);
}

inline Shape check_backward_inputs(const BackwardInputs& in, const Context& context) {
    const View& cam = in.cam;
    check_cam(cam, context);
    check_map("grad", in.grad, cam.size[1], cam, context);
    check_map("query", in.query, -1, cam, context);
    const DType sum = sum_type(cam.dtype);
    check_result("gate", in.gate, {cam.size[0], cam.size[1], cam.size[2], cam.size[3]}, sum, context);
    check_result("proxy", in.proxy, {cam.size[0], cam.size[1], -1}, sum, context);
    check_result("key", in.key, {cam.size[0], in.query.size[1], cam.size[1]}, sum, context);
    checked_product("prcm", "proxy", {cam.size[0], cam.size[1] + 64, in.query.size[1] + in.proxy.size[2] + 64, 4096});
    return shape_of(cam, in.query, in.proxy.size[2]);
}

inline Options check_options(double scale, bool over_classes, bool view, bool rectify) {
    check_number("prcm", "scale", scale);
    return {scale, over_classes, view, rectify};
}

// Bytes of workspace the two calls below need; an upper bound.
inline int64_t forward_workspace(const View& cam, const View& x, const View& query, const View& phi, const Context& context) {
    const Shape shape = check_inputs({cam, x, query, phi}, context);
    return WSSS_RUN("prcm", forward_workspace, context, shape, cam.dtype, context);
}

inline int64_t backward_workspace(const View& grad, const View& cam, const View& query, const View& gate, const View& proxy,
                                  const View& key, const Context& context) {
    const Shape shape = check_backward_inputs({grad, cam, query, gate, proxy, key}, context);
    return WSSS_RUN("prcm", backward_workspace, context, shape, cam.dtype, context);
}

inline void forward(const View& cam,    // [N, C, H, W], any strides
                    const View& x,      // [N, C1, H, W], any strides
                    const View& query,  // [N, C2, H, W], any strides
                    const View& phi,    // [C2, C1], any strides
                    double scale, bool over_classes, bool view, bool rectify,
                    // outputs, all contiguous; the last three are for the backward pass
                    const View& out,    // [N, C, H, W]
                    const View& gate,   // [N, C, H, W]
                    const View& proxy,  // [N, C, C1]
                    const View& key,    // [N, C2, C]
                    const View& workspace, const Context& context) {
    const Inputs in{cam, x, query, phi};
    const Shape s = check_inputs(in, context);
    const Options options = check_options(scale, over_classes, view, rectify);
    const DType sum = sum_type(cam.dtype);
    check_result("out", out, {s.n, s.c, s.h, s.w}, cam.dtype, context);
    check_result("gate", gate, {s.n, s.c, s.h, s.w}, sum, context);
    check_result("proxy", proxy, {s.n, s.c, s.c1}, sum, context);
    check_result("key", key, {s.n, s.c2, s.c}, sum, context);
    if (s.n == 0 || s.c == 0 || s.pixels() == 0) return;  // no gradient reads proxy and key then
    check_workspace("prcm", workspace, WSSS_RUN("prcm", forward_workspace, context, s, cam.dtype, context));
    WSSS_RUN("prcm", forward, context, s, options, in, {out, gate, proxy, key}, workspace, context);
}

inline void backward(const View& grad,  // [N, C, H, W], any strides: dL/dout
                     const View& cam, const View& query, const View& gate, const View& proxy,
                     const View& key,  // what forward gave
                     double scale, bool over_classes, bool view, bool rectify,
                     // outputs
                     const View& grad_query,  // [N, C2, H, W], contiguous; null if not wanted
                     const View& grad_phi,    // [C2, C1], contiguous; null if not wanted
                     const View& workspace, const Context& context) {
    const BackwardInputs in{grad, cam, query, gate, proxy, key};
    const Shape s = check_backward_inputs(in, context);
    const Options options = check_options(scale, over_classes, view, rectify);
    if (grad_query) check_result("grad_query", grad_query, {s.n, s.c2, s.h, s.w}, cam.dtype, context);
    if (grad_phi) check_result("grad_phi", grad_phi, {s.c2, s.c1}, cam.dtype, context);
    if (!grad_query && !grad_phi) return;
    check_workspace("prcm", workspace, WSSS_RUN("prcm", backward_workspace, context, s, cam.dtype, context));
    WSSS_RUN("prcm", backward, context, s, options, in, {grad_query, grad_phi}, workspace, context);
}

}  // namespace wsss::prcm
