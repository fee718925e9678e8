// Complementary patches on the GPU, in two launches (three to draw segments as the released program does).
//
//     survey_kernel   the highest label of each slice of each image; counters set to 0
//     scatter_kernel  rule kCode on segments: the draws with replacement, as bits of a map
//     pair_kernel     every block takes the highest label of its image, finds the limit below which numbers are drawn (draw.h),
//                     and writes its slice of the pair; the last block of an image writes the share
//
// The limit is found by a radix select over the K numbers, computed anew in each pass and never stored. All blocks of an image do
// it for themselves: that is shorter than a launch. It stops as soon as the numbers left in the digit are all wanted, for a few
// hundred cells after one or two of the four passes.
//
// Pixels are taken four at a time where planes are contiguous and aligned. Sums are integer atomics: no order shows.
// Memory: 4 bytes a slice, 12 an image, P / 8 an image for the map.

#include <algorithm>

#include "common/cuda.cuh"
#include "common/strided.h"
#include "common/workspace.h"
#include "complementary/complementary.h"

namespace wsss::complementary {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kSlicePixels = 4 * kThreads;
constexpr int64_t kMaxSlices = kThreads;  // an image; larger images make slices longer
constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;
static_assert(kDigits == kThreads, "a thread a digit");

struct Counters {
    int visible, counted, finished;
};

struct Grids {
    int side[kMaxGrids];
    int count;
};

struct Task {
    const int32_t* segments;  // null for a grid
    Grids grids;
    Rule rule;
    double hide;
    int64_t seed;
    int height, width, channels, slices;
    int* highest;        // [N][slices]
    Counters* counters;  // [N]
    uint32_t* map;       // [N][map_words]: bit k is set if cell k is drawn (kCode on segments)
    int64_t map_words;
    float* share;
    uint8_t* side;

