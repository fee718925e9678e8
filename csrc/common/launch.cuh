// Starting kernels: on a device, in blocks that are alone, that can all meet (cooperative), or that share memory (clusters).
// Launches go to the given stream, in order; nothing is allocated, and the host does not wait.
#pragma once

#include <stdexcept>
#include <string>
#include <tuple>

#include "common/compiler.cuh"
#include "common/view.h"

namespace wsss {

constexpr size_t kDefaultSharedLimit = 48 * 1024;

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

// Blocks along x.
inline unsigned grid_size(const char* op, int64_t blocks) {
    if (blocks > 0x7fffffff)
        launch_failed(op, "the input needs " + std::to_string(blocks) + " blocks, at most 2147483647 are possible");
    return static_cast<unsigned>(blocks);
}

inline cudaStream_t stream_of(const Context& context) {
    return static_cast<cudaStream_t>(context.stream);
}

#ifdef __CUDACC__

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

#else  // the emulator

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

#endif

}  // namespace wsss
