// Coverage-guided fuzzing of the C++ functions that Python calls: part of `make soak`, by tests/test_fuzz.py.
//
// The bytes choose an operation, a SIMD level, shapes, strides, types, settings and values. A call may refuse its arguments
// (std::invalid_argument); everything else that is not a result is a finding: a sanitizer's report, another exception, a hang.

#include <stdexcept>

#include "affinity/affinity.h"
#include "cam_merge/cam_merge.h"
#include "common/simd.h"
#include "complementary/complementary.h"
#include "dense_crf/dense_crf.h"
#include "edge_affinity/edge_affinity.h"
#include "fuzz_input.h"
#include "pcm/pcm.h"
#include "prcm/prcm.h"
#include "random_walk/random_walk.h"
#include "slic/slic.h"

namespace wsss {
namespace {

constexpr DType kFloats[] = {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16};

DType float_type(FuzzInput& in) {
    return kFloats[in.number(0, 3)];
}

void fuzz_pcm(FuzzInput& in, const Context& context) {
    const int64_t n = in.number(0, 2), c = in.number(0, 40), d = in.number(0, 40), h = in.number(0, 20), w = in.number(0, 20);
    const DType dtype = float_type(in);
    const Tensor cam = tensor(in, dtype, {n, c, h, w}, true), feature = tensor(in, dtype, {n, d, h, w}, true);
    const Tensor out = contiguous(in, dtype, {n, c, h, w}), denominator = contiguous(in, sum_type(dtype), {n, h * w});
    const double eps = in.flip() ? 1e-5 : in.any_float();
    const Tensor space = workspace_of(pcm::forward_workspace(cam, feature, context));
    pcm::forward(cam, feature, eps, out, denominator, space, context);
    const Tensor grad = tensor(in, dtype, {n, c, h, w}, true);
    const Tensor grad_cam = contiguous(in, dtype, {n, c, h, w}), grad_feature = contiguous(in, dtype, {n, d, h, w});
    const Tensor more = workspace_of(pcm::backward_workspace(cam, feature, context));
    pcm::backward(grad, cam, feature, out, denominator, eps, in.flip() ? grad_cam.view : View{},
                  in.flip() ? grad_feature.view : View{}, more, context);
}

void fuzz_dense_crf(FuzzInput& in, const Context& context) {
    const int64_t n = in.number(0, 2), labels = in.number(0, 30), h = in.number(0, 16), w = in.number(0, 16);
    const Fill kind = in.rarely() ? Fill::kBytes : Fill::kSmallFloats;
    std::vector<Tensor> kept;
    std::vector<dense_crf::TermInput> terms(in.number(0, 3));
    for (dense_crf::TermInput& term : terms) {
        kept.push_back(contiguous(in, DType::kFloat32, {in.flip() ? n : 1, in.number(0, 6), h, w}, kind));
        term.feature = kept.back();
        const std::vector<int64_t> shape = in.one_of({std::vector<int64_t>{1}, {labels}, {labels, labels}});
        kept.push_back(contiguous(in, DType::kFloat32, shape, kind));
        term.compat = kept.back();
        term.normalisation = static_cast<dense_crf::Normalisation>(in.number(0, 3));
    }
    const Tensor unary = contiguous(in, DType::kFloat32, {n, labels, h, w}, kind);
    const Tensor initial = contiguous(in, DType::kFloat32, {n, labels, h, w}, Fill::kUnitFloats);
    const Tensor out = contiguous(in, DType::kFloat32, {n, labels, h, w});
    const Tensor space = workspace_of(dense_crf::workspace(unary, terms, context));
    dense_crf::run(unary, in.flip(), terms, in.number(0, 3), in.flip() ? initial.view : View{}, in.flip(), out, space, context);
}

void fuzz_prcm(FuzzInput& in, const Context& context) {
    const int64_t n = in.number(0, 2), c = in.number(0, 24), c1 = in.number(0, 20), c2 = in.number(0, 20);
    const int64_t h = in.number(0, 16), w = in.number(0, 16);
    const DType dtype = float_type(in), sum = sum_type(dtype);
    const Tensor cam = tensor(in, dtype, {n, c, h, w}, true), x = tensor(in, dtype, {n, c1, h, w}, true);
    const Tensor query = tensor(in, dtype, {n, c2, h, w}, true), phi = tensor(in, dtype, {c2, c1}, true);
    const Tensor out = contiguous(in, dtype, {n, c, h, w}), gate = contiguous(in, sum, {n, c, h, w});
    const Tensor proxy = contiguous(in, sum, {n, c, c1}), key = contiguous(in, sum, {n, c2, c});
    const double scale = in.flip() ? 0.2 : in.any_float();
    const bool classes = in.flip(), view = in.flip(), rectify = in.flip();
    const Tensor space = workspace_of(prcm::forward_workspace(cam, x, query, phi, context));
    prcm::forward(cam, x, query, phi, scale, classes, view, rectify, out, gate, proxy, key, space, context);
    const Tensor grad = tensor(in, dtype, {n, c, h, w}, true);
    const Tensor grad_query = contiguous(in, dtype, {n, c2, h, w}), grad_phi = contiguous(in, dtype, {c2, c1});
    const Tensor more = workspace_of(prcm::backward_workspace(grad, cam, query, gate, proxy, key, context));
    prcm::backward(grad, cam, query, gate, proxy, key, scale, classes, view, rectify, in.flip() ? grad_query.view : View{},
                   in.flip() ? grad_phi.view : View{}, more, context);
}

void fuzz_affinity(FuzzInput& in, const Context& context) {
    const int64_t n = in.number(0, 2), c = in.number(0, 20), h = in.number(0, 20), w = in.number(0, 20), radius = in.number(0, 8);
    const int64_t pairs = pair_offset_count(static_cast<int>(radius));
    const DType dtype = float_type(in);
    const Tensor feature = tensor(in, dtype, {n, c, h, w}, true), out = contiguous(in, dtype, {n, pairs, h, w});
    const Tensor space = workspace_of(affinity::forward_workspace(feature, radius, context));
    affinity::forward(feature, radius, out, space, context);
    const Tensor grad = tensor(in, dtype, {n, pairs, h, w}, true), grad_feature = contiguous(in, dtype, {n, c, h, w});
    const Tensor more = workspace_of(affinity::backward_workspace(feature, radius, context));
    affinity::backward(grad, feature, out, radius, grad_feature, more, context);
}

void fuzz_edge_affinity(FuzzInput& in, const Context& context) {
    const int64_t n = in.number(0, 2), h = in.number(0, 24), w = in.number(0, 24), radius = in.number(0, 33);
    const int64_t pairs = pair_offset_count(static_cast<int>(radius));
    const DType dtype = float_type(in);
    const Tensor edge = tensor(in, dtype, {n, 1, h, w}, true), out = contiguous(in, dtype, {n, pairs, h, w});
    const Tensor space = workspace_of(edge_affinity::forward_workspace(edge, radius, context));
    edge_affinity::forward(edge, radius, out, space, context);
    const Tensor grad = tensor(in, dtype, {n, pairs, h, w}, true), grad_edge = contiguous(in, dtype, {n, 1, h, w});
    const Tensor more = workspace_of(edge_affinity::backward_workspace(edge, radius, context));
    edge_affinity::backward(grad, edge, radius, grad_edge, more, context);
}

void fuzz_random_walk(FuzzInput& in, const Context& context) {
    const int64_t n = in.number(0, 2), c = in.number(0, 7), h = in.number(0, 20), w = in.number(0, 20);
    random_walk::Settings settings;
    settings.radius = in.number(0, 8);
    settings.beta = in.flip() ? static_cast<double>(in.number(0, 70)) : in.any_float();
    settings.steps = in.number(0, 20);
    settings.chebyshev = in.flip();
    settings.tolerance = in.flip() ? 1e-3 : in.any_float();
    settings.published = in.flip();
    const DType dtype = float_type(in);
    const Fill kind = in.rarely() ? Fill::kBytes : Fill::kUnitFloats;
    const int64_t pairs = pair_offset_count(static_cast<int>(settings.radius));
    const Tensor cam = tensor(in, dtype, {n, c, h, w}, true, kind), affinity = tensor(in, dtype, {n, pairs, h, w}, true, kind);
    const Tensor out = contiguous(in, dtype, {n, c, h, w});
    const Tensor space = workspace_of(random_walk::workspace(cam, affinity, settings, context));
    random_walk::run(cam, affinity, settings, out, space, context);
}

void fuzz_slic(FuzzInput& in, const Context& context) {
    const int64_t n = in.number(0, 2), h = in.number(0, 60), w = in.number(0, 60), segments = in.number(0, 400);
    const Tensor image = tensor(in, DType::kUInt8, {n, 3, h, w}, true), out = contiguous(in, DType::kInt32, {n, h, w});
    Tensor mask = tensor(in, DType::kBool, {n, h, w}, true);
    for (int64_t i = 0; mask.view.dtype == DType::kBool && i < mask.extent; ++i) mask.storage[i] &= 1;
    const double compactness = in.flip() ? 10 : in.any_float();
    const Tensor space = workspace_of(slic::workspace(image, segments, context));
    slic::run(image, in.flip() ? mask.view : View{}, segments, compactness, in.number(0, 5), out, space, context);
}

void fuzz_complementary(FuzzInput& in, const Context& context) {
    const int64_t n = in.number(0, 2), c = in.number(0, 4), h = in.number(0, 40), w = in.number(0, 40);
    complementary::Options options;
    for (int64_t i = in.number(0, 3); i > 0; --i) options.grid.push_back(in.number(0, 50));
    options.hide = in.flip() ? 0.5 : in.any_float();
    options.rule = static_cast<complementary::Rule>(in.number(0, 2));
    options.seed = in.number(0, 65535);
    const DType dtype = in.flip() ? float_type(in) : DType::kUInt8;
    const Tensor image = tensor(in, dtype, {n, c, h, w}, true);
    Tensor segments = contiguous(in, DType::kInt32, {n, h, w});
    if (segments.view.dtype == DType::kInt32 && !in.rarely())
        for (int64_t i = 0; i < segments.extent; ++i) segments.view.as<int32_t>()[i] = static_cast<int32_t>(in.number(-1, 30));
    const Tensor first = contiguous(in, dtype, {n, c, h, w}), second = contiguous(in, dtype, {n, c, h, w});
    const Tensor share = contiguous(in, DType::kFloat32, {n}), side = contiguous(in, DType::kUInt8, {n, h, w});
    const complementary::Outputs outputs{first, second, share, side};
    const View cells = options.grid.empty() || in.rarely() ? segments.view : View{};
    const Tensor space = workspace_of(complementary::workspace(image, cells, options, context));
    complementary::run(image, cells, options, outputs, space, context);
}

void fuzz_cam_merge(FuzzInput& in, const Context& context) {
    const int64_t n = in.number(0, 2), c = in.number(0, 8), h = in.number(0, 40), w = in.number(0, 40);
    cam_merge::Settings settings;
    settings.mean = in.flip();
    settings.minmax = in.flip();
    settings.relu_first = in.flip();
    settings.cubic = in.flip();
    settings.align_corners = in.flip();
    settings.background = in.flip();
    settings.alpha = in.flip() ? 4 : in.any_float();
    settings.multiple = in.flip() ? 1 : in.number(0, 20);
    const DType dtype = float_type(in);
    std::vector<Tensor> kept;
    std::vector<View> maps;
    std::vector<bool> flipped;
    for (int64_t i = in.number(0, 4); i > 0; --i) {
        kept.push_back(tensor(in, dtype, {n, c, in.number(0, 12), in.number(0, 12)}, true));
        maps.push_back(kept.back());
        flipped.push_back(in.flip());
    }
    const Tensor present = contiguous(in, DType::kBool, {n, c});
    for (int64_t i = 0; present.view.dtype == DType::kBool && i < present.extent; ++i) present.storage[i] &= 1;
    const DType out_type = in.flip() ? DType::kUInt8 : float_type(in);
    const Tensor out = contiguous(in, out_type, {n, c + settings.background, h, w});
    const Tensor space = workspace_of(cam_merge::workspace(maps, settings, out, context));
    cam_merge::run(maps, flipped, in.flip() ? present.view : View{}, settings, out, space, context);
}

using Target = void (*)(FuzzInput&, const Context&);
constexpr Target kTargets[] = {fuzz_pcm,  fuzz_prcm,          fuzz_affinity,  fuzz_edge_affinity, fuzz_random_walk,
                               fuzz_slic, fuzz_complementary, fuzz_dense_crf, fuzz_cam_merge};

}  // namespace
}  // namespace wsss

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace wsss;
    FuzzInput in(data, size);
    const Target target = kTargets[in.number(0, static_cast<int64_t>(std::size(kTargets)) - 1)];
    const auto level = static_cast<Simd>(in.number(0, static_cast<int64_t>(detected_simd())));
    set_simd(name(level));
    Context context;
    context.threads = static_cast<int>(in.number(1, 2));
    try {
        target(in, context);
    } catch (const std::invalid_argument&) {
    }
    return 0;
}
