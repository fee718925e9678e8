// What each warp collective computes, once all its lanes have arrived. Runs on the last lane's fibre and reaches the other
// lanes' operands through pointers into their stacks, which stay put while they wait.
#include "simt/warp.h"

#include <algorithm>
#include <cstring>

#include "common/half.h"

namespace wsss {
namespace simt {

namespace {

template <class F>
void for_each_lane(uint32_t mask, F body) {
    for (; mask; mask &= mask - 1) body(__builtin_ctz(mask));
}

template <class T>
const T& input(const Lane* lane) {
    return *static_cast<const T*>(lane->input);
}

template <class T>
T& output(const Lane* lane) {
    return *static_cast<T*>(lane->output);
}

void run_shuffle(const Lane* const* lanes, uint32_t mask) {
    for_each_lane(mask, [&](int i) {
        const int source = input<ShuffleInput>(lanes[i]).source;
        if (source < 0 || source > 31 || !(mask >> source & 1u))
            fault("shuffle-source", lanes[i]->site, "lane %d reads lane %d, which is not in the mask 0x%08x", i, source, mask);
        output<uint64_t>(lanes[i]) = input<ShuffleInput>(lanes[source]).bits;
    });
}

void run_ballot(const Lane* const* lanes, uint32_t mask) {
    uint32_t votes = 0;
    for_each_lane(mask, [&](int i) { votes |= input<uint32_t>(lanes[i]) << i; });
    for_each_lane(mask, [&](int i) { output<uint32_t>(lanes[i]) = votes; });
}

void run_match_any(const Lane* const* lanes, uint32_t mask) {
    for_each_lane(mask, [&](int i) {
        uint32_t same = 0;
        for_each_lane(mask,
                      [&](int j) { same |= static_cast<uint32_t>(input<uint64_t>(lanes[i]) == input<uint64_t>(lanes[j])) << j; });
        output<uint32_t>(lanes[i]) = same;
    });
}

void run_syncwarp(const Lane* const*, uint32_t) {}

template <int Blocks, bool Transposed>
void run_ldmatrix(const Lane* const* lanes, uint32_t) {
    uint16_t block[8][8];
    for (int b = 0; b < Blocks; ++b) {
        for (int row = 0; row < 8; ++row) std::memcpy(block[row], lanes[8 * b + row]->input, sizeof block[row]);
        for (int i = 0; i < 32; ++i) {
            const int g = i / 4, t = 2 * (i % 4);
            const uint32_t low = Transposed ? block[t][g] : block[g][t];
            const uint32_t high = Transposed ? block[t + 1][g] : block[g][t + 1];
            static_cast<uint32_t*>(lanes[i]->output)[b] = low | (high << 16);
        }
    }
}

float bf16_value(uint16_t bits) {
    return to_float(HostBFloat16{bits});
}
float f16_value(uint16_t bits) {
    return to_float(HostHalf{bits});
}

// d += a b for one 16 x 8 tile. The sum runs over k in order, in float: the tensor core rounds differently in the last bits.
template <float (*Value)(uint16_t)>
void run_mma(const Lane* const* lanes, uint32_t) {
    float a[16][16], b[16][8], d[16][8];
    for (int i = 0; i < 32; ++i) {
        const MmaInput& operands = input<MmaInput>(lanes[i]);
        const float* c = static_cast<const float*>(lanes[i]->output);
        const int g = i / 4, t = 2 * (i % 4);
        for (int half = 0; half < 2; ++half) {
            const int shift = 16 * half;
            a[g][t + half] = Value(static_cast<uint16_t>(operands.a[0] >> shift));
            a[g + 8][t + half] = Value(static_cast<uint16_t>(operands.a[1] >> shift));
            a[g][t + 8 + half] = Value(static_cast<uint16_t>(operands.a[2] >> shift));
            a[g + 8][t + 8 + half] = Value(static_cast<uint16_t>(operands.a[3] >> shift));
            b[t + half][g] = Value(static_cast<uint16_t>(operands.b[0] >> shift));
            b[t + 8 + half][g] = Value(static_cast<uint16_t>(operands.b[1] >> shift));
            d[g][t + half] = c[half];
            d[g + 8][t + half] = c[2 + half];
        }
    }
    for (int m = 0; m < 16; ++m) {
        for (int k = 0; k < 16; ++k) {
            const float factor = a[m][k];
            for (int n = 0; n < 8; ++n) d[m][n] += factor * b[k][n];
        }
    }
    for (int i = 0; i < 32; ++i) {
        float* c = static_cast<float*>(lanes[i]->output);
        const int g = i / 4, t = 2 * (i % 4);
        for (int half = 0; half < 2; ++half) {
            c[half] = d[g][t + half];
            c[2 + half] = d[g + 8][t + half];
        }
    }
}

}  // namespace

const Collective kShuffle{"__shfl_sync", run_shuffle, false, false};
const Collective kBallot{"__ballot_sync", run_ballot, false, false};
const Collective kMatchAny{"__match_any_sync", run_match_any, false, false};
const Collective kSyncWarp{"__syncwarp", run_syncwarp, false, true};
const Collective kLdmatrix[3][2] = {
    {{"ldmatrix.x1", run_ldmatrix<1, false>, true, false}, {"ldmatrix.x1.trans", run_ldmatrix<1, true>, true, false}},
    {{"ldmatrix.x2", run_ldmatrix<2, false>, true, false}, {"ldmatrix.x2.trans", run_ldmatrix<2, true>, true, false}},
    {{"ldmatrix.x4", run_ldmatrix<4, false>, true, false}, {"ldmatrix.x4.trans", run_ldmatrix<4, true>, true, false}}};
const Collective kMmaBf16{"mma.m16n8k16.bf16", run_mma<bf16_value>, true, false};
const Collective kMmaF16{"mma.m16n8k16.f16", run_mma<f16_value>, true, false};

}  // namespace simt
}  // namespace wsss
