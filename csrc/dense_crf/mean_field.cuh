// The parts of a filter pass, shared by the normalisation (one float a row) and the mean field (rows of float4 chunks).
//
// Rows are [row][chunk]; the rows of a term start at first_row; with several images on a shared lattice, each image has a copy.
// kChunks = 0: the number of chunks is known at run time only.
#pragma once

#include "dense_crf/lattice.cuh"

namespace wsss::dense_crf {

constexpr int kFieldThreads = kTilePixels;        // a thread is a pixel where a pixel is one thread's work
constexpr int kSplatSplit = 4, kGatherSplit = 8;  // lanes that share a sum; their partial sums are added in a fixed order

__device__ __forceinline__ void set_zero(float& a) {
    a = 0.0f;
}
__device__ __forceinline__ void set_zero(float4& a) {
    a = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}
__device__ __forceinline__ void add_scaled(float& a, float b, float scale) {
    a += b * scale;
}
__device__ __forceinline__ void add_scaled(float4& a, const float4& b, float scale) {
    a.x += b.x * scale;
    a.y += b.y * scale;
    a.z += b.z * scale;
    a.w += b.w * scale;
}

template <int kLanes>
__device__ __forceinline__ float sum_of_lanes(float a) {
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) a += __shfl_xor_sync(0xffffffffu, a, step);
    return a;
}
template <int kLanes>
__device__ __forceinline__ float4 sum_of_lanes(const float4& a) {
    return make_float4(sum_of_lanes<kLanes>(a.x), sum_of_lanes<kLanes>(a.y), sum_of_lanes<kLanes>(a.z),
                       sum_of_lanes<kLanes>(a.w));
}

__host__ __device__ __forceinline__ float lattice_scale(int dims) {  // "alpha" of densecrf
    return dims == 0 ? 1.0f : 1.0f / (1.0f + 1.0f / static_cast<float>(1 << dims));
}

// sum of weight times row over the vertices of one pixel.
template <class V, int kSides>
__device__ __forceinline__ V slice_sides(const V* rows, const uint32_t* vertex, const float* weight, int chunks) {
    V value[kSides], sum;
#pragma unroll
    for (int r = 0; r < kSides; ++r) value[r] = rows[int64_t{vertex[r]} * chunks];
    set_zero(sum);
#pragma unroll
    for (int r = 0; r < kSides; ++r) add_scaled(sum, value[r], weight[r]);
    return sum;
}
template <class V>
__device__ __forceinline__ V slice(int sides, const V* rows, const uint32_t* vertex, const float* weight, int chunks) {
    switch (sides) {
        case 2:
            return slice_sides<V, 2>(rows, vertex, weight, chunks);
        case 3:
            return slice_sides<V, 3>(rows, vertex, weight, chunks);
        case 4:
            return slice_sides<V, 4>(rows, vertex, weight, chunks);
        case 5:
            return slice_sides<V, 5>(rows, vertex, weight, chunks);
        case 6:
            return slice_sides<V, 6>(rows, vertex, weight, chunks);
        default:
            return slice_sides<V, 7>(rows, vertex, weight, chunks);
    }
}

// Sums the runs of one tile of one image into their rows; value(pixel, chunk) gives what is splatted. `copy`: which copy of the
// rows takes them. Every thread of the block calls it.
template <class V, int kChunks, class Value>
__device__ __forceinline__ void splat_tile(const Lattices& g, int k, int64_t image, int tile_index, int64_t copy, int run_chunks,
                                           V* sums, const Value& value) {
    const int chunks = kChunks > 0 ? kChunks : run_chunks;
    const Term& term = g.term[k];
    const Tile tile = g.tiles.at(tile_index);
    const int64_t first = g.tile_entry(k, image, tile);
    const int slots = static_cast<int>(g.tile_counts[term.first_tile + image * g.tiles.count + tile_index] >> 16);
    const int items = slots * chunks * kSplatSplit, entries = tile.pixels() * term.sides;
    V* const rows = sums + (term.first_row + copy * g.counts[2 * k + 1]) * chunks;
    const int lane = threadIdx.x % kSplatSplit;
    for (int warp_item = threadIdx.x & ~31; warp_item < items; warp_item += kFieldThreads) {
        const int item = (warp_item + static_cast<int>(threadIdx.x & 31)) / kSplatSplit;
        const int slot = item / chunks, chunk = item - slot * chunks;
        V sum;
        set_zero(sum);
        if (slot < slots) {
            const int end = slot + 1 < slots ? g.run_begin[first + slot + 1] : entries;
            for (int i = g.run_begin[first + slot] + lane; i < end; i += kSplatSplit)
                add_scaled(sum, value(g.splat_pixel[first + i], chunk), g.splat_weight[first + i]);
        }
        sum = sum_of_lanes<kSplatSplit>(sum);
        if (slot < slots && lane == 0) rows[int64_t{g.run[first + slot]} * chunks + chunk] = sum;
    }
}

// Calls body(term, item, inside) for item = 0 ... copies * count(term) * chunks * kLanes - 1 of every term, spread over the grid.
// All lanes of a warp call it together; `inside` is false for those past the end.
template <int kLanes, class Count, class Body>
__device__ __forceinline__ void for_each_row_chunk(const Lattices& g, int64_t shared_copies, int chunks, const Count& count,
                                                   const Body& body) {
    const int64_t start = (blockIdx.x * int64_t{kFieldThreads} + threadIdx.x) & ~int64_t{31};
    for (int k = 0; k < g.terms; ++k) {
        const int64_t items = (g.term[k].shared ? shared_copies : 1) * count(k) * chunks * kLanes;
        for (int64_t item = start; item < items; item += gridDim.x * int64_t{kFieldThreads}) {
            const int64_t mine = item + (threadIdx.x & 31);
            body(k, mine / kLanes, mine < items);
        }
    }
}

