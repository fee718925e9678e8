// dense_crf's CUDA kernels at small odd shapes against a plain implementation: vertices in a map by their coordinates, sums in
// double. Only the embedding is in float, in the order of operations that decides where a vertex lies.
#include <array>
#include <map>

#include "dense_crf/dense_crf.h"
#include "dense_crf/lattice.cuh"

#include "simt/check_main.h"

using namespace wsss;
using namespace wsss::check;
using namespace wsss::dense_crf;

namespace {

using Values = std::vector<double>;
using Vertex = std::array<int, kMaxFeatureDims>;

size_t index(int64_t i) {
    return static_cast<size_t>(i);
}

struct PlainLattice {
    int dims;
    int64_t pixels;
    std::map<Vertex, size_t> vertices;
    std::vector<size_t> vertex;  // [pixel][D + 1]
    Values weight;

    PlainLattice(const float* feature, int d, int64_t p) : dims(d), pixels(p) {
        if (d == 0) return;
        const int sides = d + 1;
        const float deviation = static_cast<float>(std::sqrt(2.0 / 3.0) * sides), over = 1.0f / static_cast<float>(sides);
        for (int64_t i = 0; i < (p + 3) / 4 * 4; ++i) {
            std::vector<float> elevated(index(sides)), nearest(index(sides)), offset(index(sides));
            std::vector<int> rank(index(sides));
            volatile float sum = 0;  // volatile: every product and sum is rounded
            for (int j = d; j > 0; --j) {
                const float scale =
                    static_cast<float>(1.0 / std::sqrt(static_cast<double>((j + 1) * j)) * static_cast<double>(deviation));
                volatile float c = i < p ? feature[(j - 1) * p + i] * scale : 0, step = c * static_cast<float>(j);
                elevated[index(j)] = sum - step;
                sum = sum + c;
            }
            elevated[0] = sum;
            int total = 0;
            for (size_t a = 0; a < index(sides); ++a) {
                volatile float cell = elevated[a] * over;
                nearest[a] = std::nearbyint(cell) * static_cast<float>(sides);
                total += static_cast<int>(std::nearbyint(cell));
            }
            for (size_t a = 0; a < index(sides); ++a)
                for (size_t b = a + 1; b < index(sides); ++b) ++rank[elevated[a] - nearest[a] < elevated[b] - nearest[b] ? a : b];
            Values sorted(index(sides));
            for (size_t a = 0; a < index(sides); ++a) {
                rank[a] += total;
                const int shift = rank[a] < 0 ? sides : rank[a] > d ? -sides : 0;
                rank[a] += shift;
                nearest[a] += static_cast<float>(shift);
                sorted[index(rank[a])] = (elevated[a] - nearest[a]) * over;
            }
            for (int r = 0; r < sides; ++r) {
                Vertex at{};
                for (size_t a = 0; a < index(d); ++a) at[a] = static_cast<int>(nearest[a]) + r - (rank[a] > d - r ? sides : 0);
                vertex.push_back(vertices.emplace(at, vertices.size()).first->second);
                weight.push_back(r == 0 ? sorted[index(d)] + 1 - sorted[0] : sorted[index(d - r)] - sorted[index(sides - r)]);
            }
        }
    }

