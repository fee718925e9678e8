// The body of pcm_cpu.cpp, compiled once an instruction set (see common/simd_foreach.h). Three phases an image: pack, tiles,
// finish.

#include "common/tile_product.h"

// Offsets of the kPanel pixels from `first` on, in elements; pixels beyond the image count as -1.
template <class T, class Sum>
struct PanelPixels {
    int64_t offset[kPanel<Sum>];
    int count;
    bool adjacent;  // the pixels lie one after another in memory

    PanelPixels(const Work<Sum>& work, const Strided<T>& source, int64_t first) {
        count = static_cast<int>(std::clamp<int64_t>(work.pixels - first, 0, kPanel<Sum>));  // padding may hold whole panels
        adjacent = true;
        for (int i = 0; i < count; ++i) {
            const int64_t y = (first + i) / work.shape.w, x = (first + i) % work.shape.w;
            offset[i] = y * source.y + x * source.x;
            adjacent = adjacent && offset[i] == offset[0] + i;
        }
    }

    // to[0, kPanel) = the panel's pixels of one channel, 0 beyond the image
    void load(const T* channel, Sum* to) const {
        if (adjacent && count == kPanel<Sum>) {
            for (int i = 0; i < kPanel<Sum>; ++i) to[i] = to_float(channel[offset[0] + i]);
            return;
        }
        for (int i = 0; i < count; ++i) to[i] = to_float(channel[offset[i]]);
        for (int i = count; i < kPanel<Sum>; ++i) to[i] = 0;
    }
};

// Normalised features of one panel: loads, takes norms over channels, scales in place.
template <class T, class Sum>
void pack_features(const Work<Sum>& work, const Strided<T>& feature, int64_t image, int64_t first, Sum* panel, Sum* norms) {
    const PanelPixels<T, Sum> pixels(work, feature, first);
    Sum square[kPanel<Sum>] = {}, scale[kPanel<Sum>];
    for (int64_t d = 0; d < work.shape.d; ++d) {
        Sum* row = panel + d * kPanel<Sum>;
        pixels.load(feature.data + image * feature.n + d * feature.channel, row);
        for (int i = 0; i < kPanel<Sum>; ++i) square[i] += row[i] * row[i];
    }
    for (int i = 0; i < kPanel<Sum>; ++i) {
        const Sum norm = std::sqrt(square[i]);
        if (norms) norms[i] = norm;
        // a zero vector stays zero, also with eps = 0
        scale[i] = norm == 0 ? 0 : 1 / (norm + work.eps);
    }
    for (int64_t d = 0; d < work.shape.d; ++d)
        for (int i = 0; i < kPanel<Sum>; ++i) panel[d * kPanel<Sum> + i] *= scale[i];
}

// The tile of cosines of blocks a and b, in tile[rows of a][columns of b], row length kBlock.
template <Finish kFinish, class Sum>
void cosine_tile(const Work<Sum>& work, const Sum* panels, int64_t a, int64_t a_count, int64_t b, int64_t b_count, Sum* tile) {
    const int64_t d = work.shape.d, panel = d * kPanel<Sum>;
    tile_product<Sum, kFinish>(a_count, b_count, d, {panels + a * d, 1, kPanel<Sum>, panel}, {panels + b * d, kPanel<Sum>, panel},
                               tile, kBlock);
}

// sums[rows of a] += tile * values[rows of b], and the other side with the tile transposed.
template <class Sum>
void add_both_sides(const Sum* tile, int64_t a, int64_t a_count, int64_t b, int64_t b_count, const Sum* values, Sum* sums,
                    int64_t width) {
    tile_product<Sum, Finish::kAdd>(a_count, width, b_count, {tile, kBlock, 1, kPanel<Sum> * kBlock},
                                    {values + b * width, width, kPanel<Sum>}, sums + a * width, width);
    if (a == b) return;
    tile_product<Sum, Finish::kAdd>(b_count, width, a_count, {tile, 1, kBlock, kPanel<Sum>},
                                    {values + a * width, width, kPanel<Sum>}, sums + b * width, width);
}

template <class Sum>
void forward_tile(const Work<Sum>& work, int64_t slot, int64_t a, int64_t b, Sum* tile) {
    const int64_t a_count = std::min(kBlock, work.pixels - a), b_count = std::min(kBlock, work.pixels - b);
    const int64_t width = work.value_width, values = slot * work.padded * width;
    cosine_tile<Finish::kRelu>(work, work.panels + slot * work.padded * work.shape.d, a, a_count, b, b_count, tile);
    add_both_sides(tile, a, a_count, b, b_count, work.values + values, work.sums + values, width);
}

