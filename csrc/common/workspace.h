// The workspace rule: an operation tells an upper bound of the scratch memory it needs, the caller allocates it, the operation
// cuts it up with a Carver. Nothing in csrc/ allocates in proportion to its input.
//
// The same carving code measures and cuts: run it over a null Carver and ask used().
#pragma once

#include <cstddef>
#include <cstdint>

namespace wsss {

class Carver {
public:
    explicit Carver(void* base = nullptr) : base_(static_cast<char*>(base)) {}

    template <class T>
    T* take(int64_t count) {
        T* start = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
        used_ += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
        return start;
    }

    int64_t used() const { return used_; }

private:
    static constexpr int64_t kAlignment = 256;
    char* base_;
    int64_t used_ = 0;
};

// Where a kernel begins in a workspace of any alignment, as 16-byte accesses ask for; such a workspace holds kStartAlignment
// more.
constexpr int64_t kStartAlignment = 256;
inline void* aligned_start(void* workspace) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(workspace);
    return reinterpret_cast<void*>((address + kStartAlignment - 1) / kStartAlignment * kStartAlignment);
}

constexpr int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
constexpr int64_t round_up(int64_t a, int64_t multiple) {
    return ceil_div(a, multiple) * multiple;
}

}  // namespace wsss
