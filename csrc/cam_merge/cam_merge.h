// CAM merge: class maps of several scales and flips become one map an image and class, normalised, at image size.
//
//     S   = clamp0(sum over maps k of upsample(unflip(map_k)))
//     out = scale * S / (max S + eps)
//
// or, mean: the sum divided by the number of maps; relu_first: each map clamped too, on its grid; minmax:
//
//     out = scale * clamp0(S - min S - eps) / (max S - min S + eps)
//
// with max and min over the pixels of an image and class. Classes that are not present are 0 and are not computed. With a
// background, channel 0 is (1 - max over classes of out)^alpha and the classes follow. uint8 holds round(255 out), half to even.
//
// Upsampling is that of torch.nn.functional.interpolate: bilinear, or bicubic with a = -0.75; with align_corners or without. The
// grid may be larger than the output (`multiple`): then its first H rows and W columns count, as in IRN.
//
// Upsampling is linear, so maps of one size are added on their own grid first: 8 maps of 4 scales are upsampled as 4.
// Types: maps float32, float16, bfloat16 (summed in float32), and float64 on the CPU; out any of these, or uint8. Results are the
// same bits on every run and for every number of threads.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "common/dispatch.h"
#include "common/view.h"

namespace wsss::cam_merge {

constexpr int kMaxMaps = 32;

struct Settings {
    bool mean = false;           // divide by the number of maps
    bool minmax = false;         // subtract the minimum too
    bool relu_first = false;     // clamp each map at 0 before it is upsampled
    bool cubic = false;          // bicubic instead of bilinear
    bool align_corners = false;  // the corner pixels of map and grid are the same points
    bool background = false;     // a channel (1 - max)^alpha in front
    double alpha = 1, eps = 1e-5, scale = 1;
    int64_t multiple = 1;  // the grid is the output size rounded up to a multiple of this

