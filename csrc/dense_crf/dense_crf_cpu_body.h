// The body of dense_crf_cpu.cpp, compiled once an instruction set (see common/simd_foreach.h): lattice, then mean field.

#include "common/vec_exp.h"
#include "dense_crf/lattice_body.h"

// exp of x limited to -87 ... 88.
inline __attribute__((always_inline)) Vec<float> limited_exponential(Vec<float> x) {
    const Vec<float> low = Vec<float>{} - 87.0f, high = Vec<float>{} + 88.0f;
    x = x < low ? low : x;
    return exponential_in_range(x > high ? high : x);
}

// log(x) of normal x > 0, relative error 3e-7: x = 2^e m with m from 1 / sqrt(2) to sqrt(2), log(m) = 2 artanh((m - 1) / (m +
// 1)).
inline __attribute__((always_inline)) Vec<float> logarithm(Vec<float> x) {
    using V = Vec<float>;
    using I = Vec<int32_t>;
    const I bits = reinterpret_cast<const I&>(x);
    const I exponent = (bits - 0x3f3504f3) >> 23;  // bits of 1 / sqrt(2)
    const I mantissa = bits - (exponent << 23);
    const V m = reinterpret_cast<const V&>(mantissa);
    const V s = (m - 1.0f) / (m + 1.0f), t = s * s;
    const V series = (((t * (2.0f / 9) + 2.0f / 7) * t + 2.0f / 5) * t + 2.0f / 3) * t;
    return __builtin_convertvector(exponent, V) * 0.693147181f + (s * series + 2.0f * s);
}

template <int kBytes>
inline __attribute__((always_inline)) float sum_of(typename VectorOf<float, kBytes>::type v) {
    if constexpr (kBytes > 16) {
        const auto* half = reinterpret_cast<const typename VectorOf<float, kBytes / 2>::type*>(&v);
        return sum_of<kBytes / 2>(half[0] + half[1]);
    } else {
        return (v[0] + v[2]) + (v[1] + v[3]);
    }
}

template <int kWidth>
inline __attribute__((always_inline)) float sum_of_row(const float* from) {
    Row<kWidth> row;
    row.load(from);
    for (int i = 1; i < Row<kWidth>::kCount; ++i) row.part[0] += row.part[i];
    return sum_of<Row<kWidth>::kUnit * 4>(row.part[0]);
}

// Energies of unused columns: their exp, 2^-125, is nothing beside that of any label.
constexpr float kUnused = -1000.0f;

// energies [kBlock][width] to probabilities [kBlock][width]. The exponentials of a whole block go in full vectors, whatever the
// width. Meanwhile the energies of the block at `next` are fetched: that is all there is to wait for in a pass, and one cache
// line at a time between computations costs nothing (all at once, they would hold up the loads behind them).
template <int kSlab>
void softmax(const float* energies, float* probabilities, int64_t width, int64_t labels, const float* next) {
    for (int64_t i = 0; i < kBlock * width; i += kLanes<float>) {
        if (i % 16 == 0) __builtin_prefetch(next + i);
        save(probabilities + i, limited_exponential(load(energies + i)));
    }
    float factor[kBlock];
    for (int p = 0; p < kBlock; ++p) {
        float* row = probabilities + p * width;
        float sum = 0;
        for (int64_t slab = 0; slab < width; slab += kSlab) sum += sum_of_row<kSlab>(row + slab);
        if (!(sum > 1e-30f && sum < 1e30f)) {  // messages so large that exp left its range: the largest energy becomes 0
            const float* energy = energies + p * width;
            const float best = *std::max_element(energy, energy + labels);
            sum = 0;
            for (int64_t l = 0; l < width; ++l) sum += row[l] = l < labels ? std::exp(energy[l] - best) : 0;
        }
        factor[p] = sum;
    }
    for (int p = 0; p < kBlock; ++p) factor[p] = 1.0f / factor[p];
    for (int p = 0; p < kBlock; ++p)
        for (int64_t slab = 0; slab < width; slab += kSlab) {
            Row<kSlab> row;
            row.load(probabilities + p * width + slab);
            row.scale(factor[p]);
            row.store(probabilities + p * width + slab);
        }
}

