// The one vocabulary of argument checks. Every message names the operation, the argument, what was expected and what came:
//     pcm: 'feature' must have shape [N, D, H, W], got [3, 4]. Hint: add a batch dimension with feature[None].
// std::invalid_argument becomes ValueError in Python, TypeMismatch becomes TypeError, std::runtime_error RuntimeError.
#pragma once

#include <cmath>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>

#include "common/view.h"

namespace wsss {

struct TypeMismatch : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

inline std::string complaint(const char* op, const char* argument, const std::string& expected, const std::string& got,
                             const std::string& hint = "") {
    return std::string(op) + ": '" + argument + "' must " + expected + ", got " + got + (hint.empty() ? "" : ". Hint: " + hint);
}

[[noreturn]] inline void fail(const char* op, const char* argument, const std::string& expected, const std::string& got,
                              const std::string& hint = "") {
    throw std::invalid_argument(complaint(op, argument, expected, got, hint));
}

[[noreturn]] inline void fail_type(const char* op, const char* argument, const std::string& expected, const std::string& got,
                                   const std::string& hint = "") {
    throw TypeMismatch(complaint(op, argument, expected, got, hint));
}

inline void check_ndim(const char* op, const char* argument, const View& view, int ndim, const char* layout) {
    if (view.ndim != ndim) fail(op, argument, std::string("have shape ") + layout, view.shape());
}

// `sizes` holds one number a dimension; -1 accepts any.
inline void check_shape(const char* op, const char* argument, const View& view, std::initializer_list<int64_t> sizes,
                        const char* layout) {
    check_ndim(op, argument, view, static_cast<int>(sizes.size()), layout);
    std::string expected = "[";
    bool good = true;
    int i = 0;
    for (int64_t size : sizes) {
        expected += (i ? ", " : "") + (size < 0 ? std::string("any") : std::to_string(size));
        good = good && (size < 0 || view.size[i] == size);
        ++i;
    }
    if (!good) fail(op, argument, std::string("have shape ") + layout + " = " + expected + "]", view.shape());
}

inline void check_dtype(const char* op, const char* argument, const View& view, std::initializer_list<DType> allowed) {
    std::string names;
    for (DType type : allowed) {
        if (view.dtype == type) return;
        names += (names.empty() ? "" : ", ") + std::string(name(type));
    }
    fail_type(op, argument, "be of type " + names, name(view.dtype));
}

inline void check_same_dtype(const char* op, const char* argument, const View& view, const char* other, const View& model) {
    if (view.dtype != model.dtype)
        fail_type(op, argument, std::string("have the type of '") + other + "' (" + name(model.dtype) + ")", name(view.dtype),
                  std::string("convert one of them with .to(torch.") + name(model.dtype) + ")");
}

inline void check_number(const char* op, const char* argument, double value, double least = -HUGE_VAL) {
    const std::string expected = std::isfinite(least) ? "be a finite number, 0 or more" : "be a finite number";
    if (!(value >= least) || !std::isfinite(value)) fail(op, argument, expected, std::to_string(value));
}

inline void check_positive(const char* op, const char* argument, double value) {
    if (!(value > 0) || !std::isfinite(value)) fail(op, argument, "be a finite number above 0", std::to_string(value));
}

inline void check_whole(const char* op, const char* argument, int64_t value, int64_t least, int64_t most) {
    if (value < least || value > most)
        fail(op, argument, "be a whole number from " + std::to_string(least) + " to " + std::to_string(most),
             std::to_string(value));
}

inline void check_device(const char* op, const char* argument, const View& view, const Context& context) {
    if (!(view.device == context.device)) fail(op, argument, "be on " + name(context.device), name(view.device));
}

// What kernels compute with: float64 on the CPU alone.
inline void check_float(const char* op, const char* argument, const View& view, const Context& context) {
    if (context.device.kind == DeviceKind::kCuda)
        check_dtype(op, argument, view, {DType::kFloat32, DType::kFloat16, DType::kBFloat16});
    else
        check_dtype(op, argument, view, {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64});
}

inline DType sum_type(DType input) {
    return input == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

inline void check_contiguous(const char* op, const char* argument, const View& view) {
    if (!view.is_contiguous()) fail(op, argument, "be contiguous", "strides of another layout");
}

// Products of sizes are taken in int64; a product that does not fit is refused here, before anyone indexes with it.
inline int64_t checked_product(const char* op, const char* argument, std::initializer_list<int64_t> factors) {
    int64_t product = 1;
    for (int64_t factor : factors)
        if (__builtin_mul_overflow(product, factor, &product))
            fail(op, argument, "have at most 2^63-1 elements", "sizes whose product is larger");
    return product;
}

inline void check_workspace(const char* op, const View& workspace, int64_t needed) {
    const int64_t given = workspace.numel() * bytes(workspace.dtype);
    if (given < needed || (needed > 0 && !workspace))
        fail(op, "workspace", "hold at least " + std::to_string(needed) + " bytes", std::to_string(given));
}

[[noreturn]] inline void fail_no_cuda(const char* op) {
    throw std::runtime_error(
        std::string(op) +
        ": the input is on a CUDA device, but this build of wsss_fast holds no CUDA kernels. Hint: install "
        "again where nvcc is on PATH (WSSS_CUDA=ON makes its absence an error), or move the input to the CPU");
}

}  // namespace wsss
