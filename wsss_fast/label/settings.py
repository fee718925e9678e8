"""Every setting of the labelling pipeline: one frozen dataclass that Python, YAML and the command line share."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from wsss_fast import _settings
from wsss_fast._settings import SettingsError, setting
from wsss_fast.files.limits import MAX_BYTES, MAX_PIXELS, MAX_SIDE

__all__ = ["LabelSettings", "SettingsError"]

LARGEST_SIDE = 16384
LARGEST_SCALE = 4.0
DEVICES = ("auto", "cpu", "cuda")
ENGINES = ("torch", "ort", "trt", "aoti")
EXIF_RULES = ("apply", "ignore")
MERGES = ("psa", "seam", "cpn", "irn", "eps", "l2g")
UNKNOWN_LABELS = ("stop", "drop")
FORMATS = ("palette", "index", "npz", "alpha", "coco", "panoptic", "cvat", "labelstudio")
_OWNER = "label"


def _neutral(default: Any, help: str) -> Any:
    """A setting that does not change what is written."""
    return setting(default, help, affects_masks=False)


@dataclass(frozen=True)
class LabelSettings:
    # which network; the rest of a model's defaults come from its method
    engine: str | None = setting(None, "torch, ort, trt or aoti; default: what the model file is made for")
    method: str | None = setting(
        None, "cam, seam, cpn, eps, l2g or deeplab, for a published .pth or a network without a checkpoint"
    )
    backbone: str | None = setting(None, "of such a network; default the method's first")
    published: str | None = setting(None, "paper or code: how such a network reads its paper")
    num_classes: int | None = setting(None, "object classes of such a network; default what its file has, else 20")
    random_weights: int | None = setting(None, "a network of --method with random weights of this seed, to try things out")
    classes: str | None = setting(
        None, "names of a model without, one a line; or a .yaml file that gathers a model's classes into groups", metavar="FILE"
    )
    # which classes are in an image
    labels: str | None = setting(
        None, "image-level labels: CSV, JSON, VOC XML folder, COCO, list, .npy, or a folder a class", metavar="FILE"
    )
    unknown_labels: str = setting("stop", "labels that are no class of the model: stop, or drop them with a warning")
    present: float = setting(0.3, "without labels: a class is present when the classifier gives it at least this probability")
    max_classes: int = setting(5, "without labels: most classes in one image; the most probable are kept")
    # from an image to maps
    base_side: int | None = setting(None, "built-in model: longest side in pixels at scale 1 (default 448)")
    scales: tuple[float, ...] | None = setting(None, "sizes at which the network sees the image; default the method's")
    flip: bool = setting(True, "average with the mirrored image")
    merge: str | None = setting(None, "how maps are merged: psa, seam, cpn, irn, eps or l2g; default the method's")
    max_side: int = setting(MAX_SIDE, "bounds the longest side of the image before the scales multiply it")
    exif: str = setting("apply", "orientation stored in the file: apply (masks as displayed) or ignore (masks as stored)")
    # from maps to a mask
    background: float | None = setting(
        None, "score of the background beside maps with a maximum of 1; default the method's, else 0.3"
    )
    alpha: float | None = setting(
        None,
        "background (1 - max of the maps)^alpha in place of a constant (walk: 16 for cam, else 6; image edges: as the constant)",
    )
    walk: str | None = setting(
        None, "random walk along 'image' (its edges), or by an affinitynet or irn checkpoint", metavar="FILE"
    )
    walk_beta: float | None = setting(None, "power of the affinities in the walk (default 8, irn 10)")
    walk_steps: int | None = setting(None, "steps of the walk (default 256, along image edges 16)")
    crf: bool = setting(False, "a dense CRF on background and present classes")
    uncertain: float | None = setting(None, "value 255 where the best score leads the second by less than this share of all")
    # what is written
    format: str = setting("palette", "palette, index, npz, alpha, coco, panoptic, cvat or labelstudio")
    alphas: tuple[float, ...] = setting((4.0, 24.0), "of --format alpha: strong and weak background")
    overlay: bool = _neutral(False, "also write OUT/overlays: image and mask side by side")
    report: bool = _neutral(False, "also write OUT/report/index.html: counts, classes, failures, images with CAM and mask")
    report_images: int = _neutral(60, "most images that the report shows; each is predicted once more")
    # how the work is done
    threads: int = setting(4, "of the network on a CPU, whose sums depend on their number; the same on every machine of a job")
    split: str | None = _neutral(None, "images of a VOC folder: a list in ImageSets, as trainaug")
    root: str | None = _neutral(None, "folder of the images that a list or a COCO file names (default: the file's own)")
    shard: str | None = _neutral(None, "i/n: every n-th batch from batch i on (i from 0); shards share one --out")
    ray: str | None = _neutral(None, "machines of a Ray cluster label: HOST:PORT, or auto for the one this machine belongs to")
    batch: int = _neutral(8, "images recorded together; an interrupted batch is computed again")
    max_pixels: int = _neutral(MAX_PIXELS, "images with more pixels are refused from their header")
    max_bytes: int = _neutral(MAX_BYTES, "larger files are refused unread")
    max_failures: int | None = _neutral(None, "stop when more images failed than this, earlier runs counted")
    timeout: float = _neutral(60.0, "seconds that reading one image may take")
    workers: int | None = _neutral(None, "processes that read and threads that refine and write; 0: none (default by cores)")
    device: str = _neutral("auto", "auto, cpu or cuda")
    graphs: bool = _neutral(True, "on a GPU, replay the network's passes of common sizes as CUDA graphs (engine torch)")

    def __post_init__(self) -> None:
        for name, choices in (("engine", ENGINES), ("merge", MERGES), ("published", ("paper", "code"))):
            if getattr(self, name) is not None:
                _settings.choice(_OWNER, name, getattr(self, name), choices)
        for name, choices in (("exif", EXIF_RULES), ("device", DEVICES), ("format", FORMATS), ("unknown_labels", UNKNOWN_LABELS)):
            _settings.choice(_OWNER, name, getattr(self, name), choices)
        for name in ("flip", "overlay", "report", "crf", "graphs"):
            _settings.boolean(_OWNER, name, getattr(self, name))
        for name, (low, high) in _WHOLE.items():
            if getattr(self, name) is not None:
                _settings.whole(_OWNER, name, getattr(self, name), low, high)
        for name, (low, high) in _NUMBERS.items():
            if getattr(self, name) is not None:
                _settings.number(_OWNER, name, getattr(self, name), low, high)
        if self.scales is not None:
            object.__setattr__(self, "scales", _tuple("scales", self.scales, 1, 16, 0.01, LARGEST_SCALE))
        object.__setattr__(self, "alphas", _tuple("alphas", self.alphas, 2, 2, 0.1, 100.0))
        if self.alphas[0] > self.alphas[1]:
            _settings.fail(_OWNER, "alphas", "begin with the smaller one", self.alphas, "for example 4,24")
        self._check_fit()
        if self.ray is not None and (not isinstance(self.ray, str) or not self.ray):
            _settings.fail(_OWNER, "ray", "be auto or HOST:PORT", self.ray)
        if self.ray is not None and self.report:
            hint = "once it is done, the same command with --report and without --ray makes the report and labels nothing anew"
            raise SettingsError(f"label: 'report' does not go with 'ray', whose workers label and show nothing. Hint: {hint}")
        _ = self.place

    def _check_fit(self) -> None:
        if self.random_weights is not None and self.method is None:
            raise SettingsError("label: 'random_weights' needs 'method'. Hint: --method seam --random-weights 0")
        if self.format == "alpha" and (self.walk is not None or self.uncertain is not None or self.alpha is not None):
            given = next(name for name in ("walk", "uncertain", "alpha") if getattr(self, name) is not None)
            raise SettingsError(f"label: '{given}' does not go with format alpha, whose background comes from 'alphas'")
        if self.format == "npz" and self.uncertain is not None:
            raise SettingsError("label: 'uncertain' is for masks, and format npz writes maps")

    @property
    def grouped(self) -> bool:
        """`classes` holds groups, not names."""
        return self.classes is not None and str(self.classes).lower().endswith((".yaml", ".yml"))

    @property
    def place(self) -> tuple[int, int]:
        """(i, n) of the shard; (0, 1) for a whole job."""
        if self.shard is None:
            return 0, 1
        found = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", self.shard) if isinstance(self.shard, str) else None
        if found is None or not int(found[1]) < int(found[2]):
            _settings.fail(_OWNER, "shard", "be i/n with i from 0 to n-1", self.shard, "the first of four is 0/4")
        return int(found[1]), int(found[2])

    @classmethod
    def create(cls, **values: Any) -> LabelSettings:
        """Like the constructor, but an unknown name is answered with the closest one."""
        return _settings.create(_OWNER, cls, values)

    def for_manifest(self) -> dict[str, Any]:
        """What decides the outputs, as JSON values: an output folder belongs to one set of these.

        What files and device hold is part of the model's identity; the batches are part of the plan.
        """
        told_by_identity = {"engine", "method", "backbone", "published", "num_classes", "random_weights", "classes"}
        told_by_identity |= {"walk", "labels"}
        chosen = {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.metadata.get("affects_masks", True) and item.name not in told_by_identity
        }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}


_WHOLE = {
    "num_classes": (1, 65534),
    "random_weights": (0, 2**31 - 1),
    "max_classes": (1, 65534),
    "base_side": (32, LARGEST_SIDE),
    "max_side": (32, LARGEST_SIDE),
    "walk_steps": (0, 1_000_000),
    "report_images": (0, 2000),
    "batch": (1, 4096),
    "max_pixels": (1, 178_000_000),  # beyond that Pillow refuses
    "max_bytes": (1, 1 << 40),
    "max_failures": (0, 1 << 40),
    "threads": (1, 1024),
    "workers": (0, 64),
}
_NUMBERS = {
    "present": (0.0, 1.0),
    "background": (0.0, 1.0),
    "alpha": (0.1, 100.0),
    "walk_beta": (0.0, 100.0),
    "uncertain": (0.0, 1.0),
    "timeout": (0.1, 3600.0),
}


def _tuple(name: str, values: Any, least: int, most: int, low: float, high: float) -> tuple[float, ...]:
    how_many = f"{least} to {most}" if least != most else str(least)
    if not isinstance(values, tuple | list) or not least <= len(values) <= most:
        _settings.fail(_OWNER, name, f"be {how_many} numbers", values, "for example 0.5,1")
    for value in values:
        _settings.number(_OWNER, name, value, low, high)
    if len(set(values)) != len(values):
        _settings.fail(_OWNER, name, "differ from each other", list(values))
    return tuple(float(value) for value in values)
