"""CPN: SEAM's network with a second refinement by regions (PRCM), trained on complementary halves of an image.

Zhang et al., "Complementary Patch for Weakly Supervised Semantic Segmentation". ``forward`` and ``forward_cam`` give what
SEAM's give.

``published`` sets how PRCM reads its formula:

=========  ============  =========================  ===========
published  key           softmax of the gate over   scale
=========  ============  =========================  ===========
None       transposed    positions                  (1 + C)^-.5
"paper"    transposed    classes                    1
"code"     scrambled     positions                  (1 + C)^-.5
=========  ============  =========================  ===========

In the released code the matrix of keys is viewed in the shape of its transpose, which mixes channels into classes. The paper
names no axis and no scale; over positions the gate averages 1 / (h w), so that the term is small beside PCM.
"""

from __future__ import annotations

from torch import Tensor

from wsss_fast import ops
from wsss_fast.methods import _method
from wsss_fast.methods.seam import Seam

PRCM = {
    None: {"axis": "positions", "layout": "transpose"},
    "paper": {"axis": "classes", "layout": "transpose", "scale": 1.0},
    "code": {"axis": "positions", "layout": "view"},
}


class Cpn(Seam):
    name = "cpn"
    merge = "cpn"
    threshold = None  # swept on the training set

    def __init__(self, num_classes: int, published: str | None = None, *, output_stride: int = 8, width: float = 1.0) -> None:
        super().__init__(num_classes, published, output_stride=output_stride, width=width)
        self.f10 = _method.embedding(self.f9.in_channels, self.f9.out_channels)

    def refine(self, seed: Tensor, x: Tensor) -> Tensor:
        return ops.pcm_prcm(seed, x, self.f9(x), self.f10.weight.flatten(1), **PRCM[self.published])


BACKBONES = {"resnet38": Cpn}
