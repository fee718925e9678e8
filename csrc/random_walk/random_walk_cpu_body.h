// The stencil and what prepares it, for one instruction set: included by random_walk_cpu.cpp through simd_foreach.h.

constexpr int kGroup = WSSS_SIMD_ROWS / 2;  // classes at once: what 32 or 16 vector registers hold

template <class Sum>
Vec<Sum> power(Vec<Sum> base, int whole, Sum beta) {
    Vec<Sum> result = base * 0 + 1;
    if (whole < 0)
        for (int i = 0; i < kLanes<Sum>; ++i) result[i] = std::pow(base[i], beta);
    for (Vec<Sum> square = base; whole > 0; whole /= 2, square *= square)
        if (whole % 2 == 1) result *= square;
    return base > 0 ? result : Vec<Sum>{};
}

// One plane of affinities, to the power of beta; notes values outside [0, 1], NaN among them.
template <class T, class Sum>
void read_plane(const Work<Sum>& work, const Strided<T>& affinity, int64_t image, int64_t e, Sum* plane) {
    const Grid& grid = work.grid;
    const PairOffset offset = offset_of(static_cast<int>(work.settings.radius), static_cast<int>(e));
    const int64_t margin = work.settings.published ? work.disc.reach : 0;
    const int64_t y_end = grid.h - std::max<int64_t>(offset.dy, margin);
    const int64_t x_begin = std::max<int64_t>(-offset.dx, margin), x_end = grid.w - std::max<int64_t>(offset.dx, margin);
    std::memset(plane, 0, sizeof(Sum) * grid.plane);
    auto outside = Vec<Sum>{} != Vec<Sum>{};
    for (int64_t y = 0; y < y_end; ++y) {
        const T* from = affinity.data + image * affinity.n + e * affinity.channel + y * affinity.y;
        Sum* row = plane + grid.at(y, 0);
        if (affinity.x == 1)
            for (int64_t x = x_begin; x < x_end; ++x) row[x] = static_cast<Sum>(to_float(from[x]));
        else
            for (int64_t x = x_begin; x < x_end; ++x) row[x] = static_cast<Sum>(to_float(from[x * affinity.x]));
        for (int64_t x = 0; x < grid.columns; x += kLanes<Sum>) {
            const Vec<Sum> value = load(row + x);
            outside |= ~((value >= 0) & (value <= 1));
            save(row + x, power<Sum>(value, work.whole_beta, static_cast<Sum>(work.settings.beta)));
        }
    }
    for (int i = 0; i < kLanes<Sum>; ++i)
        if (outside[i]) *work.out_of_range = true;
}

// Calls visit(dy, dx, row) for the weights of a tile in the order in which a step reads them: columns of the disc; in each, the
// rows of the state that it touches; for each of those, the rows of the tile that it serves.
template <class Visit>
void for_each_weight(const Disc& disc, Visit visit) {
    for (int dx = -disc.reach; dx <= disc.reach; ++dx) {
        const int height = disc.width[std::abs(dx)];
        for (int i = 0; i <= 2 * height + kRows - 1; ++i)
            for (int row = std::max(0, i - 2 * height); row <= std::min(kRows - 1, i); ++row) visit(i - row - height, dx, row);
    }
}

// A sum that also holds what rounding took from it. Errors of the sums of T's columns would be multiplied by the steps.
template <class Sum>
struct ExactSum {
    Vec<Sum> sum = {}, lost = {};

    void add(Vec<Sum> value) {
        const Vec<Sum> after = sum + value, added = after - sum;
        lost += (sum - (after - added)) + (value - added);
        sum = after;
    }
    Vec<Sum> total() const { return sum + lost; }
};

// The weights of a row of tiles, divided by the sums of their columns of T: 0 in place of a pixel's own weight, and behind those
// of a tile what the neighbours give in all, for each of its rows.
template <class Sum>
void pack(const Work<Sum>& work, const Sum* planes, int64_t tile_row, Sum* to) {
    const Grid& grid = work.grid;
    const FlushDenormals scope;
    for (int64_t x = 0; x < grid.columns; x += kLanes<Sum>) {
        ExactSum<Sum> sum[kRows], given[kRows];
        Sum* next = to;
        for_each_weight(work.disc, [&](int dy, int dx, int row) {
            const int64_t y = tile_row * kRows + row;
            Vec<Sum> weight{};
            if (dy == 0 && dx == 0)
                sum[row].add(weight + 1);
            else if (dy > 0 || (dy == 0 && dx > 0))
                weight = load(planes + work.disc.plane(dy, dx) * grid.plane + grid.at(y, x));
            else
                weight = load(planes + work.disc.plane(-dy, -dx) * grid.plane + grid.at(y + dy, x + dx));
            save(next, weight);
            sum[row].add(weight);
            next += kLanes<Sum>;
        });
        Vec<Sum> share[kRows];
        for (int row = 0; row < kRows; ++row) share[row] = 1 / sum[row].total();
        for_each_weight(work.disc, [&](int, int, int row) {
            const Vec<Sum> weight = load(to) * share[row];
            save(to, weight);
            given[row].add(weight);
            to += kLanes<Sum>;
        });
        for (int row = 0; row < kRows; ++row, to += kLanes<Sum>) save(to, given[row].total());
    }
}

