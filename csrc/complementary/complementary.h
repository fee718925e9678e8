// Complementary patches (CPN): an image is cut into segments or grid cells, some of them are hidden (set to 0), and the other
// image of the pair hides all the rest.
//
//     side(p)   = 0 if p is masked (segment -1), 2 if the cell of p was drawn, else 1
//     first(p)  = image(p) where side(p) = 1, else 0          second(p) = image(p) where side(p) = 2, else 0
//     share     = pixels of side 1 / pixels of side 1 or 2    (0 where there is none)
//
// Values are copied as bits, whatever they are (NaN, -0). Which cells are drawn is in draw.h: integer arithmetic on a seed, the
// same on every device and for every number of threads. Time O(N C P); memory O(P) an image: cells there may be as many as
// pixels.
//
// Types of the image: float32, float64, float16, bfloat16, uint8. Segments: int32, -1 to H*W - 1. Labels outside are refused on
// the CPU; on CUDA, where nobody may wait for them to be looked at, such pixels count as masked.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "common/dispatch.h"
#include "common/view.h"
#include "complementary/draw.h"

namespace wsss::complementary {

struct Shape {
    int64_t n, c, h, w;
    int64_t pixels() const { return h * w; }
};

struct Options {
    std::vector<int64_t> grid;  // sides of cells, of which each image draws one; empty: segments are given
    double hide = 0.5;
    Rule rule = Rule::kExact;
    int64_t seed = 0;
};

struct Outputs {
    View first, second;  // [N, C, H, W], contiguous
    View share;          // [N], contiguous float32
    View side;           // [N, H, W], contiguous uint8
};

int64_t workspace_cpu(const Shape& shape, const Options& options, const Context& context);
int64_t workspace_cuda(const Shape& shape, const Options& options, const Context& context);
void run_cpu(const View& image, const View& segments, const Options& options, const Outputs& outputs, const View& workspace,
             const Context& context);
void run_cuda(const View& image, const View& segments, const Options& options, const Outputs& outputs, const View& workspace,
              const Context& context);

// ---- The functions to call: checked, on either device --------------------------------------------------------------------

constexpr const char* kName = "complementary_pair";

[[noreturn]] inline void fail_labels(int64_t lowest, int64_t highest, int64_t pixels) {
    fail(kName, "segments", "hold labels from -1 to H*W - 1 = " + std::to_string(pixels - 1),
         "labels from " + std::to_string(lowest) + " to " + std::to_string(highest), "number the segments of an image 0, 1, ...");
}

inline Shape check_inputs(const View& image, const View& segments, const Options& options, const Context& context) {
    check_ndim(kName, "image", image, 4, "[N, C, H, W]");
    check_dtype(kName, "image", image, {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16, DType::kUInt8});
    check_device(kName, "image", image, context);
    const Shape shape{image.size[0], image.size[1], image.size[2], image.size[3]};
    if (segments.ndim > 0) {
        check_shape(kName, "segments", segments, {shape.n, shape.h, shape.w}, "[N, H, W]");
        check_dtype(kName, "segments", segments, {DType::kInt32});
        check_contiguous(kName, "segments", segments);
        check_device(kName, "segments", segments, context);
    }
    if ((segments.ndim > 0) != options.grid.empty())
        fail(kName, "segments", "be given, or 'grid', and not both", segments.ndim > 0 ? "both" : "neither");
    if (options.grid.size() > kMaxGrids)
        fail(kName, "grid", "name at most " + std::to_string(kMaxGrids) + " sizes", std::to_string(options.grid.size()));
    for (const int64_t side : options.grid)
        if (side < 1 || (shape.pixels() > 0 && side > shape.h && side > shape.w))
            fail(kName, "grid", "be 1 or more and no larger than the image", std::to_string(side));
    if (!(options.hide >= 0 && options.hide <= 1)) fail(kName, "hide", "be a number from 0 to 1", std::to_string(options.hide));
    const int rule = static_cast<int>(options.rule);
    if (rule < 0 || rule > static_cast<int>(Rule::kCode))
        fail(kName, "rule", "be 0 (exact), 1 (paper) or 2 (code)", std::to_string(rule));
    checked_product(kName, "image", {shape.n + 64, shape.c + 1, shape.h + 64, shape.w + 64, 64});
    if (shape.pixels() >= (int64_t{1} << 31) - 4096) fail(kName, "image", "have fewer than 2^31 - 4096 pixels", image.shape());
    return shape;
}

inline int64_t workspace(const View& image, const View& segments, const Options& options, const Context& context) {
    const Shape shape = check_inputs(image, segments, options, context);
    return WSSS_RUN(kName, workspace, context, shape, options, context);
}

inline void run(const View& image,     // [N, C, H, W], any strides
                const View& segments,  // [N, H, W], contiguous int32; null for a grid
                const Options& options, const Outputs& outputs, const View& workspace, const Context& context) {
    const Shape shape = check_inputs(image, segments, options, context);
    for (const View* view : {&outputs.first, &outputs.second}) {
        const char* argument = view == &outputs.first ? "first" : "second";
        check_shape(kName, argument, *view, {shape.n, shape.c, shape.h, shape.w}, "[N, C, H, W]");
        check_same_dtype(kName, argument, *view, "image", image);
        check_contiguous(kName, argument, *view);
        check_device(kName, argument, *view, context);
    }
    check_shape(kName, "share", outputs.share, {shape.n}, "[N]");
    check_dtype(kName, "share", outputs.share, {DType::kFloat32});
    check_contiguous(kName, "share", outputs.share);
    check_device(kName, "share", outputs.share, context);
    check_shape(kName, "side", outputs.side, {shape.n, shape.h, shape.w}, "[N, H, W]");
    check_dtype(kName, "side", outputs.side, {DType::kUInt8});
    check_contiguous(kName, "side", outputs.side);
    check_device(kName, "side", outputs.side, context);
    if (shape.n == 0) return;
    check_workspace(kName, workspace, WSSS_RUN(kName, workspace, context, shape, options, context));
    WSSS_RUN(kName, run, context, image, segments, options, outputs, workspace, context);
}

}  // namespace wsss::complementary
