// PRCM on the CPU: two thin matrix products over the pixels, each input read once in blocks that stay in cache.
//
// A product that sums over pixels (Z, dK) is cut by channels: a task owns 24 channels and goes through all pixels, so nothing is
// reduced between tasks. A product that keeps pixels (S, dquery) is cut into blocks of 96 pixels. Both cuts depend on the shape
// alone: no atomics, and the same bits for every number of threads.
//
// Memory a call (float32): 768 C floats an image in flight (at most as many as threads), for the weights of a run of pixels that
// all channels meet before the next run; forward 96 C2 floats a thread more, and C1 C2 floats.

#include "prcm/prcm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "common/float_types.h"
#include "common/simd.h"
#include "common/strided.h"
#include "common/threads.h"
#include "common/workspace.h"

namespace wsss::prcm {
namespace {

constexpr int64_t kBlock = 96;         // pixels; a multiple of every kPanel
constexpr int64_t kRun = 8;            // blocks whose weights stand by at a time
constexpr int64_t kChannels = 24;      // channels a task; a multiple of every kRows
constexpr int64_t kColumnPadding = 8;  // the widest half vector: columns are padded to it

// The sizes, and the workspace cut into arrays. Sum is float or double.
template <class Sum>
struct Work {
    Shape shape;
    Options options;
    int threads;
    int64_t pixels, blocks;  // P, and blocks of kBlock in it
    int64_t run;             // blocks of a run, at most kRun
    int64_t width;           // C rounded up to kColumnPadding
    int64_t images;          // images in flight
    // an image in flight, each:
    Sum* weights;       // [run * kBlock][width]      forward: exp(cam - maximum); backward: dS, a pixel a row
    Sum* row;           // [width]                    forward: the classes' maxima; backward: sum(t) over pixels
    Sum* product;       // [channels][width]          forward: weights x^T and, below, the row of their sums; backward: dK^T
    Sum* keys;          // [C2 padded][width]         K^T, forward times scale
    Sum* proxy;         // [C][padded C1]             backward
    Sum* key_gradient;  // [C2 padded][C]        backward
    // a call:
    Sum* phi;  // [C2 padded][padded C1]         forward: phi; backward: its gradient
    // a thread, each:
    Sum* maps;   // [max(width, kChannels)][kBlock]
    Sum* query;  // [C2][kBlock] forward, [kChannels][kBlock] backward

    int64_t product_channels() const { return round_up(std::max(shape.c1 + 1, shape.c2), kChannels); }
    int64_t key_rows() const { return round_up(shape.c2, kChannels); }
    int64_t proxy_width() const { return round_up(shape.c1, kColumnPadding); }
    int64_t map_rows() const { return std::max(width, kChannels); }
    Sum* weights_of(int64_t slot, int64_t block) const { return weights + (slot * run + block % run) * kBlock * width; }
    int64_t query_rows(bool backward) const { return backward ? kChannels : std::max(shape.c2, kChannels); }
};

// Pixels of an [N, channels, H, W] input.
template <class T>
struct Source : Strided<T> {
    int64_t w;
    bool flat;  // a channel's pixels follow each other in memory
    explicit Source(const View& view)
        : Strided<T>(view), w(view.size[3]), flat((this->x == 1 || w == 1) && (this->y == w || view.size[2] == 1)) {}
};

// Cuts the workspace; over a null Carver it only measures.
template <class Sum>
Work<Sum> plan(const Shape& shape, const Options& options, bool backward, const Context& context, Carver* carver) {
    Work<Sum> work{};
    work.shape = shape;
    work.options = options;
    work.threads = context.threads;
    work.pixels = shape.pixels();
    work.blocks = ceil_div(work.pixels, kBlock);
    work.run = std::min(work.blocks, kRun);
    work.width = round_up(shape.c, kColumnPadding);
    work.images = std::min<int64_t>(shape.n, std::max(context.threads, 1));
    work.weights = carver->take<Sum>(work.images * work.run * kBlock * work.width);
    work.row = carver->take<Sum>(work.images * work.width);
    work.product = carver->take<Sum>(work.images * work.product_channels() * work.width);
    work.keys = carver->take<Sum>(work.images * work.key_rows() * work.width);
    if (backward) {
        work.proxy = carver->take<Sum>(work.images * shape.c * work.proxy_width());
        work.key_gradient = carver->take<Sum>(work.images * work.key_rows() * shape.c);
    }
    work.phi = carver->take<Sum>(work.key_rows() * work.proxy_width());
    work.maps = carver->take<Sum>(context.threads * work.map_rows() * kBlock);
    work.query = carver->take<Sum>(context.threads * work.query_rows(backward) * kBlock);
    return work;
}

#define WSSS_SIMD_BODY "prcm/prcm_cpu_body.h"
#include "common/simd_foreach.h"

template <class T>
void forward_typed(const Shape& shape, const Options& options, const Inputs& in, const Outputs& out, const View& workspace,
                   const Context& context) {
    using Sum = SumOf<T>;
    Carver carver(workspace.data);
    const Work<Sum> work = plan<Sum>(shape, options, false, context, &carver);
    WSSS_SIMD_CALL(run_forward<T, Sum>)(work, in, out);
}

template <class T>
void backward_typed(const Shape& shape, const Options& options, const BackwardInputs& in, const Gradients& out,
                    const View& workspace, const Context& context) {
    using Sum = SumOf<T>;
    Carver carver(workspace.data);
    const Work<Sum> work = plan<Sum>(shape, options, true, context, &carver);
    WSSS_SIMD_CALL(run_backward<T, Sum>)(work, in, out);
}

int64_t workspace_bytes(const Shape& shape, DType dtype, bool backward, const Context& context) {
    return planned_bytes(dtype, [&](auto sum, Carver* carver) { plan<decltype(sum)>(shape, {}, backward, context, carver); });
}

void fill_zero(const View& view) {
    if (view) std::memset(view.data, 0, static_cast<size_t>(view.numel() * bytes(view.dtype)));
}

}  // namespace

int64_t forward_workspace_cpu(const Shape& shape, DType dtype, const Context& context) {
    return workspace_bytes(shape, dtype, false, context);
}

int64_t backward_workspace_cpu(const Shape& shape, DType dtype, const Context& context) {
    return workspace_bytes(shape, dtype, true, context);
}

void forward_cpu(const Shape& shape, const Options& options, const Inputs& in, const Outputs& out, const View& workspace,
                 const Context& context) {
    with_type(in.cam.dtype, [&](auto type) { forward_typed<decltype(type)>(shape, options, in, out, workspace, context); });
}

void backward_cpu(const Shape& shape, const Options& options, const BackwardInputs& in, const Gradients& out,
                  const View& workspace, const Context& context) {
    if (in.cam.numel() == 0) {  // nothing was computed, nothing moves
        fill_zero(out.query);
        fill_zero(out.phi);
        return;
    }
    with_type(in.cam.dtype, [&](auto type) { backward_typed<decltype(type)>(shape, options, in, out, workspace, context); });
}

}  // namespace wsss::prcm