// Adds what one row of the state gives to rows kFirst to kLast of a tile.
template <class Sum, int kClasses, int kFirst, int kLast>
inline __attribute__((always_inline)) const Sum* add_row(const Sum* weights, const Sum* state, int64_t plane,
                                                         Vec<Sum> (&sum)[kRows][kClasses]) {
    Vec<Sum> value[kClasses];
#pragma GCC unroll 4
    for (int c = 0; c < kClasses; ++c) value[c] = load(state + c * plane);
#pragma GCC unroll 4
    for (int row = kFirst; row <= kLast; ++row, weights += kLanes<Sum>) {
        // opaque: else the compiler loads it again for each multiply-add, and loads are the limit here
        const Vec<Sum> weight = opaque(load(weights));
#pragma GCC unroll 4
        for (int c = 0; c < kClasses; ++c) sum[row][c] += weight * value[c];
    }
    return weights;
}

// What a step does with the state times T: other = scale * (now T) - keep * other, total += coefficient * other.
template <class Sum>
struct Step {
    const Sum* now;
    Sum *other, *total;
    Sum scale, keep, coefficient;
};

template <class Sum, int kClasses, bool kSeries>
void step_tiles(const Work<Sum>& work, const Sum* weights, const Step<Sum>& step, int64_t tile_row) {
    static_assert(kRows == 4, "the loops below have a beginning and an end of 3 rows");
    const Grid& grid = work.grid;
    weights += tile_row * work.tile_row_weights;
    for (int64_t x = 0; x < grid.columns; x += kLanes<Sum>) {
        Vec<Sum> sum[kRows][kClasses] = {};
        for (int dx = -work.disc.reach; dx <= work.disc.reach; ++dx) {
            const int height = work.disc.width[std::abs(dx)];
            const Sum* state = step.now + grid.at(tile_row * kRows - height, x + dx);
            weights = add_row<Sum, kClasses, 0, 0>(weights, state, grid.plane, sum);
            weights = add_row<Sum, kClasses, 0, 1>(weights, state += grid.pitch, grid.plane, sum);
            weights = add_row<Sum, kClasses, 0, 2>(weights, state += grid.pitch, grid.plane, sum);
            for (int i = 3; i <= 2 * height; ++i)
                weights = add_row<Sum, kClasses, 0, 3>(weights, state += grid.pitch, grid.plane, sum);
            weights = add_row<Sum, kClasses, 1, 3>(weights, state += grid.pitch, grid.plane, sum);
            weights = add_row<Sum, kClasses, 2, 3>(weights, state += grid.pitch, grid.plane, sum);
            weights = add_row<Sum, kClasses, 3, 3>(weights, state += grid.pitch, grid.plane, sum);
        }
        // A pixel's own value comes last, and less what it gives away: beside it the small terms before would have been rounded,
        // the same way in every step.
        for (int row = 0; row < kRows; ++row, weights += kLanes<Sum>)
            for (int c = 0; c < kClasses; ++c) {
                const int64_t at = c * grid.plane + grid.at(tile_row * kRows + row, x);
                const Vec<Sum> own = load(step.now + at);
                sum[row][c] = own + (sum[row][c] - load(weights) * own);
                if (kSeries) {
                    const Vec<Sum> value = step.scale * sum[row][c] - step.keep * load(step.other + at);
                    save(step.other + at, value);
                    save(step.total + at, load(step.total + at) + step.coefficient * value);
                } else {
                    save(step.other + at, sum[row][c]);
                }
            }
    }
}

template <class Sum, bool kSeries>
void step_tile_row(const Work<Sum>& work, const Sum* weights, const Step<Sum>& step, int64_t classes, int64_t tile_row) {
    if (classes == 1) return step_tiles<Sum, 1, kSeries>(work, weights, step, tile_row);
    if (classes == 2) return step_tiles<Sum, 2, kSeries>(work, weights, step, tile_row);
    if constexpr (kGroup == 4) {
        if (classes == 3) return step_tiles<Sum, 3, kSeries>(work, weights, step, tile_row);
        return step_tiles<Sum, 4, kSeries>(work, weights, step, tile_row);
    }
}

