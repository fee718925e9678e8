// dense_crf on CUDA, first step: the lattices of all terms and images (lattice.cuh).
//
//     embed each pixel -> keys; sort; put groups of equal sorted bits in order; number vertices and runs by a running sum;
//     find neighbours by binary search; list the runs of each tile
// Thirteen launches for two terms, besides the memory fills. Everything is an integer but the weights. Memory: BuildSpace, that
// is some 50 bytes an entry, given back before the mean field starts. Determinism: the sort is stable.
#include <algorithm>
#include <cmath>

#include "common/sort_scan.cuh"
#include "dense_crf/lattice.cuh"

namespace wsss::dense_crf {

template <int kDims>
struct EmbedScale {
    float axis[kDims];
    EmbedScale() {
        const float inverse_deviation = static_cast<float>(std::sqrt(2.0 / 3.0) * (kDims + 1));
        for (int i = 0; i < kDims; ++i)
            axis[i] = static_cast<float>(1.0 / std::sqrt(static_cast<double>((i + 2) * (i + 1))) * inverse_deviation);
    }
};

// A block is a tile of one image. The last tile has as many pixels as the image, modulo 4: where there is a point of feature 0,
// it leaves a thread for it.
template <int kDims>
__global__ void __launch_bounds__(kTilePixels)
    dense_crf_embed_kernel(Lattices g, BuildSpace space, int k, EmbedScale<kDims> scale) {
    constexpr int kSides = kDims + 1;
    constexpr float kOver = 1.0f / kSides;
    const Term& term = g.term[k];
    const int64_t image = blockIdx.x / g.tiles.count;
    const int tile_index = static_cast<int>(blockIdx.x % g.tiles.count);
    const Tile tile = g.tiles.at(tile_index);
    const int local = threadIdx.x;
    const bool pixel = local < tile.pixels();
    if (!pixel && !(g.zeros > 0 && tile_index == g.tiles.count - 1 && local == tile.pixels())) return;
    const int y = tile.y + local / tile.width, x = tile.x + local % tile.width;
    const float* const feature = term.feature + image * kDims * g.pixels + static_cast<int64_t>(y) * g.tiles.width + x;

    float elevated[kSides], sum = 0.0f;
#pragma unroll
    for (int j = kDims; j > 0; --j) {
        const float c = __fmul_rn(pixel ? feature[(j - 1) * g.pixels] : 0.0f, scale.axis[j - 1]);
        elevated[j] = __fsub_rn(sum, __fmul_rn(c, static_cast<float>(j)));
        sum = __fadd_rn(sum, c);
    }
    elevated[0] = sum;
    float nearest[kSides];
    int cell[kSides], rank[kSides], total = 0;
#pragma unroll
    for (int i = 0; i < kSides; ++i) {
        const float limit = 16777216.0f;  // NaN becomes the lower limit
        const float rounded = fminf(fmaxf(rintf(__fmul_rn(elevated[i], kOver)), -limit), limit);
        nearest[i] = rounded * kSides;
        cell[i] = static_cast<int>(rounded);
        total += cell[i];
        rank[i] = 0;
    }
#pragma unroll
    for (int i = 0; i < kDims; ++i)
#pragma unroll
        for (int j = i + 1; j < kSides; ++j) {
            const bool less = __fsub_rn(elevated[i], nearest[i]) < __fsub_rn(elevated[j], nearest[j]);
            rank[i] += less;
            rank[j] += !less;
        }
    float offset[kSides];
#pragma unroll
    for (int i = 0; i < kSides; ++i) {
        rank[i] += total;
        const int shift = (rank[i] < 0) - (rank[i] > kDims);
        rank[i] += shift * kSides;
        cell[i] += shift;
        nearest[i] = __fadd_rn(nearest[i], static_cast<float>(shift * kSides));
        offset[i] = __fmul_rn(__fsub_rn(elevated[i], nearest[i]), kOver);
    }
    float sorted[kSides];  // by rank
#pragma unroll
    for (int r = 0; r < kSides; ++r) {
        sorted[r] = 0.0f;
#pragma unroll
        for (int i = 0; i < kSides; ++i) sorted[r] = rank[i] == r ? offset[i] : sorted[r];
    }
    uint64_t base = static_cast<uint64_t>(image) * kImageStep;
#pragma unroll
    for (int i = 0; i < kDims; ++i) base += static_cast<uint64_t>(static_cast<int64_t>(cell[i])) * axis_step(i, kDims);
    const int64_t first = pixel ? g.tile_entry(k, image, tile) + local * kSides : g.zero_entry(k, image);
#pragma unroll
    for (int r = 0; r < kSides; ++r) {
        uint64_t hash = base + static_cast<uint64_t>(r) * ones_step(kDims);
#pragma unroll
        for (int i = 0; i < kDims; ++i) hash -= rank[i] > kDims - r ? axis_step(i, kDims) : 0;
        space.keys[first + r] = key_of(k, hash);
        space.order[first + r] = static_cast<uint32_t>(first + r);
        g.weight[first + r] =
            r == 0 ? __fadd_rn(sorted[kDims], __fsub_rn(1.0f, sorted[0])) : __fsub_rn(sorted[kDims - r], sorted[kSides - r]);
    }
}

__global__ void __launch_bounds__(kBuildThreads)
    dense_crf_find_groups_kernel(const uint64_t* keys, int64_t count, uint32_t* groups) {
    const int64_t i = blockIdx.x * int64_t{kBuildThreads} + threadIdx.x;
    const auto differs = [&](int64_t at) { return keys[at] != keys[at - 1]; };
    const auto same_group = [&](int64_t at) { return sorted_part(keys[at]) == sorted_part(keys[at - 1]); };
    if (i < 1 || i >= count || !differs(i) || !same_group(i)) return;
    int64_t start = i - 1, end = i + 1;
    for (; start > 0 && same_group(start); --start)
        if (differs(start)) return;  // that position reports the group
    while (end < count && same_group(end)) ++end;
    uint32_t* const entry = groups + 1 + 2 * atomicAdd(groups, 1u);
    entry[0] = static_cast<uint32_t>(start);
    entry[1] = static_cast<uint32_t>(end);
}

__global__ void __launch_bounds__(kBuildThreads)
    dense_crf_order_groups_kernel(uint64_t* keys, uint32_t* order, const uint32_t* groups, uint64_t* scratch_keys,
                                  uint32_t* scratch_order) {
    for (uint32_t i = blockIdx.x * kBuildThreads + threadIdx.x; i < groups[0]; i += gridDim.x * kBuildThreads) {
        const uint32_t start = groups[1 + 2 * i], end = groups[2 + 2 * i];
        uint32_t out = start;
        for (uint64_t next = 0; out < end;) {  // keys below `next` have been moved
            uint64_t smallest = ~uint64_t{0};
            for (uint32_t p = start; p < end; ++p)
                if (keys[p] >= next && keys[p] < smallest) smallest = keys[p];
            for (uint32_t p = start; p < end; ++p)
                if (keys[p] == smallest) {
                    scratch_keys[out] = smallest;
                    scratch_order[out++] = order[p];
                }
            next = smallest + 1;
        }
        for (uint32_t p = start; p < end; ++p) {
            keys[p] = scratch_keys[p];
            order[p] = scratch_order[p];
        }
    }
}

__device__ __forceinline__ int term_of_entry(const Lattices& g, int64_t entry) {
    int k = 0;
    while (k + 1 < g.terms && entry >= g.term[k + 1].first_entry) ++k;
    return k;
}

struct EntryTile {
    int64_t image;
    int tile;
};
__device__ __forceinline__ EntryTile tile_of_entry(const Lattices& g, int k, int64_t entry) {
    const int64_t pixel = static_cast<uint32_t>(entry - g.term[k].first_entry) / static_cast<uint32_t>(g.term[k].sides);
    const int64_t image = g.term[k].images == 1 ? 0 : pixel / g.pixels;
    return {image, g.tiles.of_rank(static_cast<int>(pixel - image * g.pixels))};
}

__global__ void __launch_bounds__(kBuildThreads) dense_crf_heads_kernel(Lattices g, BuildSpace space) {
    const int64_t i = blockIdx.x * int64_t{kBuildThreads} + threadIdx.x;
    if (i >= g.entries) return;
    const bool vertex = i == 0 || space.sorted_keys[i] != space.sorted_keys[i - 1];
    const int k = term_of_entry(g, i);
    bool run = g.of_pixel(k, space.sorted_order[i]);  // the last of its vertex if not: the sort is stable
    if (run && !vertex)
        run = tile_of_entry(g, k, space.sorted_order[i]).tile != tile_of_entry(g, k, space.sorted_order[i - 1]).tile;
    space.heads[i] = int64_t{vertex} << 32 | int64_t{run};
}

// Numbers the vertices and runs, and starts the table of neighbours with "none".
__global__ void __launch_bounds__(kBuildThreads) dense_crf_number_kernel(Lattices g, BuildSpace space) {
    const int64_t i = blockIdx.x * int64_t{kBuildThreads} + threadIdx.x;
    if (i >= g.entries) return;
    const int k = term_of_entry(g, i);  // terms stand in the top bits: sorting leaves them in place
    const Term& term = g.term[k];
    const auto sum = [&](int64_t at) { return at < 0 ? 0 : space.sums[at]; };
    const int64_t here = sum(i), before = sum(i - 1), base = sum(term.first_entry - 1);
    const auto vertices = [&](int64_t s) { return static_cast<uint32_t>((s >> 32) - (base >> 32)); };
    const auto runs = [&](int64_t s) { return static_cast<uint32_t>(s) - static_cast<uint32_t>(base); };
    const uint32_t vertex = vertices(here) - 1, run = runs(before);  // of a head
    g.vertex[space.sorted_order[i]] = vertex;
    if (static_cast<uint32_t>(here) != static_cast<uint32_t>(before)) space.run_start[term.first_entry + k + run] = i;
    if (here >> 32 != before >> 32) {
        g.vertex_runs[term.first_entry + k + vertex] = run;
        space.unique_keys[term.first_entry + vertex] = space.sorted_keys[i];
        uint32_t* const neighbours = g.neighbours + term.first_neighbour + int64_t{vertex} * term.sides * 2;
        for (int side = 0; side < 2 * term.sides; ++side) neighbours[side] = kNone;
    }
    if (i == term.first_entry + term.entries - 1) {
        g.counts[2 * k] = vertices(here);
        g.counts[2 * k + 1] = runs(here);
        g.vertex_runs[term.first_entry + k + vertices(here)] = runs(here);
        space.run_start[term.first_entry + k + runs(here)] = static_cast<uint32_t>(i + 1);
    }
}

// blockIdx.y is the term. Each vertex looks for its right neighbour along each axis, and tells it that it is its left one.
__global__ void __launch_bounds__(kBuildThreads) dense_crf_neighbours_kernel(Lattices g, BuildSpace space) {
    const int k = blockIdx.y;
    const Term& term = g.term[k];
    const uint64_t* const keys = space.unique_keys + term.first_entry;
    uint32_t* const neighbours = g.neighbours + term.first_neighbour;
    const int64_t vertices = g.counts[2 * k], items = vertices * term.sides;
    for (int64_t item = blockIdx.x * int64_t{kBuildThreads} + threadIdx.x; item < items;
         item += gridDim.x * int64_t{kBuildThreads}) {
        const int64_t vertex = item / term.sides;
        const int axis = static_cast<int>(item - vertex * term.sides);
        const uint64_t jump = axis_step(axis, term.dims) - ones_step(term.dims);
        const uint64_t wanted = key_of(k, unmix(keys[vertex] & kHashMask) - jump);
        int64_t low = 0, high = vertices;
        while (low < high) {
            const int64_t middle = (low + high) >> 1;
            if (keys[middle] < wanted)
                low = middle + 1;
            else
                high = middle;
        }
        if (low == vertices || keys[low] != wanted) continue;
        neighbours[item * 2 + 1] = static_cast<uint32_t>(low);
        neighbours[(low * term.sides + axis) * 2] = static_cast<uint32_t>(vertex);
    }
}

// blockIdx.y is the term. Copies the entries of each run to its tile.
__global__ void __launch_bounds__(kBuildThreads) dense_crf_runs_kernel(Lattices g, BuildSpace space) {
    const int k = blockIdx.y;
    const Term& term = g.term[k];
    const uint32_t runs = g.counts[2 * k + 1];
    const uint32_t* const starts = space.run_start + term.first_entry + k;
    for (uint32_t run = blockIdx.x * kBuildThreads + threadIdx.x; run < runs; run += gridDim.x * kBuildThreads) {
        const uint32_t start = starts[run];
        uint32_t length = starts[run + 1] - start;
        while (!g.of_pixel(k, space.sorted_order[start + length - 1])) --length;
        const EntryTile home = tile_of_entry(g, k, space.sorted_order[start]);
        const int64_t first = g.tile_entry(k, home.image, g.tiles.at(home.tile));
        const uint32_t taken =
            atomicAdd(g.tile_counts + term.first_tile + home.image * g.tiles.count + home.tile, 1u << 16 | length);
        const uint32_t slot = taken >> 16, begin = taken & 0xffffu;
        g.run[first + slot] = run;
        g.run_begin[first + slot] = static_cast<uint16_t>(begin);
        for (uint32_t i = 0; i < length; ++i) {
            const uint32_t entry = space.sorted_order[start + i];
            g.splat_weight[first + begin + i] = g.weight[entry];
            g.splat_pixel[first + begin + i] = static_cast<uint8_t>((entry - first) / term.sides);
        }
    }
}

// ---- host --------------------------------------------------------------------------------------------------------------

namespace {

unsigned build_blocks(int64_t items) {
    return grid_size("dense_crf", ceil_div(items, kBuildThreads));
}
unsigned looping_blocks(int64_t most_items) {
    return static_cast<unsigned>(std::min(ceil_div(most_items, kBuildThreads), kMaxBuildBlocks));
}

template <int kDims>
void launch_embed(const Lattices& g, const BuildSpace& space, int k, cudaStream_t stream) {
    launch("dense_crf", dense_crf_embed_kernel<kDims>, dim3(grid_size("dense_crf", int64_t{g.term[k].images} * g.tiles.count)),
           dim3(kTilePixels), 0, stream, g, space, k, EmbedScale<kDims>());
}

}  // namespace

void build_lattices(const Lattices& g, const BuildSpace& b, cudaStream_t stream) {
    constexpr const char* kOp = "dense_crf";
    fill_bytes(kOp, g.counts, 0, 2 * kMaxTerms * sizeof(uint32_t), stream);
    if (g.entries == 0) return;
    using Launch = void (*)(const Lattices&, const BuildSpace&, int, cudaStream_t);
    constexpr Launch kEmbed[] = {launch_embed<1>, launch_embed<2>, launch_embed<3>,
                                 launch_embed<4>, launch_embed<5>, launch_embed<6>};
    int64_t most_entries = 0;
    for (int k = 0; k < g.terms; ++k) {
        if (g.term[k].dims == 0) continue;
        kEmbed[g.term[k].dims - 1](g, b, k, stream);
        most_entries = std::max(most_entries, g.term[k].entries);
    }
    const dim3 threads(kBuildThreads), all(build_blocks(g.entries));
    fill_bytes(kOp, b.groups, 0, sizeof(uint32_t), stream);
    fill_bytes(kOp, g.tile_counts, 0, static_cast<size_t>(g.all_tiles) * sizeof(uint32_t), stream);
    sort_pairs(kOp, b.keys, b.sorted_keys, b.order, b.sorted_order, g.entries, 64 - kSortedBits, 64, b.library, b.library_bytes,
               stream);
    launch(kOp, dense_crf_find_groups_kernel, all, threads, 0, stream, b.sorted_keys, g.entries, b.groups);
    launch(kOp, dense_crf_order_groups_kernel, dim3(8), threads, 0, stream, b.sorted_keys, b.sorted_order, b.groups, b.keys,
           b.order);
    launch(kOp, dense_crf_heads_kernel, all, threads, 0, stream, g, b);
    inclusive_sum(kOp, b.heads, b.sums, g.entries, b.library, b.library_bytes, stream);
    launch(kOp, dense_crf_number_kernel, all, threads, 0, stream, g, b);
    const unsigned terms = static_cast<unsigned>(g.terms);
    launch(kOp, dense_crf_neighbours_kernel, dim3(looping_blocks(most_entries * (kMaxFeatureDims + 1)), terms), threads, 0,
           stream, g, b);
    launch(kOp, dense_crf_runs_kernel, dim3(looping_blocks(most_entries), terms), threads, 0, stream, g, b);
}

}  // namespace wsss::dense_crf
