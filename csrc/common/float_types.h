// From the type of a call to the C++ type of its kernels, on the CPU; and the type they sum in: double for double, else float.
#pragma once

#include <type_traits>

#include "common/half.h"
#include "common/view.h"
#include "common/workspace.h"

namespace wsss {

template <class T>
using SumOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Calls run(T{}): with_type(cam.dtype, [&](auto type) { forward<decltype(type)>(...); });
template <class Run>
void with_type(DType type, Run&& run) {
    switch (type) {
        case DType::kFloat64:
            return run(double{});
        case DType::kFloat16:
            return run(HostHalf{});
        case DType::kBFloat16:
            return run(HostBFloat16{});
        default:
            return run(float{});
    }
}

// Bytes that plan(Sum{}, carver) takes.
template <class Plan>
int64_t planned_bytes(DType type, Plan&& plan) {
    Carver measure;
    if (type == DType::kFloat64)
        plan(double{}, &measure);
    else
        plan(float{}, &measure);
    return measure.used();
}

}  // namespace wsss
