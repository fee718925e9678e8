// edge_affinity: how connected nearby pixels are, by the edges between them (IRN).
//
//     out[e, p] = 1 - max of edge over the path from p to p + o_e      o_e: the offsets of half_disc.h; 0 outside the image
//
// The path holds the pixels less than 1 away from the segment, inside the box that it spans: 242 pixels over all 34 offsets of
// radius 5, 2,134 over the 152 of radius 10. Both ends inside the image put the whole path inside.
//
// The gradient goes to the place of the maximum, of equal ones the first in reading order. The backward pass finds the places
// again (a byte a pair) and gathers: a pixel visits the pairs whose path holds it and asks whether it is theirs. No atomics, the
// same bits on every run and for every number of threads. A NaN makes every pair NaN whose path holds it, and is its maximum.
//
// Types as for affinity. Time O(path pixels * H W); memory: none forward, E H W bytes an image backward.
#pragma once

#include "common/pair_planes.h"
#include "common/dispatch.h"

namespace wsss::edge_affinity {

// The largest cross product of an offset and a point less than 1 away from its segment.
constexpr int path_reach(PairOffset offset) {
    const int square = offset.dy * offset.dy + offset.dx * offset.dx;
    int reach = 0;
    while ((reach + 1) * (reach + 1) < square) ++reach;
    return reach;
}

struct PathRow {
    int first, last;  // columns, both included; never empty for 0 <= y <= dy
};

constexpr int floor_div(int a, int b) {  // b > 0
    return a >= 0 ? a / b : -((b - 1 - a) / b);
}

// Row y of the path from (0, 0) to `offset`: |dy x - dx y| <= reach, inside the box.
constexpr PathRow path_row(PairOffset offset, int reach, int y) {
    const int low = offset.dx < 0 ? offset.dx : 0, high = offset.dx < 0 ? 0 : offset.dx;
    if (offset.dy == 0) return {low, high};
    const int first = -floor_div(reach - offset.dx * y, offset.dy), last = floor_div(offset.dx * y + reach, offset.dy);
    return {first > low ? first : low, last < high ? last : high};
}

// Calls visit(index, y, x) for each pixel of a path in reading order and returns how many there are.
template <class Visit>
constexpr int for_each_path_point(PairOffset offset, Visit&& visit) {
    const int reach = path_reach(offset);
    int count = 0;
    for (int y = 0; y <= offset.dy; ++y) {
        const PathRow row = path_row(offset, reach, y);
        for (int x = row.first; x <= row.last; ++x) visit(count++, y, x);
    }
    return count;
}

constexpr int64_t path_point_count(int radius) {
    int64_t count = 0;
    for_each_pair_offset(radius,
                         [&count](int64_t, PairOffset offset) { count += for_each_path_point(offset, [](int, int, int) {}); });
    return count;
}

static_assert(path_point_count(5) == 242 && path_point_count(10) == 2134);

// CPU implementation (threads: context.threads)
int64_t forward_workspace_cpu(const PairShape& shape, DType dtype, const Context& context);
int64_t backward_workspace_cpu(const PairShape& shape, DType dtype, const Context& context);
void forward_cpu(const PairShape& shape, const View& edge, const View& out, const View& workspace, const Context& context);
void backward_cpu(const PairShape& shape, const View& grad, const View& edge, const View& grad_edge, const View& workspace,
                  const Context& context);

// CUDA implementation (enqueued on context.stream; no allocation, no synchronisation)
int64_t forward_workspace_cuda(const PairShape& shape, DType dtype, const Context& context);
int64_t backward_workspace_cuda(const PairShape& shape, DType dtype, const Context& context);
void forward_cuda(const PairShape& shape, const View& edge, const View& out, const View& workspace, const Context& context);
void backward_cuda(const PairShape& shape, const View& grad, const View& edge, const View& grad_edge, const View& workspace,
                   const Context& context);

// ---- The functions to call: checked, on either device -----------------------------------------------------------------------

inline PairShape check_edge(const View& edge, int64_t radius, const Context& context) {
    const PairShape shape = check_pair_input("edge_affinity", "edge", edge, "[N, 1, H, W]", radius, context);
    check_shape("edge_affinity", "edge", edge, {-1, 1, -1, -1}, "[N, 1, H, W]");
    return shape;
}

// Bytes of workspace the two calls below need; an upper bound.
inline int64_t forward_workspace(const View& edge, int64_t radius, const Context& context) {
    const PairShape shape = check_edge(edge, radius, context);
    if (shape.n * shape.pixels() == 0) return 0;
    return WSSS_RUN("edge_affinity", forward_workspace, context, shape, edge.dtype, context);
}

inline int64_t backward_workspace(const View& edge, int64_t radius, const Context& context) {
    const PairShape shape = check_edge(edge, radius, context);
    if (shape.n * shape.pixels() == 0) return 0;
    return WSSS_RUN("edge_affinity", backward_workspace, context, shape, edge.dtype, context);
}

inline void forward(const View& edge,  // [N, 1, H, W], any strides
                    int64_t radius,
                    const View& out,  // [N, E, H, W], contiguous
                    const View& workspace, const Context& context) {
    const PairShape shape = check_edge(edge, radius, context);
    check_pair_planes("edge_affinity", "out", out, shape, "edge", edge, context);
    check_contiguous("edge_affinity", "out", out);
    if (out.numel() == 0) return;
    check_workspace("edge_affinity", workspace,
                    WSSS_RUN("edge_affinity", forward_workspace, context, shape, edge.dtype, context));
    WSSS_RUN("edge_affinity", forward, context, shape, edge, out, workspace, context);
}

inline void backward(const View& grad,  // [N, E, H, W], any strides: dL/dout
                     const View& edge, int64_t radius,
                     const View& grad_edge,  // [N, 1, H, W], contiguous
                     const View& workspace, const Context& context) {
    const PairShape shape = check_edge(edge, radius, context);
    check_pair_planes("edge_affinity", "grad", grad, shape, "edge", edge, context);
    check_pair_gradient("edge_affinity", "grad_edge", grad_edge, "edge", edge, context);
    if (edge.numel() == 0) return;
    check_workspace("edge_affinity", workspace,
                    WSSS_RUN("edge_affinity", backward_workspace, context, shape, edge.dtype, context));
    WSSS_RUN("edge_affinity", backward, context, shape, grad, edge, grad_edge, workspace, context);
}

}  // namespace wsss::edge_affinity