    Values filter(const Values& in) const {  // of [pixels]
        if (dims == 0) return in;
        const int sides = dims + 1;
        Values value(vertices.size()), out(index(pixels));
        for (size_t e = 0; e < index(pixels * sides); ++e) value[vertex[e]] += weight[e] * in[e / index(sides)];
        for (int axis = 0; axis < sides; ++axis) {
            Values next = value;
            for (const auto& entry : vertices)
                for (int sign = -1; sign <= 1; sign += 2) {
                    Vertex other = entry.first;
                    for (int a = 0; a < dims; ++a) other[index(a)] += sign * (a == axis ? dims : -1);
                    const auto found = vertices.find(other);
                    if (found != vertices.end()) next[entry.second] += 0.5 * value[found->second];
                }
            value = next;
        }
        for (size_t e = 0; e < index(pixels * sides); ++e) out[e / index(sides)] += weight[e] * value[vertex[e]];
        for (double& x : out) x /= 1 + std::pow(2.0, -dims);
        return out;
    }
};

enum class Compat { kNumber, kVector, kMatrix };

struct TermSpec {
    int dims;
    bool shared;
    Compat compat = Compat::kNumber;
    Normalisation normalisation = Normalisation::kSymmetric;
    float range = 3.0f;  // of the features
};

struct Run {
    int64_t iterations = 3;
    bool initial = false, message = false, probability = false;
    int64_t broken_image = -1;  // its features are not numbers; its result is not compared
};

struct TermData {
    HostArray<float> feature, compat;
    TermSpec spec;
};

// One image, [L][P].
void plain_crf(const Shape& s, const float* unary, const std::vector<TermData>& terms, int64_t image, const float* initial,
               const Run& run, double* out) {
    const int64_t p = s.pixels(), count = s.labels * p;
    const auto softmax = [&](Values& x) {
        for (int64_t i = 0; i < p; ++i) {
            double best = -HUGE_VAL, sum = 0;
            for (int64_t l = 0; l < s.labels; ++l) best = std::fmax(best, x[index(l * p + i)]);
            for (int64_t l = 0; l < s.labels; ++l) sum += x[index(l * p + i)] = std::exp(x[index(l * p + i)] - best);
            for (int64_t l = 0; l < s.labels; ++l) x[index(l * p + i)] /= sum;
        }
    };
    std::vector<PlainLattice> lattices;
    std::vector<Values> before, after;
    for (const TermData& term : terms) {
        const float* feature = term.feature.data() + (term.spec.shared ? 0 : image * term.spec.dims * p);
        lattices.emplace_back(feature, term.spec.dims, p);
        Values norm = lattices.back().filter(Values(index(p), 1.0)), none(index(p), 1.0);
        const Normalisation kind = term.spec.normalisation;
        for (double& n : norm) n = std::pow(n + 1e-20, kind == Normalisation::kSymmetric ? -0.5 : -1.0);
        before.push_back(kind == Normalisation::kSymmetric || kind == Normalisation::kBefore ? norm : none);
        after.push_back(kind == Normalisation::kSymmetric || kind == Normalisation::kAfter ? norm : none);
    }
    Values score(index(count)), q(index(count));
    for (size_t i = 0; i < q.size(); ++i)
        score[i] = run.probability ? std::log(std::fmax(double{unary[i]}, double{kLeastProbability})) : -double{unary[i]};
    for (size_t i = 0; i < q.size(); ++i) q[i] = initial ? initial[i] : score[i];
    if (!initial) softmax(q);
    for (int64_t step = 0; step < (run.message ? 1 : run.iterations); ++step) {
        Values next(index(count));
        for (size_t i = 0; i < next.size(); ++i) next[i] = run.message ? 0 : score[i];
        for (size_t k = 0; k < terms.size(); ++k)
            for (int64_t m = 0; m < s.labels; ++m) {
                Values map(q.begin() + m * p, q.begin() + (m + 1) * p);
                for (size_t i = 0; i < map.size(); ++i) map[i] *= before[k][i];
                map = lattices[k].filter(map);
                for (int64_t l = 0; l < s.labels; ++l) {
                    const HostArray<float>& c = terms[k].compat;
                    const Compat kind = terms[k].spec.compat;
                    if (kind != Compat::kMatrix && l != m) continue;
                    const double w = kind == Compat::kNumber ? c[0] : kind == Compat::kVector ? -c[l] : -c[l * s.labels + m];
                    for (int64_t i = 0; i < p; ++i) next[index(l * p + i)] += w * after[k][index(i)] * map[index(i)];
                }
            }
        q = next;
        if (!run.message) softmax(q);
    }
    std::copy(q.begin(), q.end(), out);
}

void check_crf(const Shape& s, const std::vector<TermSpec>& specs, const Run& run = {}) {
    const int64_t p = s.pixels(), count = s.n * s.labels * p;
    HostArray<float> unary(count), initial(count), out(count);
    fill_uniform(unary, 1, 0.0f, 3.0f);
    fill_uniform(initial, 2, 0.0f, 1.0f);
    std::vector<TermData> data;
    std::vector<TermInput> terms;
    for (const TermSpec& spec : specs) {
        const int64_t images = spec.shared ? 1 : s.n;
        const int64_t compats = spec.compat == Compat::kNumber   ? 1
                                : spec.compat == Compat::kVector ? s.labels
                                                                 : s.labels * s.labels;
        TermData term{HostArray<float>(images * spec.dims * p), HostArray<float>(compats), spec};
        fill_uniform(term.feature, 3 + data.size(), 0.0f, spec.range);
        fill_uniform(term.compat, 9 + data.size(), -2.0f, 1.0f);
        if (spec.compat == Compat::kMatrix)
            for (int64_t l = 0; l < s.labels; ++l)
                for (int64_t m = 0; m < l; ++m) term.compat[l * s.labels + m] = term.compat[m * s.labels + l];
        if (run.broken_image >= 0 && !spec.shared) {
            constexpr float kBad[] = {NAN, INFINITY, -INFINITY, 1e30f, -3e9f};
            for (int64_t i = 0; i < spec.dims * p; ++i) term.feature[run.broken_image * spec.dims * p + i] = kBad[i % 5];
        }
        data.push_back(std::move(term));
        TermInput crf_term;
        crf_term.feature = contiguous_view(data.back().feature, {images, spec.dims, s.h, s.w});
        crf_term.compat = spec.compat == Compat::kMatrix ? contiguous_view(data.back().compat, {s.labels, s.labels})
                                                         : contiguous_view(data.back().compat, {compats});
        crf_term.normalisation = spec.normalisation;
        terms.push_back(crf_term);
    }
    const Context context;
    const View unary_view = contiguous_view(unary, {s.n, s.labels, s.h, s.w});
    const View initial_view = run.initial ? contiguous_view(initial, {s.n, s.labels, s.h, s.w}) : View{};
    const HostArray<uint8_t> space(dense_crf::workspace(unary_view, terms, context));
    dense_crf::run(unary_view, run.probability, terms, run.iterations, initial_view, run.message,
                   contiguous_view(out, {s.n, s.labels, s.h, s.w}), contiguous_view(space, {space.size()}), context);

    Values expected(index(count));
    for (int64_t image = 0; image < s.n; ++image) {
        const int64_t start = image * s.labels * p;
        if (image != run.broken_image)
            plain_crf(s, unary.data() + start, data, image, run.initial ? initial.data() + start : nullptr, run,
                      expected.data() + start);
        else
            for (int64_t i = 0; i < s.labels * p; ++i) out[start + i] = 0;
    }
    expect_close("out", out, expected, 2e-5);
    record("out", out);
}

constexpr Normalisation kNo = Normalisation::kNone, kBefore = Normalisation::kBefore, kAfter = Normalisation::kAfter,
                        kSymmetric = Normalisation::kSymmetric;

}  // namespace

