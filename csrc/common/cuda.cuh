// One vocabulary for kernels under two compilers: nvcc (device code), and the host compiler with -DWSSS_SIMT (simt/simt.h, an
// emulator used by tests). Launching, shared memory, 16-bit types. Kernels take shared memory only through these macros:
//     WSSS_SHARED(tile, float[16][17]);                  a static array
//     WSSS_DYNAMIC_SHARED(base); size_t offset = 0;      the dynamic block ...
//     WSSS_CARVE(float, sums, base, offset, count);      ... cut into arrays; size it on the host with carve_bytes<float>(count)
// Memory: nothing is allocated here. Determinism: launches go to the given stream, in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>

#ifdef __CUDACC__
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "simt/simt.h"
#endif

namespace wsss {

constexpr size_t kCarveAlignment = 128;
constexpr size_t kDefaultSharedLimit = 48 * 1024;

template <class T>
__host__ __device__ constexpr size_t carve_bytes(size_t count) {
    return (count * sizeof(T) + kCarveAlignment - 1) / kCarveAlignment * kCarveAlignment;
}

template <class T>
using Identity = T;  // lets a macro declare a variable of array type: Identity<float[4]> x;

[[noreturn]] inline void launch_failed(const char* op, const std::string& reason) {
    throw std::runtime_error(std::string(op) + ": CUDA launch failed: " + reason);
}

// The limits every supported GPU shares; a launch outside them is a mistake of the caller's arithmetic.
inline void check_launch(const char* op, dim3 grid, dim3 block) {
    const auto text = [](dim3 d) {
        return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
    };
    const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
    if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        launch_failed(op, "grid " + text(grid) + " is outside (1..2147483647, 1..65535, 1..65535)");
    if (threads < 1 || threads > 1024 || block.z > 64)
        launch_failed(op,
                      "block " + text(block) + " has " + std::to_string(threads) + " threads, 1 to 1024 are allowed (z <= 64)");
}

#ifdef __CUDACC__
// ================================================ nvcc
// ==========================================================================

#define WSSS_SHARED(name, ...) __shared__ __align__(16)::wsss::Identity<__VA_ARGS__> name
#define WSSS_DYNAMIC_SHARED(base)                                                \
    extern __shared__ __align__(128) unsigned char wsss_dynamic_shared_memory[]; \
    unsigned char* const base = wsss_dynamic_shared_memory
#define WSSS_CARVE(type, name, base, offset, count)                \
    type* const name = reinterpret_cast<type*>((base) + (offset)); \
    (offset) += ::wsss::carve_bytes<type>(static_cast<size_t>(count))

using bf16 = __nv_bfloat16;
using f16 = __half;

__host__ __device__ __forceinline__ float to_float(float value) {
    return value;
}
__host__ __device__ __forceinline__ float to_float(bf16 value) {
    return __bfloat162float(value);
}
__host__ __device__ __forceinline__ float to_float(f16 value) {
    return __half2float(value);
}

template <class T>
__host__ __device__ __forceinline__ T from_float(float value);
template <>
__host__ __device__ __forceinline__ float from_float<float>(float value) {
    return value;
}
template <>
__host__ __device__ __forceinline__ bf16 from_float<bf16>(float value) {
    return __float2bfloat16_rn(value);
}
template <>
__host__ __device__ __forceinline__ f16 from_float<f16>(float value) {
    return __float2half_rn(value);
}

__device__ __forceinline__ uint32_t bits_of(bf16 value) {
    return __bfloat16_as_ushort(value);
}
__device__ __forceinline__ uint32_t bits_of(f16 value) {
    return __half_as_ushort(value);
}
template <class T>
__device__ __forceinline__ T from_bits(uint32_t bits);
template <>
__device__ __forceinline__ bf16 from_bits<bf16>(uint32_t bits) {
    return __ushort_as_bfloat16(static_cast<unsigned short>(bits));
}
template <>
__device__ __forceinline__ f16 from_bits<f16>(uint32_t bits) {
    return __ushort_as_half(static_cast<unsigned short>(bits));
}

inline void check_cuda(const char* op, cudaError_t status) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // the error is reported here: do not let an unrelated later call report it again
    throw std::runtime_error(std::string(op) + ": CUDA error: " + cudaGetErrorString(status));
}

