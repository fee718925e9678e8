// SLIC superpixels: uint8 RGB images cut into about `segments` connected pieces of like colour.
//
//     image [N, 3, H, W] uint8  ->  labels [N, H, W] int32: 0 .. K-1 in each image, -1 where the mask is false
//
// Pixels go to the nearest of a grid of centres by |lab_p - lab_k|^2 + (compactness / S)^2 |xy_p - xy_k|^2 (S: the spacing of
// the grid), centres to the mean of their pixels, `iterations` times; then each label is cut into its 4-connected pieces and
// small pieces join a neighbour. slic_rules.h holds the definition, lab.h the colours: whole numbers throughout, so the labels
// are the same on every run, for every number of threads, SIMD level and device.
//
// Time O(H W iterations); memory beyond the result O(H W).
#pragma once

#include <cmath>
#include <string>

#include "common/dispatch.h"
#include "common/view.h"
#include "slic/slic_rules.h"

namespace wsss::slic {

struct Shape {
    int64_t n, h, w;
    int64_t pixels() const { return h * w; }
};

// CPU implementation (threads: context.threads)
int64_t workspace_cpu(const Shape& shape, int64_t segments, const Context& context);
void run_cpu(const View& image, const View& mask, const Plan& plan, int64_t iterations, const View& out, const View& workspace,
             const Context& context);

// CUDA implementation (enqueued on context.stream; no allocation, no synchronisation)
int64_t workspace_cuda(const Shape& shape, int64_t segments, const Context& context);
void run_cuda(const View& image, const View& mask, const Plan& plan, int64_t iterations, const View& out, const View& workspace,
              const Context& context);

// ---- The functions to call: checked, on either device --------------------------------------------------------------------

inline Shape check_inputs(const View& image, int64_t segments, const Context& context) {
    check_shape("slic", "image", image, {-1, 3, -1, -1}, "[N, 3, H, W]");
    check_dtype("slic", "image", image, {DType::kUInt8});
    check_device("slic", "image", image, context);
    if (segments < 1) fail("slic", "segments", "be 1 or more", std::to_string(segments));
    const Shape shape{image.size[0], image.size[2], image.size[3]};
    if (checked_product("slic", "image", {shape.h + 64, shape.w + 64}) >= int64_t{1} << 31)
        fail("slic", "image", "have fewer than 2^31 pixels", image.shape());
    checked_product("slic", "image", {shape.n, shape.h + 64, shape.w + 64, 64});
    return shape;
}

// Bytes of workspace the call below needs; an upper bound.
inline int64_t workspace(const View& image, int64_t segments, const Context& context) {
    const Shape shape = check_inputs(image, segments, context);
    if (shape.n == 0 || shape.pixels() == 0) return 0;
    return WSSS_RUN("slic", workspace, context, shape, segments, context);
}

inline void run(const View& image,  // [N, 3, H, W] uint8, any strides
                const View& mask,   // [N, H, W] bool, any strides: true takes part; null: all do
                int64_t segments, double compactness, int64_t iterations,
                const View& out,  // [N, H, W] int32, contiguous
                const View& workspace, const Context& context) {
    const Shape shape = check_inputs(image, segments, context);
    if (!(compactness > 0) || !(compactness <= kLargestCompactness))
        fail("slic", "compactness", "be above 0 and at most 1e6", std::to_string(compactness));
    if (iterations < 0) fail("slic", "iterations", "be 0 or more", std::to_string(iterations));
    if (mask) {
        check_shape("slic", "mask", mask, {shape.n, shape.h, shape.w}, "[N, H, W]");
        check_dtype("slic", "mask", mask, {DType::kBool});
        check_device("slic", "mask", mask, context);
    }
    check_shape("slic", "out", out, {shape.n, shape.h, shape.w}, "[N, H, W]");
    check_dtype("slic", "out", out, {DType::kInt32});
    check_contiguous("slic", "out", out);
    check_device("slic", "out", out, context);
    if (shape.n == 0 || shape.pixels() == 0) return;
    check_workspace("slic", workspace, WSSS_RUN("slic", workspace, context, shape, segments, context));
    const Plan plan = make_plan(shape.h, shape.w, segments, compactness);
    WSSS_RUN("slic", run, context, image, mask, plan, iterations, out, workspace, context);
}

}  // namespace wsss::slic
