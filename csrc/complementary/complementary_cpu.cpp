// Complementary patches on the CPU: three passes over blocks of rows. The first finds how many segments there are, the second
// (one task an image) draws, the third writes the pair: a table gives the side of a segment, the side selects the bits.
//
// The work is reading the image and writing two; it is bound by memory. Blocks depend on the shape alone.
// Memory: P bytes an image for the table, 4 P bytes a thread for the numbers, of which the pages of the first K are touched.

#include <algorithm>
#include <cstring>

#include "common/threads.h"
#include "common/workspace.h"
#include "complementary/complementary.h"

namespace wsss::complementary {
namespace {

constexpr int64_t kBlockPixels = 16384;

struct Block {
    int32_t lowest, highest;   // labels
    int64_t visible, counted;  // pixels of side 1, and of side 1 or 2
};

struct Work {
    Shape shape;
    Options options;
    int threads;
    int64_t rows, blocks;  // rows a block, blocks an image
    Block* block;          // [N][blocks]
    int64_t* cells;        // [N]: K
    int64_t* drawn;        // [N]
    uint8_t* table;        // [N][P + 1]: the side of label k stands at k + 1, that of -1 at 0
    uint32_t* numbers;     // [threads][P]
    uint8_t* image_table(int64_t n) const { return table + n * (shape.pixels() + 1); }
    int64_t cell_side(int64_t n) const {
        const auto choices = static_cast<int64_t>(options.grid.size());
        return options.grid[static_cast<size_t>(grid_choice(random_stream(options.seed, n), choices))];
    }
};

Work plan(const Shape& shape, const Options& options, const Context& context, Carver* carver) {
    Work work{};
    work.shape = shape;
    work.options = options;
    work.threads = context.threads;
    work.rows = std::max<int64_t>(1, kBlockPixels / std::max<int64_t>(1, shape.w));
    work.blocks = ceil_div(shape.h, work.rows);
    work.block = carver->take<Block>(shape.n * work.blocks);
    work.cells = carver->take<int64_t>(shape.n);
    work.drawn = carver->take<int64_t>(shape.n);
    work.table = carver->take<uint8_t>(shape.n * (shape.pixels() + 1));
    work.numbers = carver->take<uint32_t>(context.threads * shape.pixels());
    return work;
}

// Calls body(image, block, first row, end of rows), in parallel.
template <class Body>
void for_each_block(const Work& work, Body&& body) {
    parallel_for(work.shape.n * work.blocks, work.threads, [&](int64_t task, int) {
        const int64_t first = task % work.blocks * work.rows;
        body(task / work.blocks, work.block[task], first, std::min(work.shape.h, first + work.rows));
    });
}

void count_segments(const Work& work, const int32_t* segments) {
    const int64_t pixels = work.shape.pixels(), w = work.shape.w;
    for_each_block(work, [&](int64_t n, Block& block, int64_t first, int64_t end) {
        const int32_t* labels = segments + n * pixels;
        int32_t lowest = labels[first * w], highest = lowest;
        for (int64_t p = first * w; p < end * w; ++p) {
            lowest = std::min(lowest, labels[p]);
            highest = std::max(highest, labels[p]);
        }
        block.lowest = lowest;
        block.highest = highest;
    });
    int32_t lowest = 0;
    int64_t highest = -1;
    for (int64_t n = 0; n < work.shape.n; ++n) {
        int32_t top = -1;
        for (int64_t b = 0; b < work.blocks; ++b) {
            lowest = std::min(lowest, work.block[n * work.blocks + b].lowest);
            top = std::max(top, work.block[n * work.blocks + b].highest);
        }
        highest = std::max<int64_t>(highest, top);
        work.cells[n] = int64_t{top} + 1;
    }
    if (lowest < -1 || highest >= pixels) fail_labels(lowest, highest, pixels);
}

void draw(const Work& work, int64_t n, uint32_t* numbers) {
    const RandomStream stream = random_stream(work.options.seed, n);
    const Rule rule = work.options.rule;
    const double hide = work.options.hide;
    if (!work.options.grid.empty()) {
        const int64_t side = work.cell_side(n);
        work.cells[n] = ceil_div(work.shape.h, side) * ceil_div(work.shape.w, side);
    }
    const int64_t cells = work.cells[n];
    uint8_t* const table = work.image_table(n);
    table[0] = 0;
    uint8_t* const sides = table + 1;
    if (rule == Rule::kCode && work.options.grid.empty()) {
        std::fill_n(sides, cells, uint8_t{1});
        for (int64_t i = 0; i < draws_with_replacement(hide, cells); ++i) {
            const int64_t id = choice_at(stream, i, cells + 1);
            if (id > 0) sides[id - 1] = 2;
        }
        return;
    }
    for (int64_t k = 0; k < cells; ++k) numbers[k] = number_at(stream, k);
    uint64_t limit = 0;
    if (rule != Rule::kExact) {
        limit = limit_of(rule, hide);
    } else if (const int64_t hidden = hidden_cells(hide, cells); hidden > 0) {
        std::nth_element(numbers, numbers + hidden - 1, numbers + cells);
        limit = uint64_t{numbers[hidden - 1]} + 1;
    }
    for (int64_t k = 0; k < cells; ++k) sides[k] = number_at(stream, k) < limit ? 2 : 1;
    work.drawn[n] = std::count(sides, sides + cells, uint8_t{2});
}

// side[0 .. W) of row y
void sides_of_row(const Work& work, int64_t n, int64_t y, const int32_t* labels, uint8_t* side) {
    const uint8_t* const sides = work.image_table(n) + 1;
    const int64_t w = work.shape.w;
    if (labels) {
        for (int64_t x = 0; x < w; ++x) side[x] = sides[labels[x]];
        return;
    }
    const int64_t cell = work.cell_side(n), first = y / cell * ceil_div(w, cell);
    for (int64_t x = 0; x < w; x += cell) std::fill_n(side + x, std::min(cell, w - x), sides[first + x / cell]);
}

template <class Word>
void select_row(const Word* image, int64_t stride, const uint8_t* side, int64_t w, Word* first, Word* second) {
    const auto select = [=](int64_t x, Word value) {
        first[x] = side[x] == 1 ? value : Word{0};
        second[x] = side[x] == 2 ? value : Word{0};
    };
    if (stride == 1)
        for (int64_t x = 0; x < w; ++x) select(x, image[x]);
    else
        for (int64_t x = 0; x < w; ++x) select(x, image[x * stride]);
}

template <class Word>
void write_pair(const Work& work, const View& image, const View& segments, const Outputs& outputs) {
    const int64_t c = work.shape.c, w = work.shape.w, pixels = work.shape.pixels();
    for_each_block(work, [&](int64_t n, Block& block, int64_t first, int64_t end) {
        block.visible = block.counted = 0;
        for (int64_t y = first; y < end; ++y) {
            uint8_t* const side = outputs.side.as<uint8_t>() + n * pixels + y * w;
            sides_of_row(work, n, y, segments ? segments.as<const int32_t>() + n * pixels + y * w : nullptr, side);
            int64_t visible = 0, masked = 0;
            for (int64_t x = 0; x < w; ++x) {
                visible += side[x] == 1;
                masked += side[x] == 0;
            }
            block.visible += visible;
            block.counted += w - masked;
            for (int64_t channel = 0; channel < c; ++channel) {
                const int64_t row = (n * c + channel) * pixels + y * w;
                const Word* source =
                    image.as<const Word>() + n * image.stride[0] + channel * image.stride[1] + y * image.stride[2];
                select_row(source, image.stride[3], side, w, outputs.first.as<Word>() + row, outputs.second.as<Word>() + row);
            }
        }
    });
}

void write_shares(const Work& work, float* share) {
    const bool in_cells = work.options.rule == Rule::kCode && !work.options.grid.empty();
    for (int64_t n = 0; n < work.shape.n; ++n) {
        int64_t visible = work.cells[n] - work.drawn[n], counted = work.cells[n];
        if (!in_cells) {
            visible = counted = 0;
            for (int64_t b = 0; b < work.blocks; ++b) {
                visible += work.block[n * work.blocks + b].visible;
                counted += work.block[n * work.blocks + b].counted;
            }
        }
        share[n] = counted > 0 ? static_cast<float>(static_cast<double>(visible) / static_cast<double>(counted)) : 0.0f;
    }
}

}  // namespace

int64_t workspace_cpu(const Shape& shape, const Options& options, const Context& context) {
    Carver measure;
    plan(shape, options, context, &measure);
    return measure.used();
}

void run_cpu(const View& image, const View& segments, const Options& options, const Outputs& outputs, const View& workspace,
             const Context& context) {
    Carver carver(workspace.data);
    const Shape shape{image.size[0], image.size[1], image.size[2], image.size[3]};
    const Work work = plan(shape, options, context, &carver);
    if (shape.pixels() == 0) {
        std::fill_n(outputs.share.as<float>(), shape.n, 0.0f);
        return;
    }
    if (segments) count_segments(work, segments.as<const int32_t>());
    parallel_for(shape.n, work.threads, [&](int64_t n, int worker) { draw(work, n, work.numbers + worker * shape.pixels()); });
    switch (bytes(image.dtype)) {
        case 1:
            write_pair<uint8_t>(work, image, segments, outputs);
            break;
        case 2:
            write_pair<uint16_t>(work, image, segments, outputs);
            break;
        case 4:
            write_pair<uint32_t>(work, image, segments, outputs);
            break;
        default:
            write_pair<uint64_t>(work, image, segments, outputs);
    }
    write_shares(work, outputs.share.as<float>());
}

}  // namespace wsss::complementary
