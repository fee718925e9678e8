// Runs the correct kernels, the twins of the matrix instructions, and sort and scan, against plain loops on the host.
#include <algorithm>
#include <stdexcept>
#include <thread>

#include "common/sort_scan.cuh"
#include "good_kernels.cuh"
#include "simt/check_main.h"

using namespace wsss;
using namespace wsss::check;

namespace {

template <class T, class F>
void expect_equal(const char* what, const HostArray<T>& got, F expected) {
    for (int64_t i = 0; i < got.size(); ++i)
        if (got[i] != static_cast<T>(expected(i)))
            return expect(false, std::string(what) + ": element " + std::to_string(i) + " is " + std::to_string(got[i]) +
                                     ", expected " + std::to_string(expected(i)));
}

// Integers from -3 to 3: sums of their products are exact in every type here, so results must be equal, not close.
template <class T>
void fill_integers(const HostArray<T>& array, uint64_t seed) {
    Random random(seed);
    for (int64_t i = 0; i < array.size(); ++i) array[i] = from_float<T>(static_cast<float>(random.bits() % 7) - 3.0f);
}

template <class T>
void check_mma() {
    HostArray<T> a(16 * 16), b(16 * 8);
    HostArray<float> d(16 * 8);
    fill_integers(a, 1);
    fill_integers(b, 2);
    launch("mma_plain", good::mma_plain_kernel<T>, 1, 32, 0, nullptr, a.data(), b.data(), d.data());
    expect_equal("mma", d, [&](int64_t i) {
        float sum = 1.0f;
        for (int k = 0; k < 16; ++k) sum += to_float(a[i / 8 * 16 + k]) * to_float(b[k * 8 + i % 8]);
        return sum;
    });
    record("mma", d);
}

template <class T>
void check_attention() {
    HostArray<T> q(16 * 16), k(32 * 16), v(32 * 8);
    HostArray<float> out(16 * 8);
    fill_integers(q, 3);
    fill_integers(k, 4);
    fill_integers(v, 5);
    const size_t shared = carve_bytes<T>(16 * 16) + carve_bytes<T>(32 * 16) + carve_bytes<T>(32 * 8);
    launch("relu_attention", good::relu_attention_kernel<T>, 1, 32, shared, nullptr, q.data(), k.data(), v.data(), out.data());
    expect_equal("attention", out, [&](int64_t i) {
        float sum = 0.0f;
        for (int key = 0; key < 32; ++key) {
            float s = 0.0f;
            for (int c = 0; c < 16; ++c) s += to_float(q[i / 8 * 16 + c]) * to_float(k[key * 16 + c]);
            sum += std::fmax(s, 0.0f) * to_float(v[key * 8 + i % 8]);
        }
        return sum;
    });
    record("attention", out);
}

template <class Key>
void check_sort(int begin_bit, int end_bit) {
    const int64_t count = 1237;
    HostArray<Key> keys(count), sorted_keys(count);
    HostArray<uint32_t> values(count), sorted_values(count);
    Random random(6);
    std::vector<uint32_t> order(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
        keys[i] = static_cast<Key>(random.bits() & 0x7700000077ull) * static_cast<Key>(0x101);  // many equal keys
        values[i] = static_cast<uint32_t>(i) * 3;
        order[static_cast<size_t>(i)] = static_cast<uint32_t>(i);
    }
    const auto field = [&](uint32_t i) {
        const uint64_t key = static_cast<uint64_t>(keys[i]) >> begin_bit;
        return end_bit - begin_bit == 64 ? key : key & ((uint64_t{1} << (end_bit - begin_bit)) - 1);
    };
    std::stable_sort(order.begin(), order.end(), [&](uint32_t x, uint32_t y) { return field(x) < field(y); });
    HostArray<uint8_t> workspace(sort_pairs_workspace<Key>("sort", count));
    sort_pairs("sort", keys.data(), sorted_keys.data(), values.data(), sorted_values.data(), count, begin_bit, end_bit,
               workspace.data(), workspace.size(), nullptr);
    expect_equal("sorted keys", sorted_keys, [&](int64_t i) { return keys[order[static_cast<size_t>(i)]]; });
    expect_equal("sorted values", sorted_values, [&](int64_t i) { return order[static_cast<size_t>(i)] * 3; });
}

template <class T>
void check_sums() {
    const int64_t count = 777;
    HostArray<T> in(count), before(count), with(count);
    for (int64_t i = 0; i < count; ++i) in[i] = static_cast<T>(i % 13);
    HostArray<uint8_t> workspace(sum_workspace<T>("sum", count));
    exclusive_sum("sum", in.data(), before.data(), count, workspace.data(), workspace.size(), nullptr);
    inclusive_sum("sum", in.data(), with.data(), count, workspace.data(), workspace.size(), nullptr);
    T sum = 0;
    for (int64_t i = 0; i < count; ++i) {
        expect(before[i] == sum, "exclusive_sum at " + std::to_string(i));
        sum = static_cast<T>(sum + in[i]);
        expect(with[i] == sum, "inclusive_sum at " + std::to_string(i));
    }
}

template <class F>
void expect_throw(const char* what, F call) {
    try {
        call();
    } catch (const std::exception&) {
        return;
    }
    expect(false, std::string(what) + ": no exception");
}

}  // namespace