template <class Sum, bool kSeries>
void step_all(const Work<Sum>& work, const Sum* weights, const Step<Sum>& step, int64_t classes) {
    const auto some = [&](int64_t first, int64_t end) {
        const FlushDenormals scope;
        for (int64_t tile_row = first; tile_row < end; ++tile_row)
            step_tile_row<Sum, kSeries>(work, weights, step, classes, tile_row);
    };
    if (work.large)
        parallel_for(work.grid.tile_rows, work.threads, [&](int64_t tile_row, int) { some(tile_row, tile_row + 1); });
    else
        some(0, work.grid.tile_rows);
}

// All steps of a group of classes.
template <class T, class Sum>
void walk(const Work<Sum>& work, const Sum* weights, const Strided<T>& cam, int64_t image, int64_t first, int64_t classes,
          Sum* state, T* out) {
    const Grid& grid = work.grid;
    const int64_t buffer = classes * grid.plane, steps = work.settings.steps;
    Sum *now = state, *other = state + buffer, *total = state + 2 * buffer;
    std::memset(state, 0, sizeof(Sum) * 3 * buffer);
    double coefficient = work.series.first;
    for (int64_t c = 0; c < classes; ++c)
        for (int64_t y = 0; y < grid.h; ++y) {
            const T* from = cam.data + image * cam.n + (first + c) * cam.channel + y * cam.y;
            const int64_t row = c * grid.plane + grid.at(y, 0);
            for (int64_t x = 0; x < grid.w; ++x) now[row + x] = static_cast<Sum>(to_float(from[x * cam.x]));
            if (work.settings.chebyshev && steps % 2 == 0)
                for (int64_t x = 0; x < grid.w; ++x) total[row + x] = static_cast<Sum>(coefficient) * now[row + x];
        }
    if (work.settings.chebyshev) {
        for (int64_t k = 1; k <= work.series.last; ++k, std::swap(now, other)) {
            const Sum scale = k == 1 ? 1 : 2, keep = k == 1 ? 0 : 1;
            const Sum share = static_cast<Sum>(coefficient_of(work.series, k, &coefficient));
            step_all<Sum, true>(work, weights, Step<Sum>{now, other, total, scale, keep, share}, classes);
        }
    } else {
        for (int64_t k = 0; k < steps; ++k, std::swap(now, other))
            step_all<Sum, false>(work, weights, Step<Sum>{now, other, total, 1, 0, 0}, classes);
        total = now;
    }
    for (int64_t c = 0; c < classes; ++c)
        for (int64_t y = 0; y < grid.h; ++y) {
            T* to = out + ((image * work.shape.c + first + c) * grid.h + y) * grid.w;
            for (int64_t x = 0; x < grid.w; ++x) store(to + x, total[c * grid.plane + grid.at(y, x)]);
        }
}

template <class T, class Sum>
void run_walk(const Work<Sum>& work, const Strided<T>& cam, const Strided<T>& affinity, T* out) {
    const int64_t planes = work.pairs * work.grid.plane, weights = work.grid.tile_rows * work.tile_row_weights;
    const int64_t groups = ceil_div(work.shape.c, kGroup);
    for (int64_t start = 0; start < work.shape.n; start += work.images) {
        const int64_t images = std::min(work.images, work.shape.n - start);
        parallel_for(images * work.pairs, work.threads, [&](int64_t task, int) {
            const int64_t slot = task / work.pairs, e = task % work.pairs;
            read_plane(work, affinity, start + slot, e, work.planes + task * work.grid.plane);
        });
        if (*work.out_of_range)
            fail("random_walk", "affinity", "hold numbers from 0 to 1", "others or NaN",
                 "affinity.clamp(0, 1) takes away what rounding added");
        parallel_for(images * work.grid.tile_rows, work.threads, [&](int64_t task, int) {
            const int64_t slot = task / work.grid.tile_rows, tile_row = task % work.grid.tile_rows;
            pack(work, work.planes + slot * planes, tile_row, work.weights + slot * weights + tile_row * work.tile_row_weights);
        });
        const auto walk_group = [&](int64_t task, int worker) {
            const int64_t slot = task / groups, group = task % groups;
            const int64_t first = group * work.shape.c / groups, end = (group + 1) * work.shape.c / groups;
            walk(work, work.weights + slot * weights, cam, start + slot, first, end - first,
                 work.state + worker * 3 * kMostClasses * work.grid.plane, out);
        };
        if (work.large)
            for (int64_t task = 0; task < images * groups; ++task) walk_group(task, 0);
        else
            parallel_for(images * groups, work.threads, walk_group);
    }
}
