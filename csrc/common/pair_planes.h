// What affinity and edge_affinity share: the sizes of a call, and the checks of an input, its planes and its gradient.
#pragma once

#include "common/check.h"
#include "common/half_disc.h"
#include "common/view.h"

namespace wsss {

struct PairShape {
    int64_t n, c, h, w;
    int radius;
    int64_t pixels() const { return h * w; }
    int64_t offsets() const { return pair_offset_count(radius); }
};

inline PairShape check_pair_input(const char* op, const char* argument, const View& x, const char* layout, int64_t radius,
                                  const Context& context) {
    check_ndim(op, argument, x, 4, layout);
    check_float(op, argument, x, context);
    check_device(op, argument, x, context);
    check_whole(op, "radius", radius, 1, kMaxPairRadius);
    const PairShape shape{x.size[0], x.size[1], x.size[2], x.size[3], static_cast<int>(radius)};
    checked_product(op, argument, {shape.n, shape.c + 64, shape.h + 64, shape.w + 64, 8});
    checked_product(op, "out", {shape.n, shape.offsets() + 1, shape.h + 64, shape.w + 64, 64});
    return shape;
}

inline void check_pair_planes(const char* op, const char* argument, const View& planes, const PairShape& shape, const char* other,
                              const View& x, const Context& context) {
    check_shape(op, argument, planes, {shape.n, shape.offsets(), shape.h, shape.w}, "[N, E, H, W]");
    check_same_dtype(op, argument, planes, other, x);
    check_device(op, argument, planes, context);
}

inline void check_pair_gradient(const char* op, const char* argument, const View& gradient, const char* other, const View& x,
                                const Context& context) {
    check_shape(op, argument, gradient, {x.size[0], x.size[1], x.size[2], x.size[3]}, "[N, C, H, W]");
    check_same_dtype(op, argument, gradient, other, x);
    check_contiguous(op, argument, gradient);
    check_device(op, argument, gradient, context);
}

}  // namespace wsss
