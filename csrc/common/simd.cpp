#include "common/simd.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace wsss {
namespace {

constexpr const char* kNames[] = {"plain", "avx2", "avx512"};

Simd parse(const std::string& text) {
    if (text == "auto") return detected_simd();
    for (int level = 0; level < 3; ++level)
        if (text == kNames[level]) {
            if (level > static_cast<int>(detected_simd()))
                throw std::runtime_error("simd: this processor has no " + text + ". Hint: the widest it runs is " +
                                         name(detected_simd()));
            return static_cast<Simd>(level);
        }
    throw std::invalid_argument("simd: 'level' must be auto, plain, avx2 or avx512, got " + text);
}

std::atomic<int>& level_in_use() {
    static std::atomic<int> level = [] {
        const char* wanted = std::getenv("WSSS_SIMD");
        return static_cast<int>(wanted && *wanted ? parse(wanted) : detected_simd());
    }();
    return level;
}

}  // namespace

Simd detected_simd() {
#if defined(__x86_64__)
    static const Simd level = [] {
        __builtin_cpu_init();
        if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Simd::kPlain;
        const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
        return wide ? Simd::kAvx512 : Simd::kAvx2;
    }();
    return level;
#else
    return Simd::kPlain;
#endif
}

Simd active_simd() {
    return static_cast<Simd>(level_in_use().load(std::memory_order_relaxed));
}

void set_simd(const std::string& text) {
    level_in_use() = static_cast<int>(parse(text));
}

const char* name(Simd level) {
    return kNames[static_cast<int>(level)];
}

#if defined(__x86_64__)
FlushDenormals::FlushDenormals() : saved_(_mm_getcsr()) {
    _mm_setcsr(saved_ | 0x8040u);
}  // FTZ | DAZ
FlushDenormals::~FlushDenormals() {
    _mm_setcsr(saved_);
}
#else
FlushDenormals::FlushDenormals() : saved_(0) {}
FlushDenormals::~FlushDenormals() {}
#endif

}  // namespace wsss
