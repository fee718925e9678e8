// Permutohedral lattices (Adams, Baek, Davis 2010), compiled once an instruction set: building one over an image, and its blur.

// A vector that the compiler must round before use: multiply and add stay apart, so that vertices fall where an
// implementation without fused operations puts them.
template <class V>
inline __attribute__((always_inline)) V rounded(V value) {
    return opaque(value);
}

// Elevated coordinates, nearest 0-coloured point and rank of kLanes pixels at once.
template <int kDims>
struct Embedding {
    using V = Vec<float>;
    V offset[kDims + 1];  // (elevated - nearest) / (d + 1)
    V nearest[kDims + 1];
    V rank[kDims + 1];
    float last_nearest[kDims + 1], last_rank[kDims + 1];  // of the pixel before this group
    bool started = false;

    // Bit p: pixel p lies in the simplex of the pixel before it. Call once a group.
    uint32_t same_as_before() {
        using I = Vec<int32_t>;
        constexpr int kCount = kLanes<float>;
        I same = I{} - 1;
        for (int i = 0; i <= kDims; ++i) {
            float line[2][kCount + 1];
            line[0][0] = last_nearest[i];
            line[1][0] = last_rank[i];
            *reinterpret_cast<V*>(line[0] + 1) = nearest[i];
            *reinterpret_cast<V*>(line[1] + 1) = rank[i];
            same &= *reinterpret_cast<const V*>(line[0]) == nearest[i];
            same &= *reinterpret_cast<const V*>(line[1]) == rank[i];
            last_nearest[i] = line[0][kCount];
            last_rank[i] = line[1][kCount];
        }
        uint32_t bits = 0;
        int32_t lane[kCount];
        *reinterpret_cast<I*>(lane) = same;
        for (int p = 0; p < kCount; ++p) bits |= static_cast<uint32_t>(lane[p] & 1) << p;
        if (!started) bits &= ~1u;
        started = true;
        return bits;
    }

    void compute(const V* feature, const float* scale) {
        constexpr float kOver = 1.0f / (kDims + 1), kSide = kDims + 1;
        constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds to the nearest integer
        V elevated[kDims + 1], sum = V{};
        for (int j = kDims; j > 0; --j) {
            const V c = rounded(feature[j - 1] * scale[j - 1]);
            elevated[j] = sum - rounded(c * static_cast<float>(j));
            sum = sum + c;
        }
        elevated[0] = sum;
        V total = V{};
        for (int i = 0; i <= kDims; ++i) {
            const V cell = rounded(rounded(elevated[i] * kOver) + kMagic) - kMagic;
            nearest[i] = cell * kSide;
            total = total + cell;
            rank[i] = total * 0;
        }
        V difference[kDims + 1];
        for (int i = 0; i <= kDims; ++i) difference[i] = elevated[i] - nearest[i];
        const V one = V{} + 1.0f, side = V{} + kSide;
        for (int i = 0; i < kDims; ++i)
            for (int j = i + 1; j <= kDims; ++j) {
                const V less = difference[i] < difference[j] ? one : V{};
                rank[i] += less;
                rank[j] += one - less;
            }
        for (int i = 0; i <= kDims; ++i) {
            rank[i] += total;
            const V shift = (rank[i] < 0 ? side : V{}) - (rank[i] >= kSide ? side : V{});
            rank[i] += shift;
            nearest[i] += shift;
            offset[i] = (elevated[i] - nearest[i]) * kOver;
        }
    }
};

