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

In the losses (`losses`):

=========  ===============  =============================  ===========  ===============================
published  background map   target of CPCR                 min pooling  image of which a part shows none
=========  ===============  =============================  ===========  ===============================
None       times the share  strongest channel of a place   yes          that part is not classified
"paper"    times the share  all channels                   no           classified
"code"     set afterwards   strongest channel of a place   yes          classified
=========  ===============  =============================  ===========  ===============================

In the settings "code" has 300 segments and grids of 224 and 448, "paper" and None 200 and 56 and 112; which are hidden is the
`published` of ``ops.complementary_pair``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wsss_fast import _settings, ops
from wsss_fast._settings import setting
from wsss_fast.methods import _maps, _method
from wsss_fast.methods._training import PSA_MOMENTUM, Checks, Training, TrainSettings
from wsss_fast.methods.losses import cpn_cpcr, cpn_tcp, min_pooling, soft_margin
from wsss_fast.methods.seam import Seam
from wsss_fast.ops import _check

PRCM = {
    None: {"axis": "positions", "layout": "transpose"},
    "paper": {"axis": "classes", "layout": "transpose", "scale": 1.0},
    "code": {"axis": "positions", "layout": "view"},
}


def losses(
    whole: tuple[Tensor, Tensor],
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    share: Tensor,
    labels: Tensor,
    published: str | None = None,
) -> dict[str, Tensor]:
    """The terms of a step, and their sum. W, F, S are the maps of `whole`, `first` and `second` after `max_norm`, 0 in classes
    that are not in the image, F times share, S times (1 - share); raw, and with ~ refined::

        classification = 1/3 sum over the three of soft_margin(mean over places of the objects' raw maps)
        min_pooling = 1/3 sum over the three of min_pooling(refined)                             (not with "paper")
        tcp_raw = cpn_tcp(W, F, S), which moves W alone
        tcp_refined = cpn_tcp(W~, F~, S~), which moves all three
        cpcr = cpn_cpcr(W, F, S~) + cpn_cpcr(W, S, F~),
               the background channels being what the strongest object leaves of 1
        total = classification + min_pooling + tcp_raw + tcp_refined + cpcr

    With None and "paper" the background is taken before the maps are multiplied by their share, so that those of the two
    parts can add up to that of the whole; with "code" it is 1 - max of the maps times their share.

    Args:
        whole, first, second: raw and refined maps of the image and of its two complementary parts, [N, 1 + C, H, W] each.
        share: [N], the part of the image that `first` shows, of ``ops.complementary_pair``.
        labels: [N, C], 1 for a class in the image, else 0.
        published: None, "paper" or "code", see the head of this file. A part that shows nothing of an image (share 0 or 1) has
            nothing to be classified by: with None it is left out.
    """
    _method.check_published("cpn.losses", published)
    views = [_maps.check_pair("cpn.losses", *view) for view in (("whole", whole), ("first", first), ("second", second))]
    for name, view in zip(("first", "second"), views[1:], strict=True):
        _maps.check_like("cpn.losses", name, view[0], "whole", views[0][0])
    n, channels = views[0][0].shape[:2]
    _maps.check_labels("cpn.losses", labels, n, channels - 1)
    if not isinstance(share, Tensor) or list(share.shape) != [n]:
        got = list(share.shape) if isinstance(share, Tensor) else type(share).__name__
        raise ValueError(_check.complaint("cpn.losses", "share", f"have shape [N] = {[n]}", got))
    share = share.to(views[0][0].dtype)
    shares = torch.ones_like(share), share, 1 - share
    present = _maps.with_background(labels)
    pooled, normalised = [], []
    for view, part in zip(views, shares, strict=True):
        shown = (part > 0).to(part.dtype) if published is None else None
        pooled.append(soft_margin(view[0][:, 1:].mean(dim=(2, 3)), labels, shown))
        normalised.append([_times_share(_maps.keep(_maps.max_norm(x), present), part, published) for x in view])
    (w, w_refined), (f, f_refined), (s, s_refined) = normalised
    strongest = published != "paper"
    terms = {
        "classification": sum(pooled) / 3,
        "tcp_raw": cpn_tcp(w, f.detach(), s.detach()),
        "tcp_refined": cpn_tcp(w_refined, f_refined, s_refined),
        "cpcr": cpn_cpcr(w, f, s_refined, labels, strongest) + cpn_cpcr(w, s, f_refined, labels, strongest),
    }
    if published != "paper":
        terms["min_pooling"] = sum(min_pooling(view[1], labels) for view in views) / 3
    return {**terms, "total": sum(terms.values())}


