// Device-wide stable sort of (key, value) pairs and running sums: CUB under nvcc, the C++ library under simt.
//     sort_pairs:     keys ascending by the bits [begin_bit, end_bit), equal ones in input order
//     exclusive_sum:  out[i] = in[0] + ... + in[i-1]        inclusive_sum: out[i] = in[0] + ... + in[i]
// Memory: the caller brings workspace of at least NAME_workspace(...) bytes; input and output do not overlap. Nothing is
// allocated and the host does not wait. Deterministic: integers, and a stable order. count = 0 is legal.
#pragma once

#include "common/cuda.cuh"

#ifdef __CUDACC__
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#else
#include <algorithm>
#include <numeric>
#include <vector>
#endif

namespace wsss {

namespace sort_scan {

template <class Key>
constexpr bool is_key = std::is_same<Key, uint32_t>::value || std::is_same<Key, uint64_t>::value;
template <class T>
constexpr bool is_sum = std::is_same<T, int32_t>::value || std::is_same<T, uint32_t>::value || std::is_same<T, int64_t>::value;

inline void require_workspace(const char* op, int64_t given, int64_t needed) {
    if (given < needed)
        throw std::invalid_argument(std::string(op) + ": 'workspace' must hold at least " + std::to_string(needed) +
                                    " bytes, got " + std::to_string(given));
}

#ifdef __CUDACC__

// CUB reports its need when the workspace pointer is null; it asks the current device, so there must be one.
template <class F>
int64_t cub_bytes(const char* op, F call) {
    size_t bytes = 0;
    check_cuda(op, call(nullptr, bytes));
    return static_cast<int64_t>(bytes);
}

template <class F>
void cub_run(const char* op, void* workspace, int64_t workspace_bytes, F call) {
    require_workspace(op, workspace_bytes, cub_bytes(op, call));
    size_t bytes = static_cast<size_t>(workspace_bytes);
    check_cuda(op, call(workspace, bytes));
}

template <class Key>
auto sort_call(const Key* keys_in, Key* keys_out, const uint32_t* values_in, uint32_t* values_out, int64_t count, int begin_bit,
               int end_bit, cudaStream_t stream) {
    return [=](void* workspace, size_t& bytes) {
        return cub::DeviceRadixSort::SortPairs(workspace, bytes, keys_in, keys_out, values_in, values_out, count, begin_bit,
                                               end_bit, stream);
    };
}

template <bool Inclusive, class T>
auto sum_call(const T* in, T* out, int64_t count, cudaStream_t stream) {
    return [=](void* workspace, size_t& bytes) {
        if constexpr (Inclusive)
            return cub::DeviceScan::InclusiveSum(workspace, bytes, in, out, count, stream);
        else
            return cub::DeviceScan::ExclusiveSum(workspace, bytes, in, out, count, stream);
    };
}

#else

// The library's own scratch memory stands in for CUB's; the workspace is checked and overwritten, so that nobody relies on it.
constexpr int64_t kWorkspaceStep = 256;
inline int64_t workspace_for(int64_t bytes) {
    return (bytes / kWorkspaceStep + 1) * kWorkspaceStep;
}

inline void use_workspace(const char* op, void* workspace, int64_t workspace_bytes, int64_t needed) {
    require_workspace(op, workspace_bytes, needed);
    if (workspace) std::memset(workspace, simt::current_options().poison, static_cast<size_t>(needed));
}

#endif
}  // namespace sort_scan

template <class Key>
int64_t sort_pairs_workspace(const char* op, int64_t count) {
    static_assert(sort_scan::is_key<Key>, "keys are uint32_t or uint64_t");
#ifdef __CUDACC__
    const auto call = sort_scan::sort_call<Key>(nullptr, nullptr, nullptr, nullptr, count, 0, sizeof(Key) * 8, nullptr);
    return sort_scan::cub_bytes(op, call);
#else
    static_cast<void>(op);
    return sort_scan::workspace_for(count * static_cast<int64_t>(sizeof(Key) + sizeof(uint32_t)));
#endif
}

template <class Key>
void sort_pairs(const char* op, const Key* keys_in, Key* keys_out, const uint32_t* values_in, uint32_t* values_out, int64_t count,
                int begin_bit, int end_bit, void* workspace, int64_t workspace_bytes, cudaStream_t stream) {
    static_assert(sort_scan::is_key<Key>, "keys are uint32_t or uint64_t");
    if (count <= 0) return;
#ifdef __CUDACC__
    sort_scan::cub_run(op, workspace, workspace_bytes,
                       sort_scan::sort_call(keys_in, keys_out, values_in, values_out, count, begin_bit, end_bit, stream));
#else
    static_cast<void>(stream);
    sort_scan::use_workspace(op, workspace, workspace_bytes, sort_pairs_workspace<Key>(op, count));
    const int width = end_bit - begin_bit;
    const Key mask = width >= static_cast<int>(sizeof(Key) * 8) ? ~Key{0} : static_cast<Key>((Key{1} << width) - 1);
    std::vector<int64_t> order(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(), [=](int64_t a, int64_t b) {
        return ((keys_in[a] >> begin_bit) & mask) < ((keys_in[b] >> begin_bit) & mask);
    });
    for (int64_t i = 0; i < count; ++i) {
        const int64_t from = order[static_cast<size_t>(i)];
        keys_out[i] = keys_in[from];
        values_out[i] = values_in[from];
    }
#endif
}

template <class T>
int64_t sum_workspace(const char* op, int64_t count) {
    static_assert(sort_scan::is_sum<T>, "sums are of int32_t, uint32_t or int64_t");
#ifdef __CUDACC__
    const T* none = nullptr;
    const int64_t exclusive =
        sort_scan::cub_bytes(op, sort_scan::sum_call<false>(none, static_cast<T*>(nullptr), count, nullptr));
    const int64_t inclusive = sort_scan::cub_bytes(op, sort_scan::sum_call<true>(none, static_cast<T*>(nullptr), count, nullptr));
    return exclusive > inclusive ? exclusive : inclusive;
#else
    static_cast<void>(op);
    return sort_scan::workspace_for(count / 64 * static_cast<int64_t>(sizeof(T)));
#endif
}

template <class T>
void exclusive_sum(const char* op, const T* in, T* out, int64_t count, void* workspace, int64_t workspace_bytes,
                   cudaStream_t stream) {
    static_assert(sort_scan::is_sum<T>, "sums are of int32_t, uint32_t or int64_t");
    if (count <= 0) return;
#ifdef __CUDACC__
    sort_scan::cub_run(op, workspace, workspace_bytes, sort_scan::sum_call<false>(in, out, count, stream));
#else
    static_cast<void>(stream);
    sort_scan::use_workspace(op, workspace, workspace_bytes, sum_workspace<T>(op, count));
    std::exclusive_scan(in, in + count, out, T{0});
#endif
}

template <class T>
void inclusive_sum(const char* op, const T* in, T* out, int64_t count, void* workspace, int64_t workspace_bytes,
                   cudaStream_t stream) {
    static_assert(sort_scan::is_sum<T>, "sums are of int32_t, uint32_t or int64_t");
    if (count <= 0) return;
#ifdef __CUDACC__
    sort_scan::cub_run(op, workspace, workspace_bytes, sort_scan::sum_call<true>(in, out, count, stream));
#else
    static_cast<void>(stream);
    sort_scan::use_workspace(op, workspace, workspace_bytes, sum_workspace<T>(op, count));
    std::inclusive_scan(in, in + count, out);
#endif
}

}  // namespace wsss