// Vertices and barycentric weights of all pixels and of the zeros behind them, and the neighbours of all vertices.
template <int kDims>
void build_lattice(Lattice& lattice, const float* feature, int64_t pixels, int64_t points) {
    using V = Vec<float>;
    constexpr int kSide = kDims + 1;
    const uint64_t* const multiplier = VertexTable::kMultiplier;
    float scale[kDims];
    const float inverse_deviation = static_cast<float>(std::sqrt(2.0 / 3.0) * kSide);
    for (int i = 0; i < kDims; ++i)
        scale[i] = static_cast<float>(1.0 / std::sqrt(static_cast<double>((i + 2) * (i + 1))) * inverse_deviation);
    uint64_t ones = 0;
    for (int i = 0; i < kDims; ++i) ones += multiplier[i];
    uint64_t last_key[kSide] = {};
    int32_t last_vertex[kSide] = {};  // neighbouring pixels mostly share their vertices: the table is asked only on a change
    lattice.table.clear();
    Embedding<kDims> embedding{};
    V at[kDims] = {}, strange = {};  // strange: NaN as soon as a feature is, or lies where float32 no longer parts neighbours
    for (int64_t first = 0; first < points; first += kLanes<float>) {
        const int count = static_cast<int>(std::min<int64_t>(kLanes<float>, points - first));
        for (int i = 0; i < kDims; ++i) {
            const float* from = feature + i * pixels + first;
            if (first + kLanes<float> <= pixels)
                at[i] = *reinterpret_cast<const V*>(from);
            else
                for (int p = 0; p < kLanes<float>; ++p) at[i][p] = first + p < pixels ? from[p] : 0;
            const auto inside = (at[i] <= kFarthestFeature) & (at[i] >= -kFarthestFeature);
            strange += inside ? V{} : V{} + std::numeric_limits<float>::quiet_NaN();
            at[i] = inside ? at[i] : V{};
        }
        embedding.compute(at, scale);
        V sorted[kSide], weight[kSide];  // sorted[r]: offset of the axis of rank r
        for (int r = 0; r < kSide; ++r) {
            sorted[r] = V{};
            for (int i = 0; i < kSide; ++i)
                sorted[r] = embedding.rank[i] == static_cast<float>(r) ? embedding.offset[i] : sorted[r];
        }
        weight[0] = sorted[kDims] + (1.0f - sorted[0]);
        for (int r = 1; r < kSide; ++r) weight[r] = sorted[kDims - r] - sorted[kSide - r];
        const uint32_t repeated = embedding.same_as_before();
        uint64_t keys[kLanes<float>][kSide];  // of the group, so that the table's slots are on their way before they are needed
        for (int p = 0; p < count; ++p) {
            float* to = lattice.weight + (first + p) * kSide;
            for (int r = 0; r < kSide; ++r) to[r] = weight[r][p];
            if (repeated >> p & 1) continue;
            uint64_t key = 0, drop_of_rank[8];
            for (int i = 0; i < kSide; ++i) {
                const uint64_t factor = i < kDims ? multiplier[i] : 0;
                key += static_cast<uint64_t>(static_cast<int64_t>(embedding.nearest[i][p])) * factor;
                drop_of_rank[static_cast<int>(embedding.rank[i][p]) & 7] = factor * kSide;
            }
            for (int r = 0; r < kSide; ++r) {
                keys[p][r] = key;
                lattice.table.prefetch(key);
                key += ones - drop_of_rank[kDims - r];
            }
        }
        for (int p = 0; p < count; ++p) {
            int32_t* vertex = lattice.vertex + (first + p) * kSide;
            for (int r = 0; r < kSide; ++r) {
                if (repeated >> p & 1) {
                    vertex[r] = vertex[r - kSide];
                    continue;
                }
                if (keys[p][r] != last_key[r] || last_vertex[r] == 0) {
                    last_key[r] = keys[p][r];
                    last_vertex[r] = lattice.table.find_or_add(last_key[r]);
                }
                vertex[r] = last_vertex[r];
            }
        }
    }
    for (int p = 0; p < kLanes<float>; ++p)
        if (strange[p] != 0)
            fail("dense_crf", "feature", "be finite and at most 2^20 in size", "others", "divide features by larger deviations");
    const int64_t rows = lattice.rows();
    lattice.neighbours.resize(static_cast<size_t>(kSide * rows * 2));
    for (int axis = 0; axis < kSide; ++axis) {
        const uint64_t jump = (axis < kDims ? multiplier[axis] * kSide : 0) - ones;
        int32_t* neighbours = lattice.neighbours.data() + axis * 2 * rows;
        neighbours[0] = neighbours[1] = 0;
        for (int64_t v = 1; v < rows; ++v) {
            neighbours[2 * v] = lattice.table.find(lattice.table.key(v) + jump);
            neighbours[2 * v + 1] = lattice.table.find(lattice.table.key(v) - jump);
        }
    }
}

// A row of kWidth class values in registers: vectors of the widest kind that divides it. A row of 24 takes three half vectors:
// rows are then aligned to their vectors, and no load straddles two cache lines.
template <int kWidth>
struct Row {
    static constexpr int kUnit = kWidth % kLanes<float> == 0         ? kLanes<float>
                                 : kWidth % (kLanes<float> / 2) == 0 ? kLanes<float> / 2
                                                                     : kLanes<float> / 4;
    static constexpr int kCount = kWidth / kUnit;
    using Unit = typename VectorOf<float, kUnit * 4>::type;
    Unit part[kCount];

