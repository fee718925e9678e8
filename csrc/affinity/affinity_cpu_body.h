// The body of affinity_cpu.cpp, compiled once an instruction set (see common/simd_foreach.h).

template <class Sum>
inline __attribute__((always_inline)) Vec<Sum> magnitude(Vec<Sum> x) {
    using Integer = std::conditional_t<sizeof(Sum) == 4, int32_t, int64_t>;
    return (Vec<Sum>)((Vec<Integer>)x & std::numeric_limits<Integer>::max());  // all but the sign
}

// Source rows whose sums are in registers together: kSourceRows * kStripRows accumulators.
constexpr int kSourceRows = WSSS_SIMD_ROWS / 2;
static_assert(kTileRows % kSourceRows == 0, "source rows divide the tile");

// sums[k][row][x...] += |source - neighbour| over `channels` channels, for the kCount offsets of a strip. `source` points at the
// tile's pixel in the copy of the first channel.
template <int kCount, class Sum>
void add_strip(const Sum* source, int64_t dy, int64_t dx, int64_t channels, int64_t channel_size, int64_t pitch, Sum* sums) {
    Vec<Sum> sum[kCount][kSourceRows];
    for (int k = 0; k < kCount; ++k)
        for (int row = 0; row < kSourceRows; ++row) sum[k][row] = load(sums + k * kTilePixels + row * kTileColumns);
    const Sum* neighbour = source + dy * pitch + dx;
    for (int64_t c = 0; c < channels; ++c, source += channel_size, neighbour += channel_size) {
        Vec<Sum> own[kSourceRows];
        for (int row = 0; row < kSourceRows; ++row) own[row] = load(source + row * pitch);
        for (int i = 0; i < kSourceRows + kCount - 1; ++i) {
            const Vec<Sum> other = load(neighbour + i * pitch);
            for (int row = 0; row < kSourceRows; ++row)
                if (i >= row && i - row < kCount) sum[i - row][row] += magnitude<Sum>(own[row] - other);
        }
    }
    for (int k = 0; k < kCount; ++k)
        for (int row = 0; row < kSourceRows; ++row) save(sums + k * kTilePixels + row * kTileColumns, sum[k][row]);
}

template <class T, class Sum>
void run_forward(const Work<Sum>& work, const std::vector<Strip>& strips, const Strided<T>& feature, T* out) {
    const PairShape& shape = work.shape;
    const Surroundings& around = work.around;
    const Sum share = Sum(1) / static_cast<Sum>(std::max<int64_t>(shape.c, 1));
    parallel_for(tile_count(shape), work.threads, [&](int64_t task, int worker) {
        const Tile tile = tile_at(shape, task);
        Sum* copies = work.copies + worker * work.copy_size;
        Sum* sums = work.values + worker * work.value_size;
        std::memset(sums, 0, sizeof(Sum) * work.value_size);
        for (int64_t first = 0; first < shape.c; first += kSlice) {
            const int64_t channels = std::min(kSlice, shape.c - first);
            for (int64_t c = 0; c < channels; ++c)
                copy_surroundings(shape, feature, tile, first + c, around, copies + c * around.size());
            for (int64_t row = 0; row < tile.rows; row += kSourceRows)
                for (int64_t x = 0; x < tile.columns; x += kLanes<Sum>) {
                    const Sum* source = copies + around.origin() + row * around.pitch + x;
                    Sum* to = sums + row * kTileColumns + x;
                    for (const Strip& strip : strips) {
                        const auto add = strip.count == 5   ? add_strip<5, Sum>
                                         : strip.count == 4 ? add_strip<4, Sum>
                                         : strip.count == 3 ? add_strip<3, Sum>
                                         : strip.count == 2 ? add_strip<2, Sum>
                                                            : add_strip<1, Sum>;
                        add(source, strip.dy, strip.dx, channels, around.size(), around.pitch, to);
                        to += strip.count * kTilePixels;
                    }
                }
        }
        const Sum* from = sums;
        for (const Strip& strip : strips)
            for (int k = 0; k < strip.count; ++k, from += kTilePixels) {
                T* plane = out + (tile.image * shape.offsets() + strip.plane[k]) * shape.pixels();
                for (int64_t row = 0; row < tile.rows; ++row)
                    for (int64_t x = 0; x < tile.columns; ++x) {
                        const bool there = is_pair(shape, tile.y + row, tile.x + x, {strip.dy + k, strip.dx});
                        store(plane + (tile.y + row) * shape.w + tile.x + x,
                              there ? std::exp(-from[row * kTileColumns + x] * share) : 0);
                    }
            }
    });
}

