// complementary_pair's CUDA kernels at small odd shapes against the draw rules followed cell by cell.
#include "complementary/complementary.h"

#include <algorithm>

#include "common/workspace.h"
#include "simt/check_main.h"

using namespace wsss;
using namespace wsss::check;
using namespace wsss::complementary;

namespace {

struct Settings {
    Shape shape;
    std::vector<int64_t> grid;  // empty: segments of 3 x 2 pixels, the last pixel masked
    Rule rule;
    double hide;
    bool strided = false;
};

std::vector<bool> drawn_cells(const Options& options, RandomStream stream, int64_t cells) {
    std::vector<bool> drawn(static_cast<size_t>(cells));
    if (options.rule == Rule::kCode && options.grid.empty()) {
        for (int64_t i = 0; i < draws_with_replacement(options.hide, cells); ++i)
            if (const int64_t id = choice_at(stream, i, cells + 1)) drawn[static_cast<size_t>(id - 1)] = true;
    } else if (options.rule == Rule::kExact) {
        std::vector<std::pair<uint32_t, size_t>> order;
        for (int64_t k = 0; k < cells; ++k) order.emplace_back(number_at(stream, k), static_cast<size_t>(k));
        std::sort(order.begin(), order.end());
        for (int64_t i = 0; i < hidden_cells(options.hide, cells); ++i) drawn[order[static_cast<size_t>(i)].second] = true;
    } else {
        for (int64_t k = 0; k < cells; ++k)
            drawn[static_cast<size_t>(k)] = number_at(stream, k) < limit_of(options.rule, options.hide);
    }
    return drawn;
}

template <class T>
void check_pair(const Settings& settings) {
    const Shape s = settings.shape;
    const int64_t p = s.pixels(), pitch = settings.strided ? s.c + 1 : 1;
    const HostArray<T> image(settings.strided ? s.n * p * pitch : s.n * s.c * p);
    for (int64_t i = 0; i < image.size(); ++i) image[i] = static_cast<T>(i % 250 + 1);
    const HostArray<int32_t> segments(s.n * p);
    for (int64_t n = 0; n < s.n; ++n)
        for (int64_t i = 0; i < p; ++i)
            segments[n * p + i] = i == p - 1 && p > 1 ? -1 : static_cast<int32_t>(i / s.w / 3 * ceil_div(s.w, 2) + i % s.w / 2);
    const HostArray<T> first(s.n * s.c * p), second(first.size());
    const HostArray<float> share(s.n);
    const HostArray<uint8_t> side(s.n * p);
    const View image_view = settings.strided ? strided_view(image, {s.n, s.c, s.h, s.w}, {p * pitch, 1, s.w * pitch, pitch})
                                             : contiguous_view(image, {s.n, s.c, s.h, s.w});
    const View segments_view = settings.grid.empty() ? contiguous_view(segments, {s.n, s.h, s.w}) : View{};
    const Options options{settings.grid, settings.hide, settings.rule, 123456789012345};
    const Outputs outputs{contiguous_view(first, {s.n, s.c, s.h, s.w}), contiguous_view(second, {s.n, s.c, s.h, s.w}),
                          contiguous_view(share, {s.n}), contiguous_view(side, {s.n, s.h, s.w})};
    const Context context;
    const HostArray<uint8_t> space(complementary::workspace(image_view, segments_view, options, context));
    complementary::run(image_view, segments_view, options, outputs, contiguous_view(space, {space.size()}), context);

    int64_t wrong = 0;
    std::vector<double> expected_share;
    for (int64_t n = 0; n < s.n; ++n) {
        const RandomStream stream = random_stream(options.seed, n);
        const bool grid = !settings.grid.empty();
        const int64_t cell =
            grid ? settings.grid[static_cast<size_t>(grid_choice(stream, static_cast<int64_t>(settings.grid.size())))] : 1;
        const auto label = [&](int64_t i) {
            return grid ? i / s.w / cell * ceil_div(s.w, cell) + i % s.w / cell : int64_t{segments[n * p + i]};
        };
        int64_t cells = 0;
        for (int64_t i = 0; i < p; ++i) cells = std::max(cells, label(i) + 1);
        const std::vector<bool> drawn = drawn_cells(options, stream, cells);
        double visible = 0, counted = 0;
        for (int64_t i = 0; i < p; ++i) {
            const int64_t k = label(i);
            const int shows = k < 0 ? 0 : drawn[static_cast<size_t>(k)] ? 2 : 1;
            visible += shows == 1;
            counted += shows != 0;
            wrong += side[n * p + i] != shows;
            for (int64_t c = 0; c < s.c; ++c) {
                const T value = image[settings.strided ? (n * p + i) * pitch + c : (n * s.c + c) * p + i];
                wrong += first[(n * s.c + c) * p + i] != (shows == 1 ? value : T{0});
                wrong += second[(n * s.c + c) * p + i] != (shows == 2 ? value : T{0});
            }
        }
        if (grid && settings.rule == Rule::kCode) {
            counted = static_cast<double>(cells);
            visible = static_cast<double>(std::count(drawn.begin(), drawn.end(), false));
        }
        expected_share.push_back(counted > 0 ? visible / counted : 0);
    }
    expect(wrong == 0, std::to_string(wrong) + " wrong values");
    expect_close("share", share, expected_share, 1e-6);
    record("first", first);
    record("second", second);
    record("share", share);
}

}  // namespace

WSSS_CASE(complementary_one_pixel) {
    check_pair<float>({{1, 3, 1, 1}, {}, Rule::kExact, 0.5});
}
WSSS_CASE(complementary_segments) {
    check_pair<float>({{3, 2, 7, 11}, {}, Rule::kExact, 0.5});
}
WSSS_CASE(complementary_wide) {
    check_pair<float>({{2, 3, 40, 60}, {}, Rule::kExact, 0.4});
}
WSSS_CASE(complementary_wide_bytes) {
    check_pair<uint8_t>({{2, 3, 40, 60}, {}, Rule::kExact, 0.5});
}
WSSS_CASE(complementary_strided) {
    check_pair<double>({{2, 3, 9, 8}, {}, Rule::kExact, 0.5, true});
}
WSSS_CASE(complementary_grids) {
    check_pair<float>({{4, 1, 20, 30}, {3, 7, 20}, Rule::kExact, 0.5});
}
WSSS_CASE(complementary_cell_a_pixel) {
    check_pair<uint8_t>({{1, 1, 33, 63}, {1}, Rule::kExact, 0.3});
}
WSSS_CASE(complementary_paper) {
    check_pair<float>({{2, 1, 9, 20}, {}, Rule::kPaper, 0.5});
}
WSSS_CASE(complementary_code_segments) {
    check_pair<float>({{3, 1, 15, 20}, {}, Rule::kCode, 0.5});
}
WSSS_CASE(complementary_code_grid) {
    check_pair<float>({{3, 1, 15, 21}, {4}, Rule::kCode, 0.5});
}