// block[p] = from[p] + factor * (slice of the lattice at pixel first + p), for kSlab columns; `from` may be `block`.
// One side: a pixel's row is its own.
template <int kSlab, int kSides>
void slice(const Lattice& lattice, const float* values, int64_t first, int count, int64_t width, float factor, const float* from,
           float* block) {
    const int64_t length = row_length<kSlab>(width);
    for (int p = 0; p < count; ++p) {
        const int32_t* vertex = lattice.vertex + (first + p) * kSides;
        const float* weight = lattice.weight + (first + p) * kSides;
        Row<kSlab> message, row;
        if constexpr (kSides == 1) {
            message.load(values + (first + p) * length);
        } else {
            message.zero();
            for (int r = 0; r < kSides; ++r) message.add_scaled(values + unsigned_index(vertex[r]) * length, weight[r]);
        }
        row.load(from + p * length);
        row.add_scaled(message, lattice.after ? factor * lattice.after[first + p] : factor);
        row.store(block + p * length);
    }
}

template <int kSlab, int kSides>
void splat(const Lattice& lattice, float* values, int64_t first, int count, int64_t width, const float* block) {
    const int64_t length = row_length<kSlab>(width);
    for (int p = 0; p < count; ++p) {
        const int32_t* vertex = lattice.vertex + (first + p) * kSides;
        const float* weight = lattice.weight + (first + p) * kSides;
        __builtin_prefetch(vertex + kBlock * kSides);  // of the next block
        __builtin_prefetch(weight + kBlock * kSides);
        Row<kSlab> row, sum;
        row.load(block + p * length);
        if constexpr (kSides == 1) {
            row.store(values + (first + p) * length);
            continue;
        }
        if (lattice.before) row.scale(lattice.before[first + p]);
        for (int r = 0; r < kSides; ++r) {
            float* to = values + unsigned_index(vertex[r]) * length;
            sum.load(to);
            sum.add_scaled(row, weight[r]);
            sum.store(to);
        }
    }
}

// Calls FUNCTION<slab, sides>(…) with the number of sides of a lattice as a constant.
#define WSSS_FOR_SIDES(FUNCTION, slab, sides, ...) \
    switch (sides) {                               \
        case 1:                                    \
            FUNCTION<slab, 1>(__VA_ARGS__);        \
            break;                                 \
        case 2:                                    \
            FUNCTION<slab, 2>(__VA_ARGS__);        \
            break;                                 \
        case 3:                                    \
            FUNCTION<slab, 3>(__VA_ARGS__);        \
            break;                                 \
        case 4:                                    \
            FUNCTION<slab, 4>(__VA_ARGS__);        \
            break;                                 \
        case 5:                                    \
            FUNCTION<slab, 5>(__VA_ARGS__);        \
            break;                                 \
        case 6:                                    \
            FUNCTION<slab, 6>(__VA_ARGS__);        \
            break;                                 \
        default:                                   \
            FUNCTION<slab, 7>(__VA_ARGS__);        \
            break;                                 \
    }

template <int kSlab>
void slice_all(const Image& g, const Term& term, int64_t first, int count, float factor, const float* from, float* block) {
    for (int64_t slab = 0; slab < g.width; slab += kSlab) {
        WSSS_FOR_SIDES(slice, kSlab, term.lattice->sides(), *term.lattice, term.values.now + slab, first, count, g.width, factor,
                       from + slab, block + slab)
    }
}

template <int kSlab>
void splat_all(const Image& g, Term& term, int64_t first, int count, const float* block) {
    for (int64_t slab = 0; slab < g.width; slab += kSlab) {
        WSSS_FOR_SIDES(splat, kSlab, term.lattice->sides(), *term.lattice, term.values.next + slab, first, count, g.width,
                       block + slab)
    }
}

// block = from + compat times the message of a term. A number goes straight in, a vector or matrix through a buffer.
template <int kSlab>
void add_message(const Image& g, const Term& term, int64_t first, int count, const float* from, float* block, float* buffer) {
    const float alpha = term.lattice->alpha();
    if (term.kind == Term::Kind::kNumber) return slice_all<kSlab>(g, term, first, count, alpha * term.compat[0], from, block);
    const size_t bytes = sizeof(float) * static_cast<size_t>(count * g.width);
    if (from != block) std::memcpy(block, from, bytes);
    std::memset(buffer, 0, bytes);
    slice_all<kSlab>(g, term, first, count, alpha, buffer, buffer);
    for (int p = 0; p < count; ++p) {
        float *row = block + p * g.width, *message = buffer + p * g.width;
        for (int64_t l = 0; l < g.labels; ++l) {
            float sum = 0;
            if (term.kind == Term::Kind::kVector)
                sum = term.compat[l] * message[l];
            else
                for (int64_t m = 0; m < g.labels; ++m) sum += term.compat[l * g.labels + m] * message[m];
            row[l] -= sum;
        }
    }
}

