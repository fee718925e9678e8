// The rounds of slic on the GPU: pixels to centres, centres to the mean of their pixels (slic_rules.h).
//
// A thread takes a pixel and a warp a row of the tile. The costs of the tile's candidates stand in shared memory; all threads
// read the same one at a time. The pixels of a row mostly go to one or two candidates: the warp sums each of these with
// shuffles (two fields in a word), and adds it to the tile's sums in shared memory; what a tile gave a candidate goes to its
// totals as six atomics.
//
// After the last assignment the tile finds the connected pieces inside itself while its labels are in shared memory: runs along
// the rows by ballots, then union of runs that touch, always to the smaller number, so that the root of a piece is its first
// pixel.
#pragma once

#include "common/cuda.cuh"
#include "common/strided.h"
#include "common/workspace.h"
#include "slic/slic.h"

namespace wsss::slic {

constexpr int kThreads = kTileWidth * kTileHeight;
constexpr int kFields = 6;  // of Sums: l, a, b, x, y, count
constexpr uint32_t kAllLanes = 0xffffffffu;
static_assert(kTileWidth == 32, "a warp is a row of a tile");

using Total = unsigned long long;  // a sum, modulo 2^64: negative ones wrap and come back
using Key = unsigned long long;

struct Work {
    Plan plan;
    int64_t images, pixels, chunks, iterations;  // pixels and chunks (of kThreads pixels) an image
    Strided<uint8_t> image, mask;                // mask.data null: every pixel takes part
    int* label;                                  // [N][P] of the assignment, -1 where masked; at the end the result
    // of a round
    uint32_t* lab;      // [N][P]: L | a + 512 << 9 | b + 512 << 19 | 1 << 31 for a pixel that takes part
    Total* totals[3];   // [N][labels][kFields], by round % 3
    Centre* candidate;  // [N][tiles][2^slot_bits]: each tile's own copy of its candidates
    Centre* centre;     // [N][labels], after the last round
    // of segments; see slic_segments.cuh
    int *piece, *parent, *segment, *size, *first;  // [N][P]
    Key* key[2];                                   // [N][P], by turn % 2
    int* offered;                                  // [2], by turn % 2
    int* starts;                                   // [N][chunks]

    __host__ __device__ int64_t tiles() const { return images * plan.tiles(); }
};

struct alignas(16) Candidate {
    int32_t base, l, a, b, x, y, label, unused;
};

struct Tile {
    int64_t index, image;
    int x, y;  // of its corner
    Range rows, cols;

