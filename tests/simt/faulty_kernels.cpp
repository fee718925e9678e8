// Runs one faulty kernel a process and, where the fault changes values, compares with what the author of the kernel meant.
#include "faulty_kernels.cuh"
#include "simt/check_main.h"

using namespace wsss;
using namespace wsss::check;

namespace {

template <class T, class F>
void expect_values(const HostArray<T>& got, F expected) {
    for (int64_t i = 0; i < got.size(); ++i)
        if (got[i] != static_cast<T>(expected(i))) return expect(false, "wrong value at element " + std::to_string(i));
}

// Runs a kernel that takes only its output, one block of `threads`.
template <class T>
HostArray<T> run_kernel(const char* name, void (*kernel)(T*), unsigned threads, size_t shared = 0) {
    HostArray<T> out(threads);
    launch(name, kernel, 1, threads, shared, nullptr, out.data());
    return out;
}

struct Input : HostArray<float> {
    explicit Input(int64_t count) : HostArray<float>(count) {
        for (int64_t i = 0; i < count; ++i) (*this)[i] = static_cast<float>(i);
    }
};

}  // namespace

WSSS_CASE(divergent_barrier) {
    run_kernel("divergent_barrier", faulty::divergent_barrier_kernel, 64);
}
WSSS_CASE(unequal_trips) {
    run_kernel("unequal_trips", faulty::unequal_trips_kernel, 64);
}
WSSS_CASE(exit_before_barrier) {
    HostArray<int> out(64);
    launch("exit_before_barrier", faulty::exit_before_barrier_kernel, 1, 64, 0, nullptr, out.data(), 50);
}

static void missing_barrier(int shift) {
    HostArray<int> out(64);
    launch("missing_barrier", faulty::missing_barrier_kernel, 1, 64, 0, nullptr, out.data(), shift);
    expect_values(out, [=](int64_t i) { return (i + shift) % 64; });
}
WSSS_CASE(missing_barrier_upper) {
    missing_barrier(1);
}
WSSS_CASE(missing_barrier_lower) {
    missing_barrier(63 - 31);
}

WSSS_CASE(missing_second_barrier) {
    HostArray<int> out(64);
    launch("missing_second_barrier", faulty::missing_second_barrier_kernel, 1, 64, 0, nullptr, out.data(), 4);
    expect_values(out, [](int64_t i) { return 600 + 4 * (63 - i); });
}
WSSS_CASE(shuffle_as_fence) {
    run_kernel("shuffle_as_fence", faulty::shuffle_as_fence_kernel, 32);
}
WSSS_CASE(missing_cluster_barrier) {
    HostArray<int> out(4);
    launch_cluster("missing_cluster_barrier", 2, faulty::missing_cluster_barrier_kernel, 4, 32, 0, nullptr, out.data());
}

WSSS_CASE(shuffle_absent_lane) {
    run_kernel("shuffle_absent_lane", faulty::shuffle_absent_lane_kernel, 32);
}
WSSS_CASE(shuffle_source) {
    run_kernel("shuffle_source", faulty::shuffle_source_kernel, 32);
}
WSSS_CASE(partial_warp) {
    run_kernel("partial_warp", faulty::partial_warp_kernel, 40);
}
WSSS_CASE(warp_divergence) {
    run_kernel("warp_divergence", faulty::warp_divergence_kernel, 32);
}
WSSS_CASE(own_lane) {
    run_kernel("own_lane", faulty::own_lane_kernel, 32);
}

WSSS_CASE(carve_overflow) {
    HostArray<float> out(32);
    launch("carve_overflow", faulty::carve_overflow_kernel, 1, 32, 2 * carve_bytes<float>(32), nullptr, out.data(), 32);
}
WSSS_CASE(carve_beyond) {
    run_kernel("carve_beyond", faulty::carve_beyond_kernel, 32, 2 * carve_bytes<float>(32));
}
WSSS_CASE(static_overflow) {
    HostArray<int> out(64);
    launch("static_overflow", faulty::static_overflow_kernel, 1, 64, 0, nullptr, out.data(), 1);
}
WSSS_CASE(static_overread) {
    HostArray<int> out(64);
    launch("static_overread", faulty::static_overread_kernel, 1, 64, 0, nullptr, out.data(), 1);
}
WSSS_CASE(row_spill) {
    HostArray<int> out(8);
    launch("row_spill", faulty::row_spill_kernel, 1, 32, 0, nullptr, out.data(), 8);
}
WSSS_CASE(global_overflow) {
    HostArray<int> out(100);
    launch("global_overflow", faulty::global_overflow_kernel, 4, 32, 0, nullptr, out.data(), 100);
}
WSSS_CASE(misaligned_vector) {
    const Input in(200);
    HostArray<float> out(32);
    launch("misaligned_vector", faulty::misaligned_vector_kernel, 1, 32, 0, nullptr, in.data(), out.data());
}
WSSS_CASE(misaligned_ldmatrix) {
    run_kernel("misaligned_ldmatrix", faulty::misaligned_ldmatrix_kernel, 32);
}

WSSS_CASE(uninitialised_shared) {
    const auto out = run_kernel("uninitialised_shared", faulty::uninitialised_shared_kernel, 64);
    record("out", out);
}
WSSS_CASE(cp_async_early) {
    const Input in(64);
    HostArray<float> out(64);
    launch("cp_async_early", faulty::cp_async_early_kernel, 1, 64, 0, nullptr, in.data(), out.data());
    expect_values(out, [](int64_t i) { return i; });
}
WSSS_CASE(cp_async_group) {
    const Input in(128);
    HostArray<float> out(64);
    launch("cp_async_group", faulty::cp_async_group_kernel, 1, 64, 0, nullptr, in.data(), out.data());
    expect_values(out, [](int64_t i) { return 64 + 2 * i; });
}
WSSS_CASE(cp_async_refill) {
    const Input in(256);
    HostArray<float> out(64);
    launch("cp_async_refill", faulty::cp_async_refill_kernel, 1, 64, 0, nullptr, in.data(), out.data(), 4);
    expect_values(out, [](int64_t i) { return 4 * (63 - i) + 6 * 64; });
}

WSSS_CASE(cross_block_add) {
    HostArray<float> total(1);
    total[0] = 0;
    launch("cross_block_add", faulty::cross_block_add_kernel, 3, 32, 0, nullptr, total.data());
}
WSSS_CASE(missing_fence) {
    HostArray<float> partial(3), total(1);
    HostArray<unsigned> ticket(1);
    ticket[0] = 0;
    launch("missing_fence", faulty::missing_fence_kernel, 3, 32, 0, nullptr, partial.data(), ticket.data(), total.data());
}
WSSS_CASE(endless_wait) {
    HostArray<int> flag(1);
    flag[0] = 0;
    launch("endless_wait", faulty::endless_wait_kernel, 1, 32, 0, nullptr, flag.data());
}

WSSS_CHECK_MAIN()
