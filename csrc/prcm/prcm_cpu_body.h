// The body of prcm_cpu.cpp, compiled once an instruction set (see common/simd_foreach.h): what both directions share, and
// forward. Rows of kBlock pixels go through the softmaxes in vectors; the products are tile_product.h's.

#include "common/tile_product.h"
#include "common/vec_exp.h"

// to[0, kBlock) = block `block` of a channel's pixels, 0 beyond the image
template <class T, class Sum>
void load_pixels(const Work<Sum>& work, const Source<T>& source, int64_t image, int64_t channel, int64_t block, Sum* to) {
    const int64_t first = block * kBlock, count = std::min(kBlock, work.pixels - first);
    const T* from = source.data + image * source.n + channel * source.channel;
    if (source.flat) {
        for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[first + i]);
    } else {
        int64_t y = first / source.w, x = first % source.w;
        for (int64_t i = 0; i < count; ++i) {
            to[i] = to_float(from[y * source.y + x * source.x]);
            if (++x == source.w) x = 0, ++y;
        }
    }
    for (int64_t i = count; i < kBlock; ++i) to[i] = 0;
}

template <class Sum>
void rectify_pixels(Sum* row) {
    for (int64_t i = 0; i < kBlock; ++i) row[i] = row[i] <= 0 ? 0 : row[i];  // NaN stays
}

template <class Sum>
Vec<Sum>& vector_at(Sum* from) {
    return *reinterpret_cast<Vec<Sum>*>(from);
}