    __host__ __device__ int pixels() const { return height * width; }
    __host__ __device__ bool with_replacement() const { return rule == Rule::kCode && grids.count == 0; }
    __host__ __device__ bool counts_cells() const { return rule == Rule::kCode && grids.count > 0; }
};

template <class Word>
struct Planes {
    Strided<Word> image;
    Word *first, *second;
};

template <class Word, int kWide>
struct alignas(sizeof(Word) * kWide) Pack {
    Word word[kWide];
};

struct Slice {
    int64_t image;
    int index;
};

__device__ __forceinline__ Slice slice_of_block(const Task& task) {
    return {blockIdx.x / task.slices, static_cast<int>(blockIdx.x % task.slices)};
}

// A label as the kernels use it: -1 for whatever is no cell.
__device__ __forceinline__ int checked_label(int label, int pixels) {
    return label >= 0 && label < pixels ? label : -1;
}

__global__ void __launch_bounds__(kThreads) survey_kernel(Task task) {
    const Slice slice = slice_of_block(task);
    const int thread = static_cast<int>(threadIdx.x);
    if (slice.index == 0 && thread == 0) task.counters[slice.image] = Counters{0, 0, 0};
    if (task.segments == nullptr) return;
    WSSS_SHARED(highest, int);
    if (thread == 0) highest = -1;
    __syncthreads();
    const int32_t* const labels = task.segments + slice.image * task.pixels();
    int top = -1;
    for (int64_t p = slice.index * kThreads + thread; p < task.pixels(); p += int64_t{kThreads} * task.slices)
        top = max(top, checked_label(labels[p], task.pixels()));
    for (int bits = 16; bits > 0; bits /= 2) top = max(top, __shfl_xor_sync(0xffffffffu, top, bits));
    if (thread % warpSize == 0) atomicMax(&highest, top);
    __syncthreads();
    if (thread == 0) task.highest[slice.image * task.slices + slice.index] = highest;
}

// How many cells the image has; the same in every thread of the block.
__device__ int count_cells(const Task& task, int64_t image, int cell) {
    if (task.segments == nullptr) return ((task.height + cell - 1) / cell) * ((task.width + cell - 1) / cell);
    WSSS_SHARED(cells, int);
    if (threadIdx.x == 0) cells = 0;
    __syncthreads();
    for (int slice = static_cast<int>(threadIdx.x); slice < task.slices; slice += kThreads)
        atomicMax(&cells, task.highest[image * task.slices + slice] + 1);
    __syncthreads();
    return cells;
}

__global__ void __launch_bounds__(kThreads) scatter_kernel(Task task) {
    const int64_t image = blockIdx.x;
    const int cells = count_cells(task, image, 0);
    uint32_t* const map = task.map + image * task.map_words;
    for (int64_t word = threadIdx.x; word * 32 < cells; word += kThreads) map[word] = 0;
    __syncthreads();
    const RandomStream stream = random_stream(task.seed, image);
    const int64_t draws = draws_with_replacement(task.hide, cells);
    for (int64_t i = threadIdx.x; i < draws; i += kThreads) {
        const int64_t id = choice_at(stream, i, int64_t{cells} + 1) - 1;
        if (id >= 0) atomicOr(&map[id / 32], uint32_t{1} << (id % 32));
    }
}

// A limit with exactly `wanted` of the numbers 0 .. cells - 1 below it; the same in every thread of the block.
__device__ uint64_t select_limit(RandomStream stream, int cells, int64_t wanted) {
    WSSS_SHARED(histogram, int[kDigits]);
    WSSS_SHARED(warp_sums, int[kThreads / 32]);
    WSSS_SHARED(chosen, int[3]);  // digit, numbers below it, numbers in it
    if (wanted <= 0) return 0;
    if (wanted >= cells) return kNumbers;
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    uint64_t prefix = 0;
    for (int shift = 32 - kDigitBits;; shift -= kDigitBits) {
        histogram[thread] = 0;
        __syncthreads();
        for (int64_t k = thread; k < cells; k += kThreads) {
            const uint32_t number = number_at(stream, k);
            if (uint64_t{number} >> (shift + kDigitBits) == prefix) atomicAdd(&histogram[(number >> shift) % kDigits], 1);
        }
        __syncthreads();
        const int here = histogram[thread];
        int below = here;  // becomes the sum of the digits up to this one
        for (int distance = 1; distance < 32; distance *= 2) {
            const int other = __shfl_up_sync(0xffffffffu, below, static_cast<unsigned>(distance));
            if (lane >= distance) below += other;
        }
        if (lane == 31) warp_sums[warp] = below;
        __syncthreads();
        for (int i = 0; i < warp; ++i) below += warp_sums[i];
        below -= here;
        if (below < wanted && below + here >= wanted) {  // one thread
            chosen[0] = thread;
            chosen[1] = below;
            chosen[2] = here;
        }
        __syncthreads();
        prefix = (prefix << kDigitBits) | static_cast<uint64_t>(chosen[0]);
        wanted -= chosen[1];
        const bool all_of_it = wanted == chosen[2];
        __syncthreads();  // the next pass, or the next call, writes `chosen`
        if (all_of_it || shift == 0) return (prefix + 1) << shift;
    }
}

// 1 or 2: the image of the pair that shows a pixel; 0: neither.
struct Sides {
    RandomStream stream;
    uint64_t limit;
    const uint32_t* map;  // null: the limit decides