    __device__ Tile(const Work& work, int64_t tile) : index(tile), image(tile / work.plan.tiles()) {
        const int64_t at = tile % work.plan.tiles(), row = at / work.plan.tile_cols, col = at % work.plan.tile_cols;
        x = static_cast<int>(col) * kTileWidth;
        y = static_cast<int>(row) * kTileHeight;
        rows = candidate_rows(work.plan, row);
        cols = candidate_cols(work.plan, col);
    }
    __device__ __forceinline__ int candidates() const { return rows.count * cols.count; }
};

#ifdef __CUDACC__
__device__ const LabTables kDeviceLabTables = make_lab_tables();
#else
constexpr const LabTables& kDeviceLabTables = kLabTables;
#endif

__device__ __forceinline__ uint32_t pack_lab(const Work& work, int64_t image, int y, int x) {
    const Strided<uint8_t>& mask = work.mask;
    const bool takes_part = mask.data == nullptr || mask.data[image * mask.n + y * mask.y + x * mask.x] != 0;
    const uint8_t* const pixel = work.image.data + image * work.image.n + y * work.image.y + x * work.image.x;
    const Lab lab = lab_of(kDeviceLabTables, pixel[0], pixel[work.image.channel], pixel[2 * work.image.channel]);
    return static_cast<uint32_t>(lab.l) | static_cast<uint32_t>(lab.a + 512) << 9 | static_cast<uint32_t>(lab.b + 512) << 19 |
           static_cast<uint32_t>(takes_part) << 31;
}

// Where candidate `slot` of a tile stands in this round: moved to the mean of what the round before gave it.
__device__ Centre move_candidate(const Work& work, const Tile& tile, int slot, int64_t label, int64_t round) {
    Centre& mine = work.candidate[(tile.index << work.plan.slot_bits) + slot];
    if (round == 0) {
        mine = first_centre(work.plan, label);
    } else {
        const Total* const total = work.totals[(round - 1) % 3] + (tile.image * work.plan.labels() + label) * kFields;
        const Sums sums{static_cast<int64_t>(total[0]), static_cast<int64_t>(total[1]), static_cast<int64_t>(total[2]),
                        static_cast<int64_t>(total[3]), static_cast<int64_t>(total[4]), static_cast<int64_t>(total[5])};
        mine = moved_centre(mine, sums, round - 1);
    }
    if (round == work.iterations) {
        // Every tile that has this candidate knows where it is: the one its cell's middle lies in writes it down.
        const Centre middle = first_centre(work.plan, label);
        const int x = middle.x / kFraction - tile.x, y = middle.y / kFraction - tile.y;
        if (x >= 0 && x < kTileWidth && y >= 0 && y < kTileHeight) work.centre[tile.image * work.plan.labels() + label] = mine;
    }
    return mine;
}

// Adds what this row of the tile gave its candidates. All lanes; slot < 0: the pixel goes to nobody.
__device__ void add_row(int (*sums)[kFields], int slot, uint32_t lab, int lane, int row) {
    const uint32_t l_and_a = (lab & 511u) | (lab >> 9 & 1023u) << 16, b_and_x = (lab >> 19 & 1023u) | static_cast<uint32_t>(lane)
                                                                                                          << 16;
    for (uint32_t left = __ballot_sync(kAllLanes, slot >= 0); left != 0;) {
        const int taken = __shfl_sync(kAllLanes, slot, 31 - __clz(static_cast<int>(left)));
        const uint32_t group = __ballot_sync(kAllLanes, slot == taken);
        uint32_t la = slot == taken ? l_and_a : 0, bx = slot == taken ? b_and_x : 0;
        for (int bits = 16; bits > 0; bits /= 2) {
            la += __shfl_xor_sync(kAllLanes, la, bits);
            bx += __shfl_xor_sync(kAllLanes, bx, bits);
        }
        const int count = __popc(group);
        if (lane < kFields) {
            const int fields[kFields] = {static_cast<int>(la & 0xffffu),
                                         static_cast<int>(la >> 16) - 512 * count,
                                         static_cast<int>(bx & 0xffffu) - 512 * count,
                                         static_cast<int>(bx >> 16),
                                         row * count,
                                         count};
            int mine = fields[0];
            for (int i = 1; i < kFields; ++i) mine = lane == i ? fields[i] : mine;
            atomicAdd(&sums[taken][lane], mine);
        }
        left &= ~group;
    }
}

// Union-find where the smaller number wins; others may be at it at the same time.
__device__ __forceinline__ int find_root(int* parent, int i) {
    for (int up; (up = atomicAdd(&parent[i], 0)) != i;) i = up;
    return i;
}
__device__ void unite(int* parent, int a, int b) {
    for (;;) {
        a = find_root(parent, a);
        b = find_root(parent, b);
        if (a == b) return;
        if (a < b) {
            const int swapped = a;
            a = b;
            b = swapped;
        }
        const int found = atomicMin(&parent[a], b);
        if (found == a) return;
        a = found;  // another thread was quicker: its link may be gone, so it is made anew
    }
}

// The pieces of a tile: piece, parent and size of its pixels. All threads; label < 0: masked, or outside of the image.
__device__ void find_pieces(const Work& work, const Tile& tile, int label) {
    WSSS_SHARED(labels, int[kThreads]);
    WSSS_SHARED(up, int[kThreads]);
    WSSS_SHARED(sizes, int[kThreads]);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
    const int before = __shfl_up_sync(kAllLanes, label, 1);
    const bool begins = lane == 0 || label < 0 || label != before;
    const uint32_t starts = __ballot_sync(kAllLanes, begins);
    const uint32_t up_to_here = starts & (kAllLanes >> (31 - lane)), beyond = lane == 31 ? 0 : starts >> (lane + 1);
    labels[thread] = label;
    up[thread] = thread - lane + 31 - __clz(static_cast<int>(up_to_here));
    sizes[thread] = 0;
    __syncthreads();
    if (thread >= 32 && label >= 0 && labels[thread - 32] == label && (begins || labels[thread - 33] != label))
        unite(up, thread, thread - 32);
    __syncthreads();
    const int root = find_root(up, thread);
    if (begins && label >= 0) {
        const int length = beyond == 0 ? 32 - lane : __clz(static_cast<int>(__brev(beyond))) + 1;
        atomicAdd(&sizes[root], length);
    }
    __syncthreads();
    if (label >= 0) {
        const int at = (tile.y + thread / 32) * static_cast<int>(work.plan.width) + tile.x + lane;
        const int64_t offset = tile.image * work.pixels;
        work.piece[offset + at] = (tile.y + root / 32) * static_cast<int>(work.plan.width) + tile.x + root % 32;
        if (root == thread) {
            work.parent[offset + at] = at;
            work.size[offset + at] = sizes[thread];
        }
    }
}

// One tile in one round.
__device__ void run_tile(const Work& work, int64_t index, int64_t round) {
    WSSS_SHARED(candidates, Candidate[kLargestSlots]);
    WSSS_SHARED(sums, int[kLargestSlots][kFields]);
    const Plan& plan = work.plan;
    const Tile tile(work, index);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, row = thread / 32;
    const bool last = round == work.iterations;
    if (thread < tile.candidates()) {
        const int64_t label =
            int64_t{tile.rows.first + thread / tile.cols.count} * plan.cols + tile.cols.first + thread % tile.cols.count;
        const Centre centre = move_candidate(work, tile, thread, label, round);
        const Cost colour = colour_cost(plan, centre, round == 0 ? 0 : plan.colour);
        const Cost cost = cost_in_tile(colour, centre, tile.x, tile.y, round == 0 ? plan.space_alone : plan.space);
        candidates[thread] = {cost.base, cost.l, cost.a, cost.b, cost.x, cost.y, static_cast<int32_t>(label), 0};
        for (int field = 0; field < kFields; ++field) sums[thread][field] = 0;
    }
    __syncthreads();

    const int x = tile.x + lane, y = tile.y + row;
    const bool inside = x < plan.width && y < plan.height;
    const int64_t at = tile.image * work.pixels + int64_t{y} * plan.width + x;
    int slot = -1;
    uint32_t lab = 0;
    if (inside && takes_row(plan, round, work.iterations, y)) {
        lab = round == 0 ? pack_lab(work, tile.image, y, x) : work.lab[at];
        if (round == 0) work.lab[at] = lab;
        const int l = static_cast<int>(lab & 511u), a = static_cast<int>(lab >> 9 & 1023u) - 512,
                  b = static_cast<int>(lab >> 19 & 1023u) - 512;
        int best = INT32_MAX;
        for (int s = 0; s < tile.candidates(); ++s) {
            const Candidate c = candidates[s];
            const int cost = c.base + c.l * l + c.a * a + c.b * b + c.x * lane + c.y * row;
            best = min(best, cost * (1 << plan.slot_bits) + s);
        }
        if (lab >> 31) slot = best & ((1 << plan.slot_bits) - 1);
    }
    if (last) {
        const int label = slot >= 0 ? candidates[slot].label : -1;
        if (inside) work.label[at] = label;
        find_pieces(work, tile, label);
    } else {
        add_row(sums, slot, lab, lane, row);
        __syncthreads();
        Total* const totals = work.totals[round % 3] + tile.image * plan.labels() * kFields;
        for (int i = thread; i < tile.candidates() * kFields; i += kThreads) {
            const int s = i / kFields, field = i % kFields, count = sums[s][kFields - 1];
            const int64_t corner = field == 3 ? tile.x : field == 4 ? tile.y : 0;
            if (count > 0)
                atomicAdd(&totals[int64_t{candidates[s].label} * kFields + field],
                          static_cast<Total>(sums[s][field] + corner * count));
        }
    }
    __syncthreads();  // the next tile writes the shared arrays
}

// Totals that a later round adds to: nobody reads or adds to them in this one.
__device__ void clear_totals(const Work& work, int64_t round) {
    const int64_t count = work.images * work.plan.labels() * kFields;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += int64_t{gridDim.x} * kThreads)
        work.totals[round % 3][i] = 0;
}

}  // namespace wsss::slic
