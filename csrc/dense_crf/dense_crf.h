// Dense CRF: mean field inference with Gaussian kernels filtered on permutohedral lattices (Krähenbühl and Koltun 2011; Adams,
// Baek and Davis 2010).
//
//     Q      = softmax(-unary)                                       over the L labels of each of the P pixels
//     repeat: Q = softmax(-unary + sum over terms k of compat_k (K_k Q))
//
// K_k filters each label's map with the kernel exp(-|f_i - f_j|^2 / 2) of the features f of term k, approximated on a lattice and
// normalised (by default symmetrically: n_i = 1 / sqrt((K 1)_i), K' = diag(n) K diag(n)). compat_k is a number w (w times the
// message of the same label), a vector (one number a label, of the opposite sign: what pydensecrf does) or a matrix (likewise).
//
// A lattice of D-dimensional features has D + 1 vertices a pixel. It is built once a call and image; a term whose feature has
// batch size 1 is built once for all images. Results are the same bits on every run and for every number of threads.
//
// Where 4 does not divide P, a lattice also has the D + 1 vertices of feature 0, since pydensecrf embeds four pixels at a time,
// the missing ones as zeros. Nothing is splatted there, but the blur passes through them.
//
// A term whose feature has no dimensions joins no two pixels: K is the identity, under every normalisation, and there is no
// lattice. (So it is with positions in units of 1 / 3 pixel or less: see pixels_apart in ops/dense_crf.py.)
//
// Types: float32. Time O(iterations P L D), memory O(P (D + L)) an image in flight.
#pragma once

#include <string>
#include <vector>

#include "common/dispatch.h"
#include "common/view.h"

namespace wsss::dense_crf {

constexpr int kMaxFeatureDims = 6;
constexpr int kMaxTerms = 4;
constexpr float kLeastProbability = 1e-5f;  // of a probability

enum class Normalisation : int { kNone = 0, kBefore = 1, kAfter = 2, kSymmetric = 3 };

struct TermInput {
    View feature;  // [N or 1, D, H, W], contiguous float32: coordinates divided by their standard deviations, D from 0 to 6
    View compat;   // [1], [L] or [L, L], contiguous float32, symmetric
    Normalisation normalisation = Normalisation::kSymmetric;
};

struct Shape {
    int64_t n, labels, h, w;
    int64_t pixels() const { return h * w; }
    int64_t points() const { return (pixels() + 3) / 4 * 4; }  // pixels, and the zeros that are embedded with them
};

int64_t workspace_cpu(const Shape& shape, const std::vector<TermInput>& terms, const Context& context);
int64_t workspace_cuda(const Shape& shape, const std::vector<TermInput>& terms, const Context& context);
void run_cpu(const View& unary, bool probability, const std::vector<TermInput>& terms, int64_t iterations, const View& initial,
             bool message, const View& out, const View& workspace, const Context& context);
void run_cuda(const View& unary, bool probability, const std::vector<TermInput>& terms, int64_t iterations, const View& initial,
              bool message, const View& out, const View& workspace, const Context& context);

// ---- The functions to call: checked, on either device --------------------------------------------------------------------

inline Shape check_inputs(const View& unary, const std::vector<TermInput>& terms, const Context& context) {
    check_ndim("dense_crf", "unary", unary, 4, "[N, L, H, W]");
    check_dtype("dense_crf", "unary", unary, {DType::kFloat32});
    check_device("dense_crf", "unary", unary, context);
    const Shape shape{unary.size[0], unary.size[1], unary.size[2], unary.size[3]};
    if (terms.size() > kMaxTerms)
        fail("dense_crf", "terms", "have at most " + std::to_string(kMaxTerms) + " entries", std::to_string(terms.size()));
    for (const TermInput& term : terms) {
        check_shape("dense_crf", "feature", term.feature, {-1, -1, shape.h, shape.w}, "[N or 1, D, H, W]");
        if (term.feature.size[0] != shape.n && term.feature.size[0] != 1)
            fail("dense_crf", "feature", "have a batch size of 1 or " + std::to_string(shape.n), term.feature.shape());
        if (term.feature.size[1] > kMaxFeatureDims)
            fail("dense_crf", "feature", "have at most " + std::to_string(kMaxFeatureDims) + " dimensions", term.feature.shape());
        check_dtype("dense_crf", "feature", term.feature, {DType::kFloat32});
        check_contiguous("dense_crf", "feature", term.feature);
        check_device("dense_crf", "feature", term.feature, context);
        const View& compat = term.compat;
        const int64_t count = compat.numel();
        const bool number = compat.ndim == 1 && count == 1, vector = compat.ndim == 1 && count == shape.labels;
        const bool matrix = compat.ndim == 2 && compat.size[0] == shape.labels && compat.size[1] == shape.labels;
        if (!number && !vector && !matrix)
            fail("dense_crf", "compat", "have shape [1], [L] or [L, L] with L = " + std::to_string(shape.labels), compat.shape());
        const int kind = static_cast<int>(term.normalisation);
        if (kind < 0 || kind > static_cast<int>(Normalisation::kSymmetric))
            fail("dense_crf", "normalisation", "be 0 (none), 1 (before), 2 (after) or 3 (symmetric)", std::to_string(kind));
        check_dtype("dense_crf", "compat", compat, {DType::kFloat32});
        check_contiguous("dense_crf", "compat", compat);
        check_device("dense_crf", "compat", compat, context);
    }
    checked_product("dense_crf", "unary", {shape.n, shape.labels + 32, shape.h + 64, shape.w + 64, 64});
    if (shape.pixels() * (kMaxFeatureDims + 1) >= (int64_t{1} << 31) - 1)
        fail("dense_crf", "unary", "have fewer than 2^31 / 7 pixels an image", unary.shape());
    return shape;
}

inline int64_t workspace(const View& unary, const std::vector<TermInput>& terms, const Context& context) {
    const Shape shape = check_inputs(unary, terms, context);
    return WSSS_RUN("dense_crf", workspace, context, shape, terms, context);
}

inline void run(const View& unary,  // [N, L, H, W], contiguous: energies, or probabilities
                bool probability,   // unary holds probabilities p, whose energies are -log(max(p, kLeastProbability))
                const std::vector<TermInput>& terms, int64_t iterations,
                const View& initial,  // [N, L, H, W], contiguous: the Q to start from; null for softmax(-unary)
                bool message,         // give the sum over terms of compat_k (K_k Q) of the starting Q instead of iterating
                // outputs
                const View& out,  // [N, L, H, W], contiguous: Q
                const View& workspace, const Context& context) {
    const Shape shape = check_inputs(unary, terms, context);
    check_contiguous("dense_crf", "unary", unary);
    if (iterations < 0) fail("dense_crf", "iterations", "be a whole number, 0 or more", std::to_string(iterations));
    for (const View* view : {&initial, &out}) {
        if (view == &initial && !initial) continue;
        const char* argument = view == &initial ? "initial" : "out";
        check_shape("dense_crf", argument, *view, {shape.n, shape.labels, shape.h, shape.w}, "[N, L, H, W]");
        check_dtype("dense_crf", argument, *view, {DType::kFloat32});
        check_contiguous("dense_crf", argument, *view);
        check_device("dense_crf", argument, *view, context);
    }
    if (shape.n == 0 || shape.labels == 0 || shape.pixels() == 0) return;
    check_workspace("dense_crf", workspace, WSSS_RUN("dense_crf", workspace, context, shape, terms, context));
    WSSS_RUN("dense_crf", run, context, unary, probability, terms, iterations, initial, message, out, workspace, context);
}

}  // namespace wsss::dense_crf
