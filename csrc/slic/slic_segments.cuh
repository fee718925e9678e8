// From labels to numbered segments on the GPU (the rule: slic_rules.h). Pixels are named by their number in the image.
//
//     piece    of a pixel: the first pixel of its connected piece inside the tile (the piece's root)
//     parent   of a root: towards the first pixel of the segment; later, of a segment: the one it joined, else itself
//     segment  of a root: the first pixel of the segment, which is the segment's name
//     size     of a root, then of a segment: its pixels; at the end its number
//     first    of a segment: the first pixel of all that joined it
//     key      of a small segment: the neighbour to join, the least merge_key offered
//
// A turn of merging is two steps with a barrier of the grid after each: neighbouring pixels of two segments offer the greater to
// the smaller, then each small segment follows the offers to one that got none. Two sets of keys and of flags take turns, so
// that one is used while the other is made ready. Each step reads only what the steps before have written, apart from atomics.
#pragma once

#include "slic/slic_assign.cuh"

namespace wsss::slic {

constexpr Key kNoOffer = ~Key{0};

// Pixels in order, kThreads of one image at a time: body(image, offset of the image, pixel or -1 beyond its end, chunk).
template <class Body>
__device__ __forceinline__ void for_each_chunk(const Work& work, Body&& body) {
    for (int64_t chunk = blockIdx.x; chunk < work.images * work.chunks; chunk += gridDim.x) {
        const int64_t image = chunk / work.chunks, p = chunk % work.chunks * kThreads + threadIdx.x;
        body(image, image * work.pixels, p < work.pixels ? static_cast<int>(p) : -1, chunk);
    }
}

__device__ __forceinline__ bool is_root(const Work& work, int64_t offset, int p) {
    return p >= 0 && work.label[offset + p] >= 0 && work.piece[offset + p] == p;
}

// The first pixel of a segment as it was before any merging.
__device__ __forceinline__ bool is_segment(const Work& work, int64_t offset, int p) {
    return is_root(work, offset, p) && work.segment[offset + p] == p;
}

__device__ __forceinline__ int last_joined(const Work& work, int64_t offset, int segment) {
    for (int up; (up = work.parent[offset + segment]) != segment;) segment = up;
    return segment;
}

__device__ __forceinline__ int segment_of(const Work& work, int64_t offset, int p) {
    return last_joined(work, offset, work.segment[offset + work.piece[offset + p]]);
}

__device__ void join_across_tiles(const Work& work) {
    const int width = static_cast<int>(work.plan.width);
    for_each_chunk(work, [&](int64_t, int64_t offset, int p, int64_t) {
        if (p < 0) return;
        const int* const label = work.label + offset;
        const int* const piece = work.piece + offset;
        const int mine = label[p], x = p % width, y = p / width;
        if (mine < 0) return;
        const bool at_left = x % kTileWidth == 0, at_top = y > 0 && y % kTileHeight == 0;
        if (at_left && x > 0 && label[p - 1] == mine) unite(work.parent + offset, piece[p], piece[p - 1]);
        if (at_top && label[p - width] == mine) {
            const bool told = !at_left && label[p - 1] == mine && label[p - width - 1] == mine;  // by the pixel before
            if (!told) unite(work.parent + offset, piece[p], piece[p - width]);
        }
    });
}

__device__ void gather_pieces(const Work& work) {
    for_each_chunk(work, [&](int64_t, int64_t offset, int p, int64_t) {
        if (!is_root(work, offset, p)) return;
        const int name = last_joined(work, offset, p);
        work.segment[offset + p] = name;
        if (name != p) {
            atomicAdd(&work.size[offset + name], work.size[offset + p]);
            return;
        }
        work.first[offset + p] = p;
        work.key[0][offset + p] = work.key[1][offset + p] = kNoOffer;
    });
}

__device__ void offer_neighbours(const Work& work, int turn) {
    const int width = static_cast<int>(work.plan.width);
    bool offered = false;
    for_each_chunk(work, [&](int64_t image, int64_t offset, int p, int64_t) {
        if (p < 0 || work.label[offset + p] < 0) return;
        const Centre* const centre = work.centre + image * work.plan.labels();
        const int* const label = work.label + offset;
        const int neighbours[2] = {p % width + 1 < width ? p + 1 : -1, p + width < work.pixels ? p + width : -1};
        int mine = -1;
        for (const int q : neighbours) {
            if (q < 0 || label[q] < 0 || label[q] == label[p]) continue;
            if (mine < 0) mine = segment_of(work, offset, p);
            const int other = segment_of(work, offset, q);
            if (mine == other) continue;
            const int my_size = work.size[offset + mine], other_size = work.size[offset + other];
            const bool other_greater = is_greater(other_size, static_cast<uint32_t>(other), my_size, static_cast<uint32_t>(mine));
            const int small = other_greater ? mine : other, great = other_greater ? other : mine;
            if ((other_greater ? my_size : other_size) >= work.plan.minimum) continue;
            const uint64_t key = merge_key(centre[label[small]], centre[label[great]], static_cast<uint32_t>(great));
            atomicMin(&work.key[turn % 2][offset + small], static_cast<Key>(key));
            offered = true;
        }
    });
    if (__syncthreads_or(offered) && threadIdx.x == 0) atomicOr(&work.offered[turn % 2], 1);
}

__device__ void join_segments(const Work& work, int turn) {
    const Key* const key = work.key[turn % 2];
    for_each_chunk(work, [&](int64_t, int64_t offset, int p, int64_t) {
        if (!is_segment(work, offset, p)) return;
        work.key[(turn + 1) % 2][offset + p] = kNoOffer;
        if (key[offset + p] == kNoOffer) return;
        int greatest = p;
        for (Key next; (next = key[offset + greatest]) != kNoOffer;) greatest = static_cast<int>(next & 0xffffffffu);
        work.parent[offset + p] = greatest;
        atomicAdd(&work.size[offset + greatest], work.size[offset + p]);  // nobody adds to one that joins
        atomicMin(&work.first[offset + greatest], work.first[offset + p]);
    });
    if (blockIdx.x == 0 && threadIdx.x == 0) work.offered[(turn + 1) % 2] = 0;
}

// Whether p is the first pixel of a segment as it is after all merging.
__device__ __forceinline__ bool starts_segment(const Work& work, int64_t offset, int p) {
    return is_segment(work, offset, p) && work.first[offset + last_joined(work, offset, p)] == p;
}

__device__ void count_segments(const Work& work) {
    for_each_chunk(work, [&](int64_t, int64_t offset, int p, int64_t chunk) {
        const int count = __syncthreads_count(starts_segment(work, offset, p));
        if (threadIdx.x == 0) work.starts[chunk] = count;
    });
}

// A segment's number: how many begin before it.
__device__ void number_segments(const Work& work) {
    WSSS_SHARED(before, int);
    WSSS_SHARED(warp_starts, int[kThreads / 32]);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    for_each_chunk(work, [&](int64_t image, int64_t offset, int p, int64_t chunk) {
        if (work.starts[chunk] == 0) return;
        const bool starts = starts_segment(work, offset, p);
        const uint32_t in_warp = __ballot_sync(kAllLanes, starts);
        if (thread == 0) before = 0;
        if (lane == 0) warp_starts[warp] = __popc(in_warp);
        __syncthreads();
        int sum = 0;
        for (int64_t i = image * work.chunks + thread; i < chunk; i += kThreads) sum += work.starts[i];
        for (int bits = 16; bits > 0; bits /= 2) sum += __shfl_xor_sync(kAllLanes, sum, bits);
        if (lane == 0) atomicAdd(&before, sum);
        __syncthreads();
        if (starts) {
            int number = before + __popc(in_warp & ((1u << lane) - 1));
            for (int i = 0; i < warp; ++i) number += warp_starts[i];
            work.size[offset + last_joined(work, offset, p)] = number;
        }
        __syncthreads();
    });
}

__device__ void write_numbers(const Work& work) {
    for_each_chunk(work, [&](int64_t, int64_t offset, int p, int64_t) {
        if (p >= 0 && work.label[offset + p] >= 0) work.label[offset + p] = work.size[offset + segment_of(work, offset, p)];
    });
}

}  // namespace wsss::slic
