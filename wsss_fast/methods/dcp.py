"""DCP: patterns of classes, found as the main direction in which the features of a class's images differ.

Luo and Yang, "Learning Saliency-Free Model with Generic Features for Weakly-Supervised Semantic Segmentation" (AAAI 2020). In all
places u of the images of a class c the features t_u mostly differ in whether they show the class or not::

    q_c(u) = (t_u - mean_c) . xi_c,      xi_c = the first eigenvector of the covariance of the features

and a positive score is the class. One pass over the images is enough:

    patterns = dcp.ClassPatterns(num_classes=20, channels=2048)
    for image, labels in ...:
        features, maps = dcp.tap(classifier, image, "layer4.0")
        patterns.update(features, labels, cam=maps)
    patterns.finish()
    mask = patterns.labels(patterns.scores(features), labels, size)

**Sign.** An eigenvector has none, and the paper gives no rule. Here the sign is that of the correlation, over all places, of the
score with a map that tells roughly where the class is: the class map ``cam`` of the same classifier or, without one, the inner
places against those at the border. The correlation is kept as ``margin``; classes where it is under `AMBIGUOUS` are reported.

**Which images.** At most ``images`` a class, the first that come; `sample` draws them beforehand.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsss_fast import ops
from wsss_fast.files.png import IGNORE
from wsss_fast.methods import _maps
from wsss_fast.methods._covariance import ROWS, Sums, add_rows, first_eigenvectors
from wsss_fast.nets import weights
from wsss_fast.ops import _check

__all__ = ["CRF", "ClassPatterns", "sample", "tap"]

IMAGES = {"voc": 800, "coco": 2000}  # of a class, as published
AMBIGUOUS = 0.1
CRF = {"iterations": 10, "gaussian": (3, 3), "bilateral": (121, 5, 4)}  # LargeFOV's: the paper does not tell its own
CRF_CERTAINTY = 0.7  # of the labels that the CRF starts from

logger = logging.getLogger(__name__)


class ClassPatterns(nn.Module):
    """The mean and the main direction of the features of each class.

    Args:
        num_classes: objects, without the background.
        channels: of the features.
        images: at most so many of a class (`IMAGES`).

    Memory until `finish`: 8 * channels^2 bytes for each class that has been seen (2048 channels: 32 MiB), and about 300 MiB.

    After `finish`, [C] or [C, channels]: ``mean``, ``direction`` (of length 1), ``images`` and ``places`` (how many were taken),
    ``variance`` (along the direction), ``second`` (along the next one, to 1e-4 of the first), ``total`` (of all directions),
    ``margin`` (the correlation that gave the sign, from 0 to 1).
    """

    mean: Tensor
    direction: Tensor
    images: Tensor
    places: Tensor
    variance: Tensor
    second: Tensor
    total: Tensor
    margin: Tensor

    def __init__(self, num_classes: int, channels: int, images: int = IMAGES["voc"]) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("channels", channels), ("images", images)):
            _check.whole("ClassPatterns", name, value, 1)
        self.num_classes, self.channels, self.most_images = num_classes, channels, images
        for name in ("mean", "direction"):
            self.register_buffer(name, torch.zeros(num_classes, channels, dtype=torch.float64))
        for name in ("variance", "second", "total", "margin"):
            self.register_buffer(name, torch.zeros(num_classes, dtype=torch.float64))
        for name in ("images", "places"):
            self.register_buffer(name, torch.zeros(num_classes, dtype=torch.int64))
        self.guide = ""  # what gives the signs: "cam" or "border"
        self.finished = False
        self._sums: dict[int, Sums] = {}
        self._shift: Tensor | None = None

    @torch.inference_mode(False)  # else sums made in a caller's inference mode could not be changed outside of it
    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, cam: Tensor | None = None) -> None:
        """Takes in a batch.

        Args:
            features: [N, channels, h, w], of `tap`.
            labels: [N, C], 1 for a class in the image. Images without a class, and classes that have enough, are passed over.
            cam: [N, C, H, W], class maps of the same classifier, in any unit; resized to the features (bilinear). In all calls or
                in none.

        Nothing is taken in of a batch that is refused.
        """
        if self.finished:
            raise RuntimeError("ClassPatterns: update comes before finish. Hint: make a new one to learn from other images")
        features, present = self._checked(features, labels)
        guide = self._guide(features, cam)
        if self._shift is None:
            self._shift = features[0].flatten(1).mean(1, dtype=torch.float64).to(features.dtype)
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, row in enumerate(present.tolist()):
            classes = [c for c in range(self.num_classes) if row[c] and self._of(c).images < self.most_images]
            for c in classes:
                self._of(c).images += 1
            if classes:
                groups.setdefault(tuple(classes), []).append(index)
        at_once = max(1, ROWS // features[0, 0].numel())
        for classes, members in groups.items():
            for start in range(0, len(members), at_once):
                some = members[start : start + at_once]
                self._add(classes, features[some].flatten(2), guide[some].flatten(2).double())

    def _of(self, c: int) -> Sums:
        if c not in self._sums:
            self._sums[c] = Sums(self.channels, self._shift.device)
        return self._sums[c]

    def _add(self, classes: tuple[int, ...], features: Tensor, guide: Tensor) -> None:
        """Images of the same classes: their products are computed once. features [N, D, P], guide [N, C or 1, P]."""
        rows = (features - self._shift.to(features.dtype)[:, None]).transpose(1, 2).flatten(0, 1)
        guides = guide.transpose(1, 2).flatten(0, 1)
        guides = guides[:, list(classes)] if guides.shape[1] > 1 else guides.expand(-1, len(classes))
        exact = features.dtype == torch.float64 or torch.get_float32_matmul_precision() != "highest"
        with torch.autocast(features.device.type, enabled=False):
            for part, weight in zip(rows.split(ROWS), guides.split(ROWS), strict=True):
                add_rows([self._of(c) for c in classes], part.double() if exact else part, weight)

    @torch.inference_mode(False)
    @torch.no_grad()
    def finish(self) -> None:
        """Finds the directions and their signs, and frees the sums. Logs the classes that cannot be trusted."""
        if self.finished:
            raise RuntimeError("ClassPatterns: finish was called before")
        if not self._sums:
            raise RuntimeError(
                "ClassPatterns: finish needs images. Hint: update(features, labels) with labels that are not all 0"
            )
        for c in sorted(self._sums):
            self._finish(c, self._sums.pop(c))
        self.finished = True
        reports = [
            ("no pattern, because of no image or of features that are all the same", self.missing),
            ("the pattern rests on one image", (self.images == 1).nonzero().flatten().tolist()),
            (f"the sign of the pattern is doubtful ({self.guide}, margin under {AMBIGUOUS})", self.ambiguous),
        ]
        for report, classes in reports:
            if classes:
                logger.warning("dcp: %s: classes %s", report, ", ".join(map(str, classes)))

    def _finish(self, c: int, sums: Sums) -> None:
        places = sums.places
        mean = sums.features / places
        covariance = sums.products.div_(places).addr_(mean, mean, alpha=-1)
        self.images[c], self.places[c] = sums.images, places
        self.mean[c] = mean + self._shift.double()
        self.total[c] = covariance.diagonal().sum()
        # features that are all the same leave only what rounding makes of them
        if self.total[c] <= 1e-12 * self.mean[c].square().sum():
            return
        values, vectors = first_eigenvectors(covariance)
        direction = vectors[:, 0]
        self.variance[c], self.second[c] = values[0], values[1] if len(values) > 1 else 0.0
        average = sums.guide / places
        spread = (sums.guide_squared / places - average.square()).clamp(min=0)
        towards = torch.dot(sums.guided / places - average * mean, direction)
        # the guide is the same everywhere: nothing tells the sign
        known = bool(spread > 1e-12 * sums.guide_squared / places)
        correlation = float(towards / (spread * values[0]).sqrt()) if known else 0.0
        strongest = float(direction[direction.abs().argmax()])
        self.direction[c] = direction * (1.0 if (correlation or strongest) > 0 else -1.0)
        self.margin[c] = min(1.0, abs(correlation))

    @property
    def missing(self) -> list[int]:
        """Classes without a pattern: they are never found."""
        return torch.nonzero(self.variance <= 0).flatten().tolist()

    @property
    def ambiguous(self) -> list[int]:
        """Classes with a pattern whose sign is doubtful: a wrong one takes the background for the class."""
        return torch.nonzero((self.variance > 0) & (self.margin < AMBIGUOUS)).flatten().tolist()

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        """q of every class: [N, channels, h, w] -> float32 [N, C, h, w] (float64 for float64); above 0 is the class."""
        self._check_finished("scores")
        self._check_features("scores", features)
        kind = torch.promote_types(features.dtype, torch.float32)
        weight, bias = (value.to(features.device, kind) for value in (self.direction, -(self.direction * self.mean).sum(1)))
        with torch.autocast(features.device.type, enabled=False):
            return functional.conv2d(features.to(kind), weight[:, :, None, None], bias)

    @torch.no_grad()
    def labels(
        self,
        scores: Tensor,
        labels: Tensor,
        size: tuple[int, int] | None = None,
        pixels: Tensor | None = None,
        crf: dict[str, Any] | None = None,
    ) -> Tensor:
        """Masks: of the classes in an image none positive is 0, the background; exactly one is class + 1; several are 255.

        Args:
            scores: [N, C, h, w], of `scores`.
            labels: [N, C], 1 for a class in the image.
            size: (H, W) of the masks; the scores are enlarged (bilinear) first. Default that of `pixels`, else of the scores.
            pixels: uint8 RGB [N, 3, H, W]: the dense CRF then goes over the images of a single class, as published.
            crf: arguments of `ops.dense_crf`, default `CRF`.

        Returns:
            uint8 [N, H, W].
        """
        self._check_finished("labels")
        if self.num_classes >= IGNORE:
            raise ValueError(f"ClassPatterns.labels: masks have room for {IGNORE - 1} classes, got {self.num_classes}")
        _check.tensor("ClassPatterns.labels", "scores", scores, "[N, C, h, w]")
        _maps.check_labels("ClassPatterns.labels", labels, len(scores), self.num_classes)
        _check.shape("ClassPatterns.labels", "scores", scores, "[N, C, h, w]", (None, self.num_classes, None, None), "classes")
        if pixels is not None:
            _check.photo("ClassPatterns.labels", "pixels", pixels)
            size = tuple(pixels.shape[2:]) if size is None else tuple(size)
            expected = (len(scores), 3, *size)
            _check.shape("ClassPatterns.labels", "pixels", pixels, "[N, 3, H, W]", expected, "N of 'scores', and 'size'")
        if not bool(scores.isfinite().all()):
            raise ValueError(_check.complaint("ClassPatterns.labels", "scores", "be finite", "NaN or Inf"))
        present = labels > 0.5
        mask = torch.zeros((len(scores), *(size or scores.shape[2:])), dtype=torch.uint8, device=scores.device)
        for index in range(len(scores)):
            classes = present[index].nonzero().flatten().tolist()
            found = torch.zeros_like(mask[index])
            for c in classes:
                score = scores[index, c][None, None]
                if size is not None:
                    score = functional.interpolate(score, size, mode="bilinear", align_corners=False)
                positive = score[0, 0] > 0
                mask[index].masked_fill_(positive, c + 1)
                found += positive
            mask[index].masked_fill_(found > 1, IGNORE)
            if pixels is not None and len(classes) == 1:
                mask[index] = _refined(mask[index], classes[0] + 1, pixels[index], CRF if crf is None else crf)
        return mask

    def save(self, path: str | Path, **description: Any) -> None:
        """One safetensors file that `load` reads; `description` (classes=, tap=, ...) stands in it."""
        self._check_finished("save")
        made = {"num_classes": self.num_classes, "channels": self.channels, "images": self.most_images, "guide": self.guide}
        weights.save_checkpoint(path, self, {**description, "method": "dcp", **made})

    @classmethod
    def load(cls, path: str | Path) -> ClassPatterns:
        state, told = weights.read_state_dict(path), weights.describe(path)
        if told.get("method") != "dcp":
            raise ValueError(
                f"ClassPatterns.load: '{path}' must be a file of class patterns. Hint: ClassPatterns.save writes one"
            )
        patterns = cls(told["num_classes"], told["channels"], told["images"])
        weights.load_checkpoint(patterns, state)
        patterns.guide = told["guide"]
        patterns.finished = True
        return patterns

    def _checked(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self._check_features("update", features)
        _maps.check_labels("ClassPatterns.update", labels, len(features), self.num_classes)
        if not bool(features.isfinite().all()):
            hint = "features of float16 overflow above 65504; take them in float32"
            raise ValueError(_check.complaint("ClassPatterns.update", "features", "be finite", "NaN or Inf", hint))
        return features.to(torch.promote_types(features.dtype, torch.float32)), labels > 0.5

    def _check_features(self, call: str, features: Tensor) -> None:
        name = f"ClassPatterns.{call}"
        _check.tensor(name, "features", features, "[N, channels, h, w]")
        _check.dtype(name, "features", features, (*_check.FLOATS, torch.float64))
        _check.shape(name, "features", features, "[N, channels, h, w]", (None, self.channels, None, None), "channels")
        if features.numel() == 0:
            raise ValueError(_check.complaint(name, "features", "not be empty", list(features.shape)))

    def _guide(self, features: Tensor, cam: Tensor | None) -> Tensor:
        """[N, C or 1, h, w]: large where a class is thought to be."""
        kind = "border" if cam is None else "cam"
        if self.guide not in ("", kind):
            raise ValueError("ClassPatterns.update: 'cam' must be given in all calls or in none: signs come from one of both")
        n, _, h, w = features.shape
        if cam is None:
            guide = torch.zeros(n, 1, h, w, device=features.device)
            guide[:, :, 1:-1, 1:-1] = 1.0
        else:
            _check.tensor("ClassPatterns.update", "cam", cam, "[N, C, H, W]")
            _check.shape("ClassPatterns.update", "cam", cam, "[N, C, H, W]", (n, self.num_classes, None, None), "images, classes")
            if not bool(cam.isfinite().all()):
                raise ValueError(_check.complaint("ClassPatterns.update", "cam", "be finite", "NaN or Inf"))
            guide = functional.interpolate(cam.to(features), (h, w), mode="bilinear", align_corners=False)
        self.guide = kind
        return guide

    def _check_finished(self, call: str) -> None:
        if not self.finished:
            raise RuntimeError(f"ClassPatterns: {call} comes after finish")


def sample(labels: Tensor, images: int = IMAGES["voc"], seed: int = 0) -> Tensor:
    """Draws at most `images` images of each class: `labels` [M, C] of all images, with 0 where an image is not drawn for a class.

    The draw depends on the seed and on the order of the rows alone. Feed the result's rows to `ClassPatterns.update` in any
    order; images whose row is empty can be left out.
    """
    _check.tensor("sample", "labels", labels, "[M, C]")
    _check.whole("sample", "images", images, 1)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros_like(labels)
    for c in range(labels.shape[1]):
        having = (labels[:, c] > 0.5).nonzero().flatten()
        chosen = having[torch.randperm(len(having), generator=generator)[:images].to(having.device)]
        drawn[chosen, c] = 1
    return drawn


@torch.inference_mode()
def tap(model: nn.Module, image: Tensor, layer: str = "layer4.0") -> tuple[Tensor, Tensor]:
    """What a layer gives inside ``model.forward_cam(image)``, and the class maps [N, C, h, w], in one pass.

    Args:
        model: of `methods.create`, in eval mode.
        image: of ``model.normalise``.
        layer: a module's name, or the end of one that only one module has. "layer4.0", the first block of the last stage of a
            ResNet, is the published C41; ResNet38's conv5 and conv6 are "b6.bn_branch2a" and "bn7", VGG16's "conv5_3" and "fc7".

    What follows the layer in place belongs to it: the ReLU behind a normalisation or convolution.
    """
    names = [name for name, _ in model.named_modules() if name and (name == layer or name.endswith(f".{layer}"))]
    exact = [name for name in names if name == layer]
    if len(exact or names) != 1:
        got = f"{layer!r}, which {'none has' if not names else 'fits ' + ', '.join(names[:4])}"
        raise ValueError(_check.complaint("tap", "layer", "name one module of the network", got))
    if model.training:
        raise ValueError("tap: 'model' must be in eval mode. Hint: model.eval()")
    kept: list[Tensor] = []
    hook = model.get_submodule((exact or names)[0]).register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        maps = model.objects(model.forward_cam(image))
    finally:
        hook.remove()
    if len(kept) != 1 or not isinstance(kept[0], Tensor) or kept[0].ndim != 4:
        expected = "name a layer that runs once and gives [N, D, h, w]"
        raise ValueError(_check.complaint("tap", "layer", expected, repr(layer)))
    return kept[0], maps


def _refined(mask: Tensor, value: int, pixels: Tensor, crf: dict[str, Any]) -> Tensor:
    likely = torch.where(mask == value, CRF_CERTAINTY, 1 - CRF_CERTAINTY)
    found = ops.dense_crf(torch.stack([1 - likely, likely])[None], pixels[None], **crf)[0]
    return torch.where(found[1] > found[0], value, 0).to(torch.uint8)
