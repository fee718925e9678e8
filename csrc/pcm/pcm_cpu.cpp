// PCM on the CPU: the P x P affinity as 96 x 96 tiles in cache, each computed once and used for both of its sides.
//
// Pixels are cut into super-blocks. A round-robin tournament pairs them so that no super-block stands in two pairs of a round:
// the pairs of a round run in parallel and add into their own rows of the sums, in an order fixed by the shape alone. So there
// is one accumulator, no atomics, and the same bits for every number of threads.
//
// Memory a call (float32): forward P (D + 2C) floats, backward P (3D + 6C) floats, and a 36 KiB tile a thread.

#include "pcm/pcm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "common/float_types.h"
#include "common/simd.h"
#include "common/strided.h"
#include "common/threads.h"
#include "common/workspace.h"

namespace wsss::pcm {
namespace {

constexpr int64_t kBlock = 96;               // pixels a tile side; a multiple of every kPanel
constexpr int64_t kSuperBlock = 2 * kBlock;  // pixels a tournament player
constexpr int64_t kPadding = 48;             // the widest kPanel: pixels are padded to it
constexpr int64_t kColumnPadding = 8;        // the widest half vector: class columns are padded to it

// Everything a kernel body needs, with pointers for the images in flight cut from the workspace. Sum is float or double.
template <class Sum>
struct Work {
    Shape shape;
    int64_t pixels, padded;            // P, and P rounded up to kPadding
    int64_t value_width, depth_width;  // C + 1 and D, rounded up to kColumnPadding
    int64_t images;                    // images in flight
    bool want_cam, want_feature;       // backward only
    Sum eps;
    int threads;
    // an image, each:
    Sum* panels;    // [padded / kPanel][D][kPanel]     normalised features
    Sum* values;    // [padded][value_width]            forward: cam and a column of ones; backward: grad / r
    Sum* sums;      // [padded][value_width]            forward: numerators and row sums; backward: dL/dcam
    Sum* rows;      // [padded][depth_width]            normalised features, a pixel a row (backward)
    Sum* gradient;  // [padded][depth_width]            dL/d(normalised feature) (backward)
    Sum* norms;     // [padded]                         ||feature|| (backward)
    Sum* left;      // [padded / kPanel][2C+2][kPanel]  V, g', -d', 1 (backward)
    Sum* right;     // [padded / kPanel][2C+2][kPanel]  g', V, 1, -d' (backward)
    // a thread, each:
    Sum* tiles;  // [kBlock][kBlock]

