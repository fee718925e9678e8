// Warp collectives: every lane named by the mask deposits its operands, the last one to arrive computes for all of them
// (warp.cpp). Also cp.async, whose copies are made here, in the kernel's own translation unit, so that sanitizers see them.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "simt/runtime.h"

namespace wsss {
namespace simt {

struct ShuffleInput {
    uint64_t bits;
    int source;  // the lane whose value is wanted
};

extern const Collective kShuffle;         // ShuffleInput -> uint64_t
extern const Collective kBallot;          // uint32_t predicate -> uint32_t mask
extern const Collective kSyncWarp;        // nothing
extern const Collective kMatchAny;        // uint64_t -> uint32_t mask of the lanes with the same value
extern const Collective kLdmatrix[3][2];  // [blocks / 2][transposed]: 16 bytes of a row -> uint32_t[blocks]
extern const Collective kMmaBf16;         // MmaInput -> float[4]
extern const Collective kMmaF16;

struct MmaInput {
    const uint32_t* a;
    const uint32_t* b;
};

constexpr uint32_t kFullMask = 0xffffffffu;

template <class T>
inline T shuffle(uint32_t mask, T value, int source, Site site) {
    static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8), "shuffles move 4 or 8 byte numbers");
    ShuffleInput input{0, source};
    uint64_t output = 0;
    std::memcpy(&input.bits, &value, sizeof value);
    collective(kShuffle, mask, &input, &output, site);
    std::memcpy(&value, &output, sizeof value);
    return value;
}

inline int lane_id() {
    return static_cast<int>(current_thread->lane);
}

inline void ldmatrix(uint32_t* r, int blocks, bool transposed, const void* row_address, Site site) {
    unsigned char row[16] = {};
    if (lane_id() < 8 * blocks) {
        require_shared(row_address, 16, 16, "ldmatrix", site);
        std::memcpy(row, row_address, 16);
    }
    collective(kLdmatrix[blocks / 2][transposed ? 1 : 0], kFullMask, row, r, site);
}

inline void mma_16816_bf16(float* d, const uint32_t* a, const uint32_t* b, Site site) {
    const MmaInput input{a, b};
    collective(kMmaBf16, kFullMask, &input, d, site);
}
inline void mma_16816_f16(float* d, const uint32_t* a, const uint32_t* b, Site site) {
    const MmaInput input{a, b};
    collective(kMmaF16, kFullMask, &input, d, site);
}

inline void perform(const AsyncCopy& copy) {
    if (copy.source)
        std::memcpy(copy.target, copy.source, static_cast<size_t>(copy.bytes));
    else
        std::memset(copy.target, 0, static_cast<size_t>(copy.bytes));
}

inline void cp_async(void* target, const void* source, int bytes, bool valid, Site site) {
    require_shared(target, static_cast<size_t>(bytes), static_cast<size_t>(bytes), "cp.async", site);
    if (valid && reinterpret_cast<uintptr_t>(source) % static_cast<uintptr_t>(bytes) != 0)
        fault("misaligned", site, "the source %p of cp.async is not a multiple of %d bytes", source, bytes);
    const AsyncCopy copy{target, valid ? source : nullptr, bytes};
    if (async_is_lazy()) {
        std::memset(target, poison_byte(), static_cast<size_t>(bytes));
        async_push(copy);
    } else {
        perform(copy);
    }
}

inline void cp_async_wait(int pending_groups) {
    AsyncCopy copy;
    while (async_take(pending_groups, &copy)) perform(copy);
}

}  // namespace simt
}  // namespace wsss

template <class T>
inline T __shfl_sync(uint32_t mask, T value, int source, int width = 32, wsss::simt::Site site = wsss::simt::here()) {
    const int first = wsss::simt::lane_id() & ~(width - 1);
    return wsss::simt::shuffle(mask, value, first + (source & (width - 1)), site);
}
template <class T>
inline T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32, wsss::simt::Site site = wsss::simt::here()) {
    const int lane = wsss::simt::lane_id();
    const int source = lane ^ bits;
    return wsss::simt::shuffle(mask, value, source >= (lane & ~(width - 1)) + width ? lane : source, site);
}
template <class T>
inline T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32, wsss::simt::Site site = wsss::simt::here()) {
    const int lane = wsss::simt::lane_id();
    const int source = lane - static_cast<int>(delta);
    return wsss::simt::shuffle(mask, value, source < (lane & ~(width - 1)) ? lane : source, site);
}
template <class T>
inline T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32, wsss::simt::Site site = wsss::simt::here()) {
    const int lane = wsss::simt::lane_id();
    const int source = lane + static_cast<int>(delta);
    return wsss::simt::shuffle(mask, value, source >= (lane & ~(width - 1)) + width ? lane : source, site);
}

inline uint32_t __ballot_sync(uint32_t mask, int predicate, wsss::simt::Site site = wsss::simt::here()) {
    const uint32_t input = predicate != 0;
    uint32_t output = 0;
    wsss::simt::collective(wsss::simt::kBallot, mask, &input, &output, site);
    return output;
}
inline int __any_sync(uint32_t mask, int predicate, wsss::simt::Site site = wsss::simt::here()) {
    return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, wsss::simt::Site site = wsss::simt::here()) {
    return __ballot_sync(mask, predicate, site) == mask;
}
template <class T>
inline uint32_t __match_any_sync(uint32_t mask, T value, wsss::simt::Site site = wsss::simt::here()) {
    uint64_t input = 0;
    uint32_t output = 0;
    std::memcpy(&input, &value, sizeof value);
    wsss::simt::collective(wsss::simt::kMatchAny, mask, &input, &output, site);
    return output;
}
inline void __syncwarp(uint32_t mask = wsss::simt::kFullMask, wsss::simt::Site site = wsss::simt::here()) {
    wsss::simt::collective(wsss::simt::kSyncWarp, mask, nullptr, nullptr, site);
}