WSSS_CASE(block_sum) {
    HostArray<float> x(1001), out(5);
    for (int64_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17);
    launch("block_sum", good::block_sum_kernel, 5, 96, 0, nullptr, x.data(), out.data(), x.size());
    float sum = 0, expected = 0;
    for (int64_t i = 0; i < x.size(); ++i) expected += x[i];
    for (int64_t i = 0; i < out.size(); ++i) sum += out[i];
    expect(sum == expected, "block_sum");
    record("block_sum", out);
}

WSSS_CASE(transpose) {
    const int rows = 37, columns = 21;
    HostArray<float> in(rows * columns), out(rows * columns);
    fill_uniform(in, 7);
    launch("transpose", good::transpose_kernel, 2, dim3(16, 16), 0, nullptr, in.data(), out.data(), rows, columns);
    expect_equal("transpose", out, [&](int64_t i) { return in[i % rows * columns + i / rows]; });
    record("transpose", out);
}

WSSS_CASE(mma_bf16) {
    check_mma<bf16>();
}
WSSS_CASE(mma_f16) {
    check_mma<f16>();
}
WSSS_CASE(attention_bf16) {
    check_attention<bf16>();
}
WSSS_CASE(attention_f16) {
    check_attention<f16>();
}

WSSS_CASE(ldmatrix) {
    HostArray<uint16_t> in(32 * 8);
    HostArray<uint32_t> out(32 * 12);
    for (int64_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i * 7 + 1);
    launch("ldmatrix", good::ldmatrix_kernel, 1, 32, 0, nullptr, in.data(), out.data());
    expect_equal("ldmatrix", out, [&](int64_t i) {
        const int64_t lane = i / 12, place = i % 12;
        const bool transposed = place / 4 == 1 || place >= 10;
        const int64_t block = place < 8 ? place % 4 : place % 2, g = lane / 4, t = 2 * (lane % 4);
        const auto at = [&](int64_t row, int64_t column) { return static_cast<uint32_t>(in[(8 * block + row) * 8 + column]); };
        return transposed ? at(t, g) | at(t + 1, g) << 16 : at(g, t) | at(g, t + 1) << 16;
    });
}

WSSS_CASE(pipeline) {
    for (const int count : {1, 64, 200, 333}) {
        HostArray<float> x(count), out(64);
        for (int64_t i = 0; i < count; ++i) x[i] = static_cast<float>(i);
        launch("pipeline", good::pipeline_kernel, 1, 64, 0, nullptr, x.data(), out.data(), count);
        expect_equal("pipeline", out, [&](int64_t i) {
            float sum = 0;
            for (int64_t at = 63 - i; at < count; at += 64) sum += x[at];
            return sum;
        });
        record("pipeline", out);
    }
}

WSSS_CASE(atomics) {
    HostArray<uint8_t> x(500);
    HostArray<uint32_t> counts(16);
    for (int64_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i * i % 16);
    fill_bytes("histogram", counts.data(), 0, 16 * sizeof(uint32_t), nullptr);
    launch("histogram", good::histogram_kernel, 3, 64, 0, nullptr, x.data(), counts.data(), 500);
    expect_equal("histogram", counts, [&](int64_t v) { return std::count(x.data(), x.data() + 500, static_cast<uint8_t>(v)); });

    HostArray<float> y(16), partial(8), total(1);
    HostArray<unsigned> ticket(1);
    for (int64_t i = 0; i < 16; ++i) y[i] = static_cast<float>(i);
    ticket[0] = 0;
    launch("last_block", good::last_block_kernel, 8, 32, 0, nullptr, y.data(), partial.data(), ticket.data(), total.data());
    expect(total[0] == 120.0f, "last_block");

    HostArray<int> out(1);
    launch("flag", good::flag_kernel, 1, 64, 0, nullptr, out.data());
    expect(out[0] == 42, "flag");
}

