// A main() for executables that run kernels under the emulator and its sanitizers. A case is a function with a name:
//     WSSS_CASE(pcm_small) {
//         HostArray<float> x(60), y(60);                       // exactly 60 floats on the heap: sanitizers see the ends
//         fill_uniform(x, 1);
//         ...; expect_close("y", y, expected, 1e-4);
//         record("y", y);                                      // prints a hash: compared between schedules and poisons
//     }
//     WSSS_CHECK_MAIN()                                        // once in an executable
// Usage: PROGRAM [--list] [NAME...]; without names every case runs. Exit code 0: all passed, 1: a comparison failed, 2: wrong
// usage, 86: the emulator found a fault; sanitizers use their own.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <new>
#include <string>
#include <vector>

#include "common/cuda.cuh"
#include "common/view.h"

namespace wsss {
namespace check {

struct Case {
    const char* name;
    void (*run)();
};

inline std::vector<Case>& cases() {
    static std::vector<Case> all;
    return all;
}

struct Registration {
    Registration(const char* name, void (*run)()) { cases().push_back({name, run}); }
};

#define WSSS_CASE(name)                                                                         \
    static void wsss_case_##name();                                                             \
    static const ::wsss::check::Registration wsss_registration_##name(#name, wsss_case_##name); \
    static void wsss_case_##name()

inline int& failures() {
    static int count = 0;
    return count;
}

inline void expect(bool good, const std::string& message) {
    if (good) return;
    ++failures();
    std::printf("    FAILED %s\n", message.c_str());
}

// Heap memory of exactly `count` elements, so that the first byte outside is a red zone. Starts out as poison bytes.
template <class T>
class HostArray {
public:
    explicit HostArray(int64_t count) : count_(count) {
        const size_t bytes = static_cast<size_t>(count) * sizeof(T);
        void* memory = nullptr;
        if (posix_memalign(&memory, 256, bytes > 0 ? bytes : 1) != 0) throw std::bad_alloc();
        data_ = static_cast<T*>(memory);
        std::memset(memory, simt::current_options().poison, bytes);
    }
    ~HostArray() { std::free(data_); }
    HostArray(const HostArray&) = delete;
    HostArray& operator=(const HostArray&) = delete;
    HostArray(HostArray&& other) noexcept : data_(other.data_), count_(other.count_) {
        other.data_ = nullptr;
        other.count_ = 0;
    }

    T* data() const { return data_; }
    int64_t size() const { return count_; }
    T& operator[](int64_t i) const { return data_[i]; }

private:
    T* data_ = nullptr;
    int64_t count_;
};

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
    return DType::kFloat32;
}
template <>
constexpr DType dtype_of<double>() {
    return DType::kFloat64;
}
template <>
constexpr DType dtype_of<bf16>() {
    return DType::kBFloat16;
}
template <>
constexpr DType dtype_of<f16>() {
    return DType::kFloat16;
}
template <>
constexpr DType dtype_of<uint8_t>() {
    return DType::kUInt8;
}
template <>
constexpr DType dtype_of<int32_t>() {
    return DType::kInt32;
}
template <>
constexpr DType dtype_of<int64_t>() {
    return DType::kInt64;
}

template <class T>
View strided_view(const HostArray<T>& array, std::initializer_list<int64_t> sizes, std::initializer_list<int64_t> strides,
                  int64_t offset = 0) {
    View view;
    view.data = array.data() + offset;
    view.dtype = dtype_of<T>();
    for (const int64_t size : sizes) view.size[static_cast<size_t>(view.ndim++)] = size;
    size_t i = 0;
    for (const int64_t stride : strides) view.stride[i++] = stride;
    return view;
}

template <class T>
View contiguous_view(const HostArray<T>& array, std::initializer_list<int64_t> sizes) {
    View view = strided_view(array, sizes, {});
    int64_t stride = 1;
    for (int i = view.ndim - 1; i >= 0; --i) {
        view.stride[static_cast<size_t>(i)] = stride;
        stride *= view.size[static_cast<size_t>(i)];
    }
    return view;
}

// Numbers in [-1, 1), a fixed function of the seed.
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 1) {}
    uint64_t bits() {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return state_ * 0x2545F4914F6CDD1Dull;
    }
    float uniform() { return static_cast<float>(bits() >> 40) * (2.0f / 16777216.0f) - 1.0f; }

private:
    uint64_t state_;
};

template <class T>
void fill_uniform(const HostArray<T>& array, uint64_t seed, float low = -1.0f, float high = 1.0f) {
    Random random(seed);
    for (int64_t i = 0; i < array.size(); ++i) array[i] = from_float<T>(low + (random.uniform() + 1.0f) * 0.5f * (high - low));
}

// The largest difference, relative to the largest expected magnitude or to `floor`, whichever is more (a floor, where the
// expected values are the rounding errors of zeros). NaN in the result is a failure.
template <class T, class Expected>
void expect_close(const std::string& what, const HostArray<T>& got, const Expected& expected, double tolerance,
                  double floor = 1e-30) {
    double worst = 0, scale = floor;
    int64_t worst_at = -1;
    for (int64_t i = 0; i < got.size(); ++i) {
        const double want = static_cast<double>(expected[static_cast<size_t>(i)]);
        const double error = std::fabs(static_cast<double>(to_float(got[i])) - want);
        scale = std::fmax(scale, std::fabs(want));
        if (error > worst || error != error) {
            worst = error != error ? HUGE_VAL : error;
            worst_at = i;
        }
    }
    if (worst <= tolerance * scale) return;
    expect(false, what + ": relative error " + std::to_string(worst / scale) + " at element " + std::to_string(worst_at) +
                      " of " + std::to_string(got.size()) + ", allowed " + std::to_string(tolerance));
}

// Prints a hash of the bits. Lines of two runs under other schedules or poisons must be equal.
template <class T>
void record(const char* what, const HostArray<T>& array) {
    uint64_t hash = 14695981039346656037ull;
    const auto* bytes = reinterpret_cast<const unsigned char*>(array.data());
    for (size_t i = 0; i < static_cast<size_t>(array.size()) * sizeof(T); ++i) hash = (hash ^ bytes[i]) * 1099511628211ull;
    std::printf("    %s %016llx\n", what, static_cast<unsigned long long>(hash));
}

inline int run(int argc, char** argv) {
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    std::vector<Case> chosen;
    for (int i = 1; i < argc; ++i) {
        const std::string wanted = argv[i];
        if (wanted == "--list") {
            for (const Case& one : cases()) std::printf("%s\n", one.name);
            return 0;
        }
        const size_t before = chosen.size();
        for (const Case& one : cases())
            if (wanted == one.name) chosen.push_back(one);
        if (chosen.size() == before) {
            std::fprintf(stderr, "no case is named '%s'; --list names them\n", argv[i]);
            return 2;
        }
    }
    for (const Case& one : chosen.empty() ? cases() : chosen) {
        std::printf("%s\n", one.name);
        try {
            one.run();
        } catch (const std::exception& error) {
            expect(false, std::string("exception: ") + error.what());
        }
    }
    std::printf("%d failed\n", failures());
    return failures() ? 1 : 0;
}

}  // namespace check
}  // namespace wsss

#define WSSS_CHECK_MAIN()                      \
    int main(int argc, char** argv) {          \
        return ::wsss::check::run(argc, argv); \
    }
