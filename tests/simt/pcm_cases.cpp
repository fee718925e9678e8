// pcm's CUDA kernels, forward and backward, at small odd shapes against a plain double loop. Inputs are rounded to the type under
// test first, so differences come from the computation alone.
#include "pcm/pcm.h"

#include "simt/check_main.h"

using namespace wsss;
using namespace wsss::check;
using namespace wsss::pcm;

namespace {

constexpr double kEps = 1e-5;
constexpr double kFloor = 1e-2;  // of gradients: that of a single pixel is zero but for eps

struct Expected {
    std::vector<double> out, denominator, grad_cam, grad_feature;
};

// Arrays are [N, C or D, P], contiguous. The formulas are those of pcm.h; with g = dL/dout,
//     dL/dA_ij = sum_c g_cj (cam_ci - out_cj) / r_j,  dL/df_i = sum_j [s_ij > 0] (dL/dA_ij + dL/dA_ji) f_j
template <class T>
Expected plain_pcm(const Shape& shape, const std::vector<T>& cam, const std::vector<T>& feature, const std::vector<T>& grad) {
    const int64_t p = shape.pixels();
    const auto size = [&](int64_t channels) { return static_cast<size_t>(shape.n * channels * p); };
    Expected e{std::vector<double>(size(shape.c)), std::vector<double>(size(1)), std::vector<double>(size(shape.c)),
               std::vector<double>(size(shape.d))};
    const auto value = [](const std::vector<T>& from, int64_t at) {
        return static_cast<double>(to_float(from[static_cast<size_t>(at)]));
    };
    for (int64_t n = 0; n < shape.n; ++n) {
        const int64_t cams = n * shape.c * p, features = n * shape.d * p;
        std::vector<double> norm(static_cast<size_t>(p)), a(static_cast<size_t>(p * p)), da(a.size());
        const auto at = [p](int64_t i, int64_t j) { return static_cast<size_t>(i * p + j); };
        for (int64_t i = 0; i < p; ++i) {
            double sum = 0;
            for (int64_t d = 0; d < shape.d; ++d) sum += std::pow(value(feature, features + d * p + i), 2);
            norm[static_cast<size_t>(i)] = std::sqrt(sum);
        }
        const auto unit = [&](int64_t d, int64_t i) {
            return value(feature, features + d * p + i) / (norm[static_cast<size_t>(i)] + kEps);
        };
        for (int64_t j = 0; j < p; ++j) {
            double r = kEps;
            for (int64_t i = 0; i < p; ++i) {
                double s = 0;
                for (int64_t d = 0; d < shape.d; ++d) s += unit(d, i) * unit(d, j);
                a[at(i, j)] = std::fmax(s, 0.0);
                r += a[at(i, j)];
            }
            e.denominator[static_cast<size_t>(n * p + j)] = r;
            for (int64_t c = 0; c < shape.c; ++c) {
                const int64_t row = cams + c * p;
                double sum = 0;
                for (int64_t i = 0; i < p; ++i) sum += value(cam, row + i) * a[at(i, j)] / r;
                e.out[static_cast<size_t>(row + j)] = sum;
                for (int64_t i = 0; i < p; ++i) {
                    const double g = value(grad, row + j) / r;
                    e.grad_cam[static_cast<size_t>(row + i)] += g * a[at(i, j)];
                    if (a[at(i, j)] > 0) da[at(i, j)] += g * (value(cam, row + i) - sum);
                }
            }
        }
        for (int64_t i = 0; i < p; ++i) {
            std::vector<double> df(static_cast<size_t>(shape.d));
            double along = 0;
            for (int64_t d = 0; d < shape.d; ++d) {
                for (int64_t j = 0; j < p; ++j) df[static_cast<size_t>(d)] += (da[at(i, j)] + da[at(j, i)]) * unit(d, j);
                along += df[static_cast<size_t>(d)] * value(feature, features + d * p + i);
            }
            const double length = norm[static_cast<size_t>(i)], scale = 1 / (length + kEps);
            for (int64_t d = 0; d < shape.d; ++d)
                e.grad_feature[static_cast<size_t>(features + d * p + i)] =
                    scale * df[static_cast<size_t>(d)] -
                    (length > 0 ? scale * scale / length * along * value(feature, features + d * p + i) : 0.0);
        }
    }
    return e;
}

template <class T>
std::vector<T> random_values(int64_t count, uint64_t seed, float low) {
    std::vector<T> values;
    Random random(seed);
    for (int64_t i = 0; i < count; ++i) values.push_back(from_float<T>(low + (random.uniform() + 1.0f) * 0.5f * (1.0f - low)));
    return values;
}

// [N, channels, H, W]: contiguous, or with channels innermost and a gap after every pixel.
template <class T>
class Input {
public:
    Input(const Shape& s, int64_t channels, const std::vector<T>& values, bool strided)
        : array_(strided ? s.n * s.pixels() * (channels + 1) : s.n * channels * s.pixels()) {
        const int64_t p = s.pixels(), pitch = channels + 1;
        view = strided ? strided_view(array_, {s.n, channels, s.h, s.w}, {p * pitch, 1, s.w * pitch, pitch})
                       : contiguous_view(array_, {s.n, channels, s.h, s.w});
        for (int64_t n = 0; n < s.n; ++n)
            for (int64_t c = 0; c < channels; ++c)
                for (int64_t i = 0; i < p; ++i)
                    array_[strided ? (n * p + i) * pitch + c : (n * channels + c) * p + i] =
                        values[static_cast<size_t>((n * channels + c) * p + i)];
    }
    View view;

private:
    HostArray<T> array_;
};

struct Tolerance {
    double forward, backward;
};

template <class T>
void check_pcm(const Shape& shape, Tolerance tolerance, bool strided = false) {
    const int64_t p = shape.pixels(), cams = shape.n * shape.c * p, features = shape.n * shape.d * p;
    const auto cam_values = random_values<T>(cams, 1, 0.0f), grad_values = random_values<T>(cams, 2, -1.0f);
    const auto feature_values = random_values<T>(features, 3, -0.5f);
    const Expected expected = plain_pcm(shape, cam_values, feature_values, grad_values);
    const Input<T> cam(shape, shape.c, cam_values, strided), feature(shape, shape.d, feature_values, strided),
        grad(shape, shape.c, grad_values, strided);
    HostArray<T> out(cams), grad_cam(cams), grad_feature(features);
    HostArray<float> denominator(shape.n * p);
    const View out_view = contiguous_view(out, {shape.n, shape.c, shape.h, shape.w});
    const View denominator_view = contiguous_view(denominator, {shape.n, p});
    const Context context;

    const HostArray<uint8_t> forward_space(pcm::forward_workspace(cam.view, feature.view, context));
    pcm::forward(cam.view, feature.view, kEps, out_view, denominator_view, contiguous_view(forward_space, {forward_space.size()}),
                 context);
    expect_close("out", out, expected.out, tolerance.forward);
    expect_close("denominator", denominator, expected.denominator, tolerance.forward);
    record("out", out);

    const HostArray<uint8_t> backward_space(pcm::backward_workspace(cam.view, feature.view, context));
    pcm::backward(grad.view, cam.view, feature.view, out_view, denominator_view, kEps,
                  contiguous_view(grad_cam, {shape.n, shape.c, shape.h, shape.w}),
                  contiguous_view(grad_feature, {shape.n, shape.d, shape.h, shape.w}),
                  contiguous_view(backward_space, {backward_space.size()}), context);
    expect_close("grad_cam", grad_cam, expected.grad_cam, tolerance.backward, kFloor);
    expect_close("grad_feature", grad_feature, expected.grad_feature, tolerance.backward, kFloor);
    record("grad_cam", grad_cam);
    record("grad_feature", grad_feature);
}

// 16-bit types: rounding of the result and, backward, cosines near 0 whose sign flips.
constexpr Tolerance kFloat{1e-4, 1e-3}, kF16{4e-3, 2e-2}, kBf16{2e-2, 5e-2};

}  // namespace