// The dot product of two pixels' features as they came in, in double: its sign is the sign of their cosine.
template <class T>
double exact_product(const Strided<T>& feature, const Shape& shape, int64_t image, int64_t i, int64_t j) {
    const T* first = feature.data + image * feature.n + i / shape.w * feature.y + i % shape.w * feature.x;
    const T* second = feature.data + image * feature.n + j / shape.w * feature.y + j % shape.w * feature.x;
    double sum = 0;
    for (int64_t d = 0; d < shape.d; ++d)
        sum += static_cast<double>(to_float(first[d * feature.channel])) *
               static_cast<double>(to_float(second[d * feature.channel]));
    return sum;
}

// Whether two features have a channel in common. If not, their cosine is 0 and not the remainder of a cancellation.
template <class Sum>
bool overlap(const Sum* first, const Sum* second, int64_t depth) {
    Sum sum = 0;
    for (int64_t d = 0; d < depth; ++d) sum = std::max(sum, std::fabs(first[d] * second[d]));
    return sum > 0;
}

// ReLU of a tile of cosines for the backward pass, where the sign alone decides whether a pair counts: one pair on the wrong side
// costs more accuracy than all other rounding together. Cosines within rounding of 0 (one in 10^5) get their sign in double.
template <class T, class Sum>
void rectify(const Work<Sum>& work, const Strided<T>& feature, int64_t slot, int64_t image, int64_t a, int64_t a_count, int64_t b,
             int64_t b_count, Sum* tile) {
    using Lanes = Vec<std::conditional_t<sizeof(Sum) == 4, int32_t, int64_t>>;
    constexpr Sum kDoubt = sizeof(Sum) == 4 ? Sum(1e-6) : Sum(0), kTiny = Sum(1e-12);
    for (int64_t i = 0; i < a_count; ++i) {
        Sum* row = tile + i * kBlock;
        Lanes doubtful = {};
        for (int64_t j = 0; j < b_count; j += kLanes<Sum>) {
            const Vec<Sum> cosine = *reinterpret_cast<const Vec<Sum>*>(row + j);
            doubtful |= (cosine < kDoubt) & (cosine > -kDoubt);
        }
        bool any = false;
        for (int lane = 0; lane < kLanes<Sum>; ++lane) any |= doubtful[lane] != 0;
        for (int64_t j = 0; any && j < b_count; ++j) {
            if (!(row[j] < kDoubt && row[j] > -kDoubt)) continue;
            const Sum* features = work.rows + slot * work.padded * work.depth_width;
            if (row[j] == 0 &&
                !overlap(features + (a + i) * work.depth_width, features + (b + j) * work.depth_width, work.shape.d))
                continue;
            row[j] = exact_product(feature, work.shape, image, a + i, b + j) > 0 ? std::max(std::fabs(row[j]), kTiny) : 0;
        }
        for (int64_t j = 0; j < b_count; j += kLanes<Sum>) {
            Vec<Sum>* cosine = reinterpret_cast<Vec<Sum>*>(row + j);
            *cosine = *cosine <= 0 ? Vec<Sum>{} : *cosine;
        }
    }
}

template <class T, class Sum>
void backward_tile(const Work<Sum>& work, const Strided<T>& feature, int64_t slot, int64_t image, int64_t a, int64_t b,
                   Sum* tile) {
    const int64_t a_count = std::min(kBlock, work.pixels - a), b_count = std::min(kBlock, work.pixels - b);
    const int64_t offset = slot * work.padded;
    cosine_tile<Finish::kStore>(work, work.panels + offset * work.shape.d, a, a_count, b, b_count, tile);
    rectify(work, feature, slot, image, a, a_count, b, b_count, tile);
    if (work.want_cam) {
        const int64_t width = work.value_width;
        add_both_sides(tile, a, a_count, b, b_count, work.values + offset * width, work.sums + offset * width, width);
    }
    if (work.want_feature) {
        // W_ij = [A_ij > 0] (V_i . g'_j + g'_i . V_j - d'_i - d'_j), symmetric like the affinity itself
        const int64_t k = work.pair_depth(), panel = k * kPanel<Sum>;
        tile_product<Sum, Finish::kMask>(a_count, b_count, k, {work.left + (offset + a) * k, 1, kPanel<Sum>, panel},
                                         {work.right + (offset + b) * k, kPanel<Sum>, panel}, tile, kBlock);
        const int64_t width = work.depth_width;
        add_both_sides(tile, a, a_count, b, b_count, work.rows + offset * width, work.gradient + offset * width, width);
    }
}

