// The body of cam_merge_cpu.cpp, compiled once an instruction set (see common/simd_foreach.h): widen, blend, normalise.

template <class Sum>
using Bits = std::conditional_t<sizeof(Sum) == 4, int32_t, int64_t>;

// Greatest and least value of a plane. A NaN makes the greatest a NaN: as integers NaNs are above all numbers that are not
// negative.
template <class Sum>
struct Range {
    Sum top, low;
};

// Adds up row `y` of a group's maps, un-flipped, and repeats its ends.
template <class T, class Sum>
void add_rows(const Work<Sum>& work, const Group<Sum>& group, int64_t n, int64_t c, int64_t y, Sum* row) {
    for (int k = 0; k < group.map_count; ++k) {
        const View& map = work.maps[group.maps[k]];
        const bool flip = (*work.flipped)[static_cast<size_t>(group.maps[k])];
        const int64_t step = flip ? -map.stride[3] : map.stride[3];
        const T* from = map.as<const T>() + n * map.stride[0] + c * map.stride[1] + y * map.stride[2] +
                        (flip ? (group.w - 1) * map.stride[3] : 0);
        const auto add = [&](int64_t stride) {
            for (int64_t x = 0; x < group.w; ++x) {
                const Sum read = to_float(from[x * stride]);
                const Sum value = work.settings.relu_first && read < 0 ? 0 : read;
                row[x] = k == 0 ? value : row[x] + value;
            }
        };
        // a stride known to the compiler makes vectors of it
        step == 1 ? add(1) : step == -1 ? add(-1) : add(step);
    }
    for (int64_t i = 1; i <= kBorder; ++i) {
        row[-i] = row[0];
        row[group.w - 1 + i] = row[group.w - 1];
    }
}

// A source row at the output's width. Every run is written with whole vectors, whose ends the next run overwrites.
template <int kTaps, class Sum>
void widen(const Work<Sum>& work, const Group<Sum>& group, const Sum* row, Sum* to) {
    using V = Vec<Sum>;
    const int64_t pitch = work.ring_row();
    for (int64_t r = 0; r < group.run_count; ++r) {
        const Sum* const from = row + group.runs[r].source;
        const int64_t end = group.runs[r + 1].x;
        for (int64_t x = group.runs[r].x; x < end; x += kLanes<Sum>) {
            V sum = from[0] * *reinterpret_cast<const V*>(group.across + x);
            for (int t = 1; t < kTaps; ++t) sum += from[t] * *reinterpret_cast<const V*>(group.across + t * pitch + x);
            *reinterpret_cast<V*>(to + x) = sum;
        }
    }
}

// Output row y from the rows of the rings, clamped at 0; `top` and `low` go along.
template <class Sum>
void blend(const Sum* const* rows, const Sum* weights, int count, int64_t pitch, Sum* to, Vec<Bits<Sum>>* top, Vec<Sum>* low) {
    using V = Vec<Sum>;
    using I = Vec<Bits<Sum>>;
    constexpr int kWide = 4;
    for (int64_t x = 0; x < pitch; x += kWide * kLanes<Sum>) {
        V sum[kWide] = {};
        for (int i = 0; i < count; ++i)
            for (int v = 0; v < kWide; ++v) sum[v] += weights[i] * *reinterpret_cast<const V*>(rows[i] + x + v * kLanes<Sum>);
        for (int v = 0; v < kWide; ++v) {
            const V value = sum[v] < 0 ? V{} : sum[v];
            const I bits = reinterpret_cast<const I&>(value) & std::numeric_limits<Bits<Sum>>::max();
            *top = bits > *top ? bits : *top;
            *low = value < *low ? value : *low;
            *reinterpret_cast<V*>(to + x + v * kLanes<Sum>) = value;
        }
    }
}

// The merged plane of a class, not normalised, to scratch.plane.
template <class T, int kTaps, class Sum>
Range<Sum> merge_plane(const Work<Sum>& work, const Scratch<Sum>& scratch, int64_t n, int64_t c) {
    constexpr int kMostRows = kMaxMaps * kTaps;
    const Sum* rows[kMostRows];
    Sum weights[kMostRows];
    int64_t filled[kMaxMaps];  // source rows below this are, or were, in the ring
    for (int64_t& next : filled) next = -kBorder;
    Vec<Bits<Sum>> top = {};
    Vec<Sum> low = Vec<Sum>{} + std::numeric_limits<Sum>::infinity();
    for (int64_t y = 0; y < work.shape.h; ++y) {
        int count = 0;
        for (size_t g = 0; g < work.groups.size(); ++g) {
            const Group<Sum>& group = work.groups[g];
            Sum* const ring = scratch.ring + static_cast<int64_t>(g) * kTaps * work.ring_row();
            const auto slot = [&](int64_t row) { return ring + (row + kBorder) % kTaps * work.ring_row(); };
            const int64_t first = group.first[y];
            for (int64_t row = std::max(filled[g], first); row < first + kTaps; ++row) {
                add_rows<T>(work, group, n, c, std::clamp<int64_t>(row, 0, group.h - 1), scratch.row + kBorder);
                widen<kTaps>(work, group, scratch.row + kBorder, slot(row));
            }
            filled[g] = first + kTaps;
            for (int t = 0; t < kTaps; ++t, ++count) {
                rows[count] = slot(first + t);
                weights[count] = group.down[y * kTaps + t];
            }
        }
        blend(rows, weights, count, work.pitch, scratch.plane + y * work.pitch, &top, &low);
    }
    Bits<Sum> bits = top[0];
    Range<Sum> range{0, low[0]};
    for (int lane = 1; lane < kLanes<Sum>; ++lane) {
        bits = std::max<Bits<Sum>>(bits, top[lane]);
        range.low = std::min<Sum>(range.low, low[lane]);
    }
    std::memcpy(&range.top, &bits, sizeof bits);
    return range;
}