template <class Sum>
Sum largest_of(Vec<Sum> lanes) {
    Sum largest = lanes[0];
    for (int i = 1; i < kLanes<Sum>; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
    return largest;
}

template <class Sum>
Sum sum_of(Vec<Sum> lanes) {
    Sum sum = lanes[0];
    for (int i = 1; i < kLanes<Sum>; ++i) sum += lanes[i];
    return sum;
}

// Calls body(slot, image, part, worker) for `parts` parts of each of the images in flight from `start` on.
template <class Sum, class Body>
void for_parts(const Work<Sum>& work, int64_t start, int64_t parts, Body body) {
    const int64_t images = std::min(work.images, work.shape.n - start);
    parallel_for(images * parts, work.threads,
                 [&](int64_t task, int worker) { body(task / parts, start + task / parts, task % parts, worker); });
}

// Calls body(first block, blocks) for each run.
template <class Sum, class Body>
void for_runs(const Work<Sum>& work, Body body) {
    for (int64_t first = 0; first < work.blocks; first += work.run) body(first, std::min(work.run, work.blocks - first));
}

// The pixels of a channel where they lie, if the products can read them there: kBlock numbers of the right type in a row.
template <class T, class Sum>
const Sum* pixels_in_place(const Work<Sum>& work, const Source<T>& source, int64_t image, int64_t channel, int64_t block) {
    if constexpr (std::is_same_v<T, Sum>)
        if (source.flat && (block + 1) * kBlock <= work.pixels)
            return source.data + image * source.n + channel * source.channel + block * kBlock;
    return nullptr;
}

// The small weights of a peaked softmax have denormal products, which are slow.
template <class Sum, Finish kFinish>
void flushed_product(int64_t rows, int64_t columns, int64_t depth, Rows<Sum> a, Columns<Sum> b, Sum* c, int64_t c_row) {
    const FlushDenormals flush;
    tile_product<Sum, kFinish>(rows, columns, depth, a, b, c, c_row);
}

// product[channel][c] = sum over pixels of source[channel] weights[.][c], for a part of kChannels channels; the pixels are those
// of the run that begins with block `start`. A channel of ones may follow the last one: its products are the sums of the weights.
template <class T, class Sum>
void sum_over_pixels(const Work<Sum>& work, const Source<T>& source, int64_t channels, bool ones, bool rectify, int64_t slot,
                     int64_t image, int64_t start, int64_t part, Sum* rows) {
    const int64_t first = part * kChannels, width = work.width, end = std::min(start + work.run, work.blocks);
    Sum* product = work.product + (slot * work.product_channels() + first) * width;
    if (start == 0) std::memset(product, 0, sizeof(Sum) * static_cast<size_t>(kChannels * width));
    for (int64_t block = start; block < end; ++block) {
        const Sum* weights = work.weights_of(slot, block);  // 0 beyond the image
        const Sum* in_place =
            rectify || first + kChannels > channels ? nullptr : pixels_in_place(work, source, image, first, block);
        if (in_place) {
            flushed_product<Sum, Finish::kAdd>(kChannels, width, kBlock,
                                               {in_place, source.channel, 1, kPanel<Sum> * source.channel},
                                               {weights, width, kPanel<Sum>}, product, width);
            continue;
        }
        for (int64_t r = 0; r < kChannels; ++r) {
            Sum* row = rows + r * kBlock;
            if (first + r < channels)
                load_pixels(work, source, image, first + r, block, row);
            else
                std::fill(row, row + kBlock, ones && first + r == channels ? Sum(1) : Sum(0));
            if (rectify) rectify_pixels(row);
        }
        flushed_product<Sum, Finish::kAdd>(std::min(kChannels, channels + ones - first), width, kBlock,
                                           {rows, kBlock, 1, kPanel<Sum> * kBlock}, {weights, width, kPanel<Sum>}, product,
                                           width);
    }
}

// weights[pixel][c] = maps[c][pixel] for one block of pixels
template <class Sum>
void turn_into_weights(const Work<Sum>& work, const Sum* maps, int64_t slot, int64_t block) {
    const int64_t width = work.width, classes = work.shape.c;
    Sum* weights = work.weights_of(slot, block);
    for (int64_t i = 0; i < kBlock; ++i) {
        for (int64_t c = 0; c < classes; ++c) weights[i * width + c] = maps[c * kBlock + i];
        for (int64_t c = classes; c < width; ++c) weights[i * width + c] = 0;
    }
}

// keys[d][c] = factor * K[c, d]
template <class Sum>
void arrange_keys(const Work<Sum>& work, const Sum* key, Sum factor, Sum* keys) {
    for (int64_t d = 0; d < work.shape.c2; ++d)
        for (int64_t c = 0; c < work.width; ++c)
            keys[d * work.width + c] =
                c < work.shape.c ? factor * key[Options::key_index(work.shape, work.options.view, c, d)] : 0;
    std::fill(keys + work.shape.c2 * work.width, keys + work.key_rows() * work.width, Sum(0));
}

// ---- forward -------------------------------------------------------------------------------------------------------------

template <class T, class Sum>
Sum largest_pixel(const Work<Sum>& work, const Source<T>& cam, int64_t image, int64_t c) {
    constexpr Sum kLowest = -std::numeric_limits<Sum>::infinity();
    alignas(64) Sum row[kBlock];
    Vec<Sum> largest = Vec<Sum>{} + kLowest;
    for (int64_t block = 0; block < work.blocks; ++block) {
        load_pixels(work, cam, image, c, block, row);
        std::fill(row + std::min(kBlock, work.pixels - block * kBlock), row + kBlock, kLowest);
        for (int64_t i = 0; i < kBlock; i += kLanes<Sum>) {
            const Vec<Sum> value = vector_at(row + i);
            largest = value > largest ? value : largest;
        }
    }
    return largest_of<Sum>(largest);
}

// exp(cam - maximum) of one block, 0 beyond the image
template <class T, class Sum>
void weigh_block(const Work<Sum>& work, const Source<T>& cam, int64_t slot, int64_t image, int64_t block, Sum* maps) {
    const int64_t count = std::min(kBlock, work.pixels - block * kBlock);
    for (int64_t c = 0; c < work.shape.c; ++c) {
        Sum* row = maps + c * kBlock;
        load_pixels(work, cam, image, c, block, row);
        const Sum largest = work.row[slot * work.width + c];
        for (int64_t i = 0; i < kBlock; i += kLanes<Sum>) vector_at(row + i) = exponential(vector_at(row + i) - largest);
        std::fill(row + count, row + kBlock, Sum(0));
    }
    turn_into_weights(work, maps, slot, block);
}

// key = relu(phi Z^T) for kChannels rows, with Z divided by the sums of its weights at last
template <class Sum>
void key_block(const Work<Sum>& work, int64_t slot, int64_t part, Sum* tile, Sum* key) {
    const Shape& shape = work.shape;
    const int64_t first = part * kChannels, width = work.width, rows = std::min(kChannels, shape.c2 - first);
    const Sum* product = work.product + slot * work.product_channels() * width;
    const Sum* sums = product + shape.c1 * width;
    flushed_product<Sum, Finish::kRelu>(
        rows, width, shape.c1, {work.phi + first * work.proxy_width(), work.proxy_width(), 1, kPanel<Sum> * work.proxy_width()},
        {product, width, kPanel<Sum>}, tile, width);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < shape.c; ++c) key[(first + r) * shape.c + c] = tile[r * width + c] / sums[c];
}