WSSS_CASE(masks_and_votes) {
    HostArray<int> out(48);
    launch("masks", good::masks_kernel, 1, 48, 0, nullptr, out.data());
    expect_equal("masks", out, [](int64_t i) {
        const int lane = static_cast<int>(i % 32), place = lane % 16;
        const int shuffled = (place == 15 ? lane : lane + 1) + (place < 2 ? lane : lane - 2);
        return 30000 + shuffled + (lane < 8 ? 100 * (7 - lane) : 4000);
    });
    HostArray<int> votes(64);
    launch("votes", good::votes_kernel, 1, 64, 0, nullptr, votes.data());
    expect_equal("votes", votes, [](int64_t i) { return 22 + 22 + 64 + 3 * 1000 + 6 * ((i + 17) % 64); });
}

WSSS_CASE(cluster_and_grid) {
    HostArray<int> out(6), x(6), total(1), sums(6);
    launch_cluster("ring", 2, good::cluster_ring_kernel, 6, 64, 0, nullptr, out.data());
    expect_equal("ring", out, [](int64_t i) { return (i ^ 1) * 10; });
    for (int64_t i = 0; i < 6; ++i) x[i] = static_cast<int>(i);
    total[0] = 0;
    launch_cooperative("grid_sum", good::grid_sum_kernel, 6, 40, 0, nullptr, x.data(), total.data(), sums.data());
    expect_equal("grid_sum", sums, [](int64_t) { return 15; });
}

// Several host threads may launch, as Python threads do; the launches then follow one another.
WSSS_CASE(host_threads) {
    const auto work = [](int start, HostArray<int>* sums) {
        HostArray<int> x(4), total(1);
        for (int turn = 0; turn < 5; ++turn) {
            for (int64_t i = 0; i < 4; ++i) x[i] = start + static_cast<int>(i);
            total[0] = 0;
            launch_cooperative("grid_sum", good::grid_sum_kernel, 4, 40, 0, nullptr, x.data(), total.data(), sums->data());
        }
    };
    HostArray<int> first(4), second(4);
    std::thread other(work, 100, &first);
    work(200, &second);
    other.join();
    expect_equal("first", first, [](int64_t) { return 406; });
    expect_equal("second", second, [](int64_t) { return 806; });
}

WSSS_CASE(sort_and_scan) {
    check_sort<uint32_t>(0, 32);
    check_sort<uint32_t>(4, 15);
    check_sort<uint64_t>(0, 64);
    check_sort<uint64_t>(3, 40);
    check_sums<int32_t>();
    check_sums<uint32_t>();
    check_sums<int64_t>();
    HostArray<int32_t> none(0);
    exclusive_sum("sum", none.data(), none.data(), 0, nullptr, 0, nullptr);
    expect_throw("small workspace", [&] { inclusive_sum("sum", none.data(), none.data(), 100, nullptr, 0, nullptr); });
}

WSSS_CASE(refused_launches) {
    HostArray<int> out(48);
    const auto try_launch = [&](dim3 grid, dim3 block, size_t shared) {
        launch("masks", good::masks_kernel, grid, block, shared, nullptr, out.data());
    };
    expect_throw("grid 0", [&] { try_launch(0, 48, 0); });
    expect_throw("grid.y", [&] { try_launch(dim3(1, 65536), 48, 0); });
    expect_throw("block", [&] { try_launch(1, 1056, 0); });
    expect_throw("shared", [&] { try_launch(1, 48, 228 * 1024); });
    expect_throw("cluster", [&] { launch_cluster("ring", 2, good::cluster_ring_kernel, 3, 32, 0, nullptr, out.data()); });
    try_launch(1, 48, 227 * 1024);  // the refusals left nothing behind
}

WSSS_CHECK_MAIN()
