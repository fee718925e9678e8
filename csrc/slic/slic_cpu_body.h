// The passes of slic over pixels, written over vectors (included by slic_cpu.cpp once an instruction set). A row of a tile is
// kRowVectors vectors; a pixel is two words of two 16-bit numbers, so that one multiply-and-add of pairs takes two terms of
// the cost at once.

constexpr int kRowVectors = kTileWidth / kLanes<int32_t>;

using Int = Vec<int32_t>;
using Four = typename VectorOf<int32_t, 16>::type;

inline Int broadcast(int32_t value) {
    return Int{} + value;
}

inline Int load(const int32_t* from) {
    return *reinterpret_cast<const Int*>(from);
}

// The 16-bit halves of each word, multiplied pairwise and added.
inline Int dot(Int a, Int b) {
#if defined(__x86_64__) && WSSS_SIMD_BYTES == 64
    return (Int)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__x86_64__) && WSSS_SIMD_BYTES == 32
    return (Int)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__x86_64__)
    return (Int)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    return ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

// Each word of the result: the sum of the lanes of one argument.
inline Four sum_lanes(Int a, Int b, Int c, Int d) {
    const Int rows[4] = {a, b, c, d};
    Four sums[4];  // lanes i, i + 4, i + 8, ... added
    for (int i = 0; i < 4; ++i) {
        const Four* parts = reinterpret_cast<const Four*>(rows + i);
        sums[i] = parts[0];
        for (int part = 1; part < kLanes<int32_t> / 4; ++part) sums[i] += parts[part];
    }
#if defined(__x86_64__)
    const __m128i ab = _mm_hadd_epi32((__m128i)sums[0], (__m128i)sums[1]);
    return (Four)_mm_hadd_epi32(ab, _mm_hadd_epi32((__m128i)sums[2], (__m128i)sums[3]));
#else
    Four result;
    for (int i = 0; i < 4; ++i) result[i] = sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
    return result;
#endif
}

#include "slic/slic_connect_body.h"

// One row of tiles: colours as packed words, and which pixels take part.
inline void colour_tiles(const Work& work, const Source& source, int64_t image, int64_t at, int64_t tile_row) {
    const Plan& plan = work.plan;
    const LabTables& tables = kLabTables;
    constexpr uint64_t kMask = (uint64_t{1} << kLabField) - 1;
    for (int64_t tile_col = 0; tile_col < plan.tile_cols; ++tile_col) {
        const int64_t tile = at * plan.tiles() + tile_row * plan.tile_cols + tile_col;
        const int64_t x0 = tile_col * kTileWidth, y0 = tile_row * kTileHeight;
        const int width = static_cast<int>(std::min<int64_t>(kTileWidth, plan.width - x0));
        const int height = static_cast<int>(std::min<int64_t>(kTileHeight, plan.height - y0));
        uint32_t* valid = work.valid + tile * kTileHeight;
        std::memset(valid, 0, sizeof(uint32_t) * kTileHeight);
        for (int row = 0; row < height; ++row) {
            const uint8_t* pixel = source.image + image * source.n + (y0 + row) * source.y + x0 * source.x;
            int32_t root[3][kTileWidth];
            if (width < kTileWidth) std::memset(root, 0, sizeof(root));
            for (int i = 0; i < width; ++i, pixel += source.x) {
                const uint64_t xyz =
                    tables.xyz[0][pixel[0]] + tables.xyz[1][pixel[source.channel]] + tables.xyz[2][pixel[2 * source.channel]];
                root[0][i] = tables.root[(xyz & kMask) >> 3];
                root[1][i] = tables.root[(xyz >> kLabField & kMask) >> 3];
                root[2][i] = tables.root[xyz >> (2 * kLabField) >> 3];
            }
            int32_t* la = work.la + tile * kTilePixels + row * kTileWidth;
            int32_t* bx = work.bx + tile * kTilePixels + row * kTileWidth;
            for (int i = 0; i < kTileWidth; ++i) {
                const Lab lab = lab_of_roots(root[0][i], root[1][i], root[2][i]);
                la[i] = pair_of(lab.l, lab.a);
                bx[i] = pair_of(lab.b, i);
            }
            uint32_t bits = width == kTileWidth ? ~0u : (1u << width) - 1;
            if (source.mask) {
                const uint8_t* taken = source.mask + image * source.mask_n + (y0 + row) * source.mask_y + x0 * source.mask_x;
                for (int i = 0; i < width; ++i)
                    if (!taken[i * source.mask_x]) bits &= ~(1u << i);
            }
            valid[row] = bits;
        }
    }
}

