// slic on the GPU: one cooperative kernel for the rounds, the connected pieces, the merging and the numbering.
//
// Images are cut into the tiles of slic_rules.h, 512 pixels and as many threads; a block takes a tile after the other. There is
// one barrier of the whole grid a round: every block works out the new centres of its tile's candidates for itself, from the
// totals of the round before, instead of waiting for somebody to do it. Totals are kept three times over, so that one set is
// read, one is added to and one is set to zero. Everything is a whole number: the order of atomics does not show, and the labels
// are those of the CPU. slic_assign.cuh holds the rounds, slic_segments.cuh what follows.
//
// Memory: 36 bytes a pixel, 20 for each candidate of a tile, 164 for each centre.

#include <algorithm>

#include "slic/slic_assign.cuh"
#include "slic/slic_segments.cuh"

namespace wsss::slic {
namespace {

__global__ void __launch_bounds__(kThreads, 3) slic_kernel(Work work) {
    for (int64_t round = 0; round <= work.iterations; ++round) {
        for (int64_t tile = blockIdx.x; tile < work.tiles(); tile += gridDim.x) run_tile(work, tile, round);
        clear_totals(work, round + 1);
        grid_sync();
    }
    join_across_tiles(work);
    grid_sync();
    gather_pieces(work);
    grid_sync();
    for (int turn = 0;; ++turn) {
        offer_neighbours(work, turn);
        grid_sync();
        if (!work.offered[turn % 2]) break;
        join_segments(work, turn);
        grid_sync();
    }
    count_segments(work);
    grid_sync();
    number_segments(work);
    grid_sync();
    write_numbers(work);
}

Work plan_work(const Shape& shape, const Plan& plan, Carver* carver) {
    Work work{};
    work.plan = plan;
    work.images = shape.n;
    work.pixels = shape.pixels();
    work.chunks = ceil_div(work.pixels, kThreads);
    const int64_t all = work.images * work.pixels, labels = work.images * plan.labels();
    work.offered = carver->take<int>(2);
    for (auto& totals : work.totals) totals = carver->take<Total>(labels * kFields);
    work.centre = carver->take<Centre>(labels);
    work.candidate = carver->take<Centre>(work.tiles() << plan.slot_bits);
    work.starts = carver->take<int>(work.images * work.chunks);
    work.lab = carver->take<uint32_t>(all);
    work.first = reinterpret_cast<int*>(work.lab);
    work.piece = carver->take<int>(all);
    work.parent = carver->take<int>(all);
    work.segment = carver->take<int>(all);
    work.size = carver->take<int>(all);
    for (auto& key : work.key) key = carver->take<Key>(all);
    return work;
}

}  // namespace

int64_t workspace_cuda(const Shape& shape, int64_t segments, const Context&) {
    Carver measure;
    plan_work(shape, make_plan(shape.h, shape.w, segments, 1), &measure);
    return measure.used();
}

void run_cuda(const View& image, const View& mask, const Plan& plan, int64_t iterations, const View& out, const View& workspace,
              const Context& context) {
    const DeviceGuard guard(context.device.index);
    const auto stream = stream_of(context);
    Carver carver(workspace.data);
    Work work = plan_work({image.size[0], plan.height, plan.width}, plan, &carver);
    work.iterations = iterations;
    work.image = Strided<uint8_t>(image);
    work.mask.data = mask.as<const uint8_t>();
    work.mask.n = mask.stride[0];
    work.mask.y = mask.stride[1];
    work.mask.x = mask.stride[2];
    work.label = out.as<int>();
    const int64_t totals = work.images * plan.labels() * kFields * static_cast<int64_t>(sizeof(Total));
    const auto* const cleared = reinterpret_cast<unsigned char*>(work.offered);  // the flags and the first set of totals
    const auto* const end = reinterpret_cast<unsigned char*>(work.totals[0]) + totals;
    fill_bytes("slic", work.offered, 0, static_cast<size_t>(end - cleared), stream);
    const int64_t resident = cooperative_blocks("slic", slic_kernel, dim3(kThreads), 0);
    const dim3 grid(static_cast<unsigned>(std::max<int64_t>(1, std::min(resident, work.tiles()))));
    launch_cooperative("slic", slic_kernel, grid, dim3(kThreads), 0, stream, work);
}

}  // namespace wsss::slic
