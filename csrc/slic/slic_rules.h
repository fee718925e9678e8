// The arithmetic of slic, shared by the CPU and the CUDA kernel: whole numbers throughout, so both give the same labels.
//
// A grid of rows x cols centres is laid over the image; centre (r, c) has label r * cols + c and stays responsible for the
// window of 2 x 2 cells around its cell's middle, wherever it moves. The image is cut into tiles of 32 x 16 pixels; the
// candidates of a tile are the centres whose windows meet it, a rectangle of the grid, numbered row by row: its slots.
//
// The squared distance |lab_p - lab_k|^2 + w |xy_p - xy_k|^2 with w = (compactness / S)^2, less what all candidates share and
// scaled, is linear in the pixel:
//     cost = base + L l + A a + B b + X x + Y y,       x, y counted from the tile's corner
// with 16-bit coefficients (only Y needs no such bound) and |cost| < 2^(30 - slot_bits). The smallest cost wins, of equal ones
// the lowest slot: the least of cost * 2^slot_bits + slot.
//
// Rounds:  assignment 0 looks at positions alone (colour weight 0) and takes every row. Rounds 1 to `iterations`: each centre
// becomes the mean of the pixels it was given (none: it stays), then pixels are assigned anew; rounds before the last take only
// the rows with y % row_stride == round % row_stride, for assignment and for the following mean.
//
// Connected pieces of one label (4 neighbours) then are segments, named by their first pixel in raster order. Those below
// `minimum` pixels are small. While a small segment has a neighbour, all at once: each small segment looks at its neighbours
// that are greater (more pixels, or as many and an earlier name), and joins the one with the least merge_key; the joined are
// one segment with the name and the label of the greatest. At the end segments are numbered by their first pixel.
#pragma once

#include <cstdint>

#include "slic/lab.h"

namespace wsss::slic {

constexpr int kTileWidth = 32;
constexpr int kTileHeight = 16;
constexpr int kFraction = 16;  // centres are kept in sixteenths of a Lab step and of a pixel
constexpr int kLargestSlots = 256;
constexpr double kLargestCompactness = 1e6;
constexpr int32_t kNoCentre = INT32_MIN;  // as the l of a centre: its cell is masked out

struct Plan {
    int64_t height, width;
    int32_t rows, cols;            // of the grid of centres
    int32_t tile_rows, tile_cols;  // of the image in tiles
    int32_t slot_bits;             // no tile has more than 2^slot_bits candidates
    int32_t row_stride;            // 1 or 3
    int64_t colour, space;         // the weights of distance in colour (2^12 = 1) and space (2^20 = 1)
    int64_t space_alone;           // the weight of space in assignment 0
    int64_t minimum;               // pixels of a segment that stands alone

