// An [N, channels, H, W] input or gradient as kernels read it: elements of type T, in any strides. Sizes stand elsewhere, in the
// shape of the call. CPU and CUDA kernels share it.
#pragma once

#include "common/view.h"

namespace wsss {

template <class T>
struct Strided {
    const T* data;
    int64_t n, channel, y, x;  // strides, in elements
    Strided() = default;
    explicit Strided(const View& view)
        : data(view.as<const T>()), n(view.stride[0]), channel(view.stride[1]), y(view.stride[2]), x(view.stride[3]) {}
};

}  // namespace wsss
