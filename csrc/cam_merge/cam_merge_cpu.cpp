// CAM merge on the CPU: one class of one image a task (with a background: one image).
//
// Where an output pixel reads, and with which weights, is worked out once a call for every map size and axis. A plane is then
// made row by row: source rows are widened to the output's width once each, into a small ring; an output row is a weighted sum of
// two (bicubic: four) rows of each ring. The finished plane, still in cache, is normalised into the output.
//
// Memory: an output plane in the summing type a thread (two with a background), the rings, and the tables.

#include "cam_merge/cam_merge.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "common/float_types.h"
#include "common/simd.h"
#include "common/threads.h"
#include "common/workspace.h"

namespace wsss::cam_merge {
namespace {

constexpr int64_t kPitch = 64;   // rows are padded to a multiple of this many values: four vectors of the widest kind
constexpr int64_t kMargin = 16;  // values that a vector store may write beyond the end of a row
constexpr int kMostTaps = 4;
constexpr int64_t kBorder = 2;  // source pixels that a bicubic tap may lie outside the map

// Consecutive output pixels from `x` on whose first tap is source pixel `source` (up to kBorder outside the map).
struct Run {
    int64_t x, source;
};

// Maps of one size, and how output pixels read them. Tables of a tap lie `pitch` apart across, `rows` apart down.
template <class Sum>
struct Group {
    int64_t h, w;
    const int* maps;
    int map_count;
    Run* runs;  // across; the last one, of no pixels, ends at `pitch`
    int64_t run_count;
    Sum* across;     // [taps][pitch + kMargin]
    int64_t* first;  // [rows]: the source row of the first tap
    Sum* down;       // [rows][taps]
};

// What a worker writes to.
template <class Sum>
struct Scratch {
    Sum* plane;  // [rows][pitch]
    Sum* best;   // [rows][pitch]: maximum over the classes so far; with a background only
    Sum* row;    // a source row with borders
    Sum* ring;   // [groups][taps][pitch + kMargin]
};

template <class Sum>
struct Work {
    Shape shape;
    Settings settings;
    const View* maps;
    const std::vector<bool>* flipped;
    const bool* present;
    View out;
    int64_t pitch, longest_row;
    std::vector<SizeGroup> sizes;
    std::vector<Group<Sum>> groups;
    std::vector<Scratch<Sum>> workers;

