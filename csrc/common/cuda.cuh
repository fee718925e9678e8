// One vocabulary for kernels under two compilers: what a .cu file includes, and all it may use besides prim.cuh and
// sort_scan.cuh. Determinism: launches go to the given stream, in order. Memory: nothing is allocated here.
#pragma once

#include "common/barriers.cuh"
#include "common/compiler.cuh"
#include "common/launch.cuh"
#include "common/shared_memory.cuh"
#include "common/half.cuh"