WSSS_CASE(pcm_one_pixel) {
    check_pcm<float>({1, 1, 1, 1, 1}, kFloat);
}
WSSS_CASE(pcm_small_float32) {
    check_pcm<float>({2, 3, 5, 3, 7}, kFloat);
}
WSSS_CASE(pcm_small_float16) {
    check_pcm<f16>({2, 3, 5, 3, 7}, kF16);
}
WSSS_CASE(pcm_small_bfloat16) {
    check_pcm<bf16>({2, 3, 5, 3, 7}, kBf16);
}
WSSS_CASE(pcm_strided) {
    check_pcm<float>({2, 3, 5, 3, 7}, kFloat, true);
}
WSSS_CASE(pcm_two_tiles) {
    check_pcm<float>({1, 2, 9, 1, 131}, kFloat);
}
WSSS_CASE(pcm_many_classes) {
    check_pcm<bf16>({1, 71, 7, 5, 9}, kBf16);
}
WSSS_CASE(pcm_seam_depth) {
    check_pcm<bf16>({1, 21, 192, 9, 8}, kBf16);
}
WSSS_CASE(pcm_deep) {
    check_pcm<f16>({1, 4, 203, 7, 6}, kF16);
}
// More row tiles than workers: a block goes on to another row tile.
WSSS_CASE(pcm_batch) {
    check_pcm<float>({9, 2, 5, 2, 3}, kFloat);
}
WSSS_CASE(pcm_batch_seam_depth) {
    check_pcm<bf16>({9, 2, 150, 2, 3}, kBf16);
}