template <int kSlab>
void mean_field(const Image& g, float* block, float* buffer) {
    std::vector<Term>& terms = *g.terms;
    const int64_t passes = g.message ? 1 : g.iterations;
    for (int64_t pass = 0; pass <= passes; ++pass) {
        const bool first_pass = pass == 0, last_pass = pass == passes;
        if (!last_pass)
            for (Term& term : terms)
                if (term.dims > 0)
                    std::memset(term.values.next, 0, sizeof(float) * static_cast<size_t>(term.lattice->rows() * g.width));
        for (int64_t first = 0; first < g.pixels; first += kBlock) {
            const int count = static_cast<int>(std::min<int64_t>(kBlock, g.pixels - first));
            float* result = buffer;  // Q of the block; in the last pass of a message, the message
            if (first_pass && g.initial) {
                for (int p = 0; p < count; ++p)
                    for (int64_t l = 0; l < g.width; ++l)
                        result[p * g.width + l] = l < g.labels ? g.initial[l * g.pixels + first + p] : 0;
            } else {
                const bool message = g.message && last_pass;
                // Streams from memory: read where the first slice needs it, so that the wait overlaps with work.
                const float* energies = g.start + first * g.width;
                if (message) energies = static_cast<float*>(std::memset(block, 0, sizeof(float) * kBlock * g.width));
                if (!first_pass)
                    for (const Term& term : terms) {
                        add_message<kSlab>(g, term, first, count, energies, block, buffer);
                        energies = block;
                    }
                if (message)
                    result = block;
                else
                    softmax<kSlab>(energies, result, g.width, g.labels, g.start + (first + kBlock) * g.width);
            }
            if (!last_pass)
                for (Term& term : terms) splat_all<kSlab>(g, term, first, count, result);
            else
                for (int64_t l = 0; l < g.labels; ++l)
                    for (int p = 0; p < count; ++p) g.out[l * g.pixels + first + p] = result[p * g.width + l];
        }
        if (!last_pass)
            for (Term& term : terms)
                if (term.dims > 0) blur<kSlab>(*term.lattice, g.width, &term.values);
    }
}

// start = -unary (or the log of the probability) less its maximum: a softmax does not change, and exp stays in range. Unused
// columns: as good as impossible. `scores`: [labels][kBlock].
inline void load_unary(const Image& g, float* scores) {
    using V = Vec<float>;
    const V least = V{} + kLeastProbability;
    V check = V{};  // NaN as soon as a value is NaN or infinite
    float best[kBlock], padded[kBlock];
    for (int64_t first = 0; first < g.pixels; first += kBlock) {
        const int count = static_cast<int>(std::min<int64_t>(kBlock, g.pixels - first));
        for (int64_t l = 0; l < g.labels; ++l) {
            const float* unary = g.unary + l * g.pixels + first;
            if (count < kBlock) {
                std::fill(std::copy(unary, unary + count, padded), padded + kBlock, unary[0]);
                unary = padded;
            }
            for (int p = 0; p < kBlock; p += kLanes<float>) {
                V value = *reinterpret_cast<const V*>(unary + p);
                if (g.probability) value = value < least ? least : value;  // NaN stays
                check += value * 0;
                const V score = g.probability ? logarithm(value) : -value;
                V& highest = *reinterpret_cast<V*>(best + p);
                if (l == 0) highest = score;
                highest = score > highest ? score : highest;
                *reinterpret_cast<V*>(scores + l * kBlock + p) = score;
            }
        }
        for (int64_t l = 0; l < g.labels; ++l) {
            float* to = g.start + first * g.width + l;
            for (int p = 0; p < count; ++p) to[p * g.width] = scores[l * kBlock + p] - best[p];
        }
        for (int64_t l = g.labels; l < g.width; ++l)
            for (int p = 0; p < count; ++p) g.start[(first + p) * g.width + l] = kUnused;
    }
    if (sum_of<sizeof(V)>(check) != 0)
        fail("dense_crf", "unary", "be finite", "NaN or Inf",
             "also in what the probabilities become; torch.nan_to_num replaces them");
}

inline void infer(const Image& g) {
    const FlushDenormals flush;
    for (Term& term : *g.terms) term.values.resize(term.lattice->rows(), g.width, term.dims == 0);
    std::vector<float> scratch(static_cast<size_t>(2 * kBlock * g.width));  // zeros: the last block may be short
    float *block = scratch.data(), *buffer = block + kBlock * g.width;
    load_unary(g, block);
    switch (g.width) {
        case 4:
            return mean_field<4>(g, block, buffer);
        case 8:
            return mean_field<8>(g, block, buffer);
        case 16:
            return mean_field<16>(g, block, buffer);
        case 24:
            return mean_field<24>(g, block, buffer);
        default:
            return mean_field<32>(g, block, buffer);
    }
}
