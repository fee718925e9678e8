// What the runtime knows of a running launch. Internal to this folder's .cpp files.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "simt/fiber.h"
#include "simt/runtime.h"

namespace wsss {
namespace simt {

struct Block;
struct Warp;

enum class State : unsigned char { kReady, kAtBlockBarrier, kAtGroupBarrier, kAtCollective, kFinished };

struct Thread : ThreadView {
    Fiber fiber;
    Block* block = nullptr;
    Warp* warp = nullptr;
    State state = State::kReady;
    const char* waits_at = "";  // the name of what it waits for, and where
    Site site{};
    Lane request;
    std::vector<AsyncCopy> copies;    // cp.async not yet arrived, oldest first
    std::vector<size_t> group_sizes;  // how many copies each committed group still holds, oldest first
    size_t open_copies = 0;           // issued after the last commit
    unsigned atomics = 0;
};

struct Warp {
    Block* block = nullptr;
    Thread* threads = nullptr;  // its first lane
    unsigned index = 0;
    unsigned size = 0;  // 32, or less in a block's last warp
    uint32_t ready = 0;
    uint32_t waiting = 0;                 // lanes at a collective
    unsigned generation[kWarpSize] = {};  // of __syncwarp, for each group of lanes, which is named by its lowest lane
};

// Addresses ThreadSanitizer hangs happens-before edges on. Every barrier has a pair and alternates between them: with one, a fast
// thread's next arrival would count as part of the current one and write-after-read races would vanish. Made anew for each
// group of blocks, so that blocks are not ordered with one another.
struct SyncTags {
    uint64_t block[2];
    uint64_t group[2];
    uint64_t fence;
    uint64_t warp[kWarpSize][kWarpSize][2];
};

// One piece of shared memory, with its own allocation so that an access past its end is seen.
struct SharedPiece {
    const void* key;  // of a static array; null for the dynamic block and its carves
    size_t offset;    // of a carve
    size_t bytes;
    bool is_carve;
    const char* name;
    unsigned char* data;
};

struct Block {
    uint3 index{};
    unsigned rank = 0;  // in its group
    Thread* threads = nullptr;
    unsigned size = 0;
    unsigned finished = 0;
    std::vector<Warp> warps;
    unsigned arrived = 0;
    unsigned generation = 0;
    const char* barrier_name = "";
    Site barrier_site{};
    int votes = 0;
    int vote_results[2] = {};
    std::unique_ptr<SyncTags> tags;
    std::vector<SharedPiece> shared;
    size_t static_bytes = 0;
    size_t dynamic_bytes = 0;
};

// Blocks that run together: one, a cluster, or a whole cooperative grid.
struct Group {
    std::vector<std::unique_ptr<Block>> blocks;
    std::vector<Thread> threads;
    size_t finished = 0;
    size_t arrived = 0;
    unsigned generation = 0;
    const char* barrier_name = "";
    Site barrier_site{};
};

struct Launch {
    LaunchConfig config{};
    Options options;
    void (*kernel)(void*) = nullptr;
    void* arguments = nullptr;
    Fiber host;
    Group group;
    std::vector<Warp*> order;  // in which warps are offered the processor
    size_t cursor = 0;
    uint64_t random = 1;
    uint64_t idle_turns = 0;  // how often threads gave way since something last moved on
    size_t groups_started = 0;
    // What the host wrote happens before the kernel reads it; what the kernel's threads wrote, before the host does.
    uint64_t start_tag = 0, end_tag = 0;
    uint64_t fence_tag = 0;
};

extern Launch* active_launch;  // null when no kernel runs

inline Thread& self() {
    return *static_cast<Thread*>(current_thread);
}

void release_shared(Block& block);  // checks the margins and frees
[[noreturn]] void fault_stuck(const Group& group);

}  // namespace simt
}  // namespace wsss
