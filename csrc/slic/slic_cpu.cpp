// slic on the CPU: pixels packed tile by tile as 16-bit numbers (4 KiB a tile), assigned and summed in one visit a round.
//
// Assignment is branch-free: all candidates of a tile for a row at a time, cost and slot in one word, so that the minimum is
// the choice. Sums run over the candidates again with masks. Sums are whole numbers, so their order is free; tiles write their
// own, and one task an image adds them up.
//
// Memory a call: for each image in flight (at most one a thread) 8 bytes a pixel for colours, 40 for runs (worst case, touched
// as far as there are runs), 32 for each candidate of a tile.

#include <algorithm>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/simd.h"
#include "common/threads.h"
#include "common/workspace.h"
#include "slic/slic.h"

namespace wsss::slic {
namespace {

constexpr int kTilePixels = kTileWidth * kTileHeight;
constexpr int kSumFields = 8;  // l, a, b, x, y, count and two unused; x and y counted from the tile's corner

// What connecting segments needs, for each run of one label in a row; there are at most as many as pixels.
struct Runs {
    int32_t* start;   // first pixel; the last run is followed by the number of pixels
    int32_t* label;   // -1: takes no part
    int32_t* parent;  // its segment, or on the way to it
    int32_t* size;    // of segments: pixels
    int32_t* above;   // the last run of the row above that touches it
    int32_t* below;   // the last run of the row below that touches it
    int32_t* list;    // segments that join another; at the end, numbers of segments
    int32_t* small;   // of a row: the runs of small segments
    uint64_t* key;    // of small segments: the best neighbour so far
    int32_t* first;   // [height + 1] first run of each row