    constexpr int64_t labels() const { return static_cast<int64_t>(rows) * cols; }
    constexpr int64_t tiles() const { return static_cast<int64_t>(tile_rows) * tile_cols; }
};

// In units of 1 / kFraction.
struct Centre {
    int32_t l, a, b, x, y;
};

// What a centre was given: sums over pixels, x and y counted from the image's corner.
struct Sums {
    int64_t l, a, b, x, y, count;
};

struct Cost {
    int32_t base;
    int32_t l, a, b, x, y;
};

struct Range {
    int32_t first, count;
};

constexpr int64_t floor_div(int64_t a, int64_t b) {
    return a / b - (a % b != 0 && (a % b < 0) != (b < 0));
}

constexpr int64_t rounded_shift(int64_t value, int bits) {
    return (value + (int64_t{1} << (bits - 1))) >> bits;
}

// Along one axis: the cells of a grid of `cells` over `size` pixels whose windows meet the pixels first .. last.
constexpr Range candidates_of(int64_t cells, int64_t size, int64_t first, int64_t last) {
    const int64_t low = -floor_div(3 * size - 2 * cells * first, 2 * size);
    const int64_t high = floor_div(2 * cells * last + size, 2 * size);
    const int64_t from = low > 0 ? low : 0, to = high < cells - 1 ? high : cells - 1;
    return {static_cast<int32_t>(from), static_cast<int32_t>(to - from + 1)};
}

constexpr Range candidate_cols(const Plan& plan, int64_t tile_col) {
    const int64_t first = tile_col * kTileWidth, end = first + kTileWidth;
    return candidates_of(plan.cols, plan.width, first, (end < plan.width ? end : plan.width) - 1);
}

constexpr Range candidate_rows(const Plan& plan, int64_t tile_row) {
    const int64_t first = tile_row * kTileHeight, end = first + kTileHeight;
    return candidates_of(plan.rows, plan.height, first, (end < plan.height ? end : plan.height) - 1);
}

// Whether round `round` of `iterations` looks at row y.
constexpr bool takes_row(const Plan& plan, int64_t round, int64_t iterations, int64_t y) {
    return round == 0 || round == iterations || y % plan.row_stride == round % plan.row_stride;
}

constexpr Plan make_plan(int64_t height, int64_t width, int64_t segments, double compactness) {
    Plan plan{};
    plan.height = height;
    plan.width = width;
    // Cells have at least 2 x 2 pixels, and are as square as a grid of about `segments` cells can be.
    const int64_t most_rows = height > 1 ? height / 2 : 1, most_cols = width > 1 ? width / 2 : 1;
    const int64_t wanted = segments < most_rows * most_cols ? segments : most_rows * most_cols;
    int64_t root = 0;
    while (root < most_rows && (root + 1) * (root + 1) * width <= wanted * height) ++root;
    int64_t nearest = -1;
    for (int64_t rows = root > 0 ? root : 1; rows <= root + 1 && rows <= most_rows; ++rows) {
        const int64_t rounded = (2 * wanted + rows) / (2 * rows), cols = rounded < most_cols ? rounded : most_cols;
        const int64_t off = rows * cols > wanted ? rows * cols - wanted : wanted - rows * cols;
        if (nearest >= 0 && off >= nearest) continue;
        nearest = off;
        plan.rows = static_cast<int32_t>(rows);
        plan.cols = static_cast<int32_t>(cols > 0 ? cols : 1);
    }
    plan.tile_rows = static_cast<int32_t>((height + kTileHeight - 1) / kTileHeight);
    plan.tile_cols = static_cast<int32_t>((width + kTileWidth - 1) / kTileWidth);
    int64_t across = 0, down = 0;
    for (int64_t t = 0; t < plan.tile_cols; ++t)
        if (candidate_cols(plan, t).count > across) across = candidate_cols(plan, t).count;
    for (int64_t t = 0; t < plan.tile_rows; ++t)
        if (candidate_rows(plan, t).count > down) down = candidate_rows(plan, t).count;
    while ((int64_t{1} << plan.slot_bits) < across * down) ++plan.slot_bits;
    plan.row_stride = height >= 8 * plan.rows ? 3 : 1;
    plan.minimum = height * width / (5 * plan.labels());

    // `scale` turns distances into costs: as large as 16-bit coefficients and 30 - slot_bits bits of cost allow. A centre is
    // at most `reach` pixels from the corner of a tile that it is a candidate of; colours are at most 710 steps from grey.
    const double cells = static_cast<double>(plan.labels()), area = static_cast<double>(height) * static_cast<double>(width);
    const double weight = static_cast<double>(kLabUnit * kLabUnit) * compactness * compactness * cells / area;
    const int64_t cell_width = width / plan.cols + 1, cell_height = height / plan.rows + 1;
    const double reach = static_cast<double>(2 * (cell_width > cell_height ? cell_width : cell_height) + 64);
    const double limit = static_cast<double>(int64_t{1} << (30 - plan.slot_bits));
    const double by_coefficient = 16000.0 / reach, by_cost = limit / 8.0 / reach / reach;
    const double largest_space = by_coefficient < by_cost ? by_coefficient : by_cost;
    const double largest_colour = limit / 3.2e6 < 32.0 ? limit / 3.2e6 : 32.0;
    const double scale = largest_space / weight < largest_colour ? largest_space / weight : largest_colour;
    plan.colour = static_cast<int64_t>(scale * 4096.0 + 0.5);
    plan.space = static_cast<int64_t>(scale * weight * 1048576.0 + 0.5);
    plan.space_alone = static_cast<int64_t>(largest_space * 1048576.0 + 0.5);
    return plan;
}

// Where centre `label` begins: the middle of its cell, where pixel x covers x - 1/2 to x + 1/2.
constexpr Centre first_centre(const Plan& plan, int64_t label) {
    const int64_t row = label / plan.cols, col = label % plan.cols, half = kFraction / 2;
    return {0, 0, 0, static_cast<int32_t>((2 * col + 1) * plan.width * half / plan.cols - half),
            static_cast<int32_t>((2 * row + 1) * plan.height * half / plan.rows - half)};
}

constexpr int32_t mean_of(int64_t sum, int64_t count) {
    return static_cast<int32_t>(floor_div(2 * kFraction * sum + count, 2 * count));
}

// The centre after `round` (0: of the first assignment) gave it the pixels of `sums`.
constexpr Centre moved_centre(const Centre& centre, const Sums& sums, int64_t round) {
    if (sums.count == 0) return round == 0 ? Centre{kNoCentre, 0, 0, centre.x, centre.y} : centre;
    return {mean_of(sums.l, sums.count), mean_of(sums.a, sums.count), mean_of(sums.b, sums.count), mean_of(sums.x, sums.count),
            mean_of(sums.y, sums.count)};
}

// The cost of a centre's colour, with weight `colour`; what it costs to be far from it is added in each tile.
constexpr Cost colour_cost(const Plan& plan, const Centre& centre, int64_t colour) {
    if (centre.l == kNoCentre) return {int32_t{1} << (30 - plan.slot_bits), 0, 0, 0, 0, 0};
    const int64_t l = centre.l, a = centre.a, b = centre.b;
    return {static_cast<int32_t>(rounded_shift(colour * (l * l + a * a + b * b), 20)),
            static_cast<int32_t>(-rounded_shift(2 * colour * l, 16)),
            static_cast<int32_t>(-rounded_shift(2 * colour * a, 16)),
            static_cast<int32_t>(-rounded_shift(2 * colour * b, 16)),
            0,
            0};
}

// The whole cost in the tile whose corner is (x, y): `cost` as above, and the weight `space` of distance.
constexpr Cost cost_in_tile(Cost cost, const Centre& centre, int64_t x, int64_t y, int64_t space) {
    if (centre.l == kNoCentre) return cost;
    const int64_t dx = centre.x - kFraction * x, dy = centre.y - kFraction * y;
    cost.base += static_cast<int32_t>(rounded_shift(space * (dx * dx + dy * dy), 28));
    cost.x = static_cast<int32_t>(-rounded_shift(2 * space * dx, 24));
    cost.y = static_cast<int32_t>(-rounded_shift(2 * space * dy, 24));
    return cost;
}

// How little a small segment of label `from` likes to join a neighbour: by the distance of their labels' colours (below 2^29),
// then by the neighbour's name (its first pixel).
constexpr uint64_t merge_key(const Centre& from, const Centre& to, uint32_t name) {
    const int64_t l = from.l - to.l, a = from.a - to.a, b = from.b - to.b;
    return static_cast<uint64_t>(l * l + a * a + b * b) << 32 | name;
}

constexpr bool is_greater(int64_t size, uint32_t name, int64_t other_size, uint32_t other_name) {
    return size > other_size || (size == other_size && name < other_name);
}

}  // namespace wsss::slic
