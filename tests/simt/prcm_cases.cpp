// prcm's CUDA kernels, forward and backward, at small odd shapes against plain double loops. Inputs are rounded to the type under
// test first, so differences come from the computation alone.
#include "prcm/prcm.h"

#include "simt/check_main.h"

using namespace wsss;
using namespace wsss::check;
using namespace wsss::prcm;

namespace {

using Numbers = std::vector<double>;

struct Expected {
    Numbers out, grad_query, grad_phi;
};

// values[first + i * step] for count i becomes its softmax
void softmax(Numbers& values, int64_t first, int64_t count, int64_t step) {
    const auto at = [&](int64_t i) -> double& { return values[static_cast<size_t>(first + i * step)]; };
    double largest = at(0), sum = 0;
    for (int64_t i = 0; i < count; ++i) largest = std::fmax(largest, at(i));
    for (int64_t i = 0; i < count; ++i) sum += at(i) = std::exp(at(i) - largest);
    for (int64_t i = 0; i < count; ++i) at(i) /= sum;
}

// Through a softmax: moves becomes shares o (moves - sum(shares o moves)).
void softmax_backward(Numbers& moves, const Numbers& shares, int64_t first, int64_t count, int64_t step) {
    double inner = 0;
    for (int64_t i = 0; i < count; ++i)
        inner += moves[static_cast<size_t>(first + i * step)] * shares[static_cast<size_t>(first + i * step)];
    for (int64_t i = 0; i < count; ++i) {
        double& move = moves[static_cast<size_t>(first + i * step)];
        move = shares[static_cast<size_t>(first + i * step)] * (move - inner);
    }
}

// The formulas of prcm.h. Maps are [N, channels, P], contiguous.
Expected plain_prcm(const Shape& s, const Options& o, const Numbers& cam, const Numbers& x, const Numbers& query,
                    const Numbers& phi, const Numbers& grad) {
    const int64_t p = s.pixels();
    const auto zeros = [](int64_t count) { return Numbers(static_cast<size_t>(count)); };
    const auto size = [](int64_t i) { return static_cast<size_t>(i); };
    Expected e{zeros(s.n * s.c * p), zeros(s.n * s.c2 * p), zeros(s.c2 * s.c1)};
    for (int64_t n = 0; n < s.n; ++n) {
        const int64_t cams = n * s.c * p, xs = n * s.c1 * p, queries = n * s.c2 * p;
        Numbers weights(cam.begin() + cams, cam.begin() + cams + s.c * p), proxy = zeros(s.c * s.c1), key = zeros(s.c2 * s.c);
        for (int64_t c = 0; c < s.c; ++c) {
            softmax(weights, c * p, p, 1);
            for (int64_t k = 0; k < s.c1; ++k)
                for (int64_t i = 0; i < p; ++i) proxy[size(c * s.c1 + k)] += weights[size(c * p + i)] * x[size(xs + k * p + i)];
        }
        for (int64_t d = 0; d < s.c2; ++d)
            for (int64_t c = 0; c < s.c; ++c) {
                double sum = 0;
                for (int64_t k = 0; k < s.c1; ++k) sum += phi[size(d * s.c1 + k)] * proxy[size(c * s.c1 + k)];
                key[size(d * s.c + c)] = std::fmax(sum, 0.0);
            }
        const auto place = [&](int64_t c, int64_t d) { return size(o.view ? c * s.c2 + d : d * s.c + c); };
        const auto query_at = [&](int64_t d, int64_t i) {
            const double value = query[size(queries + d * p + i)];
            return o.rectify ? std::fmax(value, 0.0) : value;
        };
        Numbers gate = zeros(s.c * p), moves = zeros(s.c * p), key_gradient = zeros(s.c2 * s.c);
        for (int64_t c = 0; c < s.c; ++c)
            for (int64_t i = 0; i < p; ++i)
                for (int64_t d = 0; d < s.c2; ++d) gate[size(c * p + i)] += o.scale * key[place(c, d)] * query_at(d, i);
        const int64_t lines = o.over_classes ? p : s.c, count = o.over_classes ? s.c : p, step = o.over_classes ? p : 1;
        for (int64_t line = 0; line < lines; ++line) softmax(gate, o.over_classes ? line : line * p, count, step);
        for (int64_t i = 0; i < s.c * p; ++i) {
            e.out[size(cams + i)] = cam[size(cams + i)] * gate[size(i)];
            moves[size(i)] = cam[size(cams + i)] * grad[size(cams + i)];
        }
        for (int64_t line = 0; line < lines; ++line) softmax_backward(moves, gate, o.over_classes ? line : line * p, count, step);
        for (int64_t c = 0; c < s.c; ++c)
            for (int64_t d = 0; d < s.c2; ++d)
                for (int64_t i = 0; i < p; ++i) {
                    const double move = o.scale * moves[size(c * p + i)];
                    if (!o.rectify || query[size(queries + d * p + i)] > 0)
                        e.grad_query[size(queries + d * p + i)] += key[place(c, d)] * move;
                    if (key[place(c, d)] > 0) key_gradient[place(c, d)] += query_at(d, i) * move;
                }
        for (int64_t d = 0; d < s.c2; ++d)
            for (int64_t k = 0; k < s.c1; ++k)
                for (int64_t c = 0; c < s.c; ++c)
                    e.grad_phi[size(d * s.c1 + k)] += key_gradient[size(d * s.c + c)] * proxy[size(c * s.c1 + k)];
    }
    return e;
}

// Random numbers in [low, 1] of the type under test, and the same as double.
template <class T>
struct Values {
    HostArray<T> array;
    Numbers numbers;
    Values(int64_t count, uint64_t seed, float low) : array(count) {
        fill_uniform(array, seed, low, 1.0f);
        for (int64_t i = 0; i < count; ++i) numbers.push_back(static_cast<double>(to_float(array[i])));
    }
};

template <class T>
void check_prcm(const Shape& s, const Options& o, double tolerance) {
    const int64_t p = s.pixels();
    const Values<T> cam(s.n * s.c * p, 1, 0.0f), x(s.n * s.c1 * p, 2, -0.5f), query(s.n * s.c2 * p, 3, -0.5f),
        phi(s.c2 * s.c1, 4, -0.7f), grad(s.n * s.c * p, 5, -1.0f);
    const Expected expected = plain_prcm(s, o, cam.numbers, x.numbers, query.numbers, phi.numbers, grad.numbers);
    HostArray<T> out(s.n * s.c * p), grad_query(s.n * s.c2 * p), grad_phi(s.c2 * s.c1);
    HostArray<float> gate(out.size()), proxy(s.n * s.c * s.c1), key(s.n * s.c2 * s.c);
    const auto map = [&](const auto& array, int64_t channels) { return contiguous_view(array, {s.n, channels, s.h, s.w}); };
    const View cam_view = map(cam.array, s.c), query_view = map(query.array, s.c2), gate_view = map(gate, s.c);
    const View proxy_view = contiguous_view(proxy, {s.n, s.c, s.c1}), key_view = contiguous_view(key, {s.n, s.c2, s.c});
    const View x_view = map(x.array, s.c1), phi_view = contiguous_view(phi.array, {s.c2, s.c1}), grad_view = map(grad.array, s.c);
    const Context context;

    const HostArray<uint8_t> space(prcm::forward_workspace(cam_view, x_view, query_view, phi_view, context));
    prcm::forward(cam_view, x_view, query_view, phi_view, o.scale, o.over_classes, o.view, o.rectify, map(out, s.c), gate_view,
                  proxy_view, key_view, contiguous_view(space, {space.size()}), context);
    expect_close("out", out, expected.out, tolerance);
    record("out", out);

    const HostArray<uint8_t> back(
        prcm::backward_workspace(grad_view, cam_view, query_view, gate_view, proxy_view, key_view, context));
    prcm::backward(grad_view, cam_view, query_view, gate_view, proxy_view, key_view, o.scale, o.over_classes, o.view, o.rectify,
                   map(grad_query, s.c2), contiguous_view(grad_phi, {s.c2, s.c1}), contiguous_view(back, {back.size()}), context);
    constexpr double kFloor = 1e-3;  // a softmax of one element does not move
    expect_close("grad_query", grad_query, expected.grad_query, 2 * tolerance, kFloor);
    expect_close("grad_phi", grad_phi, expected.grad_phi, 2 * tolerance, kFloor);
    record("grad_query", grad_query);
    record("grad_phi", grad_phi);
}

constexpr Options kPositions{0.5, false, false, false}, kClasses{1.0, true, false, true}, kCode{0.7, false, true, true};

}  // namespace

WSSS_CASE(prcm_one_pixel) {
    check_prcm<float>({1, 1, 1, 1, 1, 1}, kPositions, 1e-4);
}
WSSS_CASE(prcm_positions) {
    check_prcm<float>({2, 3, 5, 4, 3, 7}, kPositions, 1e-4);
}
WSSS_CASE(prcm_classes) {
    check_prcm<float>({2, 3, 5, 4, 3, 7}, kClasses, 1e-4);
}
WSSS_CASE(prcm_view_float16) {
    check_prcm<f16>({2, 9, 7, 6, 5, 8}, kCode, 4e-3);
}
// Several chunks of pixels, groups of channels, tiles of classes.
WSSS_CASE(prcm_many_tiles) {
    check_prcm<float>({1, 26, 35, 98, 9, 15}, kPositions, 1e-4);
}
WSSS_CASE(prcm_many_tiles_bfloat16) {
    check_prcm<bf16>({1, 26, 35, 66, 9, 15}, kClasses, 2e-2);
}