template <class T, class Sum>
void multiply_seed(const Work<Sum>& work, const Source<T>& cam, int64_t image, int64_t c, int64_t block, const Sum* gate,
                   T* out) {
    alignas(64) Sum seed[kBlock];
    const int64_t first = block * kBlock, count = std::min(kBlock, work.pixels - first);
    load_pixels(work, cam, image, c, block, seed);
    T* to = out + (image * work.shape.c + c) * work.pixels + first;
    for (int64_t i = 0; i < count; ++i) store(to + i, seed[i] * gate[i]);
}

// Softmax over the classes of one block of pixels, in place.
template <class Sum>
void softmax_over_classes(Sum* maps, int64_t classes) {
    for (int64_t i = 0; i < kBlock; i += kLanes<Sum>) {
        Vec<Sum> largest = vector_at(maps + i), sum = {};
        for (int64_t c = 1; c < classes; ++c) {
            const Vec<Sum> value = vector_at(maps + c * kBlock + i);
            largest = value > largest ? value : largest;
        }
        for (int64_t c = 0; c < classes; ++c) {
            Vec<Sum>& value = vector_at(maps + c * kBlock + i);
            sum += value = exponential(value - largest);
        }
        const Vec<Sum> factor = 1 / sum;
        for (int64_t c = 0; c < classes; ++c) vector_at(maps + c * kBlock + i) *= factor;
    }
}

// S of one block of pixels into the gate; over classes also its softmax, and the result.
template <class T, class Sum>
void gate_block(const Work<Sum>& work, const Source<T>& cam, const Source<T>& query, int64_t slot, int64_t image, int64_t block,
                Sum* maps, Sum* queries, Sum* gate, T* out) {
    const Shape& shape = work.shape;
    const int64_t first = block * kBlock, count = std::min(kBlock, work.pixels - first), width = work.width;
    const Sum* in_place = work.options.rectify ? nullptr : pixels_in_place(work, query, image, 0, block);
    for (int64_t d = 0; d < shape.c2 && !in_place; ++d) {
        load_pixels(work, query, image, d, block, queries + d * kBlock);
        if (work.options.rectify) rectify_pixels(queries + d * kBlock);
    }
    const Columns<Sum> columns =
        in_place ? Columns<Sum>{in_place, query.channel, kPanel<Sum>} : Columns<Sum>{queries, kBlock, kPanel<Sum>};
    flushed_product<Sum, Finish::kStore>(
        shape.c, kBlock, shape.c2, {work.keys + slot * work.key_rows() * width, 1, width, kPanel<Sum>}, columns, maps, kBlock);
    if (work.options.over_classes) softmax_over_classes(maps, shape.c);
    for (int64_t c = 0; c < shape.c; ++c) {
        const Sum* row = maps + c * kBlock;
        std::copy(row, row + count, gate + (image * shape.c + c) * work.pixels + first);
        if (work.options.over_classes) multiply_seed(work, cam, image, c, block, row, out);
    }
}

