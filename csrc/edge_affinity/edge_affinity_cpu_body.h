// The body of edge_affinity_cpu.cpp, compiled once an instruction set (see common/simd_foreach.h).

// Calls give(plane, row, x, there, best, place) for each pixel of a tile and offset: whether the pair exists, the maximum along
// its path and, where kPlaces, the number of the maximum in the path.
template <bool kPlaces, class T, class Sum, class Give>
void for_each_maximum(const Work<Sum>& work, const std::vector<Path>& paths, const Strided<T>& edge, const Tile& tile, Sum* copy,
                      Give&& give) {
    using Integer = std::conditional_t<sizeof(Sum) == 4, int32_t, int64_t>;
    const Surroundings& around = work.around;
    copy_surroundings(work.shape, edge, tile, 0, around, copy);
    int64_t steps[kNoPair];
    for (size_t plane = 0; plane < paths.size(); ++plane) {
        const Path& path = paths[plane];
        const int length = static_cast<int>(path.points.size());
        for (int i = 0; i < length; ++i) steps[i] = path.points[i].dy * around.pitch + path.points[i].dx;
        for (int64_t row = 0; row < tile.rows; ++row)
            for (int64_t x = 0; x < tile.columns; x += kLanes<Sum>) {
                const Sum* own = copy + around.origin() + row * around.pitch + x;
                Vec<Sum> best = load(own + steps[0]);
                [[maybe_unused]] Vec<Integer> place{};
                for (int i = 1; i < length; ++i) {
                    const Vec<Sum> value = load(own + steps[i]);
                    // what is larger, and a NaN: nothing is larger than a NaN
                    const Vec<Integer> take = (value > best) | ((value != value) & (best == best));
                    best = take ? value : best;
                    if constexpr (kPlaces) place = take ? Vec<Integer>{} + i : place;
                }
                const int64_t count = std::min<int64_t>(kLanes<Sum>, tile.columns - x);
                for (int64_t i = 0; i < count; ++i)
                    give(static_cast<int64_t>(plane), row, x + i, is_pair(work.shape, tile.y + row, tile.x + x + i, path.offset),
                         best[i], place[i]);
            }
    }
}

template <class T, class Sum>
void run_forward(const Work<Sum>& work, const std::vector<Path>& paths, const Strided<T>& edge, T* out) {
    const PairShape& shape = work.shape;
    parallel_for(tile_count(shape), work.threads, [&](int64_t task, int worker) {
        const Tile tile = tile_at(shape, task);
        T* const to = out + (tile.image * shape.offsets() * shape.h + tile.y) * shape.w + tile.x;
        for_each_maximum<false>(work, paths, edge, tile, work.copies + worker * work.copy_size,
                                [&](int64_t plane, int64_t row, int64_t x, bool there, Sum best, int) {
                                    store(to + plane * shape.pixels() + row * shape.w + x, there ? 1 - best : 0);
                                });
    });
}

// Rows [y, y + rows) of one image's gradient into `sums`, a line each. The two lines behind them hold a row of a plane of `grad`
// and of its places; vectors may run over the end of a row, where no place is.
template <class T, class Sum>
void gather_rows(const Work<Sum>& work, const std::vector<Path>& paths, const Strided<T>& grad, int64_t image,
                 const Place* places, int64_t y, int64_t rows, Sum* sums) {
    const PairShape& shape = work.shape;
    Sum* const line = sums + kTileRows * work.line;
    Sum* const at = line + work.line;
    std::memset(sums, 0, sizeof(Sum) * (kTileRows + 2) * work.line);
    for (size_t plane = 0; plane < paths.size(); ++plane) {
        const auto& [offset, points] = paths[plane];
        const int64_t first = std::max(-offset.dx, 0), end = shape.w - std::max(offset.dx, 0);  // columns of sources
        for (int64_t source = std::max<int64_t>(y - offset.dy, 0); source < std::min(y + rows, shape.h - offset.dy); ++source) {
            const T* const from = grad.data + image * grad.n + plane * grad.channel + source * grad.y;
            const Place* const place = places + plane * shape.pixels() + source * shape.w;
            for (int64_t x = first; x < end; ++x) line[x] = to_float(from[x * grad.x]);
            for (int64_t x = first; x < end; ++x) at[x] = place[x];
            for (int64_t x = end; x < end + kLanes<Sum>; ++x) at[x] = kNoPair;
            for (size_t i = 0; i < points.size(); ++i) {
                const int64_t row = source + points[i].dy - y;
                if (row < 0 || row >= rows) continue;
                Sum* const sum = sums + row * work.line + points[i].dx;
                for (int64_t x = first; x < end; x += kLanes<Sum>) {
                    const auto here = load(at + x) == static_cast<Sum>(i);
                    save(sum + x, load(sum + x) - (here ? load(line + x) : Vec<Sum>{}));
                }
            }
        }
    }
}

template <class T, class Sum>
void run_backward(const Work<Sum>& work, const std::vector<Path>& paths, const Strided<T>& grad, const Strided<T>& edge,
                  T* grad_edge) {
    const PairShape& shape = work.shape;
    const int64_t bands = ceil_div(shape.h, kTileRows), tiles = tile_count(shape) / shape.n;
    const int64_t planes = shape.offsets() * shape.pixels();
    for (int64_t start = 0; start < shape.n; start += work.images) {
        const int64_t images = std::min(work.images, shape.n - start);
        parallel_for(images * tiles, work.threads, [&](int64_t task, int worker) {
            const Tile tile = tile_at(shape, start * tiles + task);
            Place* const to = work.places + (tile.image - start) * planes + tile.y * shape.w + tile.x;
            for_each_maximum<true>(work, paths, edge, tile, work.copies + worker * work.copy_size,
                                   [&](int64_t plane, int64_t row, int64_t x, bool there, Sum, int64_t place) {
                                       to[plane * shape.pixels() + row * shape.w + x] =
                                           there ? static_cast<Place>(place) : kNoPair;
                                   });
        });
        parallel_for(images * bands, work.threads, [&](int64_t task, int worker) {
            const int64_t slot = task / bands, y = task % bands * kTileRows, rows = std::min(kTileRows, shape.h - y);
            Sum* const sums = work.copies + worker * work.copy_size;
            gather_rows(work, paths, grad, start + slot, work.places + slot * planes, y, rows, sums);
            T* const to = grad_edge + (start + slot) * shape.pixels() + y * shape.w;
            for (int64_t row = 0; row < rows; ++row)
                for (int64_t x = 0; x < shape.w; ++x) store(to + row * shape.w + x, sums[row * work.line + x]);
        });
    }
}
