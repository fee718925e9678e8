"""What each kind of stage takes, gives and can be told. No torch here: the command line lists recipes without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wsss_fast import _settings
from wsss_fast._settings import setting

BEST = "best"


@dataclass(frozen=True, kw_only=True)
class Crf:
    """Arguments of `ops.dense_crf`; the defaults are PSA's."""

    iterations: int = setting(10, "steps of the mean field")
    gaussian: tuple[float, ...] = setting((3.0, 3.0), "width in pixels, strength")
    bilateral: tuple[float, ...] = setting((80.0, 13.0, 10.0), "width in pixels, width in colour, strength")

    def __post_init__(self) -> None:
        _settings.whole("crf", "iterations", self.iterations, 0, 1000)
        for name, count in (("gaussian", 2), ("bilateral", 3)):
            _numbers(self, "crf", name, count, 0, 1000)

    def arguments(self) -> dict[str, Any]:
        return {"iterations": self.iterations, "gaussian": self.gaussian, "bilateral": self.bilateral}


@dataclass(frozen=True, kw_only=True)
class MapsSettings:
    scales: tuple[float, ...] | None = setting(None, "of the image; by default those of the method")
    flip: bool = setting(True, "also the mirror image at each scale")
    sizes: str = setting("image", "image: maps at the size of the image; irn: also those on a grid of 4 pixels that IRN walks on")

    def __post_init__(self) -> None:
        if self.scales is not None:
            _numbers(self, "maps", "scales", None, 0.01, 16)
        _settings.boolean("maps", "flip", self.flip)
        _settings.choice("maps", "sizes", self.sizes, ("image", "irn"))
        if self.sizes == "irn" and (self.scales is not None or not self.flip):
            _settings.fail("maps", "sizes", "be image where scales or flip are given: IRN takes those of the network", self.sizes)


@dataclass(frozen=True, kw_only=True)
class PairLabelsSettings:
    style: str = setting("alpha", "alpha: two maps after a CRF, for AffinityNet; thresholds: an index image, for IRN")
    alphas: tuple[float, ...] = setting((4.0, 32.0), "alpha: exponents of a strong and a weak background")
    thresholds: tuple[float, ...] = setting((0.30, 0.05), "thresholds: above the first an object, below the second background")
    beside: float | None = setting(
        None, "alphas or thresholds keep their ratio, as exponents, to this background, moved to the best one of the maps"
    )
    crf: Crf | None = setting(None, "in place of the published one")  # noqa: RUF009 - it is a field

    def __post_init__(self) -> None:
        _settings.choice("pair_labels", "style", self.style, ("alpha", "thresholds"))
        if self.beside is not None:
            _settings.number("pair_labels", "beside", self.beside, 0.01, 1000)
        _numbers(self, "pair_labels", "alphas", 2, 0.01, 1000)
        _numbers(self, "pair_labels", "thresholds", 2, 0, 1)
        _nested(self, "crf", Crf)


@dataclass(frozen=True, kw_only=True)
class WalkSettings:
    """What is not given is the default of the network's walk."""

    alpha: float | str | None = setting(None, "affinitynet: exponent of the background, or best: that of the maps' best constant")
    beta: float | None = setting(None, "power of the affinities")
    steps: int | None = setting(None, "steps of the walk")
    radius: int | None = setting(None, "irn: how far pairs reach, in cells; affinitynet walks with the radius of its network")
    background: float | str | None = setting(None, "irn: score of the background after it, or best: the maps' best constant")
    mode: str | None = setting(None, "exact or chebyshev")

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "background"):
            value = getattr(self, name)
            if value is not None and (value != BEST or name == "beta"):
                _settings.number("walk", name, value, 0, 1000)
        if self.steps is not None:
            _settings.whole("walk", "steps", self.steps, 0, 1_000_000)
        if self.radius is not None:
            _settings.whole("walk", "radius", self.radius, 2, 32)
        if self.mode is not None:
            _settings.choice("walk", "mode", self.mode, ("exact", "chebyshev"))

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class MasksSettings:
    threshold: float | str = setting(BEST, "constant score of the background, or best: the one that does best on `judge`")
    crf: Crf | bool | None = setting(None, "of class patterns: false, or in place of the usual one")  # noqa: RUF009

    def __post_init__(self) -> None:
        _threshold(self, "masks")
        if not isinstance(self.crf, bool):
            _nested(self, "crf", Crf)


@dataclass(frozen=True, kw_only=True)
class CrfSettings(Crf):
    threshold: float | str = setting(BEST, "of maps: as in masks")
    alpha: float | None = setting(None, "of maps: background (1 - max)^alpha in place of a constant one")

    def __post_init__(self) -> None:
        super().__post_init__()
        _threshold(self, "crf")
        if self.alpha is not None:
            _settings.number("crf", "alpha", self.alpha, 0.01, 1000)