struct RowPlace {
    uint32_t copy, vertex;
    int chunk;
};
template <int kChunks>
__device__ __forceinline__ RowPlace place_of(const Lattices& g, int k, int64_t item, int chunks, uint32_t vertices) {
    const int64_t row = kChunks > 0 ? item / kChunks : item / chunks;
    RowPlace place{0, static_cast<uint32_t>(row), static_cast<int>(item - row * chunks)};
    if (g.term[k].shared && place.vertex >= vertices) {
        place.copy = place.vertex / vertices;
        place.vertex -= place.copy * vertices;
    }
    return place;
}

// Row of a vertex = sum of the rows of its runs.
template <class V, int kChunks>
__device__ __forceinline__ void add_runs(const Lattices& g, int64_t shared_copies, int run_chunks, const V* sums, V* values) {
    const int chunks = kChunks > 0 ? kChunks : run_chunks;
    const auto vertices = [&](int k) { return g.counts[2 * k]; };
    for_each_row_chunk<kGatherSplit>(g, shared_copies, chunks, vertices, [&](int k, int64_t item, bool inside) {
        const Term& term = g.term[k];
        const int lane = threadIdx.x % kGatherSplit;
        V sum;
        set_zero(sum);
        if (inside) {
            const RowPlace place = place_of<kChunks>(g, k, item, chunks, vertices(k));
            const V* const rows = sums + (term.first_row + int64_t{place.copy} * g.counts[2 * k + 1]) * chunks + place.chunk;
            const uint32_t* const runs = g.vertex_runs + term.first_entry + k + place.vertex;
            const uint32_t end = runs[1];
#pragma unroll 4
            for (uint32_t run = runs[0] + lane; run < end; run += kGatherSplit)
                add_scaled(sum, rows[int64_t{run} * chunks], 1.0f);
        }
        sum = sum_of_lanes<kGatherSplit>(sum);
        if (inside && lane == 0) values[term.first_row * chunks + item] = sum;
    });
}

// new = old + (left + right) / 2 along one axis, at one vertex.
template <class V>
__device__ __forceinline__ V blurred(const V* rows, const uint32_t* neighbours, uint32_t vertex, int sides, int axis,
                                     int chunks) {
    const uint2 side = *reinterpret_cast<const uint2*>(neighbours + (int64_t{vertex} * sides + axis) * 2);
    V value = rows[int64_t{vertex} * chunks], left, right;
    set_zero(left);
    set_zero(right);
    if (side.x != kNone) left = rows[int64_t{side.x} * chunks];
    if (side.y != kNone) right = rows[int64_t{side.y} * chunks];
    add_scaled(left, right, 1.0f);
    add_scaled(value, left, 0.5f);
    return value;
}

// Passes over the rows in a blur of all axes: two axes go into one pass where the lattice with the most axes has more axes than
// passes. (Two axes at once read 9 rows and write 1; one after the other they read 6, write 2 and wait for the grid once more.)
__device__ __forceinline__ int blur_passes(const Lattices& g) {
    int sides = 0;
    for (int k = 0; k < g.terms; ++k) sides = max(sides, g.term[k].sides);
    return (sides + 1) / 2;
}
__device__ __forceinline__ int first_axis(int pass, int passes, int sides) {
    const int doubled = max(sides - passes, 0);
    return min(sides, pass + min(pass, doubled));
}

template <class V, int kChunks>
__device__ __forceinline__ void blur_pass(const Lattices& g, int pass, int passes, int64_t shared_copies, int run_chunks,
                                          const V* from, V* to) {
    const int chunks = kChunks > 0 ? kChunks : run_chunks;
    const auto vertices = [&](int k) { return g.counts[2 * k]; };
    for_each_row_chunk<1>(g, shared_copies, chunks, vertices, [&](int k, int64_t item, bool inside) {
        if (!inside) return;
        const Term& term = g.term[k];
        const int axis = first_axis(pass, passes, term.sides), axes = first_axis(pass + 1, passes, term.sides) - axis;
        const RowPlace place = place_of<kChunks>(g, k, item, chunks, vertices(k));
        const V* const rows = from + (term.first_row + int64_t{place.copy} * vertices(k)) * chunks + place.chunk;
        const uint32_t* const neighbours = g.neighbours + term.first_neighbour;
        const auto once = [&](uint32_t vertex) { return blurred(rows, neighbours, vertex, term.sides, axis, chunks); };
        V value;
        if (axes == 0) {
            value = rows[int64_t{place.vertex} * chunks];
        } else {
            value = once(place.vertex);
        }
        if (axes == 2) {
            const uint2 side = *reinterpret_cast<const uint2*>(neighbours + (int64_t{place.vertex} * term.sides + axis + 1) * 2);
            V left, right;
            set_zero(left);
            set_zero(right);
            if (side.x != kNone) left = once(side.x);
            if (side.y != kNone) right = once(side.y);
            add_scaled(left, right, 1.0f);
            add_scaled(value, left, 0.5f);
        }
        to[term.first_row * chunks + item] = value;
    });
}

}  // namespace wsss::dense_crf
