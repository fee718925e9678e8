"""The objects: an outline with joints for each family, a body of two tones, and the part that tells its class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from wsss_fast.data.scenes.paint import Frame, box_of, ellipse, fill, limb, mix, noise, rgb, rounded, turned
from wsss_fast.data.scenes.settings import CLASSES, ClassLook, SceneSettings


@dataclass(frozen=True)
class Outline:
    """In unit coordinates; `foot` is the y on which the thing stands."""

    body: list[np.ndarray]
    details: list[np.ndarray]  # dark: wheels, windows, hooves
    part: tuple[float, float, float]  # centre and radius
    foot: float

    def polygons(self) -> list[np.ndarray]:
        return [*self.body, ellipse(*self.part[:2], self.part[2], self.part[2])]

    def area(self) -> float:
        """In unit squares, by counting pixels."""
        shape = [polygon * 48 for polygon in self.polygons()]
        return fill(shape, (-144, -144, 144, 144)).sum() / 48**2


def _vehicle(random: np.random.Generator) -> Outline:
    half, height = random.uniform(0.75, 1.0), random.uniform(0.36, 0.46)
    bodies = [rounded(-half, -height, half, height, 0.14)]
    details = [rounded(x, -0.6 * height, x + 0.24, -0.05, 0.05) for x in np.arange(-half + 0.12, half - 0.85, 0.34)]
    wheels = [ellipse(x, height, 0.15, 0.15, 14) for x in (-0.6 * half, 0.6 * half)]
    if random.random() < 0.5:
        angle = random.uniform(-14, 14)
        wagon = [rounded(-half - 0.85, -0.85 * height, -half + 0.05, height, 0.10)]
        wheel = ellipse(-half - 0.45, height, 0.15, 0.15, 14)
        bodies += [turned(polygon, -half, 0.0, angle) for polygon in wagon]
        wheels.append(turned(wheel, -half, 0.0, angle))
    if random.random() < 0.5:
        bodies.append(rounded(-0.4, -height - 0.14, 0.2, -height + 0.1, 0.05))
    radius = random.uniform(0.26, 0.31)
    return Outline(bodies + wheels, details + wheels, (half - 0.36, random.uniform(-0.08, 0.04), radius), height + 0.15)


def _beast(random: np.random.Generator) -> Outline:
    half, girth = random.uniform(0.66, 0.8), random.uniform(0.34, 0.42)
    leg = random.uniform(0.5, 0.7)
    bodies = [ellipse(0, 0, half, girth)]
    details = []
    for x in (-0.72 * half, -0.45 * half, 0.45 * half, 0.72 * half):
        swing = random.uniform(-0.18, 0.18)
        bodies.append(limb(x, 0.1, x + swing, girth + leg, 0.22, 0.13))
        details.append(limb(x + 0.85 * swing, girth + 0.85 * leg, x + swing, girth + leg, 0.15, 0.15))
    lift = random.uniform(-0.75, 0.15)
    head = (half + 0.30, lift)
    bodies.append(limb(0.7 * half, -0.05, *head, 0.44, 0.30))
    bodies.append(limb(-0.9 * half, -0.1, -half - 0.3, random.uniform(-0.4, 0.4), 0.10, 0.06))
    return Outline(bodies, details, (*head, random.uniform(0.27, 0.31)), girth + leg)


def _boat(random: np.random.Generator) -> Outline:
    half, depth = random.uniform(0.75, 0.95), random.uniform(0.30, 0.40)
    mast, lean = random.uniform(1.0, 1.25), random.uniform(-0.12, 0.12)
    hull = np.array([[-half, 0.2], [half + 0.1, 0.2], [0.72 * half, 0.2 + depth], [-0.75 * half, 0.2 + depth]])
    top = np.array([lean, 0.2 - mast])
    aft = np.array([[0.02, 0.12], top, [-random.uniform(0.55, 0.8), 0.10]])
    fore = np.array([[0.10, 0.12], top + np.array([0.06, 0.12]), [random.uniform(0.5, 0.75), 0.10]])
    bodies = [hull, aft, fore, limb(0.04, 0.25, float(top[0]), float(top[1]) - 0.05, 0.07, 0.05)]
    rail = limb(-half, 0.25, half, 0.25, 0.05, 0.05)
    radius = random.uniform(0.23, 0.27)
    return Outline(bodies, [rail], (lean + random.uniform(-0.04, 0.1), 0.2 - mast + 0.1, radius), 0.2 + depth)


def _vase(random: np.random.Generator) -> Outline:
    heights = np.linspace(-0.6, 0.95, 8)
    widths = random.uniform(0.30, 0.62, 8)
    widths[0], widths[-1] = random.uniform(0.18, 0.30), random.uniform(0.35, 0.55)
    bend = random.uniform(-0.12, 0.12)
    fine = np.linspace(-0.6, 0.95, 25)
    smooth = np.interp(fine, heights, np.convolve(np.pad(widths, 1, mode="edge"), [0.25, 0.5, 0.25], "valid"))
    middle = bend * (fine - 0.95) ** 2
    body = np.concatenate((np.stack((middle + smooth, fine), -1), np.stack((middle - smooth, fine), -1)[::-1]))
    bodies = [body]
    if random.random() < 0.5:
        side = random.choice([-1.0, 1.0])
        bodies += [limb(side * 0.3, -0.1, side * 0.8, 0.1, 0.12, 0.12), limb(side * 0.8, 0.05, side * 0.3, 0.55, 0.12, 0.12)]
    ring = limb(-0.45, 0.85, 0.45, 0.85, 0.06, 0.06)
    return Outline(bodies, [ring], (float(middle[0]), -0.72, random.uniform(0.27, 0.32)), 0.95)


OUTLINES: dict[str, Callable[[np.random.Generator], Outline]] = {
    "vehicle": _vehicle,
    "beast": _beast,
    "boat": _boat,
    "vase": _vase,
}

# Of part coordinates, -1..1: where the part has its second colour.
PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "chevrons": lambda u, v: (np.abs(u) + v) * 1.6 % 1 < 0.5,
    "checks": lambda u, v: (np.floor(u * 2.5) + np.floor(v * 2.5)) % 2 == 0,
    "eye": lambda u, v: (np.hypot(u - 0.2, v + 0.1) < 0.45) & (np.hypot(u - 0.3, v + 0.2) > 0.15),
    "blaze": lambda u, v: np.abs(u + 0.3 * v) > 0.38,
    "rings": lambda u, v: np.hypot(u, v) * 2.2 % 1 < 0.5,
    "cross": lambda u, v: (np.abs(u) < 0.27) | (np.abs(v) < 0.27),
    "spokes": lambda u, v: np.arctan2(v, u) * (7 / (2 * np.pi)) % 1 < 0.5,
    "star": lambda u, v: np.hypot(u, v) < 0.45 + 0.4 * np.cos(5 * np.arctan2(v, u)),
}


def _texture(kind: str, random: np.random.Generator, x: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
    """Where the body has its second tone, 0..1, over unit coordinates."""
    if kind == "stripes":
        turn, width = random.uniform(0, np.pi), random.uniform(9, 14)
        return 0.5 + 0.5 * np.clip(3 * np.sin(width * (x * np.cos(turn) + y * np.sin(turn))), -1, 1)
    if kind == "patches":
        return np.clip(6 * (noise(random, *x.shape, 0.45 * scale) - 0.55), 0, 1)
    if kind == "speckle":
        return np.clip(5 * (noise(random, *x.shape, 0.09 * scale) - 0.5), 0, 1)
    return np.clip(0.5 + 0.4 * y, 0, 1)


@dataclass(frozen=True)
class Thing:
    """An object placed on a canvas."""

    label: int  # index in CLASSES
    outline: Outline
    frame: Frame
    scale: float
    hue: float
    texture: str

    @property
    def look(self) -> ClassLook:
        return CLASSES[self.label]


def make_thing(label: int, random: np.random.Generator, settings: SceneSettings, root_area: float, x: float, y: float) -> Thing:
    """`root_area`: the root of the area it shall cover, in canvas pixels; x, y: the middle of its outline."""
    look = CLASSES[label]
    mate = next(other for other in CLASSES if other.family == look.family and other != look)
    source = mate if random.random() < settings.body_swap else look
    texture = (mate if random.random() < settings.body_swap else look).texture
    hue = random.random() if random.random() < settings.any_colour else random.normal(source.hue, settings.hue_spread)
    outline = OUTLINES[look.family](random)
    scale = root_area / np.sqrt(outline.area())
    turn = random.uniform(-1, 1) * settings.rotation
    frame = Frame.make(0, 0, scale, turn, random.random() < 0.5)
    points = frame.to_canvas(np.concatenate(outline.polygons()))
    middle = (points.min(0) + points.max(0)) / 2
    return Thing(label, outline, Frame(frame.matrix, np.array([x, y]) - middle), scale, hue, texture)


def relief(mask: np.ndarray, light: np.ndarray, radius: float) -> np.ndarray:
    """[H, W]: shading as of a swollen surface lit from `light`."""
    soft = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(max(1.0, float(radius))))
    down, right = np.gradient(np.asarray(soft, np.float32) / 255 * radius)
    return np.clip(1 - 0.55 * (right * light[0] + down * light[1]), 0.45, 1.5)


def draw_thing(
    canvas: np.ndarray, thing: Thing, random: np.random.Generator, light: np.ndarray
) -> tuple[tuple[int, int, int, int], np.ndarray, np.ndarray]:
    """Paints it over the canvas, float32 [H, W, 3]; gives its box, and within it the masks of the whole and of the part."""
    place = thing.frame.to_canvas
    polygons = [place(polygon) for polygon in thing.outline.polygons()]
    box = box_of(polygons, canvas.shape[1], canvas.shape[0])
    whole, part = fill(polygons, box), fill(polygons[-1:], box)
    if not whole.any():
        return box, whole, part
    x, y = thing.frame.coordinates(box)
    saturation, value = random.uniform(0.35, 0.7), random.uniform(0.5, 0.95)
    first, second = rgb(thing.hue, saturation, value), rgb(thing.hue + random.normal(0, 0.02), saturation * 0.8, value * 0.65)
    colour = mix(first, second, _texture(thing.texture, random, x, y, thing.scale))
    details = fill([place(polygon) for polygon in thing.outline.details], box)
    colour[details] = rgb(random.random(), 0.15, random.uniform(0.12, 0.3))
    centre_x, centre_y, radius = thing.outline.part
    turn = np.deg2rad(random.uniform(-30, 30))
    u, v = (x - centre_x) / radius, (y - centre_y) / radius
    u, v = u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)
    pattern = PATTERNS[thing.look.pattern](u, v)
    shades = [np.clip(np.array(tone) + random.normal(0, 0.04, 3), 0, 1) for tone in thing.look.part_colours]
    colour[part] = np.where(pattern[..., None], shades[1], shades[0])[part]
    colour *= relief(whole, light, 0.12 * thing.scale)[..., None]
    left, top, right, bottom = box
    canvas[top:bottom, left:right][whole] = colour[whole]
    return box, whole, part
