// Runs a grid: groups of blocks one after another, the threads of a group as fibres on the calling OS thread.
// Schedules: `fwd` offers the processor to the warps in turn, so all advance in step; `grev` and `pct:SEED` are greedy: the first
// ready warp of the order runs as far as it can, which skews warps by whole loop iterations, as hardware may. `grev` keeps the
// reverse order; `pct` shuffles the order (and that of lanes and blocks) now and then. Each is a fixed function of its seed.
#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <string>

#include "simt/state.h"

namespace wsss {
namespace simt {

ThreadView* current_thread = nullptr;
Launch* active_launch = nullptr;

namespace {

constexpr uint64_t kShuffleEvery = 24;  // mean number of turns between new orders of `pct`
// Groups of blocks that are different threads to ThreadSanitizer; those further apart share, which can hide a race between them.
constexpr size_t kDistinctGroups = 8;
thread_local bool inside_kernel = false;

uint64_t next_random(uint64_t& state) {  // xorshift64*
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545F4914F6CDD1Dull;
}

template <class T>
void shuffle_order(std::vector<T>& items, uint64_t& random) {
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[next_random(random) % i]);
}

// ---- a thread's life -----------------------------------------------------------------------------------------------------

void thread_main() {
    Launch& launch = *active_launch;
    entered(launch.host);
    sync_acquire(&launch.start_tag);
    try {
        launch.kernel(launch.arguments);
    } catch (...) {
        fault("exception", {}, "a C++ exception left the kernel");
    }
    sync_release(&launch.end_tag);
    Thread& thread = self();
    thread.state = State::kFinished;
    ++thread.block->finished;
    ++launch.group.finished;
    switch_fiber(thread.fiber, launch.host, true);
    __builtin_unreachable();
}

void prepare_block(Launch& launch, Block& block, int64_t index, unsigned rank) {
    const LaunchConfig& config = launch.config;
    const dim3 grid = config.grid, shape = config.block;
    block.index = {static_cast<unsigned>(index % grid.x), static_cast<unsigned>(index / grid.x % grid.y),
                   static_cast<unsigned>(index / grid.x / grid.y)};
    block.rank = rank;
    block.finished = block.arrived = 0;
    block.votes = 0;
    block.dynamic_bytes = config.shared_bytes;
    if (WSSS_SIMT_TSAN) block.tags = std::make_unique<SyncTags>();
    const size_t group_threads = launch.group.threads.size();
    const size_t distinct = std::max<size_t>(1, std::min(kDistinctGroups, kMaxFibers / group_threads));
    const size_t first_identity = launch.groups_started % distinct * group_threads + rank * block.size;
    for (unsigned i = 0; i < block.size; ++i) {
        Thread& thread = block.threads[i];
        thread.thread_index = {i % shape.x, i / shape.x % shape.y, i / shape.x / shape.y};
        thread.block_index = block.index;
        thread.cluster_rank = config.cooperative ? 0 : rank;
        thread.state = State::kReady;
        thread.copies.clear();
        thread.group_sizes.clear();
        thread.open_copies = 0;
        std::string name;
        if (WSSS_SIMT_TSAN) name = "block " + std::to_string(index) + " thread " + std::to_string(i);
        arm(thread.fiber, thread_main, first_identity + i, name.c_str());
    }
    for (Warp& warp : block.warps) {
        warp.waiting = 0;
        warp.ready = warp.size == kWarpSize ? 0xffffffffu : (1u << warp.size) - 1;
    }
}

void build_group(Launch& launch, size_t blocks) {
    const LaunchConfig& config = launch.config;
    const unsigned size = config.block.x * config.block.y * config.block.z;
    Group& group = launch.group;
    group.threads.resize(blocks * size);
    for (size_t b = 0; b < blocks; ++b) {
        group.blocks.push_back(std::make_unique<Block>());
        Block& block = *group.blocks.back();
        block.threads = &group.threads[b * size];
        block.size = size;
        block.warps.resize((size + kWarpSize - 1) / kWarpSize);
        for (unsigned w = 0; w < block.warps.size(); ++w) {
            Warp& warp = block.warps[w];
            warp.block = &block;
            warp.threads = block.threads + w * kWarpSize;
            warp.index = w;
            warp.size = std::min(kWarpSize, size - w * kWarpSize);
            launch.order.push_back(&warp);
        }
        for (unsigned i = 0; i < size; ++i) {
            Thread& thread = block.threads[i];
            thread.block = &block;
            thread.warp = &block.warps[i / kWarpSize];
            thread.lane = i % kWarpSize;
            thread.block_dim = config.block;
            thread.grid_dim = config.grid;
            thread.cluster_size = config.cluster_size;
        }
    }
    if (launch.options.schedule == Schedule::kGreedyReverse)
        for (size_t i = 0, j = launch.order.size(); i + 1 < j; ++i) std::swap(launch.order[i], launch.order[--j]);
}

// ---- the choice of the next warp and lane ---------------------------------------------------------------------------------

Warp* choose_warp(Launch& launch) {
    const size_t count = launch.order.size();
    if (launch.options.schedule == Schedule::kRandom && next_random(launch.random) % kShuffleEvery == 0)
        shuffle_order(launch.order, launch.random);
    const size_t first = launch.options.schedule == Schedule::kForward ? launch.cursor : 0;
    for (size_t i = 0; i < count; ++i) {
        const size_t at = (first + i) % count;
        if (!launch.order[at]->ready) continue;
        launch.cursor = at + 1;
        return launch.order[at];
    }
    return nullptr;
}

void run_lane(Launch& launch, Warp& warp, unsigned lane) {
    Thread& thread = warp.threads[lane];
    warp.ready &= ~(1u << lane);
    current_thread = &thread;
    switch_fiber(launch.host, thread.fiber);
    current_thread = nullptr;
    if (thread.state == State::kFinished) {
        launch.idle_turns = 0;
        disarm(thread.fiber);
    }
}

void run_warp(Launch& launch, Warp& warp) {
    uint32_t todo = warp.ready;
    unsigned start = 0;
    bool backwards = launch.options.schedule == Schedule::kGreedyReverse;
    if (launch.options.schedule == Schedule::kRandom) {
        const uint64_t choice = next_random(launch.random);
        backwards = choice & 1;
        start = (choice >> 8) % kWarpSize;
    }
    for (unsigned i = 0; todo; ++i) {
        const unsigned lane = ((backwards ? kWarpSize - 1 - i : i) + start) % kWarpSize;
        if (!(todo >> lane & 1u)) continue;
        todo &= ~(1u << lane);
        run_lane(launch, warp, lane);
    }
}

void run_group(Launch& launch, int64_t first_block) {
    Group& group = launch.group;
    group.finished = group.arrived = 0;
    for (size_t b = 0; b < group.blocks.size(); ++b)
        prepare_block(launch, *group.blocks[b], first_block + static_cast<int64_t>(b), static_cast<unsigned>(b));
    ++launch.groups_started;
    while (group.finished < group.threads.size()) {
        Warp* warp = choose_warp(launch);
        if (!warp) fault_stuck(group);
        run_warp(launch, *warp);
    }
    for (auto& block : group.blocks) release_shared(*block);
}

// Everything a launch changes outside its own object, put back when it ends, also by an exception.
class ActiveLaunch {
public:
    explicit ActiveLaunch(Launch& launch) : launch_(launch) {
        ignore_begin();
        active_launch = &launch;
        inside_kernel = true;
        adopt_host(launch.host);
        sync_release(&launch.start_tag);
    }
    ~ActiveLaunch() {
        for (Thread& thread : launch_.group.threads)
            if (thread.fiber.stack) disarm(thread.fiber);
        inside_kernel = false;
        active_launch = nullptr;
        sync_acquire(&launch_.end_tag);
        ignore_end();
    }
    ActiveLaunch(const ActiveLaunch&) = delete;
    ActiveLaunch& operator=(const ActiveLaunch&) = delete;

private:
    Launch& launch_;
};

}  // namespace

void run_grid(const LaunchConfig& config, void (*kernel)(void*), void* arguments) {
    if (inside_kernel) fault("nested-launch", {}, "a kernel launched the kernel of '%s'", config.op);
    const int64_t blocks = static_cast<int64_t>(config.grid.x) * config.grid.y * config.grid.z;
    const int64_t group_blocks = config.cooperative ? blocks : config.cluster_size;
    const size_t block_threads = static_cast<size_t>(config.block.x) * config.block.y * config.block.z;
    const auto refuse = [&](const std::string& reason) {
        throw std::runtime_error(std::string(config.op) + ": CUDA launch failed: " + reason);
    };
    if (group_blocks < 1 || group_blocks > static_cast<int64_t>(kMaxFibers / block_threads))
        refuse("too many blocks in a cooperative launch (" + std::to_string(group_blocks) + ")");
    if (!config.cooperative && (config.cluster_size > 8 || config.grid.x % config.cluster_size != 0))
        refuse("the grid's width " + std::to_string(config.grid.x) + " must be a multiple of the cluster size " +
               std::to_string(config.cluster_size) + ", which is at most 8");
    if (config.shared_bytes > 227 * 1024)
        refuse(std::to_string(config.shared_bytes) + " bytes of shared memory, at most 232448 are allowed");

    static std::mutex one_launch_at_a_time;
    const std::lock_guard<std::mutex> lock(one_launch_at_a_time);
    Launch launch;
    launch.config = config;
    launch.options = current_options();
    launch.random = launch.options.seed * 0x9E3779B97F4A7C15ull + 0x853C49E6748FEA9Bull;
    launch.kernel = kernel;
    launch.arguments = arguments;
    const ActiveLaunch active(launch);
    build_group(launch, static_cast<size_t>(group_blocks));
    std::vector<int64_t> starts(static_cast<size_t>(blocks / group_blocks));
    for (size_t i = 0; i < starts.size(); ++i) {
        const size_t place = launch.options.schedule == Schedule::kGreedyReverse ? starts.size() - 1 - i : i;
        starts[place] = static_cast<int64_t>(i) * group_blocks;
    }
    if (launch.options.schedule == Schedule::kRandom) shuffle_order(starts, launch.random);
    for (const int64_t start : starts) run_group(launch, start);
}

}  // namespace simt
}  // namespace wsss
