// slic's CUDA kernel at small odd shapes against its definition (slic_rules.h) followed pixel by pixel: the same labels.
#include "slic/slic.h"

#include <algorithm>
#include <map>

#include "simt/check_main.h"

using namespace wsss;
using namespace wsss::check;
using namespace wsss::slic;

namespace {

struct Image {
    int64_t height, width;
    std::vector<Lab> lab;
    std::vector<bool> valid;
    size_t at(int64_t y, int64_t x) const { return static_cast<size_t>(y * width + x); }
};

// Labels, -1 where the image is not valid, and the centres they were measured from.
std::vector<int64_t> assign(const Plan& plan, const Image& image, int64_t iterations, std::vector<Centre>* centres) {
    std::vector<int64_t> label(image.lab.size());
    for (int64_t k = 0; k < plan.labels(); ++k) centres->push_back(first_centre(plan, k));
    std::vector<Sums> sums;
    for (int64_t round = 0; round <= iterations; ++round) {
        for (size_t k = 0; round > 0 && k < centres->size(); ++k) (*centres)[k] = moved_centre((*centres)[k], sums[k], round - 1);
        sums.assign(centres->size(), Sums{});
        for (int64_t y = 0; y < image.height; ++y)
            for (int64_t x = 0; x < image.width; ++x) {
                if (!takes_row(plan, round, iterations, y)) continue;
                const int64_t tile_row = y / kTileHeight, tile_col = x / kTileWidth;
                const Range rows = candidate_rows(plan, tile_row), cols = candidate_cols(plan, tile_col);
                const Lab lab = image.lab[image.at(y, x)];
                int64_t best = INT64_MAX, chosen = -1;
                for (int64_t row = rows.first; row < rows.first + rows.count; ++row)
                    for (int64_t col = cols.first; col < cols.first + cols.count; ++col) {
                        const int64_t k = row * plan.cols + col;
                        const Centre& centre = (*centres)[static_cast<size_t>(k)];
                        const Cost c =
                            cost_in_tile(colour_cost(plan, centre, round == 0 ? 0 : plan.colour), centre, tile_col * kTileWidth,
                                         tile_row * kTileHeight, round == 0 ? plan.space_alone : plan.space);
                        const int64_t cost = c.base + int64_t{c.l} * lab.l + int64_t{c.a} * lab.a + int64_t{c.b} * lab.b +
                                             c.x * (x % kTileWidth) + c.y * (y % kTileHeight);
                        if (cost < best) {
                            best = cost;
                            chosen = k;
                        }
                    }
                const bool valid = image.valid[image.at(y, x)];
                label[image.at(y, x)] = valid ? chosen : -1;
                if (!valid) continue;
                Sums& sum = sums[static_cast<size_t>(chosen)];
                sum.l += lab.l;
                sum.a += lab.a;
                sum.b += lab.b;
                sum.x += x;
                sum.y += y;
                ++sum.count;
            }
    }
    return label;
}

template <class Visit>
void for_neighbours(const Image& image, size_t p, Visit&& visit) {
    const auto width = static_cast<size_t>(image.width);
    if (p % width > 0) visit(p - 1);
    if (p % width + 1 < width) visit(p + 1);
    if (p >= width) visit(p - width);
    if (p + width < image.lab.size()) visit(p + width);
}

// The name of each pixel's segment before merging: its first pixel.
std::vector<size_t> pieces(const Image& image, const std::vector<int64_t>& label) {
    const size_t none = image.lab.size();
    std::vector<size_t> name(none, none);
    for (size_t start = 0; start < none; ++start) {
        if (name[start] != none || label[start] < 0) continue;
        std::vector<size_t> open{start};
        name[start] = start;
        while (!open.empty()) {
            const size_t p = open.back();
            open.pop_back();
            for_neighbours(image, p, [&](size_t q) {
                if (name[q] != none || label[q] != label[p]) return;
                name[q] = start;
                open.push_back(q);
            });
        }
    }
    return name;
}

std::vector<int32_t> plain_slic(const Plan& plan, const Image& image, int64_t iterations) {
    std::vector<Centre> centres;
    const std::vector<int64_t> label = assign(plan, image, iterations, &centres);
    std::vector<size_t> name = pieces(image, label);
    for (;;) {
        std::map<size_t, int64_t> size;
        for (size_t p = 0; p < name.size(); ++p)
            if (label[p] >= 0) ++size[name[p]];
        std::map<size_t, uint64_t> offer;
        for (size_t p = 0; p < name.size(); ++p)
            for_neighbours(image, p, [&](size_t q) {
                if (label[p] < 0 || label[q] < 0 || name[p] == name[q] || size[name[p]] >= plan.minimum) return;
                const auto small = static_cast<uint32_t>(name[p]), other = static_cast<uint32_t>(name[q]);
                if (!is_greater(size[other], other, size[small], small)) return;
                const uint64_t key =
                    merge_key(centres[static_cast<size_t>(label[small])], centres[static_cast<size_t>(label[other])], other);
                const auto known = offer.find(small);
                if (known == offer.end() || key < known->second) offer[small] = key;
            });
        if (offer.empty()) break;
        for (size_t& n : name)
            for (auto next = offer.find(n); next != offer.end(); next = offer.find(n)) n = next->second & UINT32_MAX;
    }
    std::map<size_t, int32_t> number;
    std::vector<int32_t> out;
    for (size_t p = 0; p < name.size(); ++p)
        out.push_back(label[p] < 0 ? -1 : number.emplace(name[p], static_cast<int32_t>(number.size())).first->second);
    return out;
}

struct Settings {
    Shape shape;
    int64_t segments, iterations = 2;
    double compactness = 10;
    bool noise = false, masked = false, interleaved = false;
};

void check_slic(const Settings& settings) {
    const Shape s = settings.shape;
    const int64_t p = s.pixels();
    const HostArray<uint8_t> pixels(s.n * 3 * p);
    HostArray<uint8_t> mask(s.n * p);
    const HostArray<int32_t> out(s.n * p);
    Random random(7);
    const int64_t channel = settings.interleaved ? 1 : p, pixel = settings.interleaved ? 3 : 1;
    std::vector<Image> images;
    for (int64_t n = 0; n < s.n; ++n) {
        Image image{s.h, s.w, {}, {}};
        for (int64_t i = 0; i < p; ++i) {
            const int64_t y = i / s.w, x = i % s.w;
            int rgb[3];
            for (int c = 0; c < 3; ++c) {
                const auto wave = static_cast<int>(128 + 60 * std::sin(0.2 * static_cast<double>(x * (c + 1) + y * (3 - c) + n)));
                rgb[c] = settings.noise ? static_cast<int>(random.bits() >> 56) : wave + static_cast<int>(random.bits() >> 59);
                pixels[n * 3 * p + c * channel + i * pixel] = static_cast<uint8_t>(rgb[c]);
            }
            image.lab.push_back(lab_of(kLabTables, rgb[0], rgb[1], rgb[2]));
            image.valid.push_back(!settings.masked || (x + y / 3 + n) % 7 != 0);
            mask[n * p + i] = image.valid.back();
        }
        images.push_back(image);
    }
    const View image_view = strided_view(pixels, {s.n, 3, s.h, s.w}, {3 * p, channel, s.w * pixel, pixel});
    View mask_view = contiguous_view(mask, {s.n, s.h, s.w});
    mask_view.dtype = DType::kBool;
    if (!settings.masked) mask_view = View{};
    const Context context;
    const HostArray<uint8_t> space(slic::workspace(image_view, settings.segments, context));
    slic::run(image_view, mask_view, settings.segments, settings.compactness, settings.iterations,
              contiguous_view(out, {s.n, s.h, s.w}), contiguous_view(space, {space.size()}), context);
    const Plan plan = make_plan(s.h, s.w, settings.segments, settings.compactness);
    int64_t wrong = 0;
    for (int64_t n = 0; n < s.n; ++n) {
        const std::vector<int32_t> expected = plain_slic(plan, images[static_cast<size_t>(n)], settings.iterations);
        for (int64_t i = 0; i < p; ++i) wrong += out[n * p + i] != expected[static_cast<size_t>(i)];
    }
    expect(wrong == 0, std::to_string(wrong) + " of " + std::to_string(s.n * p) + " labels differ");
    record("labels", out);
}

}  // namespace

WSSS_CASE(slic_one_pixel) {
    check_slic({{1, 1, 1}, 200});
}
WSSS_CASE(slic_one_row) {
    check_slic({{1, 1, 75}, 6});
}
WSSS_CASE(slic_grid) {
    check_slic({{1, 20, 40}, 8, 0});
}
WSSS_CASE(slic_photo) {
    check_slic({{2, 37, 70}, 12, 4});
}
WSSS_CASE(slic_noise) {
    check_slic({{1, 50, 90}, 9, 2, 0.5, true});
}
WSSS_CASE(slic_many_small) {
    check_slic({{1, 21, 45}, 400, 2, 10, true});
}
WSSS_CASE(slic_mask) {
    check_slic({{2, 33, 47}, 10, 2, 10, false, true, true});
}
WSSS_CASE(slic_rows_in_turns) {
    check_slic({{1, 64, 40}, 4, 5, 2, true});
}
