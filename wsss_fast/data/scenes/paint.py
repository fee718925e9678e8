"""Brushes: everything is painted at twice the size and made small at the end, so that edges are smooth."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

OVERSAMPLING = 2


@dataclass(frozen=True)
class Frame:
    """A place for a drawing: unit coordinates [..., 2] (x right, y down) to canvas pixels and back."""

    matrix: np.ndarray  # [2, 2]
    origin: np.ndarray  # [2]

    @staticmethod
    def make(x: float, y: float, scale: float, degrees: float = 0.0, mirror: bool = False) -> Frame:
        angle = np.deg2rad(degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        flip = np.array([-1.0 if mirror else 1.0, 1.0])
        return Frame(scale * turn * flip, np.array([x, y]))

    def to_canvas(self, points: np.ndarray) -> np.ndarray:
        return points @ self.matrix.T + self.origin

    def coordinates(self, box: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Unit coordinates of the pixels of a box (left, top, right, bottom)."""
        left, top, right, bottom = box
        inverse = np.linalg.inv(self.matrix)
        x = np.arange(left, right)[None] + 0.5 - self.origin[0]
        y = np.arange(top, bottom)[:, None] + 0.5 - self.origin[1]
        return inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y


def box_of(polygons: Iterable[np.ndarray], width: int, height: int) -> tuple[int, int, int, int]:
    """The smallest box around polygons, within the canvas; may be empty."""
    points = np.concatenate(list(polygons))
    left, top = np.floor(points.min(0)).astype(int) - 1
    right, bottom = np.ceil(points.max(0)).astype(int) + 2
    left, top = min(max(0, left), width), min(max(0, top), height)
    return left, top, max(left, min(width, right)), max(top, min(height, bottom))


def fill(polygons: Iterable[np.ndarray], box: tuple[int, int, int, int]) -> np.ndarray:
    """bool: the pixels of a box inside any of the polygons."""
    left, top, right, bottom = box
    picture = Image.new("L", (right - left, bottom - top))
    draw = ImageDraw.Draw(picture)
    for polygon in polygons:
        draw.polygon([(float(x) - left, float(y) - top) for x, y in polygon], fill=1)
    return np.asarray(picture) > 0


def noise(random: np.random.Generator, height: int, width: int, cell: float, octaves: int = 1) -> np.ndarray:
    """float32 [H, W] around 0.5, mostly in 0..1: smooth random values, one a cell, with finer ones added."""
    total, weight = np.zeros((height, width), np.float32), 0.0
    for octave in range(octaves):
        step, share = max(1.0, cell / 2**octave), 0.5**octave
        grid = random.random((int(height / step) + 3, int(width / step) + 3), np.float32)
        total += share * np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))
        weight += share
    return total / weight


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), np.float32)


def any_rgb(
    random: np.random.Generator, saturation: tuple[float, float] = (0.05, 0.45), value: tuple[float, float] = (0.25, 0.85)
) -> np.ndarray:
    return rgb(random.random(), random.uniform(*saturation), random.uniform(*value))


def mix(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[H, W, 3]: the first colour where the weight is 0, the second where it is 1."""
    weight = np.clip(weight, 0, 1)[..., None].astype(np.float32)
    return first * (1 - weight) + second * weight


# ---- outlines, in unit coordinates ------------------------------------------------------------------------------------------


def ellipse(x: float, y: float, rx: float, ry: float, corners: int = 24) -> np.ndarray:
    angle = np.arange(corners) * (2 * np.pi / corners)
    return np.stack((x + rx * np.cos(angle), y + ry * np.sin(angle)), -1)


def limb(x0: float, y0: float, x1: float, y1: float, start: float, end: float) -> np.ndarray:
    """A tapering bar from one point to another, with its widths."""
    along = np.array([x1 - x0, y1 - y0])
    across = np.array([-along[1], along[0]]) / max(1e-6, float(np.hypot(*along)))
    first, last = np.array([x0, y0]), np.array([x1, y1])
    return np.stack((first + across * start / 2, last + across * end / 2, last - across * end / 2, first - across * start / 2))


def rounded(left: float, top: float, right: float, bottom: float, radius: float) -> np.ndarray:
    corners = ((right, bottom, 0.0), (left, bottom, 0.5), (left, top, 1.0), (right, top, 1.5))
    parts = []
    for x, y, start in corners:
        angle = (start + np.linspace(0, 0.5, 5)) * np.pi
        cx = x - radius if x == right else x + radius
        cy = y - radius if y == bottom else y + radius
        parts.append(np.stack((cx + radius * np.cos(angle), cy + radius * np.sin(angle)), -1))
    return np.concatenate(parts)


def turned(points: np.ndarray, x: float, y: float, degrees: float) -> np.ndarray:
    return Frame.make(x, y, 1.0, degrees).to_canvas(points - np.array([x, y]))
