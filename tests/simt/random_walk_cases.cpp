// random_walk's CUDA kernels at small odd shapes against the plain matrix of the definition.
#include "random_walk/random_walk.h"

#include "simt/check_main.h"

using namespace wsss;
using namespace wsss::check;
using namespace wsss::random_walk;

namespace {

// cam [N, C, P] and affinity [N, E, P], contiguous; steps one at a time, in double.
template <class T>
std::vector<double> plain_walk(const Shape& shape, const HostArray<T>& cam, const HostArray<T>& affinity,
                               const Settings& settings) {
    const int64_t p = shape.pixels(), pairs = pair_offset_count(static_cast<int>(settings.radius)), margin = settings.radius - 1;
    std::vector<double> out;
    for (int64_t n = 0; n < shape.n; ++n) {
        std::vector<double> a(static_cast<size_t>(p * p));
        const auto at = [p](int64_t i, int64_t j) { return static_cast<size_t>(i * p + j); };
        for (int64_t i = 0; i < p; ++i) a[at(i, i)] = 1;
        for_each_pair_offset(static_cast<int>(settings.radius), [&](int64_t e, PairOffset offset) {
            for (int64_t i = 0; i < p; ++i) {
                const int64_t y = i / shape.w, x = i % shape.w, below = y + offset.dy, beside = x + offset.dx;
                const bool kept = !settings.published || (y < shape.h - margin && x >= margin && x < shape.w - margin);
                if (below >= shape.h || beside < 0 || beside >= shape.w || !kept) continue;
                const double value = static_cast<double>(to_float(affinity[(n * pairs + e) * p + i]));
                const int64_t j = below * shape.w + beside;
                a[at(i, j)] = a[at(j, i)] = value == 0 ? 0 : std::pow(value, settings.beta);
            }
        });
        for (int64_t j = 0; j < p; ++j) {
            double sum = 0;
            for (int64_t i = 0; i < p; ++i) sum += a[at(i, j)];
            for (int64_t i = 0; i < p; ++i) a[at(i, j)] /= sum;
        }
        for (int64_t c = 0; c < shape.c; ++c) {
            std::vector<double> row(static_cast<size_t>(p)), next(row.size());
            for (int64_t i = 0; i < p; ++i)
                row[static_cast<size_t>(i)] = static_cast<double>(to_float(cam[(n * shape.c + c) * p + i]));
            for (int64_t step = 0; step < settings.steps; ++step) {
                for (int64_t j = 0; j < p; ++j) {
                    double sum = 0;
                    for (int64_t i = 0; i < p; ++i) sum += row[static_cast<size_t>(i)] * a[at(i, j)];
                    next[static_cast<size_t>(j)] = sum;
                }
                row.swap(next);
            }
            out.insert(out.end(), row.begin(), row.end());
        }
    }
    return out;
}

template <class T>
void check_walk(const Shape& shape, const Settings& settings, double tolerance) {
    const int64_t p = shape.pixels(), pairs = pair_offset_count(static_cast<int>(settings.radius));
    const HostArray<T> cam(shape.n * shape.c * p), affinity(shape.n * pairs * p), out(shape.n * shape.c * p);
    fill_uniform(cam, 1, 0.0f, 1.0f);
    fill_uniform(affinity, 2, 0.0f, 1.0f);
    const View cam_view = contiguous_view(cam, {shape.n, shape.c, shape.h, shape.w});
    const View affinity_view = contiguous_view(affinity, {shape.n, pairs, shape.h, shape.w});
    const Context context;
    const HostArray<uint8_t> space(random_walk::workspace(cam_view, affinity_view, settings, context));
    random_walk::run(cam_view, affinity_view, settings, contiguous_view(out, {shape.n, shape.c, shape.h, shape.w}),
                     contiguous_view(space, {space.size()}), context);
    expect_close("out", out, plain_walk(shape, cam, affinity, settings), tolerance);
    record("out", out);
}

Settings settings(int64_t radius, int64_t steps, bool chebyshev = false, double beta = 2, bool published = false) {
    return {radius, beta, steps, chebyshev, 1e-6, published};
}

}  // namespace

// On chip: radius 5.
WSSS_CASE(random_walk_one_pixel) {
    check_walk<float>({1, 1, 1, 1}, settings(5, 2), 1e-5);
}
WSSS_CASE(random_walk_strips_of_two_rows) {
    check_walk<float>({1, 2, 15, 5}, settings(5, 3), 1e-5);
}
WSSS_CASE(random_walk_strips_of_six_rows) {
    check_walk<float>({1, 1, 37, 3}, settings(5, 2), 1e-5);
}
WSSS_CASE(random_walk_two_warps) {
    check_walk<bf16>({2, 1, 4, 35}, settings(5, 2, false, 2.5), 1e-2);
}
WSSS_CASE(random_walk_chebyshev) {
    check_walk<float>({1, 1, 6, 7}, settings(5, 6, true), 1e-5);
}
WSSS_CASE(random_walk_published) {
    check_walk<f16>({1, 1, 9, 10}, settings(5, 3, true, 1, true), 2e-3);
}
// Out of memory: another radius, or too wide.
WSSS_CASE(random_walk_grid) {
    check_walk<float>({2, 5, 5, 7}, settings(3, 3), 1e-5);
}
WSSS_CASE(random_walk_grid_chebyshev) {
    check_walk<bf16>({1, 3, 6, 9}, settings(4, 5, true, 0.5), 1e-2);
}
WSSS_CASE(random_walk_grid_wide) {
    check_walk<float>({1, 1, 1, 260}, settings(5, 2, false, 2, false), 1e-5);
}
WSSS_CASE(random_walk_grid_large_radius) {
    check_walk<f16>({1, 1, 4, 6}, settings(9, 2, false, 2, true), 2e-3);
}
