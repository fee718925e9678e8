// What both CUDA kernels of random_walk share: the problem as they see it, and the weight of a pair, read from the affinities.
#pragma once

#include "common/cuda.cuh"
#include "common/strided.h"
#include "random_walk/random_walk.h"
#include "random_walk/series.h"

namespace wsss::random_walk {

template <class T>
struct Maps : Strided<T> {  // [N, channels, H, W]
    using Strided<T>::Strided;
    __device__ __forceinline__ float at(int64_t image, int64_t c, int row, int column) const {
        return to_float(this->data[image * this->n + c * this->channel + row * this->y + column * this->x]);
    }
};

template <class T>
struct Problem {
    Maps<T> cam, affinity;
    T* out;  // contiguous
    Disc disc;
    Series series;
    int64_t images, classes, steps;
    int h, w, pairs;
    int whole_beta;  // -1: not whole
    float beta;
    bool published, chebyshev;

    Problem(const View& cam_view, const View& affinity_view, const View& out_view, const Settings& settings)
        : cam(cam_view),
          affinity(affinity_view),
          out(out_view.as<T>()),
          disc(static_cast<int>(settings.radius)),
          series{},
          images(cam_view.size[0]),
          classes(cam_view.size[1]),
          steps(affinity_view.size[1] == 0 ? 0 : settings.steps),
          h(static_cast<int>(cam_view.size[2])),
          w(static_cast<int>(cam_view.size[3])),
          pairs(static_cast<int>(affinity_view.size[1])),
          whole_beta(random_walk::whole_beta(settings.beta)),
          beta(static_cast<float>(settings.beta)),
          published(settings.published),
          chebyshev(settings.chebyshev) {
        if (chebyshev) series = series_for(steps, settings.tolerance, int64_t{h} * w, pairs);
    }

    // How often T is applied.
    __host__ __device__ int64_t products() const { return chebyshev ? series.last : steps; }

    // The affinity of the pair (y, x), (y + dy, x + dx), which plane e holds at (y, x); 0 where there is no such pair.
    __device__ __forceinline__ float pair(int64_t image, int e, int dy, int dx, int y, int x) const {
        const bool inside = y >= 0 && x >= 0 && y + dy < h && x < w && x + dx >= 0 && x + dx < w;
        const bool kept = !published || (y < h - disc.reach && x >= disc.reach && x < w - disc.reach);
        return inside && kept ? affinity.at(image, e, y, x) : 0.0f;
    }

    // value ^ beta, and 0 for 0
    __device__ __forceinline__ float power(float value) const {
        float result = whole_beta < 0 ? powf(value, beta) : 1.0f, square = value;
        for (int bits = whole_beta; bits > 0; bits /= 2, square *= square)
            if (bits % 2 == 1) result *= square;
        return value == 0.0f ? 0.0f : result;
    }

    __device__ __forceinline__ int64_t place(int64_t image, int64_t c, int y, int x) const {
        return ((image * classes + c) * h + y) * w + x;
    }
};

// A column of T: what the neighbours weigh in all, and 1 over that and the pixel itself. The sum keeps what rounding takes from
// it: an error of the column's sum would be multiplied by the steps.
struct ColumnSum {
    float given = 0.0f, lost = 0.0f;

    __device__ __forceinline__ void add(float weight) {
        const float after = given + weight, added = after - given;
        lost += (given - (after - added)) + (weight - added);
        given = after;
    }
    __device__ __forceinline__ float2 finish() const { return make_float2(given + lost, 1.0f / (1.0f + given + lost)); }
};

// The state after one more application of T, given the neighbours' sum; `before` is the state before the present `value`. The
// pixel's own value comes last, and less what it gives away: beside it the small terms before would have been rounded, the same
// way in every step.
template <class T>
__device__ __forceinline__ float step_on(const Problem<T>& p, int64_t k, float neighbours, float2 column, float value,
                                         float before) {
    const float next = value + column.y * (neighbours - column.x * value);
    return p.chebyshev && k > 1 ? 2.0f * next - before : next;
}

// The coefficient of step k, in a slot that is read one barrier later; thread 0 keeps `last`, which starts as series.first.
template <class T>
__device__ __forceinline__ void prepare_coefficient(const Problem<T>& p, int64_t k, double* last, float* slots) {
    if (p.chebyshev && threadIdx.x == 0) slots[k % 2] = static_cast<float>(coefficient_of(p.series, k, last));
}

// The share of the starting map in the series.
template <class T>
__device__ __forceinline__ float first_share(const Problem<T>& p) {
    return p.chebyshev && p.steps % 2 == 0 ? static_cast<float>(p.series.first) : 0.0f;
}

}  // namespace wsss::random_walk
