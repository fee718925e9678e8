// random_walk on CUDA, in one launch. Grids up to 64 x 64 at radius 5, where devices have clusters, run on chip
// (walk_cluster.cuh); everything else runs out of memory and L2 (walk_grid.cuh). Which of the two it is depends on the grid, the
// radius and the device alone. Weights and state are float32: 16-bit weights would leave the bound of 1e-4 after 256 steps.
//
// Memory: none for the first, 4 (E + 1) + 48 ceil(C / 4) bytes a pixel for the second. Deterministic: a thread owns its pixels.
// Affinities outside [0, 1] are not looked for.
#include "random_walk/random_walk.h"

#include "random_walk/walk_cluster.cuh"
#include "random_walk/walk_grid.cuh"

namespace wsss::random_walk {

template <class T>
bool on_chip(const Shape& shape, const Settings& settings) {
    if (settings.radius != kClusterRadius || shape.n * shape.c > INT32_MAX / kClusterBlocks) return false;
    const Strips strips(shape.h, shape.w);
    return strips.fits && can_launch_cluster("random_walk", kClusterBlocks, random_walk_cluster_kernel<T>,
                                             dim3(static_cast<unsigned>(strips.threads)), strips.shared_bytes());
}

template <class T>
int64_t workspace_bytes(const Shape& shape, const Settings& settings, const Context& context) {
    const DeviceGuard device(context.device.index);
    if (on_chip<T>(shape, settings)) return 0;
    Carver measure;
    carve(shape, pair_offset_count(static_cast<int>(settings.radius)), Padded(shape.h, shape.w, settings.radius - 1), &measure);
    return measure.used();
}

template <class T>
void run_typed(const View& cam, const View& affinity, const Settings& settings, const View& out, const View& workspace,
               const Context& context) {
    const DeviceGuard device(context.device.index);
    const auto stream = stream_of(context);
    const Shape shape{cam.size[0], cam.size[1], cam.size[2], cam.size[3]};
    if (shape.pixels() > INT32_MAX) fail("random_walk", "cam", "have fewer than 2^31 pixels an image on CUDA", cam.shape());
    const Problem<T> problem(cam, affinity, out, settings);
    if (on_chip<T>(shape, settings)) {
        const Strips strips(shape.h, shape.w);
        launch_cluster("random_walk", kClusterBlocks, random_walk_cluster_kernel<T>,
                       dim3(static_cast<unsigned>(shape.n * shape.c * kClusterBlocks)),
                       dim3(static_cast<unsigned>(strips.threads)), strips.shared_bytes(), stream, problem, strips);
        return;
    }
    const Padded padded(shape.h, shape.w, settings.radius - 1);
    Carver carver(workspace.data);
    const Buffers buffers = carve(shape, problem.pairs, padded, &carver);
    const int64_t most = cooperative_blocks("random_walk", random_walk_grid_kernel<T>, dim3(kGridThreads), 0);
    const int64_t wanted = ceil_div(shape.n * ceil_div(shape.c, 4) * shape.pixels(), kGridThreads);
    launch_cooperative("random_walk", random_walk_grid_kernel<T>, dim3(static_cast<unsigned>(wanted < most ? wanted : most)),
                       dim3(kGridThreads), 0, stream, problem, padded, buffers);
}

int64_t workspace_cuda(const Shape& shape, DType dtype, const Settings& settings, const Context& context) {
    return with_device_type(dtype, [&](auto type) { return workspace_bytes<decltype(type)>(shape, settings, context); });
}

void run_cuda(const View& cam, const View& affinity, const Settings& settings, const View& out, const View& workspace,
              const Context& context) {
    with_device_type(cam.dtype, [&](auto type) { run_typed<decltype(type)>(cam, affinity, settings, out, workspace, context); });
}

}  // namespace wsss::random_walk
