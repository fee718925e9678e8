// CAM merge on CUDA, in two launches: merge (merge.cuh), which upsamples and adds the maps and notes greatest and least values of
// its blocks; scale, which normalises, rounds to the output type and makes the background.
//
// Memory: greatest and least value of each merge block, at most kMostSlots a plane; the merged planes in float32 where the output
// is of another type (else they stand in the output until they are scaled, in L2 as a rule). Deterministic: no atomics.
#include "cam_merge/cam_merge.h"
#include "cam_merge/merge.cuh"
#include "common/workspace.h"

namespace wsss::cam_merge {

constexpr int kScaleThreads = 256;
constexpr int kScaleWarps = kScaleThreads / 32;
constexpr int kClassChunk = 4 * kScaleWarps;  // classes whose ranges stand in shared memory at a time
constexpr int kPixels = 8;                    // a thread of scale
constexpr int kPixelsOfAllClasses = 2;        // likewise when it goes through all classes for the background

template <class O>
struct ScaleArguments {
    const float* merged;
    int64_t merged_image;
    const bool* present;
    const Range* ranges;
    int64_t slots, classes, pixels, blocks;  // of an image or, without background, of a plane
    bool minmax;
    float eps, scale, alpha;
    O* out;  // channel 0 of image 0
    int64_t out_image;
};

template <class O>
__device__ __forceinline__ O output(float value) {
    return from_float<O>(value);
}
template <>
__device__ __forceinline__ uint8_t output<uint8_t>(float value) {
    const float scaled = value * 255.0f;
    return static_cast<uint8_t>(__float2int_rn(scaled > 255.0f ? 255.0f : scaled > 0.0f ? scaled : 0.0f));  // NaN gives 0
}

// kBackground: the block goes through all classes of its pixels; else it has one class.
template <class O, bool kBackground>
__global__ void __launch_bounds__(kScaleThreads) cam_merge_scale_kernel(ScaleArguments<O> a) {
    constexpr int kMine = kBackground ? kPixelsOfAllClasses : kPixels;
    WSSS_SHARED(ranges, Range[kClassChunk]);
    const int64_t group = blockIdx.x / a.blocks;  // image, or plane
    const int64_t pixel = blockIdx.x % a.blocks * kMine * kScaleThreads + threadIdx.x;
    const int64_t n = kBackground ? group : group / a.classes;
    const int64_t begin = kBackground ? 0 : group % a.classes, end = kBackground ? a.classes : begin + 1;
    if (!kBackground && a.present && !a.present[group]) return;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float best[kMine] = {};
    for (int64_t chunk = begin; chunk < end; chunk += kClassChunk) {
        const int64_t chunk_end = chunk + kClassChunk < end ? chunk + kClassChunk : end;
        __syncthreads();
        for (int64_t c = chunk + warp; c < chunk_end; c += kScaleWarps) {
            const int64_t plane = n * a.classes + c;
            if (a.present && !a.present[plane]) continue;
            int top = 0, low = 0x7f800000;
            for (int64_t i = lane; i < a.slots; i += 32) {
                const Range range = a.ranges[plane * a.slots + i];
                top = range.top > top ? range.top : top;
                low = range.low < low ? range.low : low;
            }
            for (int step = 16; step > 0; step /= 2) {
                const int other_top = __shfl_xor_sync(0xffffffffu, top, step);
                const int other_low = __shfl_xor_sync(0xffffffffu, low, step);
                top = other_top > top ? other_top : top;
                low = other_low < low ? other_low : low;
            }
            if (lane == 0) ranges[c - chunk] = {top, low};
        }
        __syncthreads();
        for (int64_t c = chunk; c < chunk_end; ++c) {
            if (a.present && !a.present[n * a.classes + c]) continue;
            const float below = a.minmax ? __int_as_float(ranges[c - chunk].low) : 0.0f;
            const float divisor = __int_as_float(ranges[c - chunk].top) - below + a.eps;
            const float* const from = a.merged + n * a.merged_image + c * a.pixels;
            O* const to = a.out + n * a.out_image + (c + kBackground) * a.pixels;
#pragma unroll
            for (int i = 0; i < kMine; ++i) {
                const int64_t at = pixel + i * kScaleThreads;
                if (at >= a.pixels) break;
                float value = from[at];
                if (a.minmax) {
                    value = value - below - a.eps;
                    value = value < 0 ? 0.0f : value;
                }
                value = value / divisor * a.scale;
                to[at] = output<O>(value);
                if (kBackground) best[i] = value > best[i] || value != value ? value : best[i];  // a NaN stays
            }
        }
    }
    if constexpr (kBackground) {
#pragma unroll
        for (int i = 0; i < kMine; ++i) {
            const int64_t at = pixel + i * kScaleThreads;
            if (at < a.pixels) a.out[n * a.out_image + at] = output<O>(powf(best[i] > 1 ? 0.0f : 1.0f - best[i], a.alpha));
        }
    }
}

struct Plan {
    Shape shape;
    int64_t tiles_across, tiles, slots;
    bool in_place;  // the merged planes stand in the output
    float* merged;
    Range* ranges;
};

// Cuts the workspace; over a null Carver it only measures.
Plan plan(const Settings& settings, const View& out, Carver* carver) {
    Plan p;
    p.shape = shape_of(settings, out);
    p.tiles_across = ceil_div(p.shape.w, kTileWidth);
    p.tiles = p.tiles_across * ceil_div(p.shape.h, kRows);
    p.slots = p.tiles < kMostSlots ? p.tiles : kMostSlots;
    p.in_place = out.dtype == DType::kFloat32;
    p.merged = p.in_place ? nullptr : carver->take<float>(p.shape.planes() * p.shape.pixels());
    p.ranges = carver->take<Range>(p.shape.planes() * p.slots);
    return p;
}

unsigned blocks(int64_t count) {
    if (count >= int64_t{1} << 31)
        fail("cam_merge", "maps", "need fewer than 2^31 blocks on CUDA", std::to_string(count), "merge fewer images at a time");
    return static_cast<unsigned>(count);
}

template <class T>
void merge(const std::vector<View>& maps, const std::vector<bool>& flipped, const View& present, const Settings& settings,
           const View& out, const Plan& p, cudaStream_t stream) {
    MergeArguments<T> a{};
    int next = 0;
    for (const SizeGroup& size : groups_of(maps)) {
        Group& group = a.groups[a.group_count++];
        const Sampling across = sampling_of(size.w, p.shape.w, settings), down = sampling_of(size.h, p.shape.h, settings);
        group.h = static_cast<int>(size.h);
        group.w = static_cast<int>(size.w);
        group.across = {across.step, across.start};
        group.down = {down.step, down.start};
        a.across = {across.unit, 1.0f / static_cast<float>(across.unit)};
        a.down = {down.unit, 1.0f / static_cast<float>(down.unit)};
        group.first_map = next;
        group.map_count = static_cast<int>(size.maps.size());
        for (const int k : size.maps) {
            Map<T>& map = a.maps[next++];
            map.pixels = Strided<T>(maps[static_cast<size_t>(k)]);
            map.flipped = flipped[static_cast<size_t>(k)];
        }
    }
    a.relu_first = settings.relu_first;
    a.share = settings.mean ? 1.0f / static_cast<float>(maps.size()) : 1.0f;
    a.classes = p.shape.c;
    a.h = p.shape.h;
    a.w = p.shape.w;
    a.tiles_across = p.tiles_across;
    a.tiles = p.tiles;
    a.slots = p.slots;
    a.present = present.as<const bool>();
    a.out_element = static_cast<int>(bytes(out.dtype));
    a.out_image = out.size[1] * p.shape.pixels();
    a.out = out.as<unsigned char>() + settings.background * p.shape.pixels() * a.out_element;
    a.merged = p.in_place ? reinterpret_cast<float*>(a.out) : p.merged;
    a.merged_image = p.in_place ? a.out_image : p.shape.c * p.shape.pixels();
    a.ranges = p.ranges;
    const dim3 grid(blocks(p.shape.planes() * p.slots));
    if (settings.cubic)
        launch("cam_merge", cam_merge_merge_kernel<T, 4>, grid, dim3(kMergeThreads), 0, stream, a);
    else
        launch("cam_merge", cam_merge_merge_kernel<T, 2>, grid, dim3(kMergeThreads), 0, stream, a);
}

template <class O>
void scale(const View& present, const Settings& settings, const View& out, const Plan& p, cudaStream_t stream) {
    ScaleArguments<O> a{};
    const int64_t pixels = p.shape.pixels();
    a.out = out.as<O>();
    a.out_image = out.size[1] * pixels;
    a.merged = p.in_place ? out.as<const float>() + settings.background * pixels : p.merged;
    a.merged_image = p.in_place ? a.out_image : p.shape.c * pixels;
    a.present = present.as<const bool>();
    a.ranges = p.ranges;
    a.slots = p.slots;
    a.classes = p.shape.c;
    a.pixels = pixels;
    a.minmax = settings.minmax;
    a.eps = static_cast<float>(settings.eps);
    a.scale = static_cast<float>(settings.scale);
    a.alpha = static_cast<float>(settings.alpha);
    a.blocks = ceil_div(pixels, (settings.background ? kPixelsOfAllClasses : kPixels) * kScaleThreads);
    const dim3 grid(blocks((settings.background ? p.shape.n : p.shape.planes()) * a.blocks));
    if (settings.background)
        launch("cam_merge", cam_merge_scale_kernel<O, true>, grid, dim3(kScaleThreads), 0, stream, a);
    else
        launch("cam_merge", cam_merge_scale_kernel<O, false>, grid, dim3(kScaleThreads), 0, stream, a);
}

int64_t workspace_cuda(const std::vector<View>&, const Settings& settings, const View& out, const Context&) {
    Carver measure;
    plan(settings, out, &measure);
    return measure.used();
}

void run_cuda(const std::vector<View>& maps, const std::vector<bool>& flipped, const View& present, const Settings& settings,
              const View& out, const View& workspace, const Context& context) {
    const DeviceGuard guard(context.device.index);
    const auto stream = stream_of(context);
    Carver carver(workspace.data);
    const Plan p = plan(settings, out, &carver);
    if (p.shape.c > 0)
        with_device_type(maps[0].dtype,
                         [&](auto type) { merge<decltype(type)>(maps, flipped, present, settings, out, p, stream); });
    if (out.dtype == DType::kUInt8)
        scale<uint8_t>(present, settings, out, p, stream);
    else
        with_device_type(out.dtype, [&](auto type) { scale<decltype(type)>(present, settings, out, p, stream); });
}

}  // namespace wsss::cam_merge
