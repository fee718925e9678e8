"""The kernels as functions on torch tensors, batched and channel-first. Needs torch and numpy alone.

Every function takes `impl=`: None (by device), "reference" (plain PyTorch), "cpu", "cuda", or "simt" (test builds: the CUDA
source run on the CPU).
"""

from wsss_fast.ops.complementary import complementary_pair
from wsss_fast.ops.dense_crf import dense_crf
from wsss_fast.ops.pcm import pcm
from wsss_fast.ops.slic import slic

__all__ = ["complementary_pair", "dense_crf", "pcm", "slic"]
