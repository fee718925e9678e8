// Run-time SIMD dispatch. A kernel body is written once over `Vec<T>` in a file that simd_foreach.h includes three times, in
// the namespaces plain, avx2 and avx512, each compiled for its instruction set. The widest one the processor has is called;
// WSSS_SIMD=plain|avx2|avx512, or set_simd, forces a narrower one (tests run all three).
#pragma once

#include <string>

namespace wsss {

enum class Simd : int { kPlain = 0, kAvx2 = 1, kAvx512 = 2 };

Simd detected_simd();                    // the widest level this processor runs
Simd active_simd();                      // the level in use
void set_simd(const std::string& name);  // "plain", "avx2", "avx512" or "auto"; a level the processor lacks is refused
const char* name(Simd level);

// Denormal floats cost a hundred times a normal operation. Kernels that decay towards zero flush them inside this scope;
// the caller's mode comes back on leaving.
class FlushDenormals {
public:
    FlushDenormals();
    ~FlushDenormals();
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;

private:
    unsigned saved_;
};

}  // namespace wsss

// Calls FUNCTION of the active level: WSSS_SIMD_CALL(pair_tile<float>)(arguments…)
#if defined(__x86_64__)
#define WSSS_SIMD_CALL(...)                                                \
    (::wsss::active_simd() == ::wsss::Simd::kAvx512 ? &avx512::__VA_ARGS__ \
     : ::wsss::active_simd() == ::wsss::Simd::kAvx2 ? &avx2::__VA_ARGS__   \
                                                    : &plain::__VA_ARGS__)
#else
#define WSSS_SIMD_CALL(...) (&plain::__VA_ARGS__)
#endif
