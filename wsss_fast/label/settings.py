"""Every setting of the labelling pipeline: one frozen dataclass that Python, YAML and the command line share."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from typing import Any

LARGEST_SIDE = 16384
LARGEST_SCALE = 4.0
DEVICES = ("auto", "cpu", "cuda")
EXIF_RULES = ("apply", "ignore")


class SettingsError(ValueError):
    """A setting with a value that cannot work."""


def _setting(default: Any, help: str, *, affects_masks: bool = True) -> Any:
    return field(default=default, metadata={"help": help, "affects_masks": affects_masks})


@dataclass(frozen=True)
class LabelSettings:
    present: float = _setting(0.3, "a class is present when the classifier gives it at least this probability")
    max_classes: int = _setting(5, "most classes in one image; the most probable are kept")
    background: float = _setting(0.3, "a pixel is background unless its best class map, scaled to a maximum of 1, exceeds this")
    base_side: int | None = _setting(
        None, "longest side in pixels at scale 1; by default the model's own, and never more than --max-side"
    )
    scales: tuple[float, ...] = _setting((0.5, 0.75, 1.0, 1.5), "sizes at which the network sees the image, times the base side")
    flip: bool = _setting(True, "average with the mirrored image")
    max_side: int = _setting(1024, "bounds the longest side of the image before the scales multiply it")
    exif: str = _setting("apply", "orientation stored in the file: apply (masks as displayed) or ignore (masks as stored)")
    max_pixels: int = _setting(80_000_000, "images with more pixels are refused from their header", affects_masks=False)
    max_bytes: int = _setting(512 * 1024 * 1024, "larger files are refused unread", affects_masks=False)
    batch: int = _setting(8, "images recorded together; an interrupted batch is computed again", affects_masks=False)
    device: str = _setting("auto", "auto, cpu or cuda", affects_masks=False)
    overlay: bool = _setting(False, "also write OUT/overlays: image and mask side by side", affects_masks=False)

    def __post_init__(self) -> None:
        _number("present", self.present, 0.0, 1.0)
        _integer("max_classes", self.max_classes, 1, 254)
        _number("background", self.background, 0.0, 1.0)
        if self.base_side is not None:
            _integer("base_side", self.base_side, 32, LARGEST_SIDE)
        _check_scales(self.scales)
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        _boolean("flip", self.flip)
        _integer("max_side", self.max_side, 32, LARGEST_SIDE)
        _choice("exif", self.exif, EXIF_RULES)
        _integer("max_pixels", self.max_pixels, 1, 178_000_000)  # beyond that Pillow refuses
        _integer("max_bytes", self.max_bytes, 1, 1 << 40)
        _integer("batch", self.batch, 1, 4096)
        _choice("device", self.device, DEVICES)
        _boolean("overlay", self.overlay)

    @classmethod
    def create(cls, **values: Any) -> LabelSettings:
        """Like the constructor, but an unknown name is answered with the closest one."""
        known = [item.name for item in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean '{close[0]}'?" if close else "known are " + ", ".join(known)
                raise SettingsError(f"label: unknown setting '{name}'. Hint: {hint}")
        return cls(**values)

    def for_manifest(self) -> dict[str, Any]:
        """What decides the masks, as JSON values: an output folder belongs to one set of these.

        The device that `device` led to is part of the model's identity; the batches are part of the plan.
        """
        chosen = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.metadata["affects_masks"]}
        return {**chosen, "scales": list(self.scales)}


def _fail(name: str, expected: str, value: Any, hint: str = "") -> None:
    raise SettingsError(f"label: '{name}' must {expected}, got {value!r}" + (f". Hint: {hint}" if hint else ""))


def _number(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
        _fail(name, f"be a number from {low:g} to {high:g}", value)


def _integer(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        _fail(name, f"be a whole number from {low} to {high}", value)


def _boolean(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        _fail(name, "be True or False", value)


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        close = difflib.get_close_matches(str(value), allowed, 1)
        _fail(name, "be one of " + ", ".join(allowed), value, f"did you mean '{close[0]}'?" if close else "")


def _check_scales(scales: Any) -> None:
    if not isinstance(scales, tuple | list) or not 1 <= len(scales) <= 16:
        _fail("scales", "be 1 to 16 numbers", scales, "for example 0.5,1,1.5")
    for scale in scales:
        _number("scales", scale, 0.01, LARGEST_SCALE)
    if len(set(scales)) != len(scales):
        _fail("scales", "differ from each other", list(scales))