@dataclass(frozen=True, kw_only=True)
class PatternsSettings:
    layer: str = setting("layer4.0", "of the classifier, whose features the patterns are found in")
    images: int = setting(800, "at most so many of a class")

    def __post_init__(self) -> None:
        _settings.whole("patterns", "images", self.images, 1, 1_000_000)


@dataclass(frozen=True, kw_only=True)
class SegmentSettings:
    """What is not given is as the network was tested."""

    scales: tuple[float, ...] | None = setting(None, "of the image")
    flip: bool | None = setting(None, "also the mirror image at each scale")
    reduce: str | None = setting(None, "over scales: max or mean")
    squares: tuple[int, ...] | None = setting(None, "in place of scales: sides of squares that the image is resized to")
    crf: Crf | bool | None = setting(None, "false, or in place of the published one")  # noqa: RUF009

    def __post_init__(self) -> None:
        if self.scales is not None:
            _numbers(self, "segment", "scales", None, 0.01, 16)
        if self.squares is not None:
            if not isinstance(self.squares, list | tuple) or not self.squares:
                _settings.fail("segment", "squares", "be a list of whole numbers", self.squares)
            for side in self.squares:
                _settings.whole("segment", "squares", side, 1, 16384)
            object.__setattr__(self, "squares", tuple(self.squares))
            if self.scales is not None:
                _settings.fail("segment", "squares", "come in place of 'scales'", self.squares)
        if self.flip is not None:
            _settings.boolean("segment", "flip", self.flip)
        if self.reduce is not None:
            _settings.choice("segment", "reduce", self.reduce, ("max", "mean"))
        if not isinstance(self.crf, bool):
            _nested(self, "crf", Crf)


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    images: str = setting("all", "all, or single: those of one class alone")

    def __post_init__(self) -> None:
        _settings.choice("eval", "images", self.images, ("all", "single"))


@dataclass(frozen=True)
class Kind:
    """A kind of stage: what it gives, and by which name it takes what from earlier ones."""

    gives: str
    takes: dict[str, tuple[str, ...]]  # role → what it can be
    choices: tuple[frozenset[str], ...]  # the sets of roles that make sense
    settings: Any = None  # None: those of the method


def _sets(*choices: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(choice.split()) for choice in choices)


KINDS = {
    "train": Kind(
        "model",
        {"init": ("model",), "pairs": ("pairs", "masks"), "masks": ("masks",)},
        _sets("", "pairs", "masks", "init", "init pairs", "init masks"),
    ),
    "maps": Kind("maps", {"model": ("model",)}, _sets("model"), MapsSettings),
    "pair_labels": Kind("pairs", {"maps": ("maps",)}, _sets("maps"), PairLabelsSettings),
    "walk": Kind(
        "masks",
        {"model": ("model",), "maps": ("maps",), "masks": ("masks",)},
        _sets("model maps", "model masks"),
        WalkSettings,
    ),
    "crf": Kind("masks", {"maps": ("maps",), "scores": ("masks",)}, _sets("maps", "scores"), CrfSettings),
    "masks": Kind(
        "masks",
        {"maps": ("maps",), "patterns": ("patterns",), "model": ("model",)},
        _sets("maps", "patterns model"),
        MasksSettings,
    ),
    "patterns": Kind("patterns", {"model": ("model",)}, _sets("model"), PatternsSettings),
    "segment": Kind("masks", {"model": ("model",)}, _sets("model"), SegmentSettings),
    "eval": Kind("nothing", {"of": ("maps", "masks")}, _sets("of"), EvalSettings),
}


def _threshold(settings: Any, owner: str) -> None:
    if settings.threshold != BEST:
        if isinstance(settings.threshold, str):
            _settings.fail(owner, "threshold", "be a number from 0 to 1, or best", settings.threshold)
        _settings.number(owner, "threshold", settings.threshold, 0, 1)


def _numbers(settings: Any, owner: str, name: str, count: int | None, low: float, high: float) -> None:
    values = getattr(settings, name)
    if not isinstance(values, list | tuple) or not values or count not in (None, len(values)):
        _settings.fail(owner, name, f"be a list of {'' if count is None else f'{count} '}numbers", values)
    for value in values:
        _settings.number(owner, name, value, low, high)
    object.__setattr__(settings, name, tuple(float(value) for value in values))


def _nested(settings: Any, name: str, kind: Any) -> None:
    """YAML gives a mapping where Python gives an object."""
    value = getattr(settings, name)
    if isinstance(value, dict):
        object.__setattr__(settings, name, _settings.create(name, kind, value))
    elif value is not None and not isinstance(value, kind):
        _settings.fail(name, name, "be a mapping of settings", value)