    inline __attribute__((always_inline)) void zero() {
        for (int i = 0; i < kCount; ++i) part[i] = Unit{};
    }
    inline __attribute__((always_inline)) void load(const float* from) {
        for (int i = 0; i < kCount; ++i) part[i] = *reinterpret_cast<const Unit*>(from + i * kUnit);
    }
    inline __attribute__((always_inline)) void store(float* to) const {
        for (int i = 0; i < kCount; ++i) *reinterpret_cast<Unit*>(to + i * kUnit) = part[i];
    }
    inline __attribute__((always_inline)) void add_scaled(const float* from, float factor) {
        for (int i = 0; i < kCount; ++i) part[i] += factor * *reinterpret_cast<const Unit*>(from + i * kUnit);
    }
    inline __attribute__((always_inline)) void add_scaled(const Row& other, float factor) {
        for (int i = 0; i < kCount; ++i) part[i] += factor * other.part[i];
    }
    inline __attribute__((always_inline)) void scale(float factor) {
        for (int i = 0; i < kCount; ++i) part[i] *= factor;
    }
};

// The length of a row: a constant but for more than 32 labels. Multiplying by it stands in the innermost loops.
template <int kSlab>
inline int64_t row_length(int64_t width) {
    return kSlab == 32 ? width : kSlab;
}

inline __attribute__((always_inline)) int64_t unsigned_index(int32_t vertex) {
    return static_cast<uint32_t>(vertex);
}

// Blurs values.next along every axis, new = old + (left + right) / 2, with values.now as the second buffer; the result is
// values.now. For a slab of kWidth columns at a time, in rows of `width`.
template <int kWidth>
void blur(const Lattice& lattice, int64_t width, VertexValues* values) {
    const int64_t rows = lattice.rows(), length = row_length<kWidth>(width);
    for (int axis = 0; axis < lattice.sides(); ++axis) {
        const int32_t* neighbours = lattice.neighbours.data() + axis * 2 * rows;
        for (int64_t slab = 0; slab < width; slab += kWidth) {
            const float* from = values->next + slab;
            float* to = values->now + slab;
            Row<kWidth> row;
            row.zero();
            row.store(to);
            for (int64_t v = 1; v < rows; ++v) {
                row.load(from + v * length);
                row.add_scaled(from + unsigned_index(neighbours[2 * v]) * length, 0.5f);
                row.add_scaled(from + unsigned_index(neighbours[2 * v + 1]) * length, 0.5f);
                row.store(to + v * length);
            }
        }
        std::swap(values->next, values->now);
    }
    std::swap(values->next, values->now);
}

// n = K 1, the filter of ones, and what the normalisation makes of it.
inline void normalise(Lattice& lattice, Normalisation kind, VertexValues* values, int64_t pixels) {
    if (kind == Normalisation::kNone) return;
    constexpr int kWidth = 4;
    const int sides = lattice.sides();
    const int64_t rows = lattice.rows();
    values->resize(rows, kWidth, false);
    std::memset(values->next, 0, sizeof(float) * static_cast<size_t>(kWidth * rows));
    for (int64_t entry = 0; entry < pixels * sides; ++entry)
        values->next[lattice.vertex[entry] * kWidth] += lattice.weight[entry];
    blur<kWidth>(lattice, kWidth, values);
    const float alpha = lattice.alpha();
    for (int64_t p = 0; p < pixels; ++p) {
        float norm = 0;
        for (int r = 0; r < sides; ++r)
            norm += lattice.weight[p * sides + r] * values->now[lattice.vertex[p * sides + r] * kWidth];
        norm = norm * alpha + 1e-20f;
        if (kind == Normalisation::kBefore) lattice.before[p] = 1.0f / norm;
        if (kind == Normalisation::kAfter) lattice.after[p] = 1.0f / norm;
        if (kind == Normalisation::kSymmetric)  // once in the splat, once in the slice
            for (int r = 0; r < sides; ++r) lattice.weight[p * sides + r] *= 1.0f / std::sqrt(norm);
    }
}

inline void prepare_lattice(Term& term, int64_t image, const Shape& shape) {
    const int64_t pixels = shape.pixels(), points = shape.points();
    const FlushDenormals flush;
    const float* feature = term.feature + image * term.feature_stride;
    switch (term.dims) {
        case 0:
            return;
        case 1:
            build_lattice<1>(term.own, feature, pixels, points);
            break;
        case 2:
            build_lattice<2>(term.own, feature, pixels, points);
            break;
        case 3:
            build_lattice<3>(term.own, feature, pixels, points);
            break;
        case 4:
            build_lattice<4>(term.own, feature, pixels, points);
            break;
        case 5:
            build_lattice<5>(term.own, feature, pixels, points);
            break;
        default:
            build_lattice<6>(term.own, feature, pixels, points);
            break;
    }
    normalise(term.own, term.normalisation, &term.values, pixels);
}