WSSS_CASE(dense_crf_one_pixel) {
    check_crf({1, 1, 1, 1}, {{2, true}, {5, false}});
    check_crf({1, 2, 1, 1}, {{2, true}, {5, false}});
}
WSSS_CASE(dense_crf_two_images) {
    check_crf({2, 3, 5, 7}, {{2, true}, {5, false}});
}
WSSS_CASE(dense_crf_without_dimensions) {
    check_crf({2, 3, 5, 7}, {{0, true}, {5, false}});
    check_crf({1, 3, 17, 3}, {{2, false}, {0, false, Compat::kMatrix, kNo}, {0, true, Compat::kVector, kAfter}});
    check_crf({2, 34, 2, 3}, {{2, true}, {0, false, Compat::kMatrix, kBefore}}, {2, true});
    check_crf({3, 2, 3, 4}, {{0, true}});
    check_crf({1, 2, 3, 3}, {{0, true}, {2, true}}, {0, false, true});
}
// Four tiles, three of them partial; vertices with runs in several tiles.
WSSS_CASE(dense_crf_tiles) {
    check_crf({1, 5, 17, 18}, {{2, false, Compat::kVector, kSymmetric, 1.0f}});
}
WSSS_CASE(dense_crf_dimensions) {
    check_crf({1, 2, 3, 4}, {{1, false}, {3, false}, {4, false, Compat::kNumber, kSymmetric, 20.0f}, {6, false}});
}
WSSS_CASE(dense_crf_normalisations) {
    check_crf({1, 9, 4, 3},
              {{2, false, Compat::kNumber, kNo, 2.0f}, {2, true, Compat::kNumber, kBefore}, {3, false, Compat::kVector, kAfter}});
    check_crf({1, 2, 4, 3}, {{2, false, Compat::kNumber, kNo, 2.0f}});
}
WSSS_CASE(dense_crf_matrix) {
    check_crf({2, 6, 3, 5}, {{2, true, Compat::kMatrix}, {3, false}, {1, false, Compat::kMatrix, kAfter}});
}
WSSS_CASE(dense_crf_voc_labels) {
    check_crf({1, 21, 5, 4}, {{2, true}, {5, false}});
}
WSSS_CASE(dense_crf_many_labels) {  // rows of tiles lie in the workspace
    check_crf({2, 37, 3, 4}, {{2, true}, {3, false, Compat::kMatrix}});
}
WSSS_CASE(dense_crf_label_chunks) {
    for (const int64_t labels : {4, 11, 16, 20, 27, 32}) check_crf({1, labels, 2, 3}, {{2, false}}, {1});
}
WSSS_CASE(dense_crf_initial_and_message) {
    check_crf({2, 3, 4, 5}, {{2, true}, {3, false}}, {2, true, false});
    check_crf({2, 3, 4, 5}, {{2, true}, {3, false}}, {0, true, true});
    check_crf({1, 3, 4, 5}, {{3, false, Compat::kMatrix}}, {5, false, true});
    check_crf({2, 3, 4, 5}, {{2, true}, {3, false}}, {2, false, false, true});
    check_crf({1, 2, 3, 5}, {{2, true}}, {1, false, true, true});
}
WSSS_CASE(dense_crf_no_work) {
    check_crf({2, 3, 4, 5}, {}, {4});
    check_crf({1, 3, 4, 5}, {}, {0, true});
    check_crf({1, 3, 4, 5}, {}, {1, true, true});
    check_crf({1, 3, 4, 5}, {{2, true}}, {0});
}
// One vertex holds every pixel: the longest runs, no neighbours in use.
WSSS_CASE(dense_crf_constant_features) {
    check_crf({1, 3, 16, 17}, {{3, false, Compat::kNumber, kSymmetric, 0.0f}}, {1});
}
// More images than are taken at a time; lattices built anew, and shared ones built once.
WSSS_CASE(dense_crf_several_goes) {
    check_crf({16, 3, 4, 9}, {{2, true}, {5, false}}, {1});
    check_crf({7, 33, 4, 9}, {{2, true}}, {1});
}
WSSS_CASE(dense_crf_features_that_are_not_numbers) {
    check_crf({3, 3, 3, 4}, {{2, true}, {5, false}}, {2, false, false, false, 1});
}

