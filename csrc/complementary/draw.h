// Which cells of an image are hidden: a counter-based draw, so that every device and every thread finds the same ones.
//
// number(stream, k) is a bijection of the 32-bit k that depends on the seed and the image: the numbers of an image's cells are
// all different. With K cells, numbers U = number / 2^32, and hide = p, the drawn cells are
//     exact   the round(p K) cells of the smallest numbers (half to even): a draw without replacement
//     paper   those with U < p
//     code    grid: those with U <= p; segments: floor((K + 1) p) draws with replacement from 0..K, of which number i names cell
//             i - 1 and 0 names none (the released program numbers segments from 1 and draws from 0)
// The first and the third rule of a grid need a limit alone: drawn(k) = number(stream, k) < limit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace wsss::complementary {

constexpr size_t kMaxGrids = 16;
constexpr uint64_t kNumbers = uint64_t{1} << 32;

enum class Rule : int { kExact = 0, kPaper = 1, kCode = 2 };

struct RandomStream {
    uint32_t salt, twist;
};

constexpr uint32_t mix_bits(uint32_t x) {  // the finaliser of MurmurHash3: a bijection
    x = (x ^ (x >> 16)) * 0x85ebca6bu;
    x = (x ^ (x >> 13)) * 0xc2b2ae35u;
    return x ^ (x >> 16);
}

constexpr RandomStream random_stream(int64_t seed, int64_t image) {
    const auto low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32);
    const uint32_t salt = mix_bits(mix_bits(static_cast<uint32_t>(image) + low) ^ high);
    return {salt, mix_bits(mix_bits(static_cast<uint32_t>(image) + high) ^ ~salt)};
}

constexpr uint32_t number_at(RandomStream stream, int64_t k) {
    return mix_bits(mix_bits(static_cast<uint32_t>(k) ^ stream.salt) + stream.twist);
}

constexpr int64_t choice_at(RandomStream stream, int64_t k, int64_t choices) {  // one of 0 .. choices - 1
    return static_cast<int64_t>((uint64_t{number_at(stream, k)} * static_cast<uint64_t>(choices)) >> 32);
}

constexpr int64_t grid_choice(RandomStream stream, int64_t choices) {
    return choice_at(stream, 0xffffffff, choices);  // no cell has this number
}

constexpr int64_t hidden_cells(double hide, int64_t cells) {  // round(hide * cells), half to even
    const double wanted = hide * static_cast<double>(cells);
    const auto whole = static_cast<int64_t>(wanted);
    const double rest = wanted - static_cast<double>(whole);
    return whole + (rest > 0.5 || (rest == 0.5 && whole % 2 == 1) ? 1 : 0);
}

constexpr int64_t draws_with_replacement(double hide, int64_t cells) {
    return static_cast<int64_t>(hide * static_cast<double>(cells + 1));
}

// The limit of rules that look at each cell alone.
constexpr uint64_t limit_of(Rule rule, double hide) {
    const double scaled = hide * static_cast<double>(kNumbers);
    const auto whole = static_cast<uint64_t>(scaled);
    return whole + (rule == Rule::kCode || scaled > static_cast<double>(whole) ? 1 : 0);
}

}  // namespace wsss::complementary
