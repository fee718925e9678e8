// The last step of slic on the CPU: labels to connected segments of at least `minimum` pixels, numbered in raster order (the
// rule: slic_rules.h). Works on runs, the longest stretches of one label in a row; a segment's name is its first run, which
// orders segments as their first pixels do. One pass finds the segments by union-find; each round of merging is one more pass
// over neighbouring runs. Serial, so its result depends on nothing else.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/workspace.h"
#include "slic/slic_rules.h"

namespace wsss {

struct SlicRuns {
    int32_t* start;   // [pixels + 1] first pixel of each run; the last is followed by the number of pixels
    int32_t* parent;  // [pixels] the run's segment, or on the way to it
    int32_t* size;    // [pixels] of segments: pixels; at the end their numbers
    uint64_t* key;    // [pixels] of small segments: the neighbour to join
    int32_t* first;   // [height + 1] first run of each row

    static SlicRuns take(Carver* carver, int64_t height, int64_t width) {
        const int64_t pixels = height * width;
        return {carver->take<int32_t>(pixels + 1), carver->take<int32_t>(pixels), carver->take<int32_t>(pixels),
                carver->take<uint64_t>(pixels), carver->take<int32_t>(height + 1)};
    }
};

class SlicSegments {
public:
    SlicSegments(const SlicPlan& plan, const SlicCentre* centres, const SlicRuns& runs, int32_t* labels)
        : plan_(plan), centres_(centres), runs_(runs), labels_(labels) {}

    void connect() {
        find_runs();
        join_equal_labels();
        while (merge_small());
        number();
    }

private:
    static constexpr uint64_t kNone = UINT64_MAX;

    int32_t label(int64_t run) const { return labels_[runs_.start[run]]; }

    int32_t root(int32_t run) const {
        while (runs_.parent[run] != run) run = runs_.parent[run] = runs_.parent[runs_.parent[run]];
        return run;
    }

    void find_runs() {
        int32_t count = 0;
        for (int64_t y = 0; y < plan_.height; ++y) {
            runs_.first[y] = count;
            const int32_t* row = labels_ + y * plan_.width;
            const int32_t offset = static_cast<int32_t>(y * plan_.width);
            runs_.start[count++] = offset;
            for (int32_t x = 1; x < plan_.width; ++x) {
                runs_.start[count] = offset + x;
                count += row[x] != row[x - 1];
            }
        }
        runs_.first[plan_.height] = count_ = count;
        runs_.start[count] = static_cast<int32_t>(plan_.height * plan_.width);
    }

    // Calls visit(upper, lower) for the runs of neighbouring rows that touch.
    template <class Visit>
    void for_touching_rows(int64_t y, Visit&& visit) const {
        const int32_t width = static_cast<int32_t>(plan_.width), end = runs_.first[y + 1];
        int32_t upper = runs_.first[y - 1], lower = runs_.first[y];
        while (lower < end) {
            visit(upper, lower);
            const int32_t upper_end = runs_.start[upper + 1] + width, lower_end = runs_.start[lower + 1];
            upper += upper_end <= lower_end;
            lower += lower_end <= upper_end;
        }
    }

    void join_equal_labels() {
        for (int32_t run = 0; run < count_; ++run) runs_.parent[run] = run;
        for (int64_t y = 1; y < plan_.height; ++y)
            for_touching_rows(y, [&](int32_t upper, int32_t lower) {
                if (label(upper) != label(lower)) return;
                const int32_t a = root(upper), b = root(lower);
                runs_.parent[std::max(a, b)] = std::min(a, b);
            });
        std::fill(runs_.size, runs_.size + count_, 0);
        for (int32_t run = 0; run < count_; ++run) {
            runs_.parent[run] = runs_.parent[runs_.parent[run]];  // that of an earlier run: already its segment
            runs_.size[runs_.parent[run]] += runs_.start[run + 1] - runs_.start[run];
            runs_.key[run] = kNone;
        }
    }

    void offer(int32_t a, int32_t b) {
        if (a == b || label(a) < 0 || label(b) < 0) return;
        const bool b_greater = slic_greater(runs_.size[b], static_cast<uint32_t>(b), runs_.size[a], static_cast<uint32_t>(a));
        const int32_t small = b_greater ? a : b, greater = b_greater ? b : a;
        if (runs_.size[small] >= plan_.minimum) return;
        const uint64_t key = slic_merge_key(centres_[label(small)], centres_[label(greater)], static_cast<uint32_t>(greater));
        runs_.key[small] = std::min(runs_.key[small], key);
    }

    // One round; false if no segment joined another.
    bool merge_small() {
        for (int64_t y = 0; y < plan_.height; ++y) {
            for (int32_t run = runs_.first[y]; run + 1 < runs_.first[y + 1]; ++run)
                offer(runs_.parent[run], runs_.parent[run + 1]);
            if (y > 0)
                for_touching_rows(y, [&](int32_t upper, int32_t lower) { offer(runs_.parent[upper], runs_.parent[lower]); });
        }
        bool merged = false;
        for (int32_t run = 0; run < count_; ++run)
            if (runs_.key[run] != kNone) {
                runs_.parent[run] = static_cast<int32_t>(runs_.key[run] & UINT32_MAX);
                merged = true;
            }
        if (!merged) return false;
        for (int32_t run = 0; run < count_; ++run) {
            const int32_t to = runs_.parent[run] = root(run);
            if (runs_.key[run] == kNone) continue;
            runs_.key[run] = kNone;
            runs_.size[to] += runs_.size[run];  // only what it had itself: nobody adds to one that joins
        }
        return true;
    }

    void number() {
        int32_t segments = 0;
        std::fill(runs_.size, runs_.size + count_, -1);
        for (int32_t run = 0; run < count_; ++run) {
            int32_t value = -1;
            if (label(run) >= 0) {
                int32_t& mine = runs_.size[runs_.parent[run]];
                if (mine < 0) mine = segments++;
                value = mine;
            }
            std::fill(labels_ + runs_.start[run], labels_ + runs_.start[run + 1], value);
        }
    }

    const SlicPlan& plan_;
    const SlicCentre* centres_;
    const SlicRuns& runs_;
    int32_t* labels_;
    int32_t count_ = 0;
};

}  // namespace wsss