// Calls tile_function(slot, a, b, tile) once for every unordered pair of blocks of every image in flight.
template <class Sum, class TileFunction>
void for_each_tile(const Work<Sum>& work, int64_t images, TileFunction tile_function) {
    const int64_t players = ceil_div(work.pixels, kSuperBlock), pairs = (players + 1) / 2;
    const int64_t rounds = players == 1 ? 0 : players + players % 2 - 1;
    const auto meet = [&](int64_t slot, int64_t first, int64_t second, int worker) {
        const int64_t a_end = std::min(work.pixels, (first + 1) * kSuperBlock),
                      b_end = std::min(work.pixels, (second + 1) * kSuperBlock);
        for (int64_t a = first * kSuperBlock; a < a_end; a += kBlock)
            for (int64_t b = first == second ? a : second * kSuperBlock; b < b_end; b += kBlock)
                tile_function(slot, a, b, work.tiles + worker * kBlock * kBlock);
    };
    parallel_for(images * players, work.threads,
                 [&](int64_t task, int worker) { meet(task / players, task % players, task % players, worker); });
    for (int64_t round = 0; round < rounds; ++round)
        parallel_for(images * pairs, work.threads, [&](int64_t task, int worker) {
            int64_t first, second;
            if (tournament_pair(players, round, task % pairs, &first, &second)) meet(task / pairs, first, second, worker);
        });
}

template <class T, class Sum>
void run_forward(const Work<Sum>& work, const ForwardArguments<T>& arguments) {
    const Shape& shape = work.shape;
    const int64_t panel_count = work.padded / kPanel<Sum>, block_count = ceil_div(work.pixels, kBlock), width = work.value_width;
    for (int64_t start = 0; start < shape.n; start += work.images) {
        const int64_t images = std::min(work.images, shape.n - start);

        parallel_for(images * panel_count, work.threads, [&](int64_t task, int) {
            const int64_t slot = task / panel_count, image = start + slot, first = task % panel_count * kPanel<Sum>;
            const int64_t at = slot * work.padded + first;
            pack_features<T, Sum>(work, arguments.feature, image, first, work.panels + at * shape.d, nullptr);
            Sum* values = work.values + at * width;
            std::memset(values, 0, sizeof(Sum) * kPanel<Sum> * width);
            std::memset(work.sums + at * width, 0, sizeof(Sum) * kPanel<Sum> * width);
            const PanelPixels<T, Sum> pixels(work, arguments.cam, first);
            Sum row[kPanel<Sum>];
            for (int64_t c = 0; c < shape.c; ++c) {
                pixels.load(arguments.cam.data + image * arguments.cam.n + c * arguments.cam.channel, row);
                for (int i = 0; i < kPanel<Sum>; ++i) values[i * width + c] = row[i];
            }
            for (int i = 0; i < pixels.count; ++i) values[i * width + shape.c] = 1;
        });

        for_each_tile(work, images, [&](int64_t slot, int64_t a, int64_t b, Sum* tile) { forward_tile(work, slot, a, b, tile); });

        parallel_for(images * block_count, work.threads, [&](int64_t task, int) {
            const int64_t slot = task / block_count, image = start + slot, first = task % block_count * kBlock;
            const int64_t count = std::min(kBlock, work.pixels - first);
            const Sum* sums = work.sums + (slot * work.padded + first) * width;
            Sum* denominator = static_cast<Sum*>(arguments.denominator) + image * work.pixels + first;
            for (int64_t i = 0; i < count; ++i) denominator[i] = sums[i * width + shape.c] + work.eps;
            for (int64_t c = 0; c < shape.c; ++c) {
                T* out = arguments.out + (image * shape.c + c) * work.pixels + first;
                for (int64_t i = 0; i < count; ++i) store(out + i, sums[i * width + c] / denominator[i]);
            }
        });
    }
}

