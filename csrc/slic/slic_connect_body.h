// The last step of slic: labels to connected segments, small ones merged, numbered in raster order (the rule: slic_rules.h).
//
// Works on runs, the longest stretches of one label in a row. A segment is named by its first run, which orders segments as
// their first pixels do. One pass over neighbouring rows finds the segments by union-find; merging visits the runs of small
// segments only. Serial for each image, so the result depends on nothing else.

constexpr uint64_t kNoKey = UINT64_MAX;

// Bit i: row[i] differs from row[i - 1].
inline uint32_t changes(const int32_t* row) {
#if defined(__x86_64__) && WSSS_SIMD_BYTES == 64
    return _mm512_cmpneq_epi32_mask(_mm512_loadu_si512(row), _mm512_loadu_si512(row - 1));
#elif defined(__x86_64__) && WSSS_SIMD_BYTES == 32
    return ~static_cast<uint32_t>(_mm256_movemask_ps((__m256)(load(row) == load(row - 1)))) & 0xff;
#elif defined(__x86_64__)
    return ~static_cast<uint32_t>(_mm_movemask_ps((__m128)(load(row) == load(row - 1)))) & 0xf;
#else
    uint32_t bits = 0;
    for (int i = 0; i < kLanes<int32_t>; ++i) bits |= static_cast<uint32_t>(row[i] != row[i - 1]) << i;
    return bits;
#endif
}

struct Segments {
    const Plan& plan;
    const Centre* centres;
    Runs runs;
    int32_t* labels;  // [height][width]: labels, at the end segments
    int32_t count;    // of runs

    void find_runs() {
        const int32_t width = static_cast<int32_t>(plan.width);
        count = 0;
        const auto begin_run = [&](int32_t pixel) {
            runs.start[count] = pixel;
            runs.label[count++] = labels[pixel];
        };
        for (int64_t y = 0; y < plan.height; ++y) {
            runs.first[y] = count;
            const int32_t row = static_cast<int32_t>(y) * width;
            begin_run(row);
            int32_t x = 1;
            for (; x + kLanes<int32_t> <= width; x += kLanes<int32_t>)
                for (uint32_t bits = changes(labels + row + x); bits != 0; bits &= bits - 1)
                    begin_run(row + x + __builtin_ctz(bits));
            for (; x < width; ++x)
                if (labels[row + x] != labels[row + x - 1]) begin_run(row + x);
        }
        runs.first[plan.height] = count;
        runs.start[count] = static_cast<int32_t>(plan.height) * width;
    }

    int32_t root(int32_t run) {
        while (runs.parent[run] != run) run = runs.parent[run] = runs.parent[runs.parent[run]];
        return run;
    }

    void join_equal_labels() {
        const int32_t width = static_cast<int32_t>(plan.width);
        for (int32_t run = 0; run < count; ++run) runs.parent[run] = run;
        for (int64_t y = 1; y < plan.height; ++y) {
            const int32_t end = runs.first[y + 1];
            int32_t upper = runs.first[y - 1], lower = runs.first[y];
            while (lower < end) {
                runs.above[lower] = upper;
                runs.below[upper] = lower;
                if (runs.label[upper] == runs.label[lower]) {
                    const int32_t a = root(upper);
                    if (runs.parent[lower] == lower) {  // as a rule: the first above it of its label
                        runs.parent[lower] = a;
                    } else {
                        const int32_t b = root(lower);
                        runs.parent[a > b ? a : b] = a > b ? b : a;
                    }
                }
                const int32_t upper_end = runs.start[upper + 1] + width, lower_end = runs.start[lower + 1];
                upper += upper_end <= lower_end;
                lower += lower_end <= upper_end;
            }
        }
        for (int32_t run = 0; run < count; ++run) {
            runs.size[run] = 0;
            runs.key[run] = kNoKey;
            const int32_t segment = runs.parent[run] = runs.parent[runs.parent[run]];  // an earlier run's: final already
            runs.size[segment] += runs.start[run + 1] - runs.start[run];
        }
    }