    __device__ __forceinline__ int of(int label) const {
        if (label < 0) return 0;
        const bool drawn = map ? (map[label / 32] >> (label % 32)) & 1 : number_at(stream, label) < limit;
        return drawn ? 2 : 1;
    }
};

// Labels of kWide pixels from p on.
template <int kWide>
__device__ __forceinline__ void load_labels(const Task& task, int64_t image, int cell, int p, int (&label)[kWide]) {
    if (task.segments) {
        const int64_t at = image * task.pixels() + p;
        const auto pack = *reinterpret_cast<const Pack<int32_t, kWide>*>(task.segments + at);
        for (int i = 0; i < kWide; ++i) label[i] = checked_label(pack.word[i], task.pixels());
        return;
    }
    int y = p / task.width, x = p % task.width;
    const int across = (task.width + cell - 1) / cell;
    for (int i = 0; i < kWide; ++i) {
        label[i] = y / cell * across + x / cell;
        if (++x == task.width) {
            x = 0;
            ++y;
        }
    }
}

template <class Word, int kWide>
__global__ void __launch_bounds__(kThreads) pair_kernel(Task task, Planes<Word> planes) {
    const Slice slice = slice_of_block(task);
    const int64_t image = slice.image;
    const int thread = static_cast<int>(threadIdx.x), pixels = task.pixels();
    const RandomStream stream = random_stream(task.seed, image);
    const int cell = task.grids.count > 0 ? task.grids.side[grid_choice(stream, task.grids.count)] : 0;
    const int cells = count_cells(task, image, cell);
    Sides sides{stream, 0, nullptr};
    if (task.with_replacement())
        sides.map = task.map + image * task.map_words;
    else if (task.rule == Rule::kExact)
        sides.limit = select_limit(stream, cells, hidden_cells(task.hide, cells));
    else
        sides.limit = limit_of(task.rule, task.hide);

    int visible = 0, counted = 0;
    for (int64_t p = (int64_t{slice.index} * kThreads + thread) * kWide; p < pixels;
         p += int64_t{kThreads} * kWide * task.slices) {
        int label[kWide];
        load_labels<kWide>(task, image, cell, static_cast<int>(p), label);
        Pack<uint8_t, kWide> side;
        for (int i = 0; i < kWide; ++i) {
            side.word[i] = static_cast<uint8_t>(sides.of(label[i]));
            visible += side.word[i] == 1;
            counted += side.word[i] != 0;
        }
        *reinterpret_cast<Pack<uint8_t, kWide>*>(task.side + image * pixels + p) = side;
        const Word* source = planes.image.data + image * planes.image.n;
        if constexpr (kWide == 1)
            source += p / task.width * planes.image.y + p % task.width * planes.image.x;
        else
            source += p;  // planes are contiguous
#pragma unroll 3
        for (int channel = 0; channel < task.channels; ++channel) {
            const auto value = *reinterpret_cast<const Pack<Word, kWide>*>(source + channel * planes.image.channel);
            Pack<Word, kWide> first, second;
            for (int i = 0; i < kWide; ++i) {
                first.word[i] = side.word[i] == 1 ? value.word[i] : Word{0};
                second.word[i] = side.word[i] == 2 ? value.word[i] : Word{0};
            }
            const int64_t target = (image * task.channels + channel) * pixels + p;
            *reinterpret_cast<Pack<Word, kWide>*>(planes.first + target) = first;
            *reinterpret_cast<Pack<Word, kWide>*>(planes.second + target) = second;
        }
    }
    if (task.counts_cells()) {
        visible = counted = 0;
        for (int64_t k = int64_t{slice.index} * kThreads + thread; k < cells; k += int64_t{kThreads} * task.slices) {
            visible += sides.of(static_cast<int>(k)) == 1;
            ++counted;
        }
    }
    for (int bits = 16; bits > 0; bits /= 2) {
        visible += __shfl_xor_sync(0xffffffffu, visible, bits);
        counted += __shfl_xor_sync(0xffffffffu, counted, bits);
    }
    Counters& counters = task.counters[image];
    if (thread % warpSize == 0) {
        atomicAdd(&counters.visible, visible);
        atomicAdd(&counters.counted, counted);
        __threadfence();
    }
    __syncthreads();
    if (thread == 0 && atomicAdd(&counters.finished, 1) == task.slices - 1) {
        __threadfence();
        const double seen = atomicAdd(&counters.visible, 0), all = atomicAdd(&counters.counted, 0);
        task.share[image] = all > 0 ? static_cast<float>(seen / all) : 0.0f;
    }
}

int slices_of(const Shape& shape) {
    return static_cast<int>(std::min(kMaxSlices, std::max<int64_t>(1, ceil_div(shape.pixels(), kSlicePixels))));
}

Task plan(const Shape& shape, const Options& options, Carver* carver) {
    Task task{};
    for (const int64_t side : options.grid) task.grids.side[task.grids.count++] = static_cast<int>(side);
    task.rule = options.rule;
    task.hide = options.hide;
    task.seed = options.seed;
    task.height = static_cast<int>(shape.h);
    task.width = static_cast<int>(shape.w);
    task.channels = static_cast<int>(shape.c);
    task.slices = slices_of(shape);
    task.highest = carver->take<int>(shape.n * task.slices);
    task.counters = carver->take<Counters>(shape.n);
    task.map_words = task.with_replacement() ? ceil_div(shape.pixels(), 32) : 0;
    task.map = carver->take<uint32_t>(shape.n * task.map_words);
    return task;
}

bool aligned(const void* pointer, int64_t bytes) {
    return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
}

template <class Word>
void write_pair(const Task& task, const View& image, const Outputs& outputs, dim3 grid, cudaStream_t stream) {
    Planes<Word> planes{};
    planes.image = Strided<Word>(image);
    planes.first = outputs.first.as<Word>();
    planes.second = outputs.second.as<Word>();
    constexpr int kWide = 4;
    constexpr int64_t kBytes = kWide * static_cast<int64_t>(sizeof(Word));
    const bool wide = task.pixels() % kWide == 0 && image.stride[3] == 1 && image.stride[2] == task.width &&
                      image.stride[0] % kWide == 0 && image.stride[1] % kWide == 0 && aligned(planes.image.data, kBytes) &&
                      aligned(planes.first, kBytes) && aligned(planes.second, kBytes) &&
                      aligned(task.segments, kWide * static_cast<int64_t>(sizeof(int32_t))) && aligned(task.side, kWide);
    launch(kName, wide ? pair_kernel<Word, kWide> : pair_kernel<Word, 1>, grid, dim3(kThreads), 0, stream, task, planes);
}

}  // namespace