def _times_share(maps: Tensor, share: Tensor, published: str | None) -> Tensor:
    share = share[:, None, None, None]
    if published == "code":
        return _maps.set_background(maps * share)
    return _maps.set_background(maps) * share


@dataclass(frozen=True, kw_only=True)
class CpnSettings(TrainSettings):
    sizes: tuple[float, ...] = setting((448.0, 768.0), "range of the resize, drawn anew for each image")
    epochs: int = setting(8, "passes over the training images")
    batch: int = setting(4, "images a step, over all processes")
    patches: str = setting("superpixels", "what is hidden: superpixels, or the cells of a grid")
    segments: tuple[int, ...] = setting((200,), "number of superpixels; of several each image draws one")
    grid: tuple[int, ...] = setting((56, 112), "side of the grid's cells in pixels; of several each image draws one")
    hide: float = setting(0.5, "part of the superpixels or cells that the first of the two images hides")

    def __post_init__(self) -> None:
        super().__post_init__()
        check = Checks(self)
        check.choice("patches", ("superpixels", "grid"))
        check.wholes("segments", 1, 1_000_000)
        check.wholes("grid", 1, 65536)
        check.number("hide", 0, 1)
        if self.patches == "grid" and max(self.grid) > self.crop:
            _settings.fail("train", "grid", f"have cells of at most the crop's side, {self.crop}", self.grid)


def settings(published: str | None, dataset: str) -> CpnSettings:
    """Released for VOC alone."""
    cut = {"segments": (300,), "grid": (224, 448)} if published == "code" else {}
    return CpnSettings(momentum=PSA_MOMENTUM[published], **cut)


def superpixels(pixels: Tensor, inside: Tensor, segments: Sequence[int]) -> Tensor:
    """int32 [N, H, W], `ops.slic` of uint8 images, -1 at padding. Of several numbers each image draws one."""
    if len(segments) == 1:
        return ops.slic(pixels, segments[0], mask=inside)
    drawn = torch.randint(len(segments), (len(pixels),)).tolist()
    each = zip(pixels.split(1), inside.split(1), drawn, strict=True)
    return torch.cat([ops.slic(image, segments[index], mask=mask) for image, mask, index in each])


class CpnTraining(Training):
    """A batch that brings ``segments`` (of `superpixels`, made by a worker) has them used; else the step makes them."""

    def __init__(self, model: Cpn, settings: CpnSettings) -> None:
        super().__init__(model, settings)
        self.takes = ("segments",) if settings.patches == "superpixels" else ()

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        image = self.image(batch)
        first, second, share = self.pair(image, batch)
        return losses(self.model(image), self.model(first), self.model(second), share, batch["labels"], self.model.published)

    def pair(self, image: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """The two complementary images of normalised ones, and the share that the first shows."""
        chosen = self.settings
        rule = {"hide": chosen.hide, "published": self.model.published}
        if chosen.patches == "grid":
            return ops.complementary_pair(image, grid=chosen.grid, **rule)
        segments = batch.get("segments")
        if segments is None:
            segments = superpixels(batch["pixels"], batch["inside"], chosen.segments)
        return ops.complementary_pair(image, segments, **rule)


class Cpn(Seam):
    name = "cpn"
    new_layers = (*Seam.new_layers, "f10.*")
    merge = "cpn"
    threshold = None  # swept on the training set

    def __init__(self, num_classes: int, published: str | None = None, *, output_stride: int = 8, width: float = 1.0) -> None:
        super().__init__(num_classes, published, output_stride=output_stride, width=width)
        self.f10 = _method.embedding(self.f9.in_channels, self.f9.out_channels)

    def refine(self, seed: Tensor, x: Tensor) -> Tensor:
        return ops.pcm_prcm(seed, x, self.f9(x), self.f10.weight.flatten(1), **PRCM[self.published])


TRAINING = CpnTraining
BACKBONES = {"resnet38": Cpn}