    bool is_small(int32_t segment) const { return (runs.size[segment] < plan.minimum) & (runs.label[segment] >= 0); }

    // Offers the segment of run `other` as a neighbour to join, unless it is `last`, which has been offered; returns it.
    int32_t offer(int32_t segment, int32_t other, int32_t last, int32_t* joining) {
        const int32_t to = runs.parent[other];
        if (to == last || to == segment || runs.label[to] < 0) return to;
        if (!is_greater(runs.size[to], static_cast<uint32_t>(to), runs.size[segment], static_cast<uint32_t>(segment))) return to;
        const uint64_t key = merge_key(centres[runs.label[segment]], centres[runs.label[to]], static_cast<uint32_t>(to));
        if (runs.key[segment] == kNoKey) runs.list[(*joining)++] = segment;
        if (key < runs.key[segment]) runs.key[segment] = key;
        return to;
    }

    // One round; false if no segment joined another.
    bool merge_small() {
        const int32_t width = static_cast<int32_t>(plan.width);
        int32_t joining = 0;
        for (int64_t y = 0; y < plan.height; ++y) {
            const int32_t begin = runs.first[y], end = runs.first[y + 1];
            int32_t found = 0;  // collected first, without a branch: which runs are small cannot be predicted
            for (int32_t run = begin; run < end; ++run) {
                runs.small[found] = run;
                found += is_small(runs.parent[run]);
            }
            for (int32_t i = 0; i < found; ++i) {
                const int32_t run = runs.small[i], segment = runs.parent[run], start = runs.start[run];
                int32_t last = segment;
                if (run > begin) last = offer(segment, run - 1, last, &joining);
                if (run + 1 < end) last = offer(segment, run + 1, last, &joining);
                // from the last run that touches this one, backwards
                if (y > 0)
                    for (int32_t other = runs.above[run]; runs.start[other + 1] + width > start; --other)
                        last = offer(segment, other, last, &joining);
                if (y + 1 < plan.height)
                    for (int32_t other = runs.below[run]; runs.start[other + 1] - width > start; --other)
                        last = offer(segment, other, last, &joining);
            }
        }
        for (int32_t i = 0; i < joining; ++i)
            runs.parent[runs.list[i]] = static_cast<int32_t>(runs.key[runs.list[i]] & UINT32_MAX);
        for (int32_t i = 0; i < joining; ++i) {
            const int32_t segment = runs.list[i], to = runs.parent[segment] = root(segment);
            runs.size[to] += runs.size[segment];  // what it had itself: to one that joins nobody adds
            runs.key[segment] = kNoKey;
        }
        return joining > 0;
    }

    // After a round the parent of a run may be a segment that has joined another.
    bool any_small() {
        bool any = false;
        for (int32_t run = 0; run < count; ++run) {
            runs.parent[run] = runs.parent[runs.parent[run]];
            any |= is_small(runs.parent[run]);
        }
        return any;
    }

    void number() {
        const int32_t pixels = static_cast<int32_t>(plan.height * plan.width);
        int32_t segments = 0;
        for (int32_t run = 0; run < count; ++run) runs.list[run] = -1;
        for (int32_t run = 0; run < count; ++run) {
            int32_t value = -1;
            if (runs.label[run] >= 0) {
                int32_t& mine = runs.list[runs.parent[run]];
                if (mine < 0) mine = segments++;
                value = mine;
            }
            // whole vectors: what they write too much belongs to later runs
            int32_t at = runs.start[run];
            const int32_t end = runs.start[run + 1];
            for (; at < end && at + kLanes<int32_t> <= pixels; at += kLanes<int32_t>)
                *reinterpret_cast<Int*>(labels + at) = broadcast(value);
            for (; at < end; ++at) labels[at] = value;
        }
    }
};

inline void connect_segments(const Plan& plan, const Centre* centres, const Runs& runs, int32_t* labels) {
    Segments segments{plan, centres, runs, labels, 0};
    segments.find_runs();
    segments.join_equal_labels();
    while (segments.merge_small() && segments.any_small()) continue;
    segments.number();
}
