// Strided inputs whose pixels a CUDA kernel numbers through: y * W + x.
// Memory, determinism: reads alone; nothing is allocated or summed.
#pragma once

#include "common/cuda.cuh"
#include "common/strided.h"

namespace wsss {

template <class T>
struct StridedPixels : Strided<T> {
    int64_t width;
    bool flat;  // rows follow each other, so that no division is needed

    StridedPixels() = default;
    explicit StridedPixels(const View& view)
        : Strided<T>(view), width(view.size[3]), flat(view.size[2] == 1 || view.stride[2] == view.size[3] * view.stride[3]) {}

    __device__ __forceinline__ const T* pixel(int64_t image, int64_t p) const {
        return this->data + image * this->n + (flat ? p * this->x : p / width * this->y + p % width * this->x);
    }
    __device__ __forceinline__ float at(int64_t image, int64_t c, int64_t p) const {
        return to_float(pixel(image, p)[c * this->channel]);
    }
};

}  // namespace wsss
