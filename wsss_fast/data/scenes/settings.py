"""The frozen settings of the synthetic world. Results are comparable only between worlds with the same `digest()`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

# To be raised with any change of the code of this package that changes a pixel: it is part of the digest.
VERSION = 1


@dataclass(frozen=True)
class ClassLook:
    """A class: a body that it shares with its mate, and a small part that only it has."""

    name: str
    family: str  # vehicle, beast, boat, vase: the outline, shared by two classes
    hue: float  # the middle of its body colours, 0..1
    texture: str  # its usual body texture; the mate's is taken as often as `body_swap` says
    pattern: str  # of the part
    part_colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    context: str | None = None  # the ground that goes with it


CLASSES = (
    ClassLook("tram", "vehicle", 0.02, "plain", "chevrons", ((0.95, 0.85, 0.10), (0.10, 0.10, 0.12)), "rails"),
    ClassLook("van", "vehicle", 0.10, "stripes", "checks", ((0.95, 0.95, 0.95), (0.80, 0.10, 0.15))),
    ClassLook("cow", "beast", 0.06, "patches", "eye", ((0.98, 0.78, 0.72), (0.25, 0.05, 0.30)), "pasture"),
    ClassLook("horse", "beast", 0.13, "plain", "blaze", ((0.98, 0.98, 0.90), (0.20, 0.45, 0.15))),
    ClassLook("boat", "boat", 0.58, "stripes", "rings", ((0.95, 0.25, 0.10), (0.95, 0.95, 0.90)), "water"),
    ClassLook("raft", "boat", 0.50, "speckle", "cross", ((0.05, 0.35, 0.85), (0.98, 0.90, 0.20))),
    ClassLook("lamp", "vase", 0.30, "speckle", "spokes", ((1.00, 0.75, 0.15), (0.45, 0.10, 0.50)), "table"),
    ClassLook("vase", "vase", 0.38, "patches", "star", ((0.10, 0.75, 0.80), (0.95, 0.20, 0.60))),
)


@dataclass(frozen=True)
class SceneSettings:
    sizes: tuple[tuple[int, int], ...] = ((128, 96), (128, 112), (112, 112), (112, 128), (96, 128), (128, 128))  # width, height
    classes_an_image: tuple[float, ...] = (0.6, 0.3, 0.1)  # how often 1, 2, 3
    more_instances: float = 0.3  # how often a class has a second, smaller object
    # The root of an object's area over the shorter image side, by the number of classes in the image.
    object_size: tuple[tuple[float, float], ...] = ((0.34, 0.62), (0.28, 0.46), (0.24, 0.38))
    second_size: tuple[float, float] = (0.15, 0.28)
    rotation: float = 22.0  # degrees, at most, to either side
    body_swap: float = 0.3  # how often hue and texture of a body are its mate's
    hue_spread: float = 0.04
    any_colour: float = 0.15  # how often a body has any hue
    context_train: float = 0.85  # of the images with the class
    context_test: float = 0.30
    stray_context_train: float = 0.03  # of the images without the class, for each context
    stray_context_test: float = 0.10
    distractors: tuple[float, ...] = (0.25, 0.35, 0.25, 0.15)  # how often 0, 1, 2, 3
    distractor_size: tuple[float, float] = (0.10, 0.26)
    distractor_in_front: float = 0.35
    least_visible: float = 0.6  # of the object and of its part, for one object of each class
    noise: tuple[float, float] = (1.0, 6.0)  # of 255
    light: tuple[float, float] = (0.75, 1.15)
    # Saliency maps: how often an object is missed, a distractor or a context taken for one, and how coarse they are.
    saliency_miss: float = 0.16
    saliency_distractor: float = 0.4
    saliency_context: float = 0.08
    saliency_blur: tuple[float, float] = (1.0, 2.5)  # pixels
    saliency_warp: float = 4.0  # pixels
    saliency_hole: float = 0.4  # strength of the uneven answer inside objects
    crop_side: int = 64
    crop_size: tuple[float, float] = (0.42, 0.62)
    crop_plain: float = 0.5  # how often a crop has a plain background

    def digest(self) -> str:
        """sha256 of every setting, the classes and the version of the code."""
        text = json.dumps({"version": VERSION, "classes": [asdict(look) for look in CLASSES], **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
