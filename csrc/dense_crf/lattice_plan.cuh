// Where everything of one dense CRF call lies in the workspace.
//
// A call takes as many images at a time as fit kPlanBytes (at least one). What only the build needs shares its memory with the
// values of the mean field. All sizes follow from the shapes: a lattice has at most one vertex an entry.
#pragma once

#include <algorithm>

#include "common/sort_scan.cuh"
#include "dense_crf/lattice.cuh"

namespace wsss::dense_crf {

#ifdef WSSS_SIMT
constexpr int64_t kPlanBytes = int64_t{256} << 10;  // small test shapes already take several goes
#else
constexpr int64_t kPlanBytes = int64_t{4} << 30;
#endif
constexpr int64_t kMaxFieldBlocks = 1024;

struct Plan {
    Lattices lattices{};
    BuildSpace build{};
    int64_t images = 0, chunks = 0;              // chunks: of 4 labels
    float4 *first = nullptr, *second = nullptr;  // [all_rows][chunks] each: values of vertices, sums of runs
    float4* logits = nullptr;                    // [images][pixels][chunks]
    float4* kept = nullptr;                      // [images][pixels][chunks]: Q, for terms without dimensions
    float4* tile_rows = nullptr;                 // [kMaxFieldBlocks][kTilePixels][chunks | 1], for tiles beyond shared memory
    float4* filtered = nullptr;                  // the same for matrix compatibilities
    int64_t bytes = 0;
};

inline void add_term(Lattices& g, const TermInput& term, int64_t labels, int64_t images) {
    Term& t = g.term[g.terms++];
    t.feature = term.feature.as<float>();
    t.compat = term.compat.as<float>();
    t.dims = static_cast<int>(term.feature.size[1]);
    t.sides = t.dims + 1;
    t.shared = term.feature.size[0] == 1;
    t.images = t.dims == 0 ? 0 : t.shared ? 1 : static_cast<int>(images);
    t.matrix = term.compat.ndim == 2;
    t.vector = !t.matrix && labels > 1 && term.compat.numel() == labels;
    t.normalisation = term.normalisation;
    t.first_entry = g.entries;
    t.first_neighbour = g.all_neighbours;
    t.first_tile = g.all_tiles;
    t.first_row = g.all_rows;
    t.entries = t.images * (g.pixels + g.zeros) * t.sides;
    g.entries += t.entries;
    g.all_neighbours += t.entries * t.sides * 2;
    g.all_tiles += int64_t{t.images} * g.tiles.count;
    g.all_rows += t.dims == 0 ? 0 : images * (g.pixels + g.zeros) * t.sides;
}

// The plan for `images` images in the memory at `base`; with a null base, its size. `library`: ask for the need of the sort,
// which needs a current device; without it, `bytes` is a little too small.
inline Plan make_plan(const Shape& shape, const std::vector<TermInput>& terms, int64_t images, bool in_shared_memory, void* base,
                      bool library) {
    Plan plan;
    Lattices& g = plan.lattices;
    g.tiles = Tiles(shape.h, shape.w);
    g.pixels = shape.pixels();
    g.zeros = shape.points() > shape.pixels();
    plan.images = images;
    plan.chunks = ceil_div(shape.labels, 4);
    bool matrix = false, identity = false;
    for (const TermInput& term : terms) {
        add_term(g, term, shape.labels, images);
        matrix = matrix || g.term[g.terms - 1].matrix;
        identity = identity || g.term[g.terms - 1].dims == 0;
    }
    Carver carver(base);
    g.counts = carver.take<uint32_t>(2 * kMaxTerms);
    g.weight = carver.take<float>(g.entries);
    g.vertex = carver.take<uint32_t>(g.entries);
    g.splat_weight = carver.take<float>(g.entries);
    g.splat_pixel = carver.take<uint8_t>(g.entries);
    g.run = carver.take<uint32_t>(g.entries);
    g.run_begin = carver.take<uint16_t>(g.entries);
    g.tile_counts = carver.take<uint32_t>(g.all_tiles);
    g.vertex_runs = carver.take<uint32_t>(g.entries + g.terms);
    g.neighbours = carver.take<uint32_t>(g.all_neighbours);
    plan.logits = carver.take<float4>(images * g.pixels * plan.chunks);
    plan.kept = identity ? carver.take<float4>(images * g.pixels * plan.chunks) : nullptr;
    const int64_t scratch = std::min(images * g.tiles.count, kMaxFieldBlocks) * kTilePixels * (plan.chunks | 1);
    plan.tile_rows = carver.take<float4>(in_shared_memory ? 0 : scratch);
    plan.filtered = carver.take<float4>(matrix ? scratch : 0);

    Carver field = carver, build = carver;
    plan.first = field.take<float4>(g.all_rows * plan.chunks);
    plan.second = field.take<float4>(g.all_rows * plan.chunks);
    BuildSpace& b = plan.build;
    b.keys = build.take<uint64_t>(g.entries);
    b.sorted_keys = build.take<uint64_t>(g.entries);
    b.order = build.take<uint32_t>(g.entries);
    b.sorted_order = build.take<uint32_t>(g.entries);
    b.sums = build.take<int64_t>(g.entries + 1);
    b.run_start = build.take<uint32_t>(g.entries + g.terms);
    b.groups = reinterpret_cast<uint32_t*>(b.sums);  // each used when the other is not
    b.heads = reinterpret_cast<int64_t*>(b.keys);
    b.unique_keys = b.keys;
    if (library && g.entries > 0)
        b.library_bytes =
            std::max(sort_pairs_workspace<uint64_t>("dense_crf", g.entries), sum_workspace<int64_t>("dense_crf", g.entries));
    b.library = build.take<char>(b.library_bytes);
    plan.bytes = std::max(field.used(), build.used());
    return plan;
}

// How many images to take at a time.
inline int64_t images_in_flight(const Shape& shape, const std::vector<TermInput>& terms, bool in_shared_memory) {
    for (int64_t parts = 1;; ++parts) {
        const int64_t images = ceil_div(shape.n, parts);
        const Plan plan = make_plan(shape, terms, images, in_shared_memory, nullptr, false);
        const bool small = plan.bytes <= kPlanBytes && plan.lattices.all_rows < int64_t{1} << 31;
        if (images == 1 && plan.lattices.all_rows >= int64_t{1} << 31)
            fail("dense_crf", "unary", "have fewer than 2^31 lattice entries an image: the sum over terms of H W (D + 1)",
                 std::to_string(plan.lattices.all_rows));
        if (small || images == 1) return images;
        parts = std::max(parts, std::min(shape.n - 1, plan.bytes / kPlanBytes) - 1);
    }
}

}  // namespace wsss::dense_crf
