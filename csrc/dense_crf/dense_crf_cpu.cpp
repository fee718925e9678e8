// Dense CRF on the CPU: one image a thread.
//
// A pass over the pixels an iteration: in blocks of 32 pixels slice the blurred lattices, add the unaries, take the softmax, and
// splat into the next lattices, so that Q itself is stored only at the end. Class values of a vertex lie side by side, padded to
// 4, 8, 16, 24 or 32 (more labels go in slabs of 32). Denormals are flushed meanwhile: they would cost a hundred times more.
//
// Memory an image in flight: P (8 (D + 1) + 4 labels) bytes and what the lattice's vertices need.

#include "dense_crf/dense_crf.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/simd.h"
#include "common/threads.h"
#include "common/workspace.h"
#include "dense_crf/lattice.h"

namespace wsss::dense_crf {
namespace {

constexpr int kBlock = 32;  // pixels that go through slice, softmax and splat together

struct Term {
    const float* feature;    // [N or 1, D, P]
    int64_t feature_stride;  // between images
    int dims;
    Normalisation normalisation;
    const float* compat;  // the view's data
    enum class Kind { kNumber, kVector, kMatrix } kind;
    Lattice own;
    const Lattice* lattice;  // own, or the one shared by all images
    VertexValues values;
};

struct Image {
    int64_t pixels, labels, width;  // width: labels padded
    int64_t iterations;
    bool message, probability;  // probability: unary holds probabilities
    const float* unary;         // [L][P]
    const float* initial;       // [L][P] or null
    float* out;                 // [L][P]
    float* start;               // [P rounded up to a block][width]: -unary less its maximum over labels
    std::vector<Term>* terms;
};

int64_t padded_labels(int64_t labels) {
    return labels <= 4 ? 4 : labels <= 8 ? 8 : labels <= 16 ? 16 : labels <= 24 ? 24 : round_up(labels, 32);
}

#define WSSS_SIMD_BODY "dense_crf/dense_crf_cpu_body.h"
#include "common/simd_foreach.h"

// What one worker keeps from image to image.
struct Worker {
    std::vector<Term> terms;
    float* start = nullptr;
};

bool shared(const TermInput& term, const Shape& shape) {
    return term.feature.size[0] == 1 && shape.n > 1;
}

// Cuts the workspace; over a null Carver it only measures. Terms shared by all images have their lattice in `common`.
std::vector<Worker> plan(const Shape& shape, const std::vector<TermInput>& terms, const Context& context, Carver* carver,
                         std::vector<Term>* common) {
    const int64_t pixels = shape.pixels();
    const auto make = [&](const TermInput& from) {
        Term term;
        term.feature = from.feature.as<const float>();
        term.dims = static_cast<int>(from.feature.size[1]);
        term.feature_stride = from.feature.size[0] == 1 ? 0 : term.dims * pixels;
        term.normalisation = from.normalisation;
        term.compat = from.compat.as<const float>();
        term.kind = from.compat.ndim == 2      ? Term::Kind::kMatrix
                    : from.compat.numel() == 1 ? Term::Kind::kNumber
                                               : Term::Kind::kVector;
        term.own.dims = term.dims;
        term.own.pixels = pixels;
        return term;
    };
    const auto cut = [&](Term* term) {
        Lattice& lattice = term->own;
        if (term->dims == 0) return;
        lattice.vertex = carver->take<int32_t>(shape.points() * lattice.sides());
        lattice.weight = carver->take<float>(shape.points() * lattice.sides());
        if (term->normalisation == Normalisation::kBefore) lattice.before = carver->take<float>(pixels);
        if (term->normalisation == Normalisation::kAfter) lattice.after = carver->take<float>(pixels);
    };
    for (const TermInput& from : terms) {
        common->push_back(make(from));
        if (shared(from, shape)) cut(&common->back());
    }
    std::vector<Worker> workers(static_cast<size_t>(std::min<int64_t>(context.threads, shape.n)));
    for (Worker& worker : workers) {
        for (const TermInput& from : terms) {
            worker.terms.push_back(make(from));
            if (!shared(from, shape)) cut(&worker.terms.back());
        }
        worker.start = carver->take<float>(round_up(pixels, kBlock) * padded_labels(shape.labels));
    }
    return workers;
}

}  // namespace

int64_t workspace_cpu(const Shape& shape, const std::vector<TermInput>& terms, const Context& context) {
    Carver measure;
    std::vector<Term> common;
    plan(shape, terms, context, &measure, &common);
    return measure.used();
}

void run_cpu(const View& unary, bool probability, const std::vector<TermInput>& terms, int64_t iterations, const View& initial,
             bool message, const View& out, const View& workspace, const Context& context) {
    const Shape shape{unary.size[0], unary.size[1], unary.size[2], unary.size[3]};
    const int64_t pixels = shape.pixels(), size = shape.labels * pixels;
    Carver carver(workspace.data);
    std::vector<Term> common;
    std::vector<Worker> workers = plan(shape, terms, context, &carver, &common);

    parallel_for(static_cast<int64_t>(common.size()), context.threads, [&](int64_t index, int) {
        const auto term = static_cast<size_t>(index);
        if (shared(terms[term], shape)) WSSS_SIMD_CALL(prepare_lattice)(common[term], 0, shape);
    });
    parallel_for(shape.n, static_cast<int>(workers.size()), [&](int64_t index, int number) {
        Worker& worker = workers[static_cast<size_t>(number)];
        for (size_t t = 0; t < terms.size(); ++t) {
            Term& term = worker.terms[t];
            term.lattice = shared(terms[t], shape) ? &common[t].own : &term.own;
            if (term.lattice == &term.own) WSSS_SIMD_CALL(prepare_lattice)(term, index, shape);
        }
        Image image;
        image.pixels = pixels;
        image.labels = shape.labels;
        image.width = padded_labels(shape.labels);
        image.iterations = iterations;
        image.message = message;
        image.probability = probability;
        image.unary = unary.as<const float>() + index * size;
        image.initial = initial ? initial.as<const float>() + index * size : nullptr;
        image.out = out.as<float>() + index * size;
        image.start = worker.start;
        image.terms = &worker.terms;
        WSSS_SIMD_CALL(infer)(image);
    });
}

}  // namespace wsss::dense_crf
