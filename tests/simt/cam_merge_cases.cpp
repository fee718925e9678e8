// cam_merge's CUDA kernels at small odd shapes against a plain triple loop in double.
#include "cam_merge/cam_merge.h"

#include "simt/check_main.h"

using namespace wsss;
using namespace wsss::check;
using namespace wsss::cam_merge;

namespace {

using Values = std::vector<double>;

struct Grid {
    int64_t h, w;
    bool flipped;
};

struct Run {
    int64_t n, c, h, w;
    std::vector<Grid> grids;
    bool absent = false;   // every second class of every image
    bool strided = false;  // maps with classes innermost and a gap after every pixel
    Settings settings{};
};

size_t index(int64_t i) {
    return static_cast<size_t>(i);
}

double kernel(double distance, bool cubic) {
    const double d = std::fabs(distance);
    if (!cubic) return d < 1 ? 1 - d : 0;
    constexpr double kA = -0.75;
    if (d <= 1) return ((kA + 2) * d - (kA + 3)) * d * d + 1;
    return d < 2 ? ((kA * d - 5 * kA) * d + 8 * kA) * d - 4 * kA : 0;
}

// Weight of each of `length` source pixels for output pixel x: the kernel at its distance, the ends repeated for ever.
Values row_of_weights(int64_t length, int64_t output, int64_t x, const Settings& s) {
    const double grid = static_cast<double>((output + s.multiple - 1) / s.multiple * s.multiple);
    const double position = static_cast<double>(x), pixels = static_cast<double>(length);
    const double at =
        s.align_corners ? (grid > 1 ? position * (pixels - 1) / (grid - 1) : 0) : (position + 0.5) * pixels / grid - 0.5;
    Values weights(index(length));
    for (int64_t i = -4; i < length + 4; ++i)
        weights[index(std::min(std::max<int64_t>(i, 0), length - 1))] += kernel(at - static_cast<double>(i), s.cubic);
    return weights;
}

template <class T>
struct Map {
    HostArray<T> array;
    View view;
};

template <class T>
Map<T> make_map(const Run& run, const Grid& grid, uint64_t seed) {
    const int64_t pitch = run.c + 1;
    if (!run.strided) {
        Map<T> map{HostArray<T>(run.n * run.c * grid.h * grid.w), {}};
        map.view = contiguous_view(map.array, {run.n, run.c, grid.h, grid.w});
        fill_uniform(map.array, seed, -0.5f, 1.0f);
        return map;
    }
    Map<T> map{HostArray<T>(run.n * grid.h * grid.w * pitch), {}};
    map.view = strided_view(map.array, {run.n, run.c, grid.h, grid.w}, {grid.h * grid.w * pitch, 1, grid.w * pitch, pitch});
    fill_uniform(map.array, seed, -0.5f, 1.0f);
    return map;
}

// The result of one class of one image, not rounded, [H][W].
template <class T>
Values plain_class(const Run& run, const std::vector<Map<T>>& maps, int64_t n, int64_t c) {
    const Settings& s = run.settings;
    Values out(index(run.h * run.w));
    for (size_t k = 0; k < maps.size(); ++k) {
        const Grid& grid = run.grids[k];
        const auto& stride = maps[k].view.stride;
        for (int64_t y = 0; y < run.h; ++y)
            for (int64_t x = 0; x < run.w; ++x) {
                const Values down = row_of_weights(grid.h, run.h, y, s), across = row_of_weights(grid.w, run.w, x, s);
                for (int64_t i = 0; i < grid.h; ++i)
                    for (int64_t j = 0; j < grid.w; ++j) {
                        const int64_t column = grid.flipped ? grid.w - 1 - j : j;
                        const T read =
                            maps[k]
                                .view.template as<const T>()[n * stride[0] + c * stride[1] + i * stride[2] + column * stride[3]];
                        const double value = static_cast<double>(to_float(read));
                        out[index(y * run.w + x)] +=
                            down[index(i)] * across[index(j)] * (s.relu_first ? std::fmax(value, 0) : value);
                    }
            }
    }
    double top = 0, low = HUGE_VAL;
    for (double& value : out) {
        value = std::fmax(value, 0) / (s.mean ? static_cast<double>(maps.size()) : 1);
        top = std::fmax(top, value);
        low = std::fmin(low, value);
    }
    for (double& value : out)
        value = s.scale * (s.minmax ? std::fmax(value - low - s.eps, 0) / (top - low + s.eps) : value / (top + s.eps));
    return out;
}

double as_number(float value) {
    return static_cast<double>(value);
}
double as_number(f16 value) {
    return static_cast<double>(to_float(value));
}
double as_number(bf16 value) {
    return static_cast<double>(to_float(value));
}
double as_number(uint8_t value) {
    return static_cast<double>(value) / 255;
}

template <class T, class O>
void check_merge(const Run& run, double tolerance) {
    std::vector<Map<T>> maps;
    std::vector<View> views;
    std::vector<bool> flipped;
    for (const Grid& grid : run.grids) {
        maps.push_back(make_map<T>(run, grid, maps.size() + 1));
        views.push_back(maps.back().view);
        flipped.push_back(grid.flipped);
    }
    const int64_t channels = run.c + run.settings.background, pixels = run.h * run.w;
    HostArray<bool> present(run.n * run.c);
    for (int64_t i = 0; i < run.n * run.c; ++i) present[i] = i % 2 == 0;
    View flags = strided_view(HostArray<uint8_t>(0), {run.n, run.c}, {run.c, 1});
    flags.data = run.absent ? present.data() : nullptr;
    flags.dtype = DType::kBool;
    const HostArray<O> out(run.n * channels * pixels);
    const View out_view = contiguous_view(out, {run.n, channels, run.h, run.w});
    const Context context;
    const HostArray<uint8_t> space(cam_merge::workspace(views, run.settings, out_view, context));
    cam_merge::run(views, flipped, flags, run.settings, out_view, contiguous_view(space, {space.size()}), context);
    record("out", out);

    Values expected(index(out.size())), got(index(out.size()));
    for (int64_t n = 0; n < run.n; ++n) {
        Values most(index(pixels));
        for (int64_t c = 0; c < run.c; ++c) {
            if (run.absent && !present[n * run.c + c]) continue;
            const Values one = plain_class(run, maps, n, c);
            for (int64_t p = 0; p < pixels; ++p) {
                expected[index((n * channels + c + run.settings.background) * pixels + p)] = one[index(p)];
                most[index(p)] = std::fmax(most[index(p)], one[index(p)]);
            }
        }
        for (int64_t p = 0; run.settings.background && p < pixels; ++p)
            expected[index(n * channels * pixels + p)] = std::pow(std::fmax(1 - most[index(p)], 0), run.settings.alpha);
    }
    double worst = 0;
    for (int64_t i = 0; i < out.size(); ++i) worst = std::fmax(worst, std::fabs(as_number(out[i]) - expected[index(i)]));
    expect(worst <= tolerance, "out: away by " + std::to_string(worst) + ", allowed " + std::to_string(tolerance));
}

Settings settings(bool cubic, bool minmax, bool background) {
    Settings s;
    s.cubic = cubic;
    s.minmax = minmax;
    s.relu_first = !cubic;
    s.mean = cubic;
    s.background = background;
    s.alpha = 4;
    return s;
}

const std::vector<Grid> kPairs{{2, 3, false}, {2, 3, true}, {3, 5, false}, {3, 5, true}};
constexpr double kFloat = 2e-5, kF16 = 1e-3, kBf16 = 5e-3, kByte = 0.501 / 255;

}  // namespace