template <class O, class Sum>
void store_row(const Sum* from, int64_t count, O* to) {
    for (int64_t x = 0; x < count; ++x) {
        if constexpr (std::is_same_v<O, uint8_t>) {
            const Sum scaled = from[x] * 255;
            const Sum limited = scaled > 255 ? 255 : scaled > 0 ? scaled : 0;  // NaN gives 0
            to[x] = static_cast<uint8_t>(static_cast<int>(std::nearbyint(limited)));
        } else if constexpr (std::is_floating_point_v<O>) {
            to[x] = static_cast<O>(from[x]);
        } else {
            store(to + x, static_cast<float>(from[x]));
        }
    }
}

// A row of the result to channel `channel` of image n.
template <class Sum>
void store_result(const Work<Sum>& work, const Sum* from, int64_t n, int64_t channel, int64_t y) {
    const View& out = work.out;
    const int64_t at = ((n * out.size[1] + channel) * work.shape.h + y) * work.shape.w, count = work.shape.w;
    switch (out.dtype) {
        case DType::kFloat64:
            return store_row(from, count, out.as<double>() + at);
        case DType::kFloat16:
            return store_row(from, count, out.as<HostHalf>() + at);
        case DType::kBFloat16:
            return store_row(from, count, out.as<HostBFloat16>() + at);
        case DType::kUInt8:
            return store_row(from, count, out.as<uint8_t>() + at);
        default:
            return store_row(from, count, out.as<float>() + at);
    }
}

// One class of one image, merged and normalised; with a background scratch.best goes along.
template <class T, class Sum>
void merge_class(const Work<Sum>& work, const Scratch<Sum>& scratch, int64_t n, int64_t c) {
    using V = Vec<Sum>;
    const Settings& settings = work.settings;
    const View& out = work.out;
    const int64_t channel = c + settings.background;
    if (work.present && !work.present[n * work.shape.c + c]) {
        const int64_t bytes_of_plane = work.shape.pixels() * bytes(out.dtype);
        std::memset(out.as<char>() + (n * out.size[1] + channel) * bytes_of_plane, 0, static_cast<size_t>(bytes_of_plane));
        return;
    }
    const Range<Sum> range = settings.cubic ? merge_plane<T, 4>(work, scratch, n, c) : merge_plane<T, 2>(work, scratch, n, c);
    const Sum eps = static_cast<Sum>(settings.eps), scale = static_cast<Sum>(settings.scale);
    const Sum below = settings.minmax ? range.low : 0, divisor = range.top - below + eps;
    for (int64_t y = 0; y < work.shape.h; ++y) {
        Sum* const row = scratch.plane + y * work.pitch;
        Sum* const best = scratch.best + (settings.background ? y * work.pitch : 0);
        for (int64_t x = 0; x < work.pitch; x += kLanes<Sum>) {
            V value = *reinterpret_cast<const V*>(row + x);
            if (settings.minmax) {
                value = value - below - eps;
                value = value < 0 ? V{} : value;
            }
            value = value / divisor * scale;
            *reinterpret_cast<V*>(row + x) = value;
            if (settings.background) {
                V* const most = reinterpret_cast<V*>(best + x);
                *most = ((value > *most) | (value != value)) ? value : *most;  // a NaN stays
            }
        }
        store_result(work, row, n, channel, y);
    }
}

// base^alpha for base >= 0; the whole numbers that methods use, by squaring.
template <class Sum>
void raise(Sum* row, int64_t count, double alpha) {
    if (alpha != std::floor(alpha) || alpha > 256) {
        for (int64_t x = 0; x < count; ++x) row[x] = static_cast<Sum>(std::pow(static_cast<double>(row[x]), alpha));
        return;
    }
    for (int64_t x = 0; x < count; x += kLanes<Sum>) {
        Vec<Sum> base = *reinterpret_cast<const Vec<Sum>*>(row + x), power = Vec<Sum>{} + 1;
        for (int rest = static_cast<int>(alpha); rest > 0; rest /= 2, base *= base)
            if (rest % 2 == 1) power *= base;
        *reinterpret_cast<Vec<Sum>*>(row + x) = power;
    }
}

// All classes of one image, then its background.
template <class T, class Sum>
void merge_image(const Work<Sum>& work, const Scratch<Sum>& scratch, int64_t n) {
    std::fill(scratch.best, scratch.best + work.shape.h * work.pitch, Sum(0));
    for (int64_t c = 0; c < work.shape.c; ++c) merge_class<T>(work, scratch, n, c);
    for (int64_t y = 0; y < work.shape.h; ++y) {
        Sum* const row = scratch.best + y * work.pitch;
        for (int64_t x = 0; x < work.pitch; ++x) row[x] = row[x] > 1 ? 0 : 1 - row[x];
        raise(row, work.pitch, work.settings.alpha);
        store_result(work, row, n, 0, y);
    }
}
