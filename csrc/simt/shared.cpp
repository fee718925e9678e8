// Shared memory and cp.async bookkeeping. Every static array, every carve and the dynamic block is an allocation of exactly its
// size: AddressSanitizer guards its ends; other builds put margins of a known pattern around it and look at them when the block
// ends. Fresh memory holds the poison byte. Lives as long as its block.
#include <cstdarg>
#include <cstdlib>
#include <cstring>

#include "simt/state.h"

namespace wsss {
namespace simt {

namespace {

constexpr size_t kAlignment = 128;
constexpr size_t kMargin = WSSS_SIMT_ASAN ? 0 : 128;
constexpr unsigned char kMarginByte = 0xA5;
constexpr size_t kStaticLimit = 48 * 1024;
constexpr size_t kSharedLimit = 227 * 1024;

unsigned char* allocate(size_t bytes) {
    void* memory = nullptr;
    // A size of 0 is a legal carve; the allocation then still has an address of its own.
    if (posix_memalign(&memory, kAlignment, bytes + 2 * kMargin + (bytes == 0)) != 0)
        fault("out-of-memory", {}, "no memory for %zu bytes of shared memory", bytes);
    auto* data = static_cast<unsigned char*>(memory) + kMargin;
    std::memset(data - kMargin, kMarginByte, kMargin);
    std::memset(data, active_launch->options.poison, bytes);
    std::memset(data + bytes, kMarginByte, kMargin);
    return data;
}

bool margin_is_whole(const unsigned char* margin) {
    for (size_t i = 0; i < kMargin; ++i)
        if (margin[i] != kMarginByte) return false;
    return true;
}

SharedPiece* find_piece(Block& block, const void* key, size_t offset, size_t bytes, bool is_carve) {
    for (SharedPiece& piece : block.shared)
        if (piece.key == key && piece.is_carve == is_carve && piece.offset == offset && piece.bytes == bytes) return &piece;
    return nullptr;
}

unsigned char* find_or_make(Block& block, const void* key, size_t offset, size_t bytes, bool is_carve, const char* name) {
    if (SharedPiece* found = find_piece(block, key, offset, bytes, is_carve)) return found->data;
    unsigned char* data = allocate(bytes);
    block.shared.push_back({key, offset, bytes, is_carve, name, data});
    return data;
}

SharedPiece* containing(Block& block, const unsigned char* pointer, size_t bytes) {
    for (SharedPiece& piece : block.shared)
        if (pointer >= piece.data && pointer + bytes <= piece.data + piece.bytes) return &piece;
    return nullptr;
}

}  // namespace

void* static_shared(const void* key, size_t bytes, const char* name) {
    const Bookkeeping bookkeeping;
    Block& block = *self().block;
    if (!find_piece(block, key, 0, bytes, false)) {
        block.static_bytes += bytes;
        if (block.static_bytes > kStaticLimit)
            fault("shared-limit", {}, "static shared arrays take %zu bytes up to '%s', 49152 are allowed", block.static_bytes,
                  name);
        if (block.static_bytes + block.dynamic_bytes > kSharedLimit)
            fault("shared-limit", {}, "static and dynamic shared memory take %zu bytes, %zu are allowed",
                  block.static_bytes + block.dynamic_bytes, kSharedLimit);
    }
    return find_or_make(block, key, 0, bytes, false, name);
}

unsigned char* dynamic_shared() {
    const Bookkeeping bookkeeping;
    Block& block = *self().block;
    return find_or_make(block, nullptr, 0, block.dynamic_bytes, false, "dynamic");
}

void* carve_shared(const unsigned char* base, size_t offset, size_t bytes, const char* name, Site site) {
    const Bookkeeping bookkeeping;
    Block& block = *self().block;
    const SharedPiece* whole = containing(block, base, 0);
    if (!whole || whole->key || whole->is_carve || base != whole->data)
        fault("carve", site, "the base of '%s' is not what WSSS_DYNAMIC_SHARED gave", name);
    if (offset % kAlignment != 0) fault("carve", site, "'%s' starts at byte %zu, not a multiple of 128", name, offset);
    if (offset + bytes > block.dynamic_bytes)
        fault("carve", site, "'%s' takes bytes %zu to %zu of dynamic shared memory, the launch gave %zu", name, offset,
              offset + bytes, block.dynamic_bytes);
    return find_or_make(block, nullptr, offset, bytes, true, name);
}

void* map_to_rank(const void* pointer, unsigned rank, Site site) {
    const Bookkeeping bookkeeping;
    Group& group = active_launch->group;
    if (active_launch->config.cluster_size < 2 || rank >= group.blocks.size())
        fault("cluster", site, "rank %u is not in this cluster of %u blocks", rank, active_launch->config.cluster_size);
    const auto* byte = static_cast<const unsigned char*>(pointer);
    const SharedPiece* mine = containing(*self().block, byte, 0);
    if (!mine) fault("cluster", site, "cluster_map got an address outside this block's shared memory");
    const SharedPiece piece = *mine;  // a copy: the other block may be this one, whose list can grow
    unsigned char* theirs = find_or_make(*group.blocks[rank], piece.key, piece.offset, piece.bytes, piece.is_carve, piece.name);
    return theirs + (byte - piece.data);
}

void require_shared(const void* pointer, size_t bytes, size_t alignment, const char* what, Site site) {
    const Bookkeeping bookkeeping;
    if (reinterpret_cast<uintptr_t>(pointer) % alignment != 0)
        fault("misaligned", site, "%s needs a shared address that is a multiple of %zu bytes, got %p", what, alignment, pointer);
    if (!containing(*self().block, static_cast<const unsigned char*>(pointer), bytes))
        fault("not-shared", site, "%s needs %zu bytes of this block's shared memory, %p is outside", what, bytes, pointer);
}

void release_shared(Block& block) {
    for (const SharedPiece& piece : block.shared) {
        if (!margin_is_whole(piece.data - kMargin) || !margin_is_whole(piece.data + piece.bytes))
            fault("shared-overflow", {}, "block (%u, %u, %u) wrote outside shared array '%s' of %zu bytes", block.index.x,
                  block.index.y, block.index.z, piece.name, piece.bytes);
        std::free(piece.data - kMargin);
    }
    block.shared.clear();
    block.static_bytes = 0;
}

bool async_is_lazy() {
    return active_launch->options.lazy_cp_async;
}
unsigned char poison_byte() {
    return active_launch->options.poison;
}

void async_push(const AsyncCopy& copy) {
    const Bookkeeping bookkeeping;
    self().copies.push_back(copy);
    ++self().open_copies;
}

void async_commit() {
    const Bookkeeping bookkeeping;
    self().group_sizes.push_back(self().open_copies);
    self().open_copies = 0;
}

bool async_take(int pending_groups, AsyncCopy* copy) {
    const Bookkeeping bookkeeping;
    Thread& thread = self();
    while (thread.group_sizes.size() > static_cast<size_t>(pending_groups)) {
        if (thread.group_sizes.front() > 0) {
            --thread.group_sizes.front();
            *copy = thread.copies.front();
            thread.copies.erase(thread.copies.begin());
            return true;
        }
        thread.group_sizes.erase(thread.group_sizes.begin());
    }
    return false;
}

}  // namespace simt
}  // namespace wsss