WSSS_CASE(cam_merge_one_pixel) {
    check_merge<float, float>({1, 1, 1, 1, {{1, 1, false}}, false, false, settings(false, false, false)}, kFloat);
}
WSSS_CASE(cam_merge_pairs) {
    check_merge<float, float>({2, 3, 9, 11, kPairs, false, false, settings(false, false, false)}, kFloat);
    check_merge<float, float>({2, 3, 9, 11, kPairs, true, true, settings(true, true, true)}, kFloat);
}
// Two tiles across, the second one partial; three down.
WSSS_CASE(cam_merge_tiles) {
    check_merge<float, float>({1, 2, 17, 261, {{3, 5, true}, {2, 90, false}}, false, false, settings(false, true, false)},
                              kFloat);
}
WSSS_CASE(cam_merge_shrinks) {
    check_merge<float, float>({1, 2, 3, 4, {{37, 21, true}, {5, 6, false}}, true, false, settings(false, false, true)}, kFloat);
    check_merge<float, float>({1, 1, 2, 3, {{37, 21, true}}, false, true, settings(true, false, false)}, kFloat);
}
WSSS_CASE(cam_merge_grids) {
    Run run{1, 2, 9, 10, kPairs, false, false, settings(true, false, false)};
    run.settings.align_corners = true;
    check_merge<float, float>(run, kFloat);
    run.settings.align_corners = false;
    run.settings.multiple = 16;
    check_merge<float, float>(run, kFloat);
}
WSSS_CASE(cam_merge_types) {
    const Run run{1, 3, 9, 11, kPairs, true, false, settings(false, false, true)};
    check_merge<float, uint8_t>(run, kByte);
    check_merge<float, f16>(run, kF16);
    check_merge<bf16, bf16>(run, kBf16);
    check_merge<f16, float>(run, kFloat);
}
// More classes than a block keeps the ranges of.
WSSS_CASE(cam_merge_many_classes) {
    check_merge<float, float>({1, 35, 2, 3, {{1, 2, false}}, false, false, settings(false, false, true)}, kFloat);
}
// More tiles than blocks a plane: blocks go on to another tile.
WSSS_CASE(cam_merge_many_tiles) {
    check_merge<float, float>({1, 1, 4105, 1, {{2, 1, false}}, false, false, settings(false, false, false)}, kFloat);
}