int64_t workspace_cuda(const Shape& shape, const Options& options, const Context&) {
    Carver measure;
    plan(shape, options, &measure);
    return measure.used();
}

void run_cuda(const View& image, const View& segments, const Options& options, const Outputs& outputs, const View& workspace,
              const Context& context) {
    const DeviceGuard guard(context.device.index);
    const auto stream = stream_of(context);
    const Shape shape{image.size[0], image.size[1], image.size[2], image.size[3]};
    if (shape.pixels() == 0) {
        fill_bytes(kName, outputs.share.data, 0, static_cast<size_t>(shape.n) * sizeof(float), stream);
        return;
    }
    Carver carver(workspace.data);
    Task task = plan(shape, options, &carver);
    task.segments = segments.as<const int32_t>();
    task.share = outputs.share.as<float>();
    task.side = outputs.side.as<uint8_t>();
    const dim3 grid(grid_size(kName, shape.n * task.slices));
    launch(kName, survey_kernel, grid, dim3(kThreads), 0, stream, task);
    if (task.with_replacement()) launch(kName, scatter_kernel, dim3(grid_size(kName, shape.n)), dim3(kThreads), 0, stream, task);
    switch (bytes(image.dtype)) {
        case 1:
            write_pair<uint8_t>(task, image, outputs, grid, stream);
            break;
        case 2:
            write_pair<uint16_t>(task, image, outputs, grid, stream);
            break;
        case 4:
            write_pair<uint32_t>(task, image, outputs, grid, stream);
            break;
        default:
            write_pair<uint64_t>(task, image, outputs, grid, stream);
    }
}

}  // namespace wsss::complementary
