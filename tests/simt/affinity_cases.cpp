// affinity's and edge_affinity's CUDA kernels, forward and backward, at small odd shapes against plain double loops. Values are
// steps of 1/32, which every type holds exactly: differences of 0 and equal maxima are frequent.
#include "affinity/affinity.h"

#include "edge_affinity/edge_affinity.h"
#include "simt/check_main.h"

using namespace wsss;
using namespace wsss::check;
using namespace wsss::affinity;

namespace {

struct Expected {
    std::vector<double> out, gradient;
};

// [N, C, H, W] at n, c, y, x, row-major
int64_t index_of(const PairShape& s, int64_t channels, int64_t n, int64_t c, int64_t y, int64_t x) {
    return ((n * channels + c) * s.h + y) * s.w + x;
}

// Calls visit(n, plane, offset, y, x) for every pair.
template <class Visit>
void for_each_pair(const PairShape& s, Visit&& visit) {
    for (int64_t n = 0; n < s.n; ++n)
        for_each_pair_offset(s.radius, [&](int64_t plane, PairOffset o) {
            for (int64_t y = 0; y + o.dy < s.h; ++y)
                for (int64_t x = 0; x < s.w; ++x)
                    if (x + o.dx >= 0 && x + o.dx < s.w) visit(n, plane, o, y, x);
        });
}

Expected plain_affinity(const PairShape& s, const std::vector<double>& feature, const std::vector<double>& grad) {
    Expected e{std::vector<double>(grad.size()), std::vector<double>(feature.size())};
    for_each_pair(s, [&](int64_t n, int64_t plane, PairOffset o, int64_t y, int64_t x) {
        const auto at = [&](int64_t c, bool other) {
            return static_cast<size_t>(index_of(s, s.c, n, c, y + (other ? o.dy : 0), x + (other ? o.dx : 0)));
        };
        double sum = 0;
        for (int64_t c = 0; c < s.c; ++c) sum += std::fabs(feature[at(c, false)] - feature[at(c, true)]);
        const double channels = static_cast<double>(s.c), value = std::exp(-sum / channels);
        const size_t pair = static_cast<size_t>(index_of(s, s.offsets(), n, plane, y, x));
        e.out[pair] = value;
        for (int64_t c = 0; c < s.c; ++c) {
            const double difference = feature[at(c, false)] - feature[at(c, true)];
            const double share = -grad[pair] * value / channels * ((difference > 0) - (difference < 0));
            e.gradient[at(c, false)] += share;
            e.gradient[at(c, true)] -= share;
        }
    });
    return e;
}

Expected plain_edge(const PairShape& s, const std::vector<double>& edge, const std::vector<double>& grad) {
    Expected e{std::vector<double>(grad.size()), std::vector<double>(edge.size())};
    for_each_pair(s, [&](int64_t n, int64_t plane, PairOffset o, int64_t y, int64_t x) {
        double best = -1;
        size_t place = 0;
        for (int dy = 0; dy <= o.dy; ++dy)
            for (int dx = o.dx < 0 ? o.dx : 0; dx <= (o.dx > 0 ? o.dx : 0); ++dx) {
                const int cross = o.dy * dx - o.dx * dy;
                const size_t at = static_cast<size_t>(index_of(s, 1, n, 0, y + dy, x + dx));
                if (cross * cross >= o.dy * o.dy + o.dx * o.dx || edge[at] <= best) continue;
                best = edge[at];
                place = at;
            }
        const size_t pair = static_cast<size_t>(index_of(s, s.offsets(), n, plane, y, x));
        e.out[pair] = 1 - best;
        e.gradient[place] -= grad[pair];
    });
    return e;
}

template <class T>
std::vector<double> fill(HostArray<T>& array, uint64_t seed) {
    std::vector<double> values;
    Random random(seed);
    for (int64_t i = 0; i < array.size(); ++i) {
        const float value = std::floor((random.uniform() + 1.0f) * 16.0f) / 32.0f;
        array[i] = from_float<T>(value);
        values.push_back(value);
    }
    return values;
}

template <class T>
void check_affinity(const PairShape& s, double tolerance) {
    HostArray<T> feature(s.n * s.c * s.pixels()), grad(s.n * s.offsets() * s.pixels()), out(grad.size()),
        gradient(feature.size());
    const std::vector<double> features = fill(feature, 1), grads = fill(grad, 2);
    const Expected expected = plain_affinity(s, features, grads);
    const View feature_view = contiguous_view(feature, {s.n, s.c, s.h, s.w});
    const View out_view = contiguous_view(out, {s.n, s.offsets(), s.h, s.w});
    const Context context;
    const HostArray<uint8_t> space(affinity::forward_workspace(feature_view, s.radius, context));
    affinity::forward(feature_view, s.radius, out_view, contiguous_view(space, {space.size()}), context);
    expect_close("out", out, expected.out, tolerance);
    record("out", out);
    const HostArray<uint8_t> back_space(affinity::backward_workspace(feature_view, s.radius, context));
    affinity::backward(contiguous_view(grad, {s.n, s.offsets(), s.h, s.w}), feature_view, out_view, s.radius,
                       contiguous_view(gradient, {s.n, s.c, s.h, s.w}), contiguous_view(back_space, {back_space.size()}),
                       context);
    expect_close("gradient", gradient, expected.gradient, 2 * tolerance);
    record("gradient", gradient);
}

template <class T>
void check_edge_affinity(const PairShape& s, double tolerance) {
    HostArray<T> edge(s.n * s.pixels()), grad(s.n * s.offsets() * s.pixels()), out(grad.size()), gradient(edge.size());
    const std::vector<double> edges = fill(edge, 1), grads = fill(grad, 2);
    const Expected expected = plain_edge(s, edges, grads);
    const View edge_view = contiguous_view(edge, {s.n, 1, s.h, s.w}), planes = contiguous_view(out, {s.n, s.offsets(), s.h, s.w});
    const Context context;
    const HostArray<uint8_t> space(edge_affinity::forward_workspace(edge_view, s.radius, context));
    edge_affinity::forward(edge_view, s.radius, planes, contiguous_view(space, {space.size()}), context);
    expect_close("out", out, expected.out, tolerance);
    record("out", out);
    const HostArray<uint8_t> back_space(edge_affinity::backward_workspace(edge_view, s.radius, context));
    edge_affinity::backward(contiguous_view(grad, {s.n, s.offsets(), s.h, s.w}), edge_view, s.radius,
                            contiguous_view(gradient, {s.n, 1, s.h, s.w}), contiguous_view(back_space, {back_space.size()}),
                            context);
    expect_close("gradient", gradient, expected.gradient, 2 * tolerance);
    record("gradient", gradient);
}

constexpr double kFloat = 1e-5, kF16 = 2e-3, kBf16 = 1e-2;

}  // namespace

WSSS_CASE(affinity_one_pixel) {
    check_affinity<float>({1, 1, 1, 1, 5}, kFloat);
}
// 37 channels on one tile: split over blocks, with a partial last slice
WSSS_CASE(affinity_split_float32) {
    check_affinity<float>({1, 37, 7, 9, 5}, kFloat);
}
WSSS_CASE(affinity_split_bfloat16) {
    check_affinity<bf16>({1, 37, 7, 9, 5}, kBf16);
}
WSSS_CASE(affinity_tiles_float16) {
    check_affinity<f16>({2, 3, 9, 35, 5}, kF16);
}
WSSS_CASE(affinity_wide) {
    check_affinity<float>({1, 3, 5, 6, 14}, kFloat);
}
WSSS_CASE(edge_affinity_one_pixel) {
    check_edge_affinity<float>({1, 1, 1, 1, 5}, kFloat);
}
WSSS_CASE(edge_affinity_tiles) {
    check_edge_affinity<float>({2, 1, 9, 35, 5}, kFloat);
}
WSSS_CASE(edge_affinity_bfloat16) {
    check_edge_affinity<bf16>({1, 1, 7, 5, 10}, kBf16);
}
