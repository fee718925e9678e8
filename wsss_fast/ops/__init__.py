"""The kernels as functions on torch tensors, batched and channel-first. Needs torch and numpy alone.

Every function takes `impl=`: None (by device), "reference" (plain PyTorch), "cpu", "cuda", or "simt" (test builds: the CUDA
source run on the CPU).
"""

from wsss_fast.ops.affinity import AffinityLabels, affinity, affinity_labels, affinity_offsets, affinity_pairs
from wsss_fast.ops.cam_merge import CAM_MERGE, cam_merge
from wsss_fast.ops.complementary import complementary_pair
from wsss_fast.ops.dense_crf import dense_crf
from wsss_fast.ops.edge_affinity import edge_affinity
from wsss_fast.ops.pcm import pcm
from wsss_fast.ops.prcm import pcm_prcm, prcm
from wsss_fast.ops.random_walk import random_walk
from wsss_fast.ops.slic import slic

__all__ = [
    "CAM_MERGE",
    "AffinityLabels",
    "affinity",
    "affinity_labels",
    "affinity_offsets",
    "affinity_pairs",
    "cam_merge",
    "complementary_pair",
    "dense_crf",
    "edge_affinity",
    "pcm",
    "pcm_prcm",
    "prcm",
    "random_walk",
    "slic",
]
