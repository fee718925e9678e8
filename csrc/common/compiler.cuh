// The compiler of a kernel: nvcc (device code), or the host compiler with -DWSSS_SIMT (simt/simt.h, an emulator used by tests).
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "simt/simt.h"
#endif
