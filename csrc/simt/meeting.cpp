// Where threads meet: barriers of a block, a cluster or a grid, warp collectives, fences, and giving way to others. Who has to
// wait goes back to the scheduler; the last one to arrive makes the others ready. Under ThreadSanitizer everyone releases a tag
// when arriving and acquires it when leaving, which orders memory as the barrier does.
#include <algorithm>
#include <string>

#include "simt/state.h"

namespace wsss {
namespace simt {

namespace {

constexpr uint64_t kIdleLimit = 20000000;  // turns without progress after which a launch counts as stuck

void to_scheduler(Thread& thread) {
    switch_fiber(thread.fiber, active_launch->host);
}

void wait_as(Thread& thread, State state, const char* name, Site site) {
    thread.state = state;
    thread.waits_at = name;
    thread.site = site;
    to_scheduler(thread);
}

void make_ready(Block& block, State waiting_as) {
    active_launch->idle_turns = 0;
    for (unsigned i = 0; i < block.size; ++i) {
        Thread& thread = block.threads[i];
        if (thread.state != waiting_as) continue;
        thread.state = State::kReady;
        thread.warp->ready |= 1u << thread.lane;
    }
}

bool same_site(Site a, Site b) {
    return a.line == b.line && (a.file == b.file || std::string(a.file) == b.file);
}

void require_same_site(const char* name, Site site, const char* first_name, Site first_site, unsigned waiting) {
    if (!same_site(site, first_site))
        fault("barrier-divergence", site, "this thread is at %s, but %u thread%s wait%s at %s of %s:%d", name, waiting,
              waiting == 1 ? "" : "s", waiting == 1 ? "s" : "", first_name, first_site.file, first_site.line);
}

void* tag_of(const Block& block, uint64_t (SyncTags::*tags)[2], unsigned generation) {
    return block.tags ? &((*block.tags).*tags)[generation & 1] : nullptr;
}

}  // namespace

int block_barrier(const char* name, int predicate, Site site) {
    const Bookkeeping bookkeeping;
    Thread& thread = self();
    Block& block = *thread.block;
    if (block.arrived == 0) {
        block.barrier_name = name;
        block.barrier_site = site;
    } else {
        require_same_site(name, site, block.barrier_name, block.barrier_site, block.arrived);
    }
    const unsigned generation = block.generation;
    void* const tag = tag_of(block, &SyncTags::block, generation);
    sync_release(tag);
    block.votes += predicate != 0;
    thread.state = State::kAtBlockBarrier;
    if (++block.arrived == block.size) {
        block.vote_results[generation & 1] = block.votes;
        block.votes = 0;
        block.arrived = 0;
        ++block.generation;
        make_ready(block, State::kAtBlockBarrier);
        to_scheduler(thread);
    } else {
        wait_as(thread, State::kAtBlockBarrier, name, site);
    }
    sync_acquire(tag);
    return block.vote_results[generation & 1];
}

void group_barrier(const char* name, Site site) {
    const Bookkeeping bookkeeping;
    Thread& thread = self();
    Group& group = active_launch->group;
    if (std::string(name) == "grid_sync" && !active_launch->config.cooperative)
        fault("grid-sync", site, "grid_sync needs launch_cooperative");
    if (group.arrived == 0) {
        group.barrier_name = name;
        group.barrier_site = site;
    } else {
        require_same_site(name, site, group.barrier_name, group.barrier_site, static_cast<unsigned>(group.arrived));
    }
    void* const tag = tag_of(*group.blocks[0], &SyncTags::group, group.generation);
    sync_release(tag);
    thread.state = State::kAtGroupBarrier;
    if (++group.arrived == group.threads.size()) {
        group.arrived = 0;
        ++group.generation;
        for (auto& block : group.blocks) make_ready(*block, State::kAtGroupBarrier);
        to_scheduler(thread);
    } else {
        wait_as(thread, State::kAtGroupBarrier, name, site);
    }
    sync_acquire(tag);
}

void collective(const Collective& what, uint32_t mask, const void* input, void* output, Site site) {
    const Bookkeeping bookkeeping;
    Thread& thread = self();
    Warp& warp = *thread.warp;
    const uint32_t my_bit = 1u << thread.lane;
    const uint32_t present = warp.size == kWarpSize ? 0xffffffffu : (1u << warp.size) - 1;
    if (!(mask & my_bit))
        fault("warp-mask", site, "lane %u calls %s with mask 0x%08x, which leaves it out", thread.lane, what.name, mask);
    if (mask & ~present)
        fault("missing-lane", site, "%s with mask 0x%08x names lanes this warp of %u threads does not have", what.name, mask,
              warp.size);
    if (const uint32_t others = warp.waiting & mask) {
        const Lane& other = warp.threads[__builtin_ctz(others)].request;
        if (other.mask == mask && (other.what != &what || (what.aligned && !same_site(other.site, site))))
            fault("warp-divergence", site, "lane %u is at %s, lane %d of its mask at %s of %s:%d", thread.lane, what.name,
                  __builtin_ctz(others), other.what->name, other.site.file, other.site.line);
    }
    thread.request = {&what, mask, input, output, site};
    warp.waiting |= my_bit;
    const unsigned first = static_cast<unsigned>(__builtin_ctz(mask));
    void* tag = nullptr;
    if (what.orders_memory && warp.block->tags) tag = &warp.block->tags->warp[warp.index][first][warp.generation[first] & 1];
    if (tag) sync_release(tag);

    bool complete = (warp.waiting & mask) == mask;
    const Lane* lanes[kWarpSize] = {};
    if (complete) {
        for (uint32_t rest = mask; rest; rest &= rest - 1) {
            const int lane = __builtin_ctz(rest);
            lanes[lane] = &warp.threads[lane].request;
            complete = complete && lanes[lane]->mask == mask;  // a lane may still wait for a smaller group
        }
    }
    if (complete) {
        what.run(lanes, mask);
        active_launch->idle_turns = 0;
        warp.waiting &= ~mask;
        warp.ready |= mask;
        ++warp.generation[first];
        for (uint32_t rest = mask; rest; rest &= rest - 1) warp.threads[__builtin_ctz(rest)].state = State::kReady;
        to_scheduler(thread);
    } else {
        wait_as(thread, State::kAtCollective, what.name, site);
    }
    if (tag) sync_acquire(tag);
}

void fence(bool device_wide) {
    Block& block = *self().block;
    void* const tag = device_wide || !block.tags ? &active_launch->fence_tag : &block.tags->fence;
    sync_acquire(tag);
    sync_release(tag);
}

void give_way() {
    const Bookkeeping bookkeeping;
    Launch& launch = *active_launch;
    Thread& thread = self();
    if (++launch.idle_turns > kIdleLimit)
        fault("livelock", {}, "threads have waited in loops for %llu turns and nothing has moved",
              static_cast<unsigned long long>(kIdleLimit));
    thread.warp->ready |= 1u << thread.lane;
    if (launch.options.schedule != Schedule::kForward) {  // the greedy schedules would offer this warp the next turn again
        auto place = std::find(launch.order.begin(), launch.order.end(), thread.warp);
        std::rotate(place, place + 1, launch.order.end());
    }
    to_scheduler(thread);
}

void count_atomic() {
    constexpr unsigned kAtomicsPerTurn = 32;
    if (current_thread && ++self().atomics % kAtomicsPerTurn == 0) give_way();
}

}  // namespace simt
}  // namespace wsss