// Makes `index` the current device until the end of the scope.
class DeviceGuard {
public:
    explicit DeviceGuard(int index) {
        check_cuda("device", cudaGetDevice(&previous_));
        if (index != previous_) check_cuda("device", cudaSetDevice(index));
        changed_ = index != previous_;
    }
    ~DeviceGuard() {
        if (changed_) cudaSetDevice(previous_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

private:
    int previous_ = 0;
    bool changed_ = false;
};

inline int device_attribute(const char* op, cudaDeviceAttr attribute) {
    int device = 0, value = 0;
    check_cuda(op, cudaGetDevice(&device));
    check_cuda(op, cudaDeviceGetAttribute(&value, attribute, device));
    return value;
}
inline int multiprocessor_count(const char* op) {
    return device_attribute(op, cudaDevAttrMultiProcessorCount);
}

inline void fill_bytes(const char* op, void* pointer, int value, size_t bytes, cudaStream_t stream) {
    if (bytes > 0) check_cuda(op, cudaMemsetAsync(pointer, value, bytes, stream));
}

template <class... P, class... A>
void launch_config(const char* op, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   cudaLaunchAttribute* attributes, unsigned attribute_count, A... args) {
    check_launch(op, grid, block);
    if (shared_bytes > kDefaultSharedLimit) {
        const cudaError_t raised = cudaFuncSetAttribute(
            reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
        if (raised != cudaSuccess) {
            cudaGetLastError();
            launch_failed(op, std::to_string(shared_bytes) + " bytes of shared memory: " + cudaGetErrorString(raised));
        }
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = attribute_count;
    const cudaError_t status = cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
    if (status != cudaSuccess) {
        cudaGetLastError();
        launch_failed(op, cudaGetErrorString(status));
    }
}

template <class... P, class... A>
void launch(const char* op, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, A... args) {
    launch_config(op, kernel, grid, block, shared_bytes, stream, nullptr, 0, args...);
}

template <class... P, class... A>
void launch_cooperative(const char* op, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                        A... args) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    launch_config(op, kernel, grid, block, shared_bytes, stream, &attribute, 1, args...);
}

template <class... P, class... A>
void launch_cluster(const char* op, unsigned cluster_size, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                    cudaStream_t stream, A... args) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = cluster_size;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    launch_config(op, kernel, grid, block, shared_bytes, stream, &attribute, 1, args...);
}

// How many blocks may run together in a cooperative launch on the current device.
template <class... P>
int64_t cooperative_blocks(const char* op, void (*kernel)(P...), dim3 block, size_t shared_bytes) {
    int blocks = 0;
    check_cuda(op, cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, static_cast<int>(block.x * block.y * block.z),
                                                                 shared_bytes));
    return static_cast<int64_t>(blocks) * multiprocessor_count(op);
}

// Whether the kernel can run in clusters on the current device: clusters are there from sm_90 on, for code compiled for it.
template <class... P>
bool can_launch_cluster(const char* op, unsigned cluster_size, void (*kernel)(P...), dim3 block, size_t shared_bytes) {
    if (device_attribute(op, cudaDevAttrClusterLaunch) == 0) return false;
    cudaFuncAttributes built = {};
    check_cuda(op, cudaFuncGetAttributes(&built, kernel));
    return built.ptxVersion >= 90 && cluster_size <= 8 &&
           static_cast<int>(block.x * block.y * block.z) <= built.maxThreadsPerBlock &&
           shared_bytes <= static_cast<size_t>(device_attribute(op, cudaDevAttrMaxSharedMemoryPerBlockOptin));
}

__device__ __forceinline__ void grid_sync() {
    cooperative_groups::this_grid().sync();
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__device__ __forceinline__ void cluster_sync() {
    __syncwarp();  // .aligned: the lanes of a warp arrive together
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
__device__ __forceinline__ unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
template <class T>
__device__ __forceinline__ T* cluster_map(T* pointer, unsigned rank) {
    uint64_t mapped;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(mapped) : "l"(reinterpret_cast<uint64_t>(pointer)), "r"(rank));
    return reinterpret_cast<T*>(mapped);
}
#else  // before sm_90 there are no clusters: the code compiles, and stops when reached
__device__ __forceinline__ void cluster_sync() {
    __trap();
}
__device__ __forceinline__ unsigned cluster_rank() {
    __trap();
    return 0;
}
template <class T>
__device__ __forceinline__ T* cluster_map(T* pointer, unsigned) {
    __trap();
    return pointer;
}
#endif

#else
// ================================================ host (simt)
// ===================================================================

#define WSSS_SHARED(name, ...)                                 \
    static const char wsss_shared_key_##name = 0;              \
    auto& name = *static_cast<::wsss::Identity<__VA_ARGS__>*>( \
        ::wsss::simt::static_shared(&wsss_shared_key_##name, sizeof(::wsss::Identity<__VA_ARGS__>), #name))
#define WSSS_DYNAMIC_SHARED(base) unsigned char* const base = ::wsss::simt::dynamic_shared()
#define WSSS_CARVE(type, name, base, offset, count)                                                                        \
    type* const name = static_cast<type*>(                                                                                 \
        ::wsss::simt::carve_shared(base, offset, static_cast<size_t>(count) * sizeof(type), #name, ::wsss::simt::here())); \
    (offset) += ::wsss::carve_bytes<type>(static_cast<size_t>(count))

using bf16 = HostBFloat16;
using f16 = HostHalf;

template <class T>
inline T from_float(float value) {
    T converted;
    store(&converted, value);
    return converted;
}

inline uint32_t bits_of(bf16 value) {
    return value.bits;
}
inline uint32_t bits_of(f16 value) {
    return value.bits;
}
template <class T>
inline T from_bits(uint32_t bits) {
    return T{static_cast<uint16_t>(bits)};
}

class DeviceGuard {
public:
    explicit DeviceGuard(int) {}
};

// A few multiprocessors, so that small test shapes already split their work over several blocks.
inline int multiprocessor_count(const char*) {
    return 4;
}

inline void fill_bytes(const char*, void* pointer, int value, size_t bytes, cudaStream_t) {
    if (bytes > 0) std::memset(pointer, value, bytes);
}

template <class... P, class... A>
void launch_config(const simt::LaunchConfig& config, void (*kernel)(P...), A... args) {
    check_launch(config.op, config.grid, config.block);
    auto call = std::make_pair(kernel, std::tuple<P...>(static_cast<P>(args)...));
    using Call = decltype(call);
    simt::run_grid(
        config, [](void* erased) { std::apply(static_cast<Call*>(erased)->first, static_cast<Call*>(erased)->second); }, &call);
}

template <class... P, class... A>
void launch(const char* op, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t, A... args) {
    launch_config({op, grid, block, shared_bytes, 1, false}, kernel, args...);
}

template <class... P, class... A>
void launch_cooperative(const char* op, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
                        A... args) {
    launch_config({op, grid, block, shared_bytes, 1, true}, kernel, args...);
}

template <class... P, class... A>
void launch_cluster(const char* op, unsigned cluster_size, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                    cudaStream_t, A... args) {
    launch_config({op, grid, block, shared_bytes, cluster_size, false}, kernel, args...);
}

template <class... P>
int64_t cooperative_blocks(const char* op, void (*)(P...), dim3, size_t) {
    return multiprocessor_count(op);
}

template <class... P>
bool can_launch_cluster(const char*, unsigned, void (*)(P...), dim3, size_t) {
    return true;
}

inline void grid_sync(simt::Site site = simt::here()) {
    simt::group_barrier("grid_sync", site);
}
inline void cluster_sync(simt::Site site = simt::here()) {
    simt::group_barrier("cluster_sync", site);
}
inline unsigned cluster_rank() {
    return simt::current_thread->cluster_rank;
}
template <class T>
inline T* cluster_map(T* pointer, unsigned rank, simt::Site site = simt::here()) {
    return static_cast<T*>(simt::map_to_rank(pointer, rank, site));
}
#endif

// ================================================ both
// ==========================================================================

// Two 16-bit values in one register, the first in the low half: the order mma and ldmatrix use.
template <class T>
__device__ __forceinline__ uint32_t pack2(T low, T high) {
    return bits_of(low) | (bits_of(high) << 16);
}

template <class T>
__device__ __forceinline__ uint32_t pack2_from_float(float low, float high) {
    return pack2(from_float<T>(low), from_float<T>(high));
}

template <class T>
__device__ __forceinline__ float2 unpack2(uint32_t pair) {
    return make_float2(to_float(from_bits<T>(pair & 0xffffu)), to_float(from_bits<T>(pair >> 16)));
}

}  // namespace wsss
