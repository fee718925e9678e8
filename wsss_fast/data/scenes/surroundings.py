"""What is not an object: backgrounds, the grounds that go with classes, and distractors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wsss_fast.data.scenes.objects import relief
from wsss_fast.data.scenes.paint import Frame, any_rgb, box_of, ellipse, fill, limb, mix, noise, rgb, rounded

# ---- backgrounds: float32 [H, W, 3] ------------------------------------------------------------------------------------------


def _clouds(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    value = noise(random, height, width, random.uniform(30, 90), 4)
    return mix(any_rgb(random), any_rgb(random), 3 * (value - 0.35))


def _bricks(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    x, y = Frame.make(0, 0, random.uniform(22, 40), random.uniform(-10, 10)).coordinates((0, 0, width, height))
    row = np.floor(y * 2)
    column = np.floor(x + 0.5 * (row % 2))
    joint = ((y * 2) % 1 < 0.12) | ((x + 0.5 * (row % 2)) % 1 < 0.07)
    shade = random.random((64, 64))[row.astype(int) % 64, column.astype(int) % 64]
    wall = mix(any_rgb(random), any_rgb(random), shade)
    return np.where(joint[..., None], any_rgb(random, (0.0, 0.2)), wall).astype(np.float32)


def _foliage(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    hue, spread = random.random(), random.uniform(0.02, 0.1)
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = rgb(hue, 0.4, 0.25)
    for _ in range(70):
        x, y = random.uniform(0, width), random.uniform(0, height)
        size, turn = random.uniform(6, 24), random.uniform(0, 360)
        leaf = Frame.make(x, y, size, turn).to_canvas(ellipse(0, 0, 1.0, 0.5, 10))
        box = box_of([leaf], width, height)
        left, top, right, bottom = box
        colour = rgb(hue + random.normal(0, spread), random.uniform(0.25, 0.6), random.uniform(0.25, 0.75))
        canvas[top:bottom, left:right][fill([leaf], box)] = colour
    return canvas


def _horizon(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    y = np.arange(height)[:, None] / height + 0.15 * (noise(random, height, width, 60, 2) - 0.5)
    line = random.uniform(0.25, 0.6)
    sky = mix(any_rgb(random, (0.1, 0.4), (0.6, 0.95)), any_rgb(random, (0.05, 0.3), (0.7, 0.95)), y / line)
    rough = noise(random, height, width, 14, 3)
    ground = mix(any_rgb(random, (0.2, 0.5), (0.25, 0.6)), any_rgb(random, (0.2, 0.5), (0.3, 0.7)), 2.5 * (rough - 0.3))
    return mix(sky, ground, 12 * (y - line))


def _cells(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    count = int(random.integers(10, 30))
    centres = random.random((count, 2)) * (width, height)
    x, y = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
    nearest = np.argmin((x - centres[:, 0]) ** 2 + (y - centres[:, 1]) ** 2, axis=2)
    colours = np.stack([any_rgb(random) for _ in range(count)])
    base = any_rgb(random)
    return (0.5 * colours[nearest] + 0.5 * base) * (0.7 + 0.6 * noise(random, height, width, 8, 2))[..., None]


def _planks(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    turn = random.choice([0.0, 90.0]) + random.uniform(-12, 12)
    _, y = Frame.make(0, 0, random.uniform(20, 44), turn).coordinates((0, 0, width, height))
    shade = random.random(64)[np.floor(y).astype(int) % 64]
    grain = 0.3 * np.sin(18 * y + 6 * noise(random, height, width, 40))
    wood = mix(any_rgb(random), any_rgb(random), shade + grain)
    return np.where((y % 1 < 0.06)[..., None], 0.3 * wood, wood).astype(np.float32)


BACKGROUNDS = (_clouds, _bricks, _foliage, _horizon, _cells, _planks)


def background(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    return BACKGROUNDS[random.integers(len(BACKGROUNDS))](random, height, width)


def plain_background(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    y = np.broadcast_to(np.linspace(0, 1, height)[:, None], (height, width))
    return mix(any_rgb(random, (0.0, 0.5)), any_rgb(random, (0.0, 0.5)), y)


# ---- grounds: bands below the foot of an object, in its own coordinates (a along, b downwards from the foot) ------------------


def _rails(random: np.random.Generator, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gravel = mix(rgb(0.08, 0.12, 0.35), rgb(0.08, 0.08, 0.6), 3 * (noise(random, *a.shape, 3) - 0.3))
    sleeper = (a * 3.2 % 1 < 0.42) & (b > 0.02) & (b < 0.50)
    gravel[sleeper] = rgb(0.06, 0.5, 0.28)
    for rail in (0.08, 0.36):
        gravel[np.abs(b - rail) < 0.045] = rgb(0.6, 0.08, 0.80)
    return (b > -0.10) & (b < 0.56), gravel


def _pasture(random: np.random.Generator, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    grass = mix(rgb(0.27, 0.65, 0.35), rgb(0.24, 0.60, 0.65), 2.5 * (noise(random, *a.shape, 5, 2) - 0.3))
    grass[noise(random, *a.shape, 4) > 0.86] = rgb(0.16, 0.75, 0.98)
    edge = 0.12 * np.sin(5 * a + random.uniform(0, 6)) + 0.05 * np.sin(17 * a)
    return (b > -0.35 + edge) & (b < 0.75 + edge), grass


def _water(random: np.random.Generator, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wave = np.sin(16 * (b + 0.05 * np.sin(6 * a + random.uniform(0, 6))) + 2 * noise(random, *a.shape, 20))
    sea = mix(rgb(0.56, 0.75, 0.50), rgb(0.52, 0.45, 0.80), 0.5 + 0.7 * wave)
    edge = 0.04 * np.sin(9 * a + random.uniform(0, 6))
    return (b > -0.14 + edge) & (b < 0.70), sea


def _table(random: np.random.Generator, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    grain = np.sin(30 * (b + 0.06 * np.sin(3 * a + random.uniform(0, 6))) + 3 * noise(random, *a.shape, 25))
    wood = mix(rgb(0.06, 0.65, 0.40), rgb(0.08, 0.55, 0.62), 0.5 + 0.4 * grain)
    wood[b > 0.34] *= 0.6
    return (b > -0.20) & (b < 0.52) & (np.abs(a) < 2.2), wood


GROUNDS: dict[str, Callable[[np.random.Generator, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "rails": _rails,
    "pasture": _pasture,
    "water": _water,
    "table": _table,
}


def draw_ground(canvas: np.ndarray, kind: str, frame: Frame, foot: float, random: np.random.Generator) -> np.ndarray:
    """Paints the ground under the foot of an object; gives its mask, bool [H, W]."""
    height, width = canvas.shape[:2]
    a, b = frame.coordinates((0, 0, width, height))
    mask, colour = GROUNDS[kind](random, a, b - foot)
    canvas[mask] = colour[mask] * random.uniform(0.85, 1.1)
    return mask


# ---- distractors --------------------------------------------------------------------------------------------------------------


def _distractor_outline(random: np.random.Generator) -> list[np.ndarray]:
    kind = random.integers(5)
    if kind == 0:  # a ball
        return [ellipse(0, 0, 0.56, 0.56)]
    if kind == 1:  # a crate
        return [rounded(-0.5, -0.5, 0.5, random.uniform(0.2, 0.5), 0.04)]
    if kind == 2:  # a shrub
        return [ellipse(*random.uniform(-0.35, 0.35, 2), *random.uniform(0.2, 0.4, 2), 10) for _ in range(5)]
    if kind == 3:  # a post with a plate
        return [limb(0, -0.5, 0, 0.8, 0.14, 0.14), rounded(-0.35, -0.7, 0.35, -0.25, 0.05)]
    spikes = np.arange(10) * (np.pi / 5)
    reach = np.where(np.arange(10) % 2 == 0, 0.75, 0.35)
    return [np.stack((reach * np.cos(spikes), reach * np.sin(spikes)), -1)]


def draw_distractor(
    canvas: np.ndarray, random: np.random.Generator, x: float, y: float, root_area: float, light: np.ndarray
) -> np.ndarray:
    """Paints a thing that is of no class; gives its mask, bool [H, W]."""
    height, width = canvas.shape[:2]
    frame = Frame.make(x, y, root_area, random.uniform(-40, 40))
    polygons = [frame.to_canvas(polygon) for polygon in _distractor_outline(random)]
    box = box_of(polygons, width, height)
    left, top, right, bottom = box
    mask = np.zeros((height, width), bool)
    inside = fill(polygons, box) if right > left and bottom > top else np.zeros((bottom - top, right - left), bool)
    if inside.any():
        tone = noise(random, *inside.shape, random.uniform(5, 30))
        colour = mix(any_rgb(random, (0.2, 0.7)), any_rgb(random, (0.2, 0.7)), 3 * (tone - 0.35))
        colour *= relief(inside, light, 0.12 * root_area)[..., None]
        canvas[top:bottom, left:right][inside] = colour[inside]
        mask[top:bottom, left:right] = inside
    return mask
