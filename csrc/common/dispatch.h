// The device switch of every operation: WSSS_RUN("pcm", forward, context, arguments…) calls forward_cpu or forward_cuda, of the
// namespace it stands in.
//
// Four builds share it: with CUDA kernels, without them, with nothing else (the TensorRT plugins), and the simt test build, where
// the "cuda" functions are the same .cu files compiled by the host compiler.
#pragma once

#include "common/check.h"
#include "common/view.h"

#if defined(WSSS_SIMT) || defined(WSSS_CUDA_ONLY)
#define WSSS_RUN(op, call, context, ...) (static_cast<void>((context).device), call##_cuda(__VA_ARGS__))
#elif defined(WSSS_WITH_CUDA)
#define WSSS_RUN(op, call, context, ...) \
    ((context).device.kind == DeviceKind::kCuda ? call##_cuda(__VA_ARGS__) : call##_cpu(__VA_ARGS__))
#else
#define WSSS_RUN(op, call, context, ...) \
    ((context).device.kind == DeviceKind::kCuda ? fail_no_cuda(op) : static_cast<void>(0), call##_cpu(__VA_ARGS__))
#endif
