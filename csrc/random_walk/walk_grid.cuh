// random_walk for any grid and radius: one cooperative launch whose steps are separated by grid barriers.
//
// The weights of each pair lie in memory once, the state as float4: four classes share each weight. Both have a margin of zeros,
// so that no neighbour needs a check. A step reads the weights twice (once for either end of a pair) and the state 2E + 1 times,
// from L2 where they fit: at IRN's 112x112 they are 1.7 MB.
#pragma once

#include "common/workspace.h"
#include "random_walk/walk_problem.cuh"

namespace wsss::random_walk {

constexpr int kGridThreads = 128;

// A plane with a margin of `reach`: rows above and below, and columns to the left, which serve as right margin of the row above.
struct Padded {
    int64_t pitch, plane;
    int reach;

    Padded(int64_t h, int64_t w, int64_t margin)
        : pitch(w + margin), plane((h + 2 * margin) * pitch + margin), reach(static_cast<int>(margin)) {}
    __host__ __device__ int64_t at(int y, int x) const { return (y + reach) * pitch + x + reach; }
};

struct Buffers {
    float* weights;               // [N][E][plane]
    float2* column;               // [N][plane]: ColumnSum of T
    float4 *now, *other, *total;  // [N][chunks][plane]
};

inline Buffers carve(const Shape& shape, int64_t pairs, const Padded& padded, Carver* carver) {
    const int64_t states = shape.n * ceil_div(shape.c, 4) * padded.plane;
    Buffers b{};
    b.weights = carver->take<float>(shape.n * pairs * padded.plane);
    b.column = carver->take<float2>(shape.n * padded.plane);
    b.now = carver->take<float4>(states);
    b.other = carver->take<float4>(states);
    b.total = carver->take<float4>(states);
    return b;
}

__device__ __forceinline__ void add_scaled(float4* sum, float factor, float4 value) {
    sum->x += factor * value.x;
    sum->y += factor * value.y;
    sum->z += factor * value.z;
    sum->w += factor * value.w;
}

// Calls visit(e, offset) for the offsets of the half disc, as distances in a plane.
template <class Visit>
__device__ __forceinline__ void for_each_offset(const Disc& disc, int64_t pitch, Visit visit) {
    int e = 0;
    for (int dy = 0; dy <= disc.reach; ++dy)
        for (int dx = dy == 0 ? 1 : -disc.width[dy]; dx <= disc.width[dy]; ++dx) visit(e++, dy * pitch + dx);
}

// Weights, and state with its margins.
template <class T>
__device__ __forceinline__ void fill(const Problem<T>& p, const Padded& g, const Buffers& b, int64_t thread, int64_t threads) {
    const int64_t chunks = (p.classes + 3) / 4;
    const auto row = [&](int64_t at) { return static_cast<int>(at / g.pitch) - g.reach; };
    const auto column = [&](int64_t at) { return static_cast<int>(at % g.pitch) - g.reach; };
    for (int64_t i = thread; i < p.images * p.pairs * g.plane; i += threads) {
        const int64_t at = i % g.plane, image = i / g.plane / p.pairs;
        const int e = static_cast<int>(i / g.plane % p.pairs);
        int dy = 0;
        while (dy < g.reach && e >= p.disc.first[dy] + p.disc.width[dy] + 1) ++dy;
        b.weights[i] = p.power(p.pair(image, e, dy, e - p.disc.first[dy], row(at), column(at)));
    }
    for (int64_t i = thread; i < p.images * chunks * g.plane; i += threads) {
        const int y = row(i % g.plane), x = column(i % g.plane);
        const int64_t image = i / g.plane / chunks, first = i / g.plane % chunks * 4;
        const bool inside = y >= 0 && y < p.h && x >= 0 && x < p.w;
        const auto value = [&](int c) { return inside && first + c < p.classes ? p.cam.at(image, first + c, y, x) : 0.0f; };
        b.now[i] = make_float4(value(0), value(1), value(2), value(3));
        b.other[i] = b.total[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        add_scaled(&b.total[i], first_share(p), b.now[i]);
    }
}

template <class T>
__global__ void __launch_bounds__(kGridThreads) random_walk_grid_kernel(Problem<T> p, Padded g, Buffers b) {
    WSSS_SHARED(coefficients, float[2]);
    const int64_t thread = int64_t{blockIdx.x} * kGridThreads + threadIdx.x, threads = int64_t{gridDim.x} * kGridThreads;
    const int64_t pixels = int64_t{p.h} * p.w, chunks = (p.classes + 3) / 4, products = p.products();
    const auto place = [&](int64_t i) {
        const int pixel = static_cast<int>(i % pixels), y = pixel / p.w;
        return g.at(y, pixel - y * p.w);
    };
    fill(p, g, b, thread, threads);
    double last = p.series.first;
    prepare_coefficient(p, 1, &last, coefficients);
    grid_sync();
    for (int64_t i = thread; i < p.images * pixels; i += threads) {
        const int64_t image = i / pixels, at = place(i);
        const float* const weights = b.weights + image * p.pairs * g.plane + at;
        ColumnSum sum;
        for_each_offset(p.disc, g.pitch, [&](int e, int64_t offset) {
            sum.add(weights[e * g.plane]);
            sum.add(weights[e * g.plane - offset]);
        });
        b.column[image * g.plane + at] = sum.finish();
    }
    grid_sync();
    for (int64_t k = 1; k <= products; ++k) {
        const float coefficient = p.chebyshev ? coefficients[k % 2] : 0.0f;
        for (int64_t i = thread; i < p.images * chunks * pixels; i += threads) {
            const int64_t at = place(i), image = i / pixels / chunks, state = i / pixels * g.plane + at;
            const float* const weights = b.weights + image * p.pairs * g.plane + at;
            const float4* const now = b.now + state;
            const float2 column = b.column[image * g.plane + at];
            const float4 value = *now;
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            for_each_offset(p.disc, g.pitch, [&](int e, int64_t offset) {
                add_scaled(&sum, weights[e * g.plane], now[offset]);
                add_scaled(&sum, weights[e * g.plane - offset], now[-offset]);
            });
            const float4 before = b.other[state];
            const float4 next =
                make_float4(step_on(p, k, sum.x, column, value.x, before.x), step_on(p, k, sum.y, column, value.y, before.y),
                            step_on(p, k, sum.z, column, value.z, before.z), step_on(p, k, sum.w, column, value.w, before.w));
            b.other[state] = next;
            if (p.chebyshev) add_scaled(&b.total[state], coefficient, next);
        }
        float4* const swapped = b.now;
        b.now = b.other;
        b.other = swapped;
        prepare_coefficient(p, k + 1, &last, coefficients);
        grid_sync();
    }
    const float4* const result = p.chebyshev ? b.total : b.now;
    for (int64_t i = thread; i < p.images * p.classes * pixels; i += threads) {
        const int64_t c = i / pixels % p.classes, image = i / pixels / p.classes;
        const float4 four = result[(image * chunks + c / 4) * g.plane + place(i)];
        p.out[i] = from_float<T>(c % 4 == 0 ? four.x : c % 4 == 1 ? four.y : c % 4 == 2 ? four.z : four.w);
    }
}

}  // namespace wsss::random_walk