// Keys that agree in the sorted bits only: what the sort leaves is put in the order of the whole keys, equal ones as they came.
WSSS_CASE(dense_crf_key_groups) {
    Random random(4);
    std::vector<uint64_t> sorted;
    for (uint64_t high = 0; high < 40; ++high)
        for (uint64_t i = 0; i < 1 + high % 9; ++i) sorted.push_back(high << 24 | (high % 3 ? random.bits() % 3 : 7));
    const int64_t count = static_cast<int64_t>(sorted.size());
    HostArray<uint64_t> keys(count), scratch_keys(count);
    HostArray<uint32_t> order(count), scratch_order(count), groups(1 + count);
    std::vector<std::pair<uint64_t, uint32_t>> expected;
    for (int64_t i = 0; i < count; ++i) {
        keys[i] = sorted[index(i)];
        order[i] = static_cast<uint32_t>(i);
        expected.emplace_back(keys[i], order[i]);
    }
    std::sort(expected.begin(), expected.end());
    groups[0] = 0;
    const dim3 threads(kBuildThreads);
    launch("dense_crf", dense_crf_find_groups_kernel, dim3(static_cast<unsigned>(count / kBuildThreads + 1)), threads, 0, nullptr,
           keys.data(), count, groups.data());
    launch("dense_crf", dense_crf_order_groups_kernel, dim3(1), threads, 0, nullptr, keys.data(), order.data(), groups.data(),
           scratch_keys.data(), scratch_order.data());
    uint32_t mixed = 0;  // groups with more than one key
    for (int64_t i = 0, start = 0; i < count; i = start) {
        bool differs = false;
        for (start = i; start < count && sorted[index(start)] >> 24 == sorted[index(i)] >> 24; ++start)
            differs = differs || sorted[index(start)] != sorted[index(i)];
        mixed += differs;
    }
    expect(mixed > 10 && groups[0] == mixed, std::to_string(groups[0]) + " groups listed, not " + std::to_string(mixed));
    for (int64_t i = 0; i < count; ++i)
        expect(keys[i] == expected[index(i)].first && order[i] == expected[index(i)].second, "place " + std::to_string(i));
}

// Mixing loses nothing, whatever the key.
WSSS_CASE(dense_crf_key_mixing) {
    Random random(5);
    for (int i = 0; i < 1000; ++i) {
        const uint64_t hash = random.bits() & kHashMask;
        expect(unmix(mix(hash)) == hash, "mix " + std::to_string(hash));
    }
}