// The cheapest candidate of every pixel in the given rows of a tile: slot[row][x], -1 for pixels that take no part.
inline void choose(const Work& work, int64_t tile, const TileCosts& costs, const TileRows& rows, int32_t* slot) {
    const int bits = work.plan.slot_bits;
    const Int mask = broadcast((1 << bits) - 1);
    int32_t base[kLargestSlots];  // of a row
    Int lane{};
    for (int i = 0; i < kLanes<int32_t>; ++i) lane[i] = i;
    for (int r = 0; r < rows.count; ++r) {
        const int row = rows.row[r];
        const int32_t* la = work.la + tile * kTilePixels + row * kTileWidth;
        const int32_t* bx = work.bx + tile * kTilePixels + row * kTileWidth;
        Int best[kRowVectors];
        for (int v = 0; v < kRowVectors; ++v) best[v] = broadcast(INT32_MAX);
        for (int s = 0; s < costs.count; s += kLanes<int32_t>)
            *reinterpret_cast<Int*>(base + s) = load(costs.base + s) + row * load(costs.y + s);
        for (int s = 0; s < costs.count; ++s) {
            const Int of_la = broadcast(costs.la[s]), of_bx = broadcast(costs.bx[s]), of_row = broadcast(base[s]);
            for (int v = 0; v < kRowVectors; ++v) {
                const int at = v * kLanes<int32_t>;
                const Int cost = ((dot(load(la + at), of_la) + dot(load(bx + at), of_bx)) << bits) + of_row;
                best[v] = cost < best[v] ? cost : best[v];
            }
        }
        const uint32_t valid = work.valid[tile * kTileHeight + row];
        for (int v = 0; v < kRowVectors; ++v) {
            Int chosen = best[v] & mask;
            if (valid != ~0u) chosen |= (broadcast(static_cast<int32_t>(valid >> (v * kLanes<int32_t>))) >> lane & 1) - 1;
            *reinterpret_cast<Int*>(slot + row * kTileWidth + v * kLanes<int32_t>) = chosen;
        }
    }
}

// What each slot of a tile was given. 16-bit lanes hold the sums of 8 rows even where a vector has 4 words: 64 * 432 < 2^15.
inline void gather(const Work& work, int64_t tile, int slots, const TileRows& rows, const int32_t* slot) {
    for (int s = 0; s < slots; ++s) {
        Four colour_and_x{}, number_and_y{};
        for (int first = 0; first < rows.count; first += 8) {
            Vec<int16_t> la{}, bx{};
            Int number{};  // pixels, and the sum of their rows << 16
            for (int r = first; r < std::min(first + 8, rows.count); ++r) {
                const int64_t at = rows.row[r] * kTileWidth;
                const Int one = broadcast(1 | rows.row[r] << 16);
                for (int v = 0; v < kRowVectors; ++v) {
                    const int64_t from = at + v * kLanes<int32_t>;
                    const Int mine = load(slot + from) == s;
                    la += (Vec<int16_t>)(mine & load(work.la + tile * kTilePixels + from));
                    bx += (Vec<int16_t>)(mine & load(work.bx + tile * kTilePixels + from));
                    number += mine & one;
                }
            }
            colour_and_x += sum_lanes((Int)la << 16 >> 16, (Int)la >> 16, (Int)bx << 16 >> 16, (Int)bx >> 16);
            number_and_y += sum_lanes(number >> 16, number & 0xffff, Int{}, Int{});
        }
        int32_t* to = work.sums + ((tile << work.plan.slot_bits) + s) * kSumFields;
        *reinterpret_cast<Four*>(to) = colour_and_x;
        *reinterpret_cast<Four*>(to + 4) = number_and_y;
    }
}

// One row of tiles in one round: every pixel to its cheapest candidate, then sums for the centres, or labels at the end.
inline void assign_tiles(const Work& work, int64_t image, int64_t at, int64_t tile_row, int64_t round) {
    const Plan& plan = work.plan;
    const bool last = round == work.iterations;
    TileRows rows{};
    TileCosts costs{};  // zeros: whole vectors of candidates are computed, also past the last
    for (int row = 0; row < kTileHeight; ++row) {
        const int64_t y = tile_row * kTileHeight + row;
        if (y < plan.height && takes_row(plan, round, work.iterations, y)) rows.row[rows.count++] = row;
    }
    for (int64_t tile_col = 0; tile_col < plan.tile_cols; ++tile_col) {
        const int64_t tile = at * plan.tiles() + tile_row * plan.tile_cols + tile_col;
        alignas(64) int32_t slot[kTilePixels];
        tile_costs(work, at, tile_row, tile_col, round, &costs);
        choose(work, tile, costs, rows, slot);
        if (!last) {
            gather(work, tile, costs.count, rows, slot);
            continue;
        }
        const int64_t x0 = tile_col * kTileWidth;
        const int64_t width = std::min<int64_t>(kTileWidth, plan.width - x0);
        for (int r = 0; r < rows.count; ++r) {
            const int row = rows.row[r];
            int32_t* to = work.out + (image * plan.height + tile_row * kTileHeight + row) * plan.width + x0;
            for (int64_t i = 0; i < width; ++i) {
                const int32_t s = slot[row * kTileWidth + i];
                to[i] = s < 0 ? -1 : costs.label[s];
            }
        }
    }
}

inline void segment_images(const Work& work, const Source& source) {
    const int64_t bands = work.plan.tile_rows;
    for (int64_t start = 0; start < work.n; start += work.images) {
        const int64_t images = std::min(work.images, work.n - start);
        parallel_for(images * bands, work.threads,
                     [&](int64_t task, int) { colour_tiles(work, source, start + task / bands, task / bands, task % bands); });
        for (int64_t round = 0; round <= work.iterations; ++round) {
            parallel_for(images, work.threads, [&](int64_t at, int) { move_centres(work, at, round); });
            parallel_for(images * bands, work.threads,
                         [&](int64_t task, int) { assign_tiles(work, start + task / bands, task / bands, task % bands, round); });
        }
        parallel_for(images, work.threads, [&](int64_t at, int) {
            int32_t* labels = work.out + (start + at) * work.plan.height * work.plan.width;
            connect_segments(work.plan, work.centres + at * work.plan.labels(), work.runs[at], labels);
        });
    }
}
