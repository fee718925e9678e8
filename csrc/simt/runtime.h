// The emulator's runtime, as the headers see it: everything here is implemented in the .cpp files of this folder, which are
// compiled WITHOUT -fsanitize=thread so that bookkeeping never looks like an access of the kernel.
// One OS thread runs one launch at a time (a mutex); every CUDA thread is a fibre, blocks run one group after another.
// A fault found inside a kernel ends the process: a report on stderr, then _exit(kFaultExitCode).
#pragma once

#include <cstddef>
#include <cstdint>

#include "simt/vector_types.h"

namespace wsss {
namespace simt {

constexpr int kFaultExitCode = 86;
constexpr unsigned kWarpSize = 32;

// A place in a kernel's source. Used as a default argument, `here()` names the caller's line.
struct Site {
    const char* file;
    int line;
};
constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
}

// ---- options -------------------------------------------------------------------------------------------------------------
enum class Schedule { kForward, kGreedyReverse, kRandom };

struct Options {
    Schedule schedule = Schedule::kGreedyReverse;
    uint64_t seed = 0;            // of kRandom
    bool lazy_cp_async = true;    // true: bytes arrive at the wait, false: at the issue
    unsigned char poison = 0xFF;  // what fresh shared memory holds
};

// Text forms, as in the variables WSSS_SIMT_SCHEDULE (fwd, grev, pct:SEED), WSSS_SIMT_CP_ASYNC (lazy, eager) and
// WSSS_SIMT_POISON (0x00 to 0xFF). Null leaves a setting alone. Throw std::invalid_argument when not understood.
Options parse_options(const char* schedule, const char* cp_async, const char* poison);
void set_options(const Options& options);  // from now on, instead of the environment
void clear_options();                      // back to the environment, read at each launch
Options current_options();

// ---- what a CUDA thread knows of itself ------------------------------------------------------------------------------------
struct ThreadView {
    uint3 thread_index;
    uint3 block_index;
    dim3 block_dim;
    dim3 grid_dim;
    unsigned lane = 0;
    unsigned cluster_rank = 0;
    unsigned cluster_size = 1;
};
extern ThreadView* current_thread;  // null outside kernels

// ---- launch --------------------------------------------------------------------------------------------------------------
struct LaunchConfig {
    const char* op;
    dim3 grid;
    dim3 block;
    size_t shared_bytes;
    unsigned cluster_size;  // blocks along x that run together; 1 without clusters
    bool cooperative;       // all blocks run together
};
// Calls kernel(arguments) once for each CUDA thread; returns when all of them have finished.
void run_grid(const LaunchConfig& config, void (*kernel)(void*), void* arguments);

// ---- barriers, fences ------------------------------------------------------------------------------------------------------
int block_barrier(const char* name, int predicate, Site site);  // returns how many threads gave a true predicate
void group_barrier(const char* name, Site site);                // all blocks of the cluster or of the cooperative grid
void fence(bool device_wide);
void count_atomic();  // lets another thread run now and then, so that a thread waiting on an atomic does not wait for ever
void give_way();

// ---- warp collectives --------------------------------------------------------------------------------------------------------
struct Lane {
    const struct Collective* what = nullptr;
    uint32_t mask = 0;
    const void* input = nullptr;
    void* output = nullptr;
    Site site{};
};
// The lanes named in `mask` deposit pointers; when the last of them arrives, `run` computes for all. Shuffles and mma order no
// memory; __syncwarp does. `aligned` instructions must be the same line of source in every lane.
struct Collective {
    const char* name;
    void (*run)(const Lane* const* lanes, uint32_t mask);
    bool aligned;
    bool orders_memory;
};
void collective(const Collective& what, uint32_t mask, const void* input, void* output, Site site);

// ---- shared memory -----------------------------------------------------------------------------------------------------------
void* static_shared(const void* key, size_t bytes, const char* name);
unsigned char* dynamic_shared();
void* carve_shared(const unsigned char* base, size_t offset, size_t bytes, const char* name, Site site);
void* map_to_rank(const void* pointer, unsigned rank, Site site);
void require_shared(const void* pointer, size_t bytes, size_t alignment, const char* what, Site site);

// ---- cp.async
// ------------------------------------------------------------------------------------------------------------------
struct AsyncCopy {
    void* target;
    const void* source;  // null: zero bytes
    int bytes;
};
bool async_is_lazy();
unsigned char poison_byte();
void async_push(const AsyncCopy& copy);
void async_commit();
bool async_take(int pending_groups, AsyncCopy* copy);  // the next copy that must have arrived with at most `pending_groups` left

// ---- reports
// -------------------------------------------------------------------------------------------------------------------
[[noreturn]] void fault(const char* kind, Site site, const char* format, ...) __attribute__((format(printf, 3, 4)));

}  // namespace simt
}  // namespace wsss