    static Runs take(Carver* carver, int64_t height, int64_t width) {
        const int64_t most = height * width + 1;
        Runs runs{};
        for (int32_t** array :
             {&runs.start, &runs.label, &runs.parent, &runs.size, &runs.above, &runs.below, &runs.list, &runs.small})
            *array = carver->take<int32_t>(most);
        runs.key = carver->take<uint64_t>(most);
        runs.first = carver->take<int32_t>(height + 1);
        return runs;
    }
};

struct Work {
    Plan plan;
    int64_t n, iterations;
    int64_t images;  // in flight
    int threads;
    int32_t* out;  // [n][height][width]
    // an image, each:
    int32_t* la;         // [tiles][16][32] L | a << 16
    int32_t* bx;         // [tiles][16][32] b | x << 16
    uint32_t* valid;     // [tiles][16] a bit for each pixel that takes part
    int32_t* sums;       // [tiles][2^slot_bits][kSumFields]
    Centre* centres;     // [labels]
    Cost* colour_costs;  // [labels]
    Sums* totals;        // [labels]
    Runs* runs;          // [images]
};

// Strides of the inputs in bytes.
struct Source {
    const uint8_t* image;
    int64_t n, channel, y, x;
    const uint8_t* mask;  // null: every pixel takes part
    int64_t mask_n, mask_y, mask_x;
};

// The costs of a tile's candidates: in pairs as the pixels are; y and base times 2^slot_bits, and the slot in the free bits.
struct TileCosts {
    int count;
    int32_t la[kLargestSlots], bx[kLargestSlots], y[kLargestSlots], base[kLargestSlots];
    int32_t label[kLargestSlots];
};

// Two 16-bit numbers in a word.
inline int32_t pair_of(int32_t low, int32_t high) {
    return static_cast<int32_t>((static_cast<uint32_t>(low) & 0xffff) | static_cast<uint32_t>(high) << 16);
}

struct TileRows {
    int count;
    int row[kTileHeight];
};

void tile_costs(const Work& work, int64_t at, int64_t tile_row, int64_t tile_col, int64_t round, TileCosts* costs) {
    const Plan& plan = work.plan;
    const Range rows = candidate_rows(plan, tile_row), cols = candidate_cols(plan, tile_col);
    const int64_t space = round == 0 ? plan.space_alone : plan.space;
    int s = 0;
    for (int32_t row = rows.first; row < rows.first + rows.count; ++row)
        for (int32_t col = cols.first; col < cols.first + cols.count; ++col, ++s) {
            const int64_t label = static_cast<int64_t>(row) * plan.cols + col, from = at * plan.labels() + label;
            const Cost cost =
                cost_in_tile(work.colour_costs[from], work.centres[from], tile_col * kTileWidth, tile_row * kTileHeight, space);
            costs->label[s] = static_cast<int32_t>(label);
            costs->la[s] = pair_of(cost.l, cost.a);
            costs->bx[s] = pair_of(cost.b, cost.x);
            costs->y[s] = cost.y * (1 << plan.slot_bits);
            costs->base[s] = cost.base * (1 << plan.slot_bits) + s;
        }
    costs->count = s;
}

// Before round 0 the centres are laid out; before any other, each becomes the mean of what the round before gave it.
void move_centres(const Work& work, int64_t at, int64_t round) {
    const Plan& plan = work.plan;
    Centre* centres = work.centres + at * plan.labels();
    Cost* colour_costs = work.colour_costs + at * plan.labels();
    if (round == 0) {
        for (int64_t label = 0; label < plan.labels(); ++label) {
            centres[label] = first_centre(plan, label);
            colour_costs[label] = colour_cost(plan, centres[label], 0);
        }
        return;
    }
    Sums* totals = work.totals + at * plan.labels();
    std::fill(totals, totals + plan.labels(), Sums{});
    const int32_t* sums = work.sums + (at * plan.tiles() << plan.slot_bits) * kSumFields;
    for (int64_t tile = 0; tile < plan.tiles(); ++tile, sums += int64_t{kSumFields} << plan.slot_bits) {
        const int64_t tile_row = tile / plan.tile_cols, tile_col = tile % plan.tile_cols;
        const Range rows = candidate_rows(plan, tile_row), cols = candidate_cols(plan, tile_col);
        const int32_t* given = sums;
        for (int32_t row = 0; row < rows.count; ++row)
            for (int32_t col = 0; col < cols.count; ++col, given += kSumFields) {
                Sums& to = totals[static_cast<int64_t>(rows.first + row) * plan.cols + cols.first + col];
                to.l += given[0];
                to.a += given[1];
                to.b += given[2];
                to.x += given[3] + tile_col * kTileWidth * given[5];
                to.y += given[4] + tile_row * kTileHeight * given[5];
                to.count += given[5];
            }
    }
    for (int64_t label = 0; label < plan.labels(); ++label) {
        centres[label] = moved_centre(centres[label], totals[label], round - 1);
        colour_costs[label] = colour_cost(plan, centres[label], plan.colour);
    }
}

#define WSSS_SIMD_BODY "slic/slic_cpu_body.h"
#include "common/simd_foreach.h"

Work plan_work(const Shape& shape, const Plan& plan, const Context& context, Carver* carver) {
    Work work{};
    work.plan = plan;
    work.n = shape.n;
    work.threads = context.threads;
    work.images = std::min<int64_t>(shape.n, context.threads);
    const int64_t tiles = work.images * plan.tiles();
    work.la = carver->take<int32_t>(tiles * kTilePixels);
    work.bx = carver->take<int32_t>(tiles * kTilePixels);
    work.valid = carver->take<uint32_t>(tiles * kTileHeight);
    work.sums = carver->take<int32_t>((tiles << plan.slot_bits) * kSumFields);
    work.centres = carver->take<Centre>(work.images * plan.labels());
    work.colour_costs = carver->take<Cost>(work.images * plan.labels());
    work.totals = carver->take<Sums>(work.images * plan.labels());
    work.runs = carver->take<Runs>(work.images);
    for (int64_t image = 0; image < work.images; ++image) {
        const Runs runs = Runs::take(carver, shape.h, shape.w);
        if (work.runs) work.runs[image] = runs;
    }
    return work;
}

}  // namespace

int64_t workspace_cpu(const Shape& shape, int64_t segments, const Context& context) {
    Carver measure;
    plan_work(shape, make_plan(shape.h, shape.w, segments, 1), context, &measure);
    return measure.used();
}

void run_cpu(const View& image, const View& mask, const Plan& plan, int64_t iterations, const View& out, const View& workspace,
             const Context& context) {
    Carver carver(workspace.data);
    Work work = plan_work({image.size[0], plan.height, plan.width}, plan, context, &carver);
    work.iterations = iterations;
    work.out = out.as<int32_t>();
    Source source{};
    source.image = image.as<const uint8_t>();
    source.n = image.stride[0];
    source.channel = image.stride[1];
    source.y = image.stride[2];
    source.x = image.stride[3];
    if (mask) {
        source.mask = mask.as<const uint8_t>();
        source.mask_n = mask.stride[0];
        source.mask_y = mask.stride[1];
        source.mask_x = mask.stride[2];
    }
    WSSS_SIMD_CALL(segment_images)(work, source);
}

}  // namespace wsss::slic
