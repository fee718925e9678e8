// The permutohedral lattice of a set of points, CPU side: what pixels touch, and who is whose neighbour.
//
// The number of vertices depends on the image, from thousands to D + 1 a pixel, so these arrays alone grow as they are filled
// (everything whose size follows from the shape is cut from the caller's workspace). An image's arrays are reused by the next.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

namespace wsss::dense_crf {

constexpr float kFarthestFeature = 1 << 20;  // beyond it float32 no longer parts neighbouring vertices

// Vertex keys to numbers 1, 2, ... in order of first appearance; 0 is "no such vertex".
//
// A key is sum_i coordinate_i * multiplier_i modulo 2^64 with odd 64-bit multipliers: neighbours are a constant apart. Two
// vertices share a key with probability below M^2 / 2^64 (for a million vertices, 5e-8).
class VertexTable {
public:
    static constexpr uint64_t kMultiplier[6] = {0x9E3779B97F4A7C15u, 0xC2B2AE3D27D4EB4Fu, 0x165667B19E3779F9u,
                                                0xD6E8FEB86659FD93u, 0xA0761D6478BD642Fu, 0xE7037ED1A0B428DBu};

    void clear() {
        keys_.assign(1, 0);
        if (slots_.size() > kFirstSlots * 64) slots_.clear();  // a far larger image came before
        if (slots_.empty()) slots_.resize(kFirstSlots);
        std::fill(slots_.begin(), slots_.end(), 0);
    }

    int64_t size() const { return static_cast<int64_t>(keys_.size()) - 1; }
    uint64_t key(int64_t vertex) const { return keys_[static_cast<size_t>(vertex)]; }

    void prefetch(uint64_t key) const { __builtin_prefetch(&slots_[start(key, slots_.size() - 1)]); }

    int32_t find(uint64_t key) const {
        const size_t mask = slots_.size() - 1;
        for (size_t slot = start(key, mask);; slot = (slot + 1) & mask) {
            const int32_t vertex = slots_[slot];
            if (vertex == 0 || keys_[static_cast<size_t>(vertex)] == key) return vertex;
        }
    }

    int32_t find_or_add(uint64_t key) {
        const size_t mask = slots_.size() - 1;
        size_t slot = start(key, mask);
        for (int32_t vertex; (vertex = slots_[slot]) != 0; slot = (slot + 1) & mask)
            if (keys_[static_cast<size_t>(vertex)] == key) return vertex;
        const int32_t vertex = static_cast<int32_t>(keys_.size());
        slots_[slot] = vertex;
        keys_.push_back(key);
        if (keys_.size() * 2 > slots_.size()) grow();
        return vertex;
    }

private:
    static constexpr size_t kFirstSlots = size_t{1} << 14;

    static size_t start(uint64_t key, size_t mask) {
        return static_cast<size_t>((key ^ (key >> 32)) * 0x9E3779B97F4A7C15u >> 20) & mask;
    }

    void grow() {
        slots_.assign(slots_.size() * 4, 0);
        const size_t mask = slots_.size() - 1;
        for (size_t vertex = 1; vertex < keys_.size(); ++vertex) {
            size_t slot = start(keys_[vertex], mask);
            while (slots_[slot] != 0) slot = (slot + 1) & mask;
            slots_[slot] = static_cast<int32_t>(vertex);
        }
    }

    std::vector<uint64_t> keys_;
    std::vector<int32_t> slots_;
};

// Without dimensions: each pixel is a vertex of its own, and nothing is stored.
struct Lattice {
    int dims = 0;
    int64_t pixels = 0;
    VertexTable table;
    std::vector<int32_t> neighbours;  // [dims + 1][vertices + 1][2]
    int32_t* vertex = nullptr;        // [points][dims + 1], from the workspace
    float* weight = nullptr;          // [points][dims + 1], from the workspace: barycentric, times the symmetric normalisation
    float* before = nullptr;          // [pixels] factors of other normalisations; null if none
    float* after = nullptr;

    int sides() const { return dims + 1; }
    int64_t rows() const { return dims == 0 ? pixels : table.size() + 1; }  // row 0 of a table holds zeros
    float alpha() const { return dims == 0 ? 1.0f : 1.0f / (1.0f + 1.0f / static_cast<float>(1 << dims)); }
};

// Class values of the vertices, [rows][width]: `now` is read by the slice, `next` takes the splat; where each pixel reads its own
// row before it writes it, they are one.
struct VertexValues {
    std::vector<float> storage;
    float* now = nullptr;
    float* next = nullptr;

    void resize(int64_t rows, int64_t width, bool in_place) {
        const size_t size = static_cast<size_t>(rows * width + 15) / 16 * 16, second = in_place ? 0 : size;
        if (storage.size() < size + second + 16) storage.resize(size + second + 16);
        const auto address = reinterpret_cast<uintptr_t>(storage.data());
        now = storage.data() + (64 - address % 64) % 64 / sizeof(float);
        next = now + second;
    }
};

}  // namespace wsss::dense_crf
