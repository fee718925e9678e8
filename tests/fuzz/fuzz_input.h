// What the fuzz target is made of: a reader of the fuzzer's bytes, and tensors cut to their exact extent, so that
// AddressSanitizer sees every access beside them.
#pragma once

#include <cstring>
#include <initializer_list>
#include <memory>
#include <vector>

#include "common/view.h"

namespace wsss {

class FuzzInput {
public:
    FuzzInput(const uint8_t* data, size_t size) : data_(data), size_(size) {}

    // A number in [low, high]; low when the bytes have run out.
    int64_t number(int64_t low, int64_t high) {
        if (at_ >= size_) return low;
        uint64_t value = data_[at_++];
        if (high - low > 255 && at_ < size_) value |= static_cast<uint64_t>(data_[at_++]) << 8;
        return low + static_cast<int64_t>(value % static_cast<uint64_t>(high - low + 1));
    }

    bool flip() { return number(0, 1) == 1; }
    bool rarely() { return number(0, 31) == 31; }

    template <class T>
    T one_of(std::initializer_list<T> choices) {
        return choices.begin()[number(0, static_cast<int64_t>(choices.size()) - 1)];
    }

    // Any float at all: NaN, infinities and denormals too.
    float any_float() {
        uint32_t bits = 0;
        for (int i = 0; i < 4; ++i) bits = bits << 8 | static_cast<uint32_t>(number(0, 255));
        float value;
        std::memcpy(&value, &bits, sizeof(value));
        return value;
    }

    void fill(void* target, size_t bytes) {
        auto* to = static_cast<uint8_t*>(target);
        const size_t start = at_ < size_ ? at_ : 0;
        for (size_t i = 0; i < bytes; ++i) to[i] = size_ > start ? data_[start + i % (size_ - start)] : 0;
    }

private:
    const uint8_t* data_;
    size_t size_, at_ = 0;
};

struct Tensor {
    std::unique_ptr<uint8_t[]> storage;
    View view;
    int64_t extent = 0;  // elements in storage
    operator const View&() const { return view; }
};

enum class Fill { kBytes, kSmallFloats, kUnitFloats };

inline void fill_floats(FuzzInput& in, float* values, int64_t count, Fill kind) {
    for (int64_t i = 0; i < count; ++i) {
        const auto level = static_cast<float>(in.number(0, 255));
        values[i] = kind == Fill::kUnitFloats ? level / 255 : (level - 128) / 16;
    }
}

// A tensor of the given sizes. Now and then a size is another one than asked for, which the checks have to notice; `strided`
// tensors may be transposed, have gaps, or repeat a dimension with stride 0.
inline Tensor tensor(FuzzInput& in, DType dtype, std::vector<int64_t> sizes, bool strided, Fill kind = Fill::kBytes) {
    if (in.rarely() && !sizes.empty()) sizes[in.number(0, static_cast<int64_t>(sizes.size()) - 1)] = in.number(0, 9);
    if (in.rarely()) sizes.push_back(1);
    if (in.rarely()) dtype = static_cast<DType>(in.number(0, 7));
    Tensor made;
    View& view = made.view;
    view.dtype = dtype;
    view.ndim = static_cast<int>(sizes.size());
    const int64_t gap = strided ? in.number(0, 2) : 0;
    const bool reversed = strided && in.flip(), repeated = strided && in.rarely();
    int64_t stride = 1;
    for (int step = 0; step < view.ndim; ++step) {
        const int i = reversed ? step : view.ndim - 1 - step;
        view.size[i] = sizes[i];
        view.stride[i] = repeated && step == 0 ? 0 : stride;
        stride *= sizes[i] + gap;
    }
    int64_t last = 0;
    for (int i = 0; i < view.ndim; ++i) last += view.size[i] > 0 ? (view.size[i] - 1) * view.stride[i] : 0;
    const int64_t count = made.extent = view.numel() > 0 ? last + 1 : 0;
    made.storage.reset(new uint8_t[count * bytes(dtype)]);
    view.data = made.storage.get();
    if (kind == Fill::kBytes || dtype != DType::kFloat32)
        in.fill(view.data, count * bytes(dtype));
    else
        fill_floats(in, view.as<float>(), count, kind);
    return made;
}

inline Tensor contiguous(FuzzInput& in, DType dtype, std::vector<int64_t> sizes, Fill kind = Fill::kBytes) {
    return tensor(in, dtype, std::move(sizes), false, kind);
}

inline Tensor workspace_of(int64_t size) {
    Tensor made;
    made.storage.reset(new uint8_t[size]);
    std::memset(made.storage.get(), 0xA5, size);
    made.view.data = made.storage.get();
    made.view.dtype = DType::kUInt8;
    made.view.ndim = 1;
    made.view.size[0] = size;
    made.view.stride[0] = 1;
    return made;
}

}  // namespace wsss