// Softmax over the pixels of one class, in place, and the result.
template <class T, class Sum>
void softmax_over_pixels(const Work<Sum>& work, const Source<T>& cam, int64_t image, int64_t c, Sum* gate, T* out) {
    constexpr Sum kLowest = -std::numeric_limits<Sum>::infinity();
    alignas(64) Sum row[kBlock];
    gate += (image * work.shape.c + c) * work.pixels;
    const auto for_blocks = [&](auto change) {
        for (int64_t block = 0; block < work.blocks; ++block) {
            const int64_t count = std::min(kBlock, work.pixels - block * kBlock);
            std::copy(gate + block * kBlock, gate + block * kBlock + count, row);
            std::fill(row + count, row + kBlock, kLowest);
            change(block, count);
        }
    };
    Vec<Sum> largest = Vec<Sum>{} + kLowest, sum = {};
    for_blocks([&](int64_t, int64_t) {
        for (int64_t i = 0; i < kBlock; i += kLanes<Sum>) {
            const Vec<Sum> value = vector_at(row + i);
            largest = value > largest ? value : largest;
        }
    });
    const Sum maximum = largest_of<Sum>(largest);
    for_blocks([&](int64_t block, int64_t count) {
        for (int64_t i = 0; i < kBlock; i += kLanes<Sum>) vector_at(row + i) = exponential(vector_at(row + i) - maximum);
        std::fill(row + count, row + kBlock, Sum(0));
        for (int64_t i = 0; i < kBlock; i += kLanes<Sum>) sum += vector_at(row + i);
        std::copy(row, row + count, gate + block * kBlock);
    });
    const Sum factor = 1 / sum_of<Sum>(sum);
    for_blocks([&](int64_t block, int64_t count) {
        for (int64_t i = 0; i < kBlock; i += kLanes<Sum>) vector_at(row + i) *= factor;
        std::copy(row, row + count, gate + block * kBlock);
        multiply_seed(work, cam, image, c, block, row, out);
    });
}

template <class T, class Sum>
void run_forward(const Work<Sum>& work, const Inputs& in, const Outputs& out) {
    const Shape& shape = work.shape;
    const Source<T> cam(in.cam), x(in.x), query(in.query);
    Sum *gate = out.gate.as<Sum>(), *proxy = out.proxy.as<Sum>(), *keys = out.key.as<Sum>();
    const int64_t phi_width = work.proxy_width();
    std::fill(work.phi, work.phi + work.key_rows() * phi_width, Sum(0));
    for (int64_t d = 0; d < shape.c2; ++d) {
        const T* row = in.phi.as<const T>() + d * in.phi.stride[0];
        for (int64_t k = 0; k < shape.c1; ++k) work.phi[d * phi_width + k] = to_float(row[k * in.phi.stride[1]]);
    }
    const auto maps_of = [&](int worker) { return work.maps + worker * work.map_rows() * kBlock; };
    const auto query_of = [&](int worker) { return work.query + worker * work.query_rows(false) * kBlock; };
    for (int64_t start = 0; start < shape.n; start += work.images) {
        for_parts(work, start, shape.c, [&](int64_t slot, int64_t image, int64_t c, int) {
            work.row[slot * work.width + c] = largest_pixel(work, cam, image, c);
        });
        for_runs(work, [&](int64_t first, int64_t blocks) {
            for_parts(work, start, blocks, [&](int64_t slot, int64_t image, int64_t block, int worker) {
                weigh_block(work, cam, slot, image, first + block, maps_of(worker));
            });
            for_parts(work, start, ceil_div(shape.c1 + 1, kChannels), [&](int64_t slot, int64_t image, int64_t part, int worker) {
                sum_over_pixels(work, x, shape.c1, true, false, slot, image, first, part, query_of(worker));
            });
        });
        for_parts(work, start, ceil_div(shape.c2, kChannels), [&](int64_t slot, int64_t image, int64_t part, int worker) {
            key_block(work, slot, part, maps_of(worker), keys + image * shape.c2 * shape.c);
        });
        for_parts(work, start, 1, [&](int64_t slot, int64_t image, int64_t, int) {
            arrange_keys(work, keys + image * shape.c2 * shape.c, static_cast<Sum>(work.options.scale),
                         work.keys + slot * work.key_rows() * work.width);
            const Sum* product = work.product + slot * work.product_channels() * work.width;
            for (int64_t c = 0; c < shape.c; ++c)
                for (int64_t k = 0; k < shape.c1; ++k)
                    proxy[(image * shape.c + c) * shape.c1 + k] =
                        product[k * work.width + c] / product[shape.c1 * work.width + c];
        });
        for_parts(work, start, work.blocks, [&](int64_t slot, int64_t image, int64_t block, int worker) {
            gate_block(work, cam, query, slot, image, block, maps_of(worker), query_of(worker), gate, out.out.as<T>());
        });
        if (!work.options.over_classes)
            for_parts(work, start, shape.c, [&](int64_t, int64_t image, int64_t c, int) {
                softmax_over_pixels(work, cam, image, c, gate, out.out.as<T>());
            });
    }
}

#include "prcm/prcm_cpu_backward_body.h"
