// Permutohedral lattices on the GPU (Adams, Baek, Davis 2010): building those of all terms and images at once.
//
// A pixel with D features lies in a simplex of D + 1 lattice vertices; its barycentric coordinates in it are its weights. An
// entry is one (pixel, vertex) pair. The entries of all terms and images are sorted by vertex; equal neighbours are one vertex,
// and inside a vertex the entries of one 16 x 16 tile of pixels are a run. Per tile the runs are then listed, so that
//     splat   one block sums each run of its tile from shared memory, and a vertex adds up its runs, in sorted order;
//     blur    along axis j: new = old + (left + right) / 2, gathered through a table of neighbours;
//     slice   a pixel gathers its D + 1 vertices.
// Nothing is added by atomics: results are the same bits on every run. (Where a run stands in its tile's list is left to an
// atomic counter; no sum depends on it.)
//
// Keys: a vertex of image n with coordinates c is the 62-bit number n kImageStep + sum_i c_i coordinate_step(i), below two bits
// that name the term. Two vertices of one term share a key only if the vector (c - c', n - n') has a length of at least 340
// million, 2 million, 78 000, 9800, 3700, 1500 for D = 1 ... 6: below that no relation of these steps exists (by lattice
// reduction). Coordinates span about 5 D times the range of the features, so D = 5 is exact for features that span some 150
// standard deviations; beyond, a given pair of vertices collides with probability 2^-62. The keys are then mixed by a bijection.
// The sort looks at 40 bits (five passes, not eight); groups that agree in these but not in all 64 are put in order after it.
//
// Rounding: products and sums of the embedding stay apart (no fused multiply-add), so that vertices fall where densecrf puts
// them. NaN or huge features give NaN or meaningless results, never an access outside the arrays.
// Where 4 does not divide the pixels, each lattice has one more point, of feature 0 (dense_crf.h). Its D + 1 entries stand behind
// those of the pixels of all images; they are in no tile and no run, so that a vertex of theirs alone has no runs.
// A term without dimensions has no images, no entries and no vertices here.
// Memory: 60 to 150 bytes an entry, sized from the shapes alone; the number of vertices stays on the device.
#pragma once

#include "common/cuda.cuh"
#include "common/workspace.h"
#include "dense_crf/dense_crf.h"

namespace wsss::dense_crf {

constexpr int kTileSide = 16;
constexpr int kTilePixels = kTileSide * kTileSide;
constexpr int kBuildThreads = 256;
constexpr int64_t kMaxBuildBlocks = 1024;  // loops take what a grid of this size does not cover
constexpr uint32_t kNone = 0xffffffffu;

constexpr int kHashBits = 62, kSortedBits = 40;
constexpr uint64_t kHashMask = (uint64_t{1} << kHashBits) - 1;
constexpr uint64_t kImageStep = 0x3a3897650ed90475;
constexpr uint64_t kMixer = 0x1e3779b97f4a7c15, kUnmixer = 0x31de83e19937733d;
static_assert(((kMixer * kUnmixer) & kHashMask) == 1, "inverse modulo 2^62");

// Pixels are numbered tile by tile, row by row inside a tile: a tile's pixels have consecutive numbers ("ranks").
struct Tile {
    int y, x, height, width, first;  // first: the rank of its first pixel
    __host__ __device__ int pixels() const { return height * width; }
};

struct Tiles {
    int height, width, across, count;
    Tiles() = default;
    Tiles(int64_t h, int64_t w)
        : height(static_cast<int>(h)),
          width(static_cast<int>(w)),
          across(static_cast<int>(ceil_div(w, kTileSide))),
          count(static_cast<int>(ceil_div(h, kTileSide) * ceil_div(w, kTileSide))) {}

    __device__ __forceinline__ Tile at(int index) const {
        Tile tile;
        tile.y = index / across * kTileSide;
        tile.x = index % across * kTileSide;
        tile.height = min(kTileSide, height - tile.y);
        tile.width = min(kTileSide, width - tile.x);
        tile.first = tile.y * width + tile.height * tile.x;
        return tile;
    }
    __device__ __forceinline__ int of_rank(int rank) const {
        const int row_pixels = min(kTileSide, height) * width;  // of a row of tiles
        const int row = rank / row_pixels, rest = rank - row * row_pixels;
        return row * across + rest / (kTileSide * min(kTileSide, height - row * kTileSide));
    }
};

struct Term {
    const float* feature;
    const float* compat;
    int64_t first_entry, entries, first_neighbour, first_tile, first_row;  // where its part of each array starts
    int dims, sides, images;                                               // images: lattices of this term
    bool shared, vector, matrix;
    Normalisation normalisation;
};

// The lattices of up to kMaxTerms terms. Vertices and runs are numbered from 0 inside a term.
struct Lattices {
    Tiles tiles;
    int64_t pixels, entries, all_tiles, all_neighbours, all_rows;
    int zeros;  // points of feature 0 a lattice: 1 or 0
    int terms;
    Term term[kMaxTerms];

