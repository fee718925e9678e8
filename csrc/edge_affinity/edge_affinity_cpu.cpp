// edge_affinity on the CPU: tiles of 4 x 64 pixels with a padded copy of the edges that their paths reach; the maximum runs along
// a path for a vector of pixels at once.
//
// Backward: first the place of each pair's maximum, as its number in the path, into a byte plane an offset; then every row of the
// image gathers from those planes. Images in flight: enough to keep all threads busy.

#include "edge_affinity/edge_affinity.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "common/pair_tile.h"
#include "common/float_types.h"
#include "common/simd.h"
#include "common/threads.h"
#include "common/workspace.h"

namespace wsss::edge_affinity {
namespace {

using Place = uint8_t;
constexpr Place kNoPair = 255;  // paths of the largest radius have 71 pixels

struct Path {
    PairOffset offset;
    std::vector<PairOffset> points;  // in reading order
};

std::vector<Path> make_paths(int radius) {
    std::vector<Path> paths;
    for_each_pair_offset(radius, [&](int64_t, PairOffset offset) {
        paths.push_back({offset, {}});
        for_each_path_point(offset, [&](int, int dy, int dx) { paths.back().points.push_back({dy, dx}); });
    });
    return paths;
}

template <class Sum>
struct Work {
    PairShape shape;
    Surroundings around;
    int threads;
    int64_t images;  // in flight
    int64_t line;    // W, padded to full vectors
    Sum* copies;     // a thread, each: [around.rows][around.pitch]; backward: also kTileRows + 2 lines
    int64_t copy_size;
    Place* places;  // an image, each: [E][H][W] (backward)
};

// Cuts the workspace; over a null Carver it only measures.
template <class Sum>
Work<Sum> plan(const PairShape& shape, bool backward, const Context& context, Carver* carver) {
    Work<Sum> work{};
    work.shape = shape;
    work.around = Surroundings(shape.radius, false);
    work.threads = context.threads;
    work.images = 1;
    work.copy_size = work.around.size();
    if (backward) {
        work.images = std::min<int64_t>(shape.n, ceil_div(context.threads, ceil_div(shape.h, kTileRows)));
        work.line = round_up(shape.w, kRowPadding) + 2 * kRowPadding;
        work.copy_size = std::max(work.copy_size, (kTileRows + 2) * work.line);
        work.places = carver->take<Place>(work.images * shape.offsets() * shape.pixels());
    }
    work.copies = carver->take<Sum>(context.threads * work.copy_size);
    return work;
}

#define WSSS_SIMD_BODY "edge_affinity/edge_affinity_cpu_body.h"
#include "common/simd_foreach.h"

template <class T>
void forward_typed(const PairShape& shape, const View& edge, const View& out, const View& workspace, const Context& context) {
    using Sum = SumOf<T>;
    Carver carver(workspace.data);
    const Work<Sum> work = plan<Sum>(shape, false, context, &carver);
    WSSS_SIMD_CALL(run_forward<T, Sum>)(work, make_paths(shape.radius), Strided<T>(edge), out.as<T>());
}

template <class T>
void backward_typed(const PairShape& shape, const View& grad, const View& edge, const View& grad_edge, const View& workspace,
                    const Context& context) {
    using Sum = SumOf<T>;
    Carver carver(workspace.data);
    const Work<Sum> work = plan<Sum>(shape, true, context, &carver);
    WSSS_SIMD_CALL(run_backward<T, Sum>)(work, make_paths(shape.radius), Strided<T>(grad), Strided<T>(edge), grad_edge.as<T>());
}

int64_t workspace_bytes(const PairShape& shape, DType dtype, bool backward, const Context& context) {
    return planned_bytes(dtype, [&](auto sum, Carver* carver) { plan<decltype(sum)>(shape, backward, context, carver); });
}

}  // namespace

int64_t forward_workspace_cpu(const PairShape& shape, DType dtype, const Context& context) {
    return workspace_bytes(shape, dtype, false, context);
}

int64_t backward_workspace_cpu(const PairShape& shape, DType dtype, const Context& context) {
    return workspace_bytes(shape, dtype, true, context);
}

void forward_cpu(const PairShape& shape, const View& edge, const View& out, const View& workspace, const Context& context) {
    with_type(edge.dtype, [&](auto type) { forward_typed<decltype(type)>(shape, edge, out, workspace, context); });
}

void backward_cpu(const PairShape& shape, const View& grad, const View& edge, const View& grad_edge, const View& workspace,
                  const Context& context) {
    with_type(edge.dtype, [&](auto type) { backward_typed<decltype(type)>(shape, grad, edge, grad_edge, workspace, context); });
}

}  // namespace wsss::edge_affinity
