// A View is a tensor as the kernels see it: a pointer, a type, a device, sizes and strides. It owns nothing and knows no
// framework, so the same functions serve PyTorch, NumPy, a TensorRT plugin and a plain C++ program.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace wsss {

enum class DType : int { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3, kUInt8 = 4, kInt32 = 5, kInt64 = 6, kBool = 7 };
enum class DeviceKind : int { kCpu = 0, kCuda = 1 };

constexpr const char* kDTypeNames[] = {"float32", "float64", "float16", "bfloat16", "uint8", "int32", "int64", "bool"};
constexpr int64_t kDTypeBytes[] = {4, 8, 2, 2, 1, 4, 8, 1};

inline const char* name(DType type) {
    return kDTypeNames[static_cast<int>(type)];
}
inline int64_t bytes(DType type) {
    return kDTypeBytes[static_cast<int>(type)];
}

struct Device {
    DeviceKind kind = DeviceKind::kCpu;
    int index = 0;
    bool operator==(const Device& other) const { return kind == other.kind && index == other.index; }
};

inline std::string name(const Device& device) {
    return device.kind == DeviceKind::kCpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

constexpr int kMaxDims = 6;

struct View {
    void* data = nullptr;  // may be null when there are no elements, or when an optional output is not wanted
    DType dtype = DType::kFloat32;
    Device device;
    int ndim = 0;
    std::array<int64_t, kMaxDims> size{};
    std::array<int64_t, kMaxDims> stride{};  // in elements; 0 for an expanded dimension, never negative

    explicit operator bool() const { return data != nullptr; }

    template <class T>
    T* as() const {
        return static_cast<T*>(data);
    }

    int64_t numel() const {
        int64_t count = 1;
        for (int i = 0; i < ndim; ++i) count *= size[i];
        return count;
    }

    bool is_contiguous() const {
        if (numel() == 0) return true;
        int64_t expected = 1;
        for (int i = ndim - 1; i >= 0; --i) {
            if (size[i] != 1 && stride[i] != expected) return false;
            expected *= size[i];
        }
        return true;
    }

    std::string shape() const {
        std::string text = "[";
        for (int i = 0; i < ndim; ++i) text += (i ? ", " : "") + std::to_string(size[i]);
        return text + "]";
    }
};

// Where and how a call runs. `threads` is the CPU thread budget of this call; `stream` is a cudaStream_t.
struct Context {
    Device device;
    int threads = 1;
    void* stream = nullptr;
};

}  // namespace wsss