    int taps() const { return settings.taps(); }
    int64_t ring_row() const { return pitch + kMargin; }
    int64_t tasks() const { return settings.background ? shape.n : shape.planes(); }
};

#define WSSS_SIMD_BODY "cam_merge/cam_merge_cpu_body.h"
#include "common/simd_foreach.h"

// Weights of the taps of a point `t` beyond its lower neighbour.
void tap_weights(double t, bool cubic, double* weight) {
    if (!cubic) {
        weight[0] = 1 - t;
        weight[1] = t;
        return;
    }
    constexpr double kA = -0.75;
    const auto near = [](double x) { return ((kA + 2) * x - (kA + 3)) * x * x + 1; };
    const auto far = [](double x) { return ((kA * x - 5 * kA) * x + 8 * kA) * x - 4 * kA; };
    weight[0] = far(t + 1);
    weight[1] = near(t);
    weight[2] = near(1 - t);
    weight[3] = far(2 - t);
}

// The source pixel of the first tap of an output pixel, and the weights of all.
int64_t read_at(const Sampling& axis, int64_t x, bool cubic, double* weight) {
    int64_t place = x * axis.step + axis.start;
    if (!cubic) place = std::max<int64_t>(place, 0);
    const int64_t below = place >= 0 ? place / axis.unit : -((axis.unit - 1 - place) / axis.unit);
    tap_weights(static_cast<double>(place - below * axis.unit) / static_cast<double>(axis.unit), cubic, weight);
    return below - (cubic ? 1 : 0);
}

template <class Sum>
void fill_tables(const Work<Sum>& work, Group<Sum>* group) {
    const bool cubic = work.settings.cubic;
    const int taps = work.taps();
    double weight[kMostTaps];
    const Sampling across = sampling_of(group->w, work.shape.w, work.settings);
    group->run_count = 0;
    for (int64_t x = 0; x < work.ring_row(); ++x) {
        const int64_t source = read_at(across, std::min(x, work.shape.w - 1), cubic, weight);  // padding repeats the last pixel
        if (x < work.pitch && (x == 0 || source != group->runs[group->run_count - 1].source))
            group->runs[group->run_count++] = {x, source};
        for (int t = 0; t < taps; ++t) group->across[t * work.ring_row() + x] = static_cast<Sum>(weight[t]);
    }
    group->runs[group->run_count] = {work.pitch, 0};
    const Sampling down = sampling_of(group->h, work.shape.h, work.settings);
    const double share = work.settings.mean ? 1.0 / static_cast<double>(work.flipped->size()) : 1.0;
    for (int64_t y = 0; y < work.shape.h; ++y) {
        group->first[y] = read_at(down, y, cubic, weight);
        for (int t = 0; t < taps; ++t) group->down[y * taps + t] = static_cast<Sum>(weight[t] * share);
    }
}

// Cuts the workspace; over a null Carver it only measures.
template <class Sum>
Work<Sum> plan(const std::vector<View>& maps, const Settings& settings, const View& out, const Context& context, Carver* carver) {
    Work<Sum> work{};
    work.shape = shape_of(settings, out);
    work.settings = settings;
    work.maps = maps.data();
    work.out = out;
    work.pitch = round_up(work.shape.w, kPitch);
    work.sizes = groups_of(maps);
    for (const SizeGroup& size : work.sizes) {
        Group<Sum> group{};
        group.h = size.h;
        group.w = size.w;
        group.maps = size.maps.data();
        group.map_count = static_cast<int>(size.maps.size());
        group.runs = carver->take<Run>(work.shape.w + 1);
        group.across = carver->take<Sum>(work.taps() * work.ring_row());
        group.first = carver->take<int64_t>(work.shape.h);
        group.down = carver->take<Sum>(work.shape.h * work.taps());
        work.groups.push_back(group);
        work.longest_row = std::max(work.longest_row, size.w);
    }
    work.workers.resize(static_cast<size_t>(std::clamp<int64_t>(work.tasks(), 1, context.threads)));
    for (Scratch<Sum>& scratch : work.workers) {
        scratch.plane = carver->take<Sum>(work.shape.h * work.pitch);
        scratch.best = settings.background ? carver->take<Sum>(work.shape.h * work.pitch) : nullptr;
        scratch.row = carver->take<Sum>(work.longest_row + 2 * kBorder);
        scratch.ring = carver->take<Sum>(static_cast<int64_t>(work.groups.size()) * work.taps() * work.ring_row());
    }
    return work;
}

template <class T>
void run_typed(const std::vector<View>& maps, const std::vector<bool>& flipped, const View& present, const Settings& settings,
               const View& out, const View& workspace, const Context& context) {
    using Sum = SumOf<T>;
    Carver carver(workspace.data);
    Work<Sum> work = plan<Sum>(maps, settings, out, context, &carver);
    work.flipped = &flipped;
    work.present = present.as<const bool>();
    for (Group<Sum>& group : work.groups) fill_tables(work, &group);
    parallel_for(work.tasks(), static_cast<int>(work.workers.size()), [&](int64_t task, int worker) {
        const FlushDenormals flush;  // a softmax gives maps full of them
        const Scratch<Sum>& scratch = work.workers[static_cast<size_t>(worker)];
        if (settings.background)
            WSSS_SIMD_CALL(merge_image<T, Sum>)(work, scratch, task);
        else
            WSSS_SIMD_CALL(merge_class<T, Sum>)(work, scratch, task / work.shape.c, task % work.shape.c);
    });
}

}  // namespace

int64_t workspace_cpu(const std::vector<View>& maps, const Settings& settings, const View& out, const Context& context) {
    return planned_bytes(maps[0].dtype,
                         [&](auto sum, Carver* carver) { plan<decltype(sum)>(maps, settings, out, context, carver); });
}

void run_cpu(const std::vector<View>& maps, const std::vector<bool>& flipped, const View& present, const Settings& settings,
             const View& out, const View& workspace, const Context& context) {
    with_type(maps[0].dtype,
              [&](auto type) { run_typed<decltype(type)>(maps, flipped, present, settings, out, workspace, context); });
}

}  // namespace wsss::cam_merge
