// affinity on the CPU: tiles of 4 x 64 pixels, each with a padded copy of its surroundings, a few channels at a time.
//
// Forward: offsets of one column dx and up to five rows dy make a strip. A vector of neighbours, loaded once, is compared with
// the source rows above it, whose sums stay in registers over a slice of channels. Backward: the weights of all pairs of a tile
// are formed once, for both ends; then each weight, loaded once, serves several channels.
//
// Memory a thread: the copy of a slice and, for every offset, one value (backward two) a pixel of the tile: 76 KiB forward and
// 101 KiB backward for radius 5. Tiles are cut by shape alone, each result is written once, by one thread, in one order.

#include "affinity/affinity.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "common/pair_tile.h"
#include "common/float_types.h"
#include "common/simd.h"
#include "common/threads.h"
#include "common/workspace.h"

namespace wsss::affinity {
namespace {

constexpr int64_t kSlice = 16;  // channels copied at a time, forward: the copy fits the first cache
constexpr int64_t kGroup = 8;   // likewise backward: the most channels that one weight serves
constexpr int kStripRows = 5;
constexpr int64_t kTilePixels = kTileRows * kTileColumns;

template <class Sum>
struct Work {
    PairShape shape;
    Surroundings around;
    int threads;
    // a thread, each:
    Sum* copies;  // [kSlice or kGroup][around.rows][around.pitch]
    Sum* values;  // forward, sums of differences: [E in order of strips][kTilePixels]; backward, weights: [E][2][kTilePixels]
    int64_t copy_size, value_size;
};

// Cuts the workspace; over a null Carver it only measures.
template <class Sum>
Work<Sum> plan(const PairShape& shape, bool backward, const Context& context, Carver* carver) {
    Work<Sum> work{};
    work.shape = shape;
    work.around = Surroundings(shape.radius, backward);
    work.threads = context.threads;
    work.copy_size = (backward ? kGroup : kSlice) * work.around.size();
    work.value_size = (backward ? 2 : 1) * shape.offsets() * kTilePixels;
    work.copies = carver->take<Sum>(context.threads * work.copy_size);
    work.values = carver->take<Sum>(context.threads * work.value_size);
    return work;
}

// Offsets (dy .. dy + count - 1, dx), and the planes they belong to.
struct Strip {
    int dx, dy, count;
    int64_t plane[kStripRows];
};

std::vector<Strip> make_strips(int radius) {
    std::vector<Strip> strips;
    for (int dx = 1 - radius; dx < radius; ++dx) {
        Strip strip{};
        strip.dx = dx;
        for_each_pair_offset(radius, [&](int64_t plane, PairOffset offset) {
            if (offset.dx != dx) return;
            if (strip.count == kStripRows) {
                strips.push_back(strip);
                strip.count = 0;
            }
            if (strip.count == 0) strip.dy = offset.dy;
            strip.plane[strip.count++] = plane;
        });
        if (strip.count > 0) strips.push_back(strip);
    }
    return strips;
}

#define WSSS_SIMD_BODY "affinity/affinity_cpu_body.h"
#include "common/simd_foreach.h"

template <class T>
void forward_typed(const PairShape& shape, const View& feature, const View& out, const View& workspace, const Context& context) {
    using Sum = SumOf<T>;
    Carver carver(workspace.data);
    const Work<Sum> work = plan<Sum>(shape, false, context, &carver);
    WSSS_SIMD_CALL(run_forward<T, Sum>)(work, make_strips(shape.radius), Strided<T>(feature), out.as<T>());
}

template <class T>
void backward_typed(const PairShape& shape, const View& grad, const View& feature, const View& out, const View& grad_feature,
                    const View& workspace, const Context& context) {
    using Sum = SumOf<T>;
    Carver carver(workspace.data);
    const Work<Sum> work = plan<Sum>(shape, true, context, &carver);
    WSSS_SIMD_CALL(run_backward<T, Sum>)
    (work, Strided<T>(grad), Strided<T>(feature), Strided<T>(out), grad_feature.as<T>());
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

void forward_cpu(const PairShape& shape, const View& feature, const View& out, const View& workspace, const Context& context) {
    with_type(feature.dtype, [&](auto type) { forward_typed<decltype(type)>(shape, feature, out, workspace, context); });
}

void backward_cpu(const PairShape& shape, const View& grad, const View& feature, const View& out, const View& grad_feature,
                  const View& workspace, const Context& context) {
    with_type(feature.dtype,
              [&](auto type) { backward_typed<decltype(type)>(shape, grad, feature, out, grad_feature, workspace, context); });
}

}  // namespace wsss::affinity