// weights[e][0][p] = w of the pair p, p + o; weights[e][1][p] = w of the pair p - o, p; 0 where there is none.
template <class T, class Sum>
void form_weights(const Work<Sum>& work, const Strided<T>& grad, const Strided<T>& out, const Tile& tile, Sum* weights) {
    const PairShape& shape = work.shape;
    const Sum share = Sum(-1) / static_cast<Sum>(shape.c);
    std::memset(weights, 0, sizeof(Sum) * work.value_size);
    for_each_pair_offset(shape.radius, [&](int64_t plane, PairOffset offset) {
        const T* const gradient = grad.data + tile.image * grad.n + plane * grad.channel;
        const T* const value = out.data + tile.image * out.n + plane * out.channel;
        for (int end = 0; end < 2; ++end, weights += kTilePixels) {
            const int64_t dy = end * offset.dy, dx = end * offset.dx;  // back from p to where the pair's weight stands
            for (int64_t row = 0; row < tile.rows; ++row)
                for (int64_t column = 0; column < tile.columns; ++column) {
                    const int64_t y = tile.y + row - dy, x = tile.x + column - dx;
                    if (y < 0 || x < 0 || x >= shape.w || !is_pair(shape, y, x, offset)) continue;
                    weights[row * kTileColumns + column] = share * static_cast<Sum>(to_float(gradient[y * grad.y + x * grad.x])) *
                                                           static_cast<Sum>(to_float(value[y * out.y + x * out.x]));
                }
        }
    });
}

// gradient[c][x...] of kChannels channels: the sum of weight * sign(own - neighbour) over both ends of all offsets.
template <int kChannels, class Sum>
void gather(const Sum* own, const std::vector<int64_t>& steps, const Sum* weights, int64_t channel_size, Vec<Sum>* gradient) {
    Vec<Sum> value[kChannels], sum[kChannels], total{};
    for (int c = 0; c < kChannels; ++c) {
        value[c] = load(own + c * channel_size);
        sum[c] = Vec<Sum>{};
    }
    for (const int64_t step : steps) {
        const Vec<Sum> weight = load(weights);
        weights += kTilePixels;
        total += weight;
        for (int c = 0; c < kChannels; ++c) {
            const Vec<Sum> other = load(own + c * channel_size + step);
            sum[c] += value[c] > other ? weight : Vec<Sum>{};
            sum[c] -= value[c] < other ? weight : Vec<Sum>{};
        }
    }
    // 0, but NaN if a weight is NaN or infinite, also where features do not differ
    for (int c = 0; c < kChannels; ++c) gradient[c] = sum[c] + total * 0;
}

template <class T, class Sum>
void run_backward(const Work<Sum>& work, const Strided<T>& grad, const Strided<T>& feature, const Strided<T>& out,
                  T* grad_feature) {
    constexpr int kChannels = WSSS_SIMD_ROWS;
    static_assert(kGroup % kChannels == 0);
    const PairShape& shape = work.shape;
    const Surroundings& around = work.around;
    std::vector<int64_t> steps;
    for_each_pair_offset(shape.radius, [&](int64_t, PairOffset offset) {
        const int64_t step = offset.dy * around.pitch + offset.dx;
        steps.insert(steps.end(), {step, -step});
    });
    parallel_for(tile_count(shape), work.threads, [&](int64_t task, int worker) {
        const Tile tile = tile_at(shape, task);
        Sum* copies = work.copies + worker * work.copy_size;
        Sum* weights = work.values + worker * work.value_size;
        form_weights(work, grad, out, tile, weights);
        for (int64_t first = 0; first < shape.c; first += kGroup) {
            const int64_t channels = std::min(kGroup, shape.c - first);
            for (int64_t c = 0; c < channels; ++c)
                copy_surroundings(shape, feature, tile, first + c, around, copies + c * around.size());
            for (int64_t c = channels; c < kGroup; ++c)  // channels that do not exist are computed and not written
                std::memset(copies + c * around.size(), 0, sizeof(Sum) * around.size());
            for (int64_t start = 0; start < channels; start += kChannels)
                for (int64_t row = 0; row < tile.rows; ++row)
                    for (int64_t x = 0; x < tile.columns; x += kLanes<Sum>) {
                        Vec<Sum> gradient[kChannels];
                        const Sum* own = copies + start * around.size() + around.origin() + row * around.pitch + x;
                        gather<kChannels>(own, steps, weights + row * kTileColumns + x, around.size(), gradient);
                        const int64_t count = std::min<int64_t>(kLanes<Sum>, tile.columns - x);
                        for (int64_t c = start; c < std::min<int64_t>(channels, start + kChannels); ++c) {
                            T* to = grad_feature + ((tile.image * shape.c + first + c) * shape.h + tile.y + row) * shape.w +
                                    tile.x + x;
                            for (int64_t i = 0; i < count; ++i) store(to + i, gradient[c - start][i]);
                        }
                    }
        }
    });
}