    int taps() const { return cubic ? 4 : 2; }
};

struct Shape {
    int64_t n, c, h, w;  // of the output, without the background
    int64_t pixels() const { return h * w; }
    int64_t planes() const { return n * c; }
};

// Maps of one size, as indices into the list.
struct SizeGroup {
    int64_t h, w;
    std::vector<int> maps;
};

inline std::vector<SizeGroup> groups_of(const std::vector<View>& maps) {
    std::vector<SizeGroup> groups;
    for (size_t k = 0; k < maps.size(); ++k) {
        size_t g = 0;
        while (g < groups.size() && (groups[g].h != maps[k].size[2] || groups[g].w != maps[k].size[3])) ++g;
        if (g == groups.size()) groups.push_back({maps[k].size[2], maps[k].size[3], {}});
        groups[g].maps.push_back(static_cast<int>(k));
    }
    return groups;
}

// Output pixel x lies at (x * step + start) / unit on a map's axis of `length` pixels: whole numbers, so exact.
struct Sampling {
    int64_t step, start, unit;
};

inline Sampling sampling_of(int64_t length, int64_t output, const Settings& settings) {
    const int64_t grid = (output + settings.multiple - 1) / settings.multiple * settings.multiple;
    if (settings.align_corners) return {grid > 1 ? length - 1 : 0, 0, grid > 1 ? grid - 1 : 1};
    return {2 * length, length - grid, 2 * grid};
}

int64_t workspace_cpu(const std::vector<View>& maps, const Settings& settings, const View& out, const Context& context);
int64_t workspace_cuda(const std::vector<View>& maps, const Settings& settings, const View& out, const Context& context);
void run_cpu(const std::vector<View>& maps, const std::vector<bool>& flipped, const View& present, const Settings& settings,
             const View& out, const View& workspace, const Context& context);
void run_cuda(const std::vector<View>& maps, const std::vector<bool>& flipped, const View& present, const Settings& settings,
              const View& out, const View& workspace, const Context& context);

inline Shape shape_of(const Settings& settings, const View& out) {
    return {out.size[0], out.size[1] - settings.background, out.size[2], out.size[3]};
}

// ---- The functions to call: checked, on either device --------------------------------------------------------------------

inline void check_inputs(const std::vector<View>& maps, const Settings& settings, const View& out, const Context& context) {
    const bool cpu = context.device.kind == DeviceKind::kCpu;
    if (maps.empty() || maps.size() > kMaxMaps)
        fail("cam_merge", "maps", "hold 1 to " + std::to_string(kMaxMaps) + " maps", std::to_string(maps.size()));
    check_ndim("cam_merge", "out", out, 4, "[N, C, H, W]");
    const Shape shape = shape_of(settings, out);
    constexpr int64_t kLongest = int64_t{1} << 30;
    if (shape.c < 0 || shape.h < 1 || shape.w < 1 || shape.h > kLongest || shape.w > kLongest)
        fail("cam_merge", "out", "have 1 to 2^30 rows and columns, and a channel for the background", out.shape());
    for (const View& map : maps) {
        check_shape("cam_merge", "maps", map, {shape.n, shape.c, -1, -1}, "[N, C, h, w]");
        check_same_dtype("cam_merge", "maps", map, "maps[0]", maps[0]);
        check_device("cam_merge", "maps", map, context);
        if (map.size[2] < 1 || map.size[3] < 1 || map.size[2] > kLongest || map.size[3] > kLongest)
            fail("cam_merge", "maps", "have 1 to 2^30 rows and columns", map.shape());
    }
    if (cpu) {
        check_dtype("cam_merge", "maps", maps[0], {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64});
        check_dtype("cam_merge", "out", out,
                    {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64, DType::kUInt8});
    } else {
        check_dtype("cam_merge", "maps", maps[0], {DType::kFloat32, DType::kFloat16, DType::kBFloat16});
        check_dtype("cam_merge", "out", out, {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kUInt8});
    }
    check_contiguous("cam_merge", "out", out);
    check_device("cam_merge", "out", out, context);
    check_positive("cam_merge", "eps", settings.eps);
    check_positive("cam_merge", "scale", settings.scale);
    check_number("cam_merge", "background", settings.alpha, 0);
    check_whole("cam_merge", "multiple", settings.multiple, 1, kLongest);
    checked_product("cam_merge", "out", {shape.n, shape.c + 2, shape.h + 64, shape.w + 64, 64});
}

inline int64_t workspace(const std::vector<View>& maps, const Settings& settings, const View& out, const Context& context) {
    check_inputs(maps, settings, out, context);
    return WSSS_RUN("cam_merge", workspace, context, maps, settings, out, context);
}

inline void run(const std::vector<View>& maps,     // [N, C, h_k, w_k] each, any strides
                const std::vector<bool>& flipped,  // one a map: it is mirrored left to right
                const View& present,               // [N, C] bool, contiguous; null: all are
                const Settings& settings,
                // outputs
                const View& out,  // [N, C, H, W] or, with a background, [N, 1 + C, H, W], contiguous
                const View& workspace, const Context& context) {
    check_inputs(maps, settings, out, context);
    const Shape shape = shape_of(settings, out);
    if (flipped.size() != maps.size())
        fail("cam_merge", "flipped", "have one entry a map (" + std::to_string(maps.size()) + ")",
             std::to_string(flipped.size()));
    if (present) {
        check_shape("cam_merge", "present", present, {shape.n, shape.c}, "[N, C]");
        check_dtype("cam_merge", "present", present, {DType::kBool});
        check_contiguous("cam_merge", "present", present);
        check_device("cam_merge", "present", present, context);
    }
    if (out.numel() == 0) return;
    check_workspace("cam_merge", workspace, WSSS_RUN("cam_merge", workspace, context, maps, settings, out, context));
    WSSS_RUN("cam_merge", run, context, maps, flipped, present, settings, out, workspace, context);
}

}  // namespace wsss::cam_merge