    int64_t pair_depth() const { return 2 * shape.c + 2; }
};

template <class T>
struct ForwardArguments {
    Strided<T> cam, feature;
    T* out;
    void* denominator;
};

template <class T>
struct BackwardArguments {
    Strided<T> grad, cam, feature;
    const T* out;
    const void* denominator;
    T *grad_cam, *grad_feature;
};

// Player `pair` of `round` meets player `other` (circle method); false for the odd one out.
bool tournament_pair(int64_t players, int64_t round, int64_t pair, int64_t* first, int64_t* second) {
    const int64_t even = players + players % 2, turning = even - 1;
    const int64_t a = pair == 0 ? turning : (round + pair) % turning;
    const int64_t b = (round - pair + turning) % turning;
    *first = std::min(a, b);
    *second = std::max(a, b);
    return *second < players;
}

// Cuts the workspace; over a null Carver it only measures. Images in flight keep all threads busy when one image cannot.
template <class Sum>
Work<Sum> plan(const Shape& shape, bool backward, const Context& context, Carver* carver) {
    Work<Sum> work{};
    work.shape = shape;
    work.threads = context.threads;
    work.pixels = shape.pixels();
    work.padded = round_up(work.pixels, kPadding);
    work.value_width = round_up(shape.c + 1, kColumnPadding);
    work.depth_width = round_up(shape.d, kColumnPadding);
    const int64_t pairs = std::max<int64_t>(1, ceil_div(work.pixels, kSuperBlock) / 2);
    work.images = std::min(shape.n, ceil_div(context.threads, pairs));
    const int64_t pixels = work.images * work.padded;
    work.panels = carver->take<Sum>(pixels * shape.d);
    work.values = carver->take<Sum>(pixels * work.value_width);
    work.sums = carver->take<Sum>(pixels * work.value_width);
    if (backward) {
        work.rows = carver->take<Sum>(pixels * work.depth_width);
        work.gradient = carver->take<Sum>(pixels * work.depth_width);
        work.norms = carver->take<Sum>(pixels);
        work.left = carver->take<Sum>(pixels * work.pair_depth());
        work.right = carver->take<Sum>(pixels * work.pair_depth());
    }
    work.tiles = carver->take<Sum>(context.threads * kBlock * kBlock);
    return work;
}

#define WSSS_SIMD_BODY "pcm/pcm_cpu_body.h"
#include "common/simd_foreach.h"

template <class T>
void forward_typed(const View& cam, const View& feature, double eps, const View& out, const View& denominator,
                   const View& workspace, const Context& context) {
    using Sum = SumOf<T>;
    Carver carver(workspace.data);
    Work<Sum> work = plan<Sum>(shape_of(cam, feature), false, context, &carver);
    work.eps = static_cast<Sum>(eps);
    ForwardArguments<T> arguments{};
    arguments.cam = Strided<T>(cam);
    arguments.feature = Strided<T>(feature);
    arguments.out = out.as<T>();
    arguments.denominator = denominator.data;
    WSSS_SIMD_CALL(run_forward<T, Sum>)(work, arguments);
}

template <class T>
void backward_typed(const View& grad, const View& cam, const View& feature, const View& out, const View& denominator, double eps,
                    const View& grad_cam, const View& grad_feature, const View& workspace, const Context& context) {
    using Sum = SumOf<T>;
    Carver carver(workspace.data);
    Work<Sum> work = plan<Sum>(shape_of(cam, feature), true, context, &carver);
    work.eps = static_cast<Sum>(eps);
    work.want_cam = static_cast<bool>(grad_cam);
    work.want_feature = static_cast<bool>(grad_feature);
    BackwardArguments<T> arguments{};
    arguments.grad = Strided<T>(grad);
    arguments.cam = Strided<T>(cam);
    arguments.feature = Strided<T>(feature);
    arguments.out = out.as<const T>();
    arguments.denominator = denominator.data;
    arguments.grad_cam = grad_cam.as<T>();
    arguments.grad_feature = grad_feature.as<T>();
    WSSS_SIMD_CALL(run_backward<T, Sum>)(work, arguments);
}

int64_t workspace_bytes(const Shape& shape, DType dtype, bool backward, const Context& context) {
    return planned_bytes(dtype, [&](auto sum, Carver* carver) { plan<decltype(sum)>(shape, backward, context, carver); });
}

}  // namespace

int64_t forward_workspace_cpu(const Shape& shape, DType dtype, const Context& context) {
    return workspace_bytes(shape, dtype, false, context);
}

int64_t backward_workspace_cpu(const Shape& shape, DType dtype, const Context& context) {
    return workspace_bytes(shape, dtype, true, context);
}

void forward_cpu(const View& cam, const View& feature, double eps, const View& out, const View& denominator,
                 const View& workspace, const Context& context) {
    with_type(cam.dtype,
              [&](auto type) { forward_typed<decltype(type)>(cam, feature, eps, out, denominator, workspace, context); });
}

void backward_cpu(const View& grad, const View& cam, const View& feature, const View& out, const View& denominator, double eps,
                  const View& grad_cam, const View& grad_feature, const View& workspace, const Context& context) {
    with_type(cam.dtype, [&](auto type) {
        backward_typed<decltype(type)>(grad, cam, feature, out, denominator, eps, grad_cam, grad_feature, workspace, context);
    });
}

}  // namespace wsss::pcm
