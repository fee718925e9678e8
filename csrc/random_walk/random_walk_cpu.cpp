// random_walk on the CPU: the weights of T in the order in which a step reads them.
//
// A step computes tiles of 4 rows by one vector of columns, for up to 4 classes at once: it goes through the columns of the disc,
// and each state vector it loads serves all rows of the tile, each weight all classes. The weights (both directions of each pair,
// divided by the column sums) lie in one stream in that order. State is kept in planes with a margin of zeros: a neighbour
// outside the image has weight 0.
//
// Small grids: one task an image and group of classes, all steps. Large grids: tasks are rows of tiles, step by step. Which it is
// depends on the shape alone, so results do not depend on the number of threads.
//
// Memory an image in flight (float32): 4 (3E + 1) P bytes for the weights, and 12 planes of P floats a thread (once for a large
// grid), margins not counted.

#include "random_walk/random_walk.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "common/float_types.h"
#include "common/simd.h"
#include "common/strided.h"
#include "common/threads.h"
#include "common/workspace.h"
#include "random_walk/series.h"

namespace wsss::random_walk {
namespace {

constexpr int kRows = 4;                 // of a tile; at most 2 more than the shortest column of a disc
constexpr int kMostClasses = 4;          // of a group
constexpr int64_t kColumnPadding = 16;   // the widest vector
constexpr int64_t kLargeGrid = 1 << 14;  // pixels; from here on rows of tiles are tasks

// A plane with a margin of zeros: `reach` rows above and below, and columns to the left, which are the right margin of the row
// before. The pitch is an odd number of vectors, so that the rows of a tile do not compete for one set of the cache.
struct Grid {
    int64_t h, w, tile_rows, columns, pitch, origin, plane;

    Grid(const Shape& shape, int64_t reach)
        : h(shape.h), w(shape.w), tile_rows(ceil_div(h, kRows)), columns(round_up(w, kColumnPadding)) {
        const int64_t margin = round_up(reach, kColumnPadding);
        pitch = margin + columns;
        if (pitch / kColumnPadding % 2 == 0) pitch += kColumnPadding;
        origin = reach * pitch + margin;
        plane = (tile_rows * kRows + 2 * reach) * pitch + margin;
    }
    int64_t at(int64_t y, int64_t x) const { return origin + y * pitch + x; }
};

template <class Sum>
struct Work {
    Shape shape;
    Settings settings;
    Disc disc;
    Grid grid;
    int whole_beta = -1;  // -1: not whole
    int64_t pairs = 0;    // E
    int64_t images = 0;   // in flight
    bool large = false;
    int threads = 1;
    Series series{};
    int64_t tile_row_weights = 0;  // in a row of tiles
    // an image, each:
    Sum* planes = nullptr;   // [E][plane]                                          A^beta, 0 where there is no pair
    Sum* weights = nullptr;  // [tile_rows][columns / lanes][2E + 2][kRows][lanes]  T, see pack
    // a worker, each:
    Sum* state = nullptr;  // [3][kMostClasses][plane]
    std::atomic<bool>* out_of_range = nullptr;
};

// Cuts the workspace; over a null Carver it only measures.
template <class Sum>
Work<Sum> plan(const Shape& shape, const Settings& settings, const Context& context, Carver* carver) {
    Work<Sum> work{shape, settings, Disc(static_cast<int>(settings.radius)), Grid(shape, settings.radius - 1)};
    work.whole_beta = whole_beta(settings.beta);
    work.pairs = pair_offset_count(static_cast<int>(settings.radius));
    work.large = shape.pixels() >= kLargeGrid;
    work.threads = context.threads;
    work.images = work.large ? 1 : std::min<int64_t>(shape.n, context.threads);
    work.tile_row_weights = (2 * work.pairs + 2) * kRows * work.grid.columns;
    work.planes = carver->take<Sum>(work.images * work.pairs * work.grid.plane);
    work.weights = carver->take<Sum>(work.images * work.grid.tile_rows * work.tile_row_weights);
    work.state = carver->take<Sum>((work.large ? 1 : context.threads) * 3 * kMostClasses * work.grid.plane);
    return work;
}

#define WSSS_SIMD_BODY "random_walk/random_walk_cpu_body.h"
#include "common/simd_foreach.h"

template <class T>
void run_typed(const View& cam, const View& affinity, const Settings& settings, const View& out, const View& workspace,
               const Context& context) {
    using Sum = SumOf<T>;
    Carver carver(workspace.data);
    const Shape shape{cam.size[0], cam.size[1], cam.size[2], cam.size[3]};
    Work<Sum> work = plan<Sum>(shape, settings, context, &carver);
    if (work.pairs == 0) work.settings.steps = 0;  // T is the identity
    if (settings.chebyshev) work.series = series_for(work.settings.steps, settings.tolerance, shape.pixels(), work.pairs);
    std::atomic<bool> out_of_range{false};
    work.out_of_range = &out_of_range;
    WSSS_SIMD_CALL(run_walk<T, Sum>)(work, Strided<T>(cam), Strided<T>(affinity), out.as<T>());
}

}  // namespace

int64_t workspace_cpu(const Shape& shape, DType dtype, const Settings& settings, const Context& context) {
    return planned_bytes(dtype, [&](auto sum, Carver* carver) { plan<decltype(sum)>(shape, settings, context, carver); });
}

void run_cpu(const View& cam, const View& affinity, const Settings& settings, const View& out, const View& workspace,
             const Context& context) {
    with_type(cam.dtype, [&](auto type) { run_typed<decltype(type)>(cam, affinity, settings, out, workspace, context); });
}

}  // namespace wsss::random_walk