    uint32_t* counts;       // [terms][2]: vertices, runs
    float* weight;          // [entries]: of a pixel for its vertices, in the order of pixels; includes the normalisation
    uint32_t* vertex;       // [entries]
    float* splat_weight;    // [entries]: the same in the order of the tile's runs
    uint8_t* splat_pixel;   // [entries]: rank in the tile
    uint32_t* run;          // [entries]: the runs of a tile, from the place of the tile's first entry on
    uint16_t* run_begin;    // [entries]: where in the tile's splat arrays it begins
    uint32_t* tile_counts;  // [all_tiles]: number of runs << 16 | number of entries
    uint32_t* vertex_runs;  // [entries + terms]: the first run of each vertex, and the number of runs
    uint32_t* neighbours;   // [all_neighbours]: [vertex][axis][left, right]

    __device__ __forceinline__ int64_t tile_entry(int k, int64_t image, const Tile& tile) const {
        return term[k].first_entry + (image * pixels + tile.first) * term[k].sides;
    }
    __device__ __forceinline__ int64_t zero_entry(int k, int64_t image) const {
        return term[k].first_entry + (term[k].images * pixels + image) * term[k].sides;
    }
    __device__ __forceinline__ bool of_pixel(int k, int64_t entry) const { return entry < zero_entry(k, 0); }
};

// What only the build needs; it lies where the values of the mean field will be.
struct BuildSpace {
    uint64_t *keys, *sorted_keys, *unique_keys;  // unique_keys: [term's first entry + vertex]
    uint32_t *order, *sorted_order;              // entries
    int64_t *heads, *sums;                       // first of its vertex << 32 | first of its run; running sums
    uint32_t* run_start;                         // [entries + terms]
    uint32_t* groups;                            // [1 + entries]
    void* library;
    int64_t library_bytes;
};

__device__ __forceinline__ uint64_t mix(uint64_t hash) {
    return ((hash ^ (hash >> kHashBits / 2)) * kMixer) & kHashMask;
}
__device__ __forceinline__ uint64_t unmix(uint64_t mixed) {
    const uint64_t hash = (mixed * kUnmixer) & kHashMask;
    return hash ^ (hash >> kHashBits / 2);
}
__device__ __forceinline__ uint64_t key_of(int term, uint64_t hash) {
    return static_cast<uint64_t>(term) << kHashBits | mix(hash & kHashMask);
}
__host__ __device__ __forceinline__ uint64_t sorted_part(uint64_t key) {
    return key >> (64 - kSortedBits);
}

// What a coordinate adds to the hash; a function, as device code does not index a host array.
__host__ __device__ __forceinline__ constexpr uint64_t coordinate_step(int i) {
    return i == 0   ? 0x3ca9d37952e6b439
           : i == 1 ? 0x1944c9c3269e0d37
           : i == 2 ? 0x03171ff4a6a3a451
           : i == 3 ? 0x348fc209128b2f33
           : i == 4 ? 0x06063a04892f902b
                    : 0x254c66175d9dc9f9;
}
// The hash of D + 1 steps along one axis. The last coordinate is minus the sum of the others: it is not hashed.
__host__ __device__ __forceinline__ constexpr uint64_t axis_step(int axis, int dims) {
    return axis == dims ? 0 : coordinate_step(axis) * static_cast<uint64_t>(dims + 1);
}
__host__ __device__ __forceinline__ constexpr uint64_t ones_step(int dims) {
    uint64_t step = 0;
    for (int i = 0; i < dims; ++i) step += coordinate_step(i);
    return step;
}

// The keys of a group agree in the sorted bits, but not all in the others. Groups are rare: about M^2 / 2^39 of M vertices.
// `groups`: a count, and the first and the one past the last sorted position of each. find lists them (the count starts at 0),
// order sorts each by the whole key, equal keys as they came, through the scratch arrays.
__global__ void dense_crf_find_groups_kernel(const uint64_t* keys, int64_t count, uint32_t* groups);
__global__ void dense_crf_order_groups_kernel(uint64_t* keys, uint32_t* order, const uint32_t* groups, uint64_t* scratch_keys,
                                              uint32_t* scratch_order);

// Fills the arrays of `lattices` but for the normalisation.
void build_lattices(const Lattices& lattices, const BuildSpace& space, cudaStream_t stream);

}  // namespace wsss::dense_crf