// Backward: one panel of everything that the tiles read.
template <class T, class Sum>
void pack_backward(const Work<Sum>& work, const BackwardArguments<T>& arguments, int64_t slot, int64_t image, int64_t first) {
    const Shape& shape = work.shape;
    const int64_t at = slot * work.padded + first, width = work.value_width, depth_width = work.depth_width,
                  k = work.pair_depth();
    Sum* panel = work.panels + at * shape.d;
    pack_features<T, Sum>(work, arguments.feature, image, first, panel, work.norms + at);
    Sum* rows = work.rows + at * depth_width;
    std::memset(rows, 0, sizeof(Sum) * kPanel<Sum> * depth_width);
    std::memset(work.gradient + at * depth_width, 0, sizeof(Sum) * kPanel<Sum> * depth_width);
    for (int64_t d = 0; d < shape.d; ++d)
        for (int i = 0; i < kPanel<Sum>; ++i) rows[i * depth_width + d] = panel[d * kPanel<Sum> + i];

    std::memset(work.values + at * width, 0, sizeof(Sum) * kPanel<Sum> * width);
    std::memset(work.sums + at * width, 0, sizeof(Sum) * kPanel<Sum> * width);
    std::memset(work.left + at * k, 0, sizeof(Sum) * kPanel<Sum> * k);
    std::memset(work.right + at * k, 0, sizeof(Sum) * kPanel<Sum> * k);
    const PanelPixels<T, Sum> cam_pixels(work, arguments.cam, first), grad_pixels(work, arguments.grad, first);
    const Sum* denominator = static_cast<const Sum*>(arguments.denominator) + image * work.pixels + first;
    Sum* left = work.left + at * k;
    Sum* right = work.right + at * k;
    Sum value[kPanel<Sum>], grad[kPanel<Sum>], inner[kPanel<Sum>] = {};
    for (int64_t c = 0; c < shape.c; ++c) {
        cam_pixels.load(arguments.cam.data + image * arguments.cam.n + c * arguments.cam.channel, value);
        grad_pixels.load(arguments.grad.data + image * arguments.grad.n + c * arguments.grad.channel, grad);
        const T* out = arguments.out + (image * shape.c + c) * work.pixels + first;
        for (int i = 0; i < cam_pixels.count; ++i) {
            const Sum share = grad[i] / denominator[i];
            inner[i] += share * static_cast<Sum>(to_float(out[i]));
            left[c * kPanel<Sum> + i] = right[(shape.c + c) * kPanel<Sum> + i] = value[i];
            right[c * kPanel<Sum> + i] = left[(shape.c + c) * kPanel<Sum> + i] = share;
            work.values[(at + i) * width + c] = share;
        }
    }
    for (int i = 0; i < cam_pixels.count; ++i) {
        left[2 * shape.c * kPanel<Sum> + i] = right[(2 * shape.c + 1) * kPanel<Sum> + i] = -inner[i];
        left[(2 * shape.c + 1) * kPanel<Sum> + i] = right[2 * shape.c * kPanel<Sum> + i] = 1;
    }
}

// Through f = x / (||x|| + eps):  dx = df / (||x|| + eps) - f (f . df) / ||x||
template <class T, class Sum>
void finish_backward(const Work<Sum>& work, const BackwardArguments<T>& arguments, int64_t slot, int64_t image, int64_t first) {
    const Shape& shape = work.shape;
    const int64_t count = std::min(kBlock, work.pixels - first), at = slot * work.padded + first;
    if (work.want_cam)
        for (int64_t c = 0; c < shape.c; ++c) {
            T* to = arguments.grad_cam + (image * shape.c + c) * work.pixels + first;
            for (int64_t i = 0; i < count; ++i) store(to + i, work.sums[(at + i) * work.value_width + c]);
        }
    if (!work.want_feature) return;
    const int64_t width = work.depth_width;
    for (int64_t i = 0; i < count; ++i) {
        const Sum* row = work.rows + (at + i) * width;
        Sum* gradient = work.gradient + (at + i) * width;
        const Sum norm = work.norms[at + i];
        Sum along = 0;
        for (int64_t d = 0; d < width; ++d) along += row[d] * gradient[d];
        const Sum shrink = norm == 0 && work.eps == 0 ? 0 : 1 / (norm + work.eps), tangent = norm == 0 ? 0 : along / norm;
        for (int64_t d = 0; d < width; ++d) gradient[d] = gradient[d] * shrink - row[d] * tangent;
    }
    for (int64_t d = 0; d < shape.d; ++d) {
        T* to = arguments.grad_feature + (image * shape.d + d) * work.pixels + first;
        for (int64_t i = 0; i < count; ++i) store(to + i, work.gradient[(at + i) * width + d]);
    }
}

template <class T, class Sum>
void run_backward(const Work<Sum>& work, const BackwardArguments<T>& arguments) {
    const int64_t panel_count = work.padded / kPanel<Sum>, block_count = ceil_div(work.pixels, kBlock);
    for (int64_t start = 0; start < work.shape.n; start += work.images) {
        const int64_t images = std::min(work.images, work.shape.n - start);
        parallel_for(images * panel_count, work.threads, [&](int64_t task, int) {
            const int64_t slot = task / panel_count;
            pack_backward<T, Sum>(work, arguments, slot, start + slot, task % panel_count * kPanel<Sum>);
        });
        for_each_tile(work, images, [&](int64_t slot, int64_t a, int64_t b, Sum* tile) {
            backward_tile(work, arguments.feature, slot, start + slot, a, b, tile);
        });
        parallel_for(images * block_count, work.threads, [&](int64_t task, int) {
            const int64_t slot = task / block_count;
            finish_backward<T, Sum>(work, arguments, slot, start + slot, task % block_count * kBlock);
        });
    }
}
