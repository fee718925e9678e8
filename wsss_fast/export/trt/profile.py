"""Which sizes of images an engine takes, and for which it is made to be fast: told, or those of a folder's images."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from wsss_fast.files.names import printable

logger = logging.getLogger("wsss_fast.export")

Shape = tuple[int, int, int]  # batch, height, width
DEFAULT_SHAPES: tuple[Shape, Shape, Shape] = ((1, 64, 64), (1, 448, 448), (4, 1024, 1024))


@dataclass(frozen=True)
class Profile:
    """The sizes of images that an engine takes, and those that it is made to be fast for."""

    least: Shape
    best: Shape
    most: Shape

    def __post_init__(self) -> None:
        for low, middle, high in zip(self.least, self.best, self.most, strict=True):
            if not 1 <= low <= middle <= high:
                raise ValueError(
                    f"export: 'shapes' must grow from min over opt to max, got {self.text()}. Hint: 1x64x64,1x448x448,4x1024x1024"
                )

    def text(self) -> str:
        return ",".join("x".join(map(str, shape)) for shape in (self.least, self.best, self.most))

    def holds(self, shape: Shape) -> bool:
        return all(low <= size <= high for low, size, high in zip(self.least, shape, self.most, strict=True))

    def nearest(self, height: int, width: int) -> tuple[int, int]:
        """The size closest to this one that the engine takes."""
        sides = zip(self.least[1:], (height, width), self.most[1:], strict=True)
        return tuple(min(max(side, low), high) for low, side, high in sides)


def parse_shapes(text: str) -> Profile:
    """``"1x64x64,1x448x448,4x1024x1024"``: batch x height x width, least, best and most."""
    try:
        shapes = [tuple(int(side) for side in part.split("x")) for part in text.split(",")]
    except ValueError:
        shapes = []
    if len(shapes) != 3 or any(len(shape) != 3 for shape in shapes):
        hint = "three times batch x height x width, as in 1x64x64,1x448x448,4x1024x1024"
        raise ValueError(f"export: 'shapes' must be min,opt,max, got {text!r}. Hint: {hint}")
    return Profile(*shapes)


def profile_of_sizes(sizes: list[tuple[int, int]], scales: tuple[float, ...], batch: int = 1) -> Profile:
    """Of the heights and widths of a folder's images, at the scales at which the network will see them."""
    if not sizes:
        raise ValueError("export: 'profile_from' must hold images, got none")
    scaled = [(max(1, round(h * scale)), max(1, round(w * scale))) for h, w in sizes for scale in scales]
    heights, widths = sorted(h for h, _ in scaled), sorted(w for _, w in scaled)
    middle = len(scaled) // 2
    least = (1, max(32, heights[0]), max(32, widths[0]))
    best = (batch, max(32, heights[middle]), max(32, widths[middle]))
    return Profile(least, best, (batch, max(32, heights[-1]), max(32, widths[-1])))


def image_sizes(folder: str | Path) -> list[tuple[int, int]]:
    """(height, width) of a folder's images as `wsss label` gives them to a network at scale 1, from their headers."""
    from wsss_fast.export.verify import image_files
    from wsss_fast.files.images import ImageError, read_size
    from wsss_fast.files.limits import MAX_BYTES, MAX_PIXELS, MAX_SIDE

    paths = image_files(folder)
    if not paths:
        raise ValueError(f"export: 'profile_from' must be a folder of images, got '{folder}', which holds none")
    sizes: list[tuple[int, int]] = []
    refused = ""
    for path in paths:
        try:
            width, height = read_size(path, MAX_PIXELS, MAX_BYTES)
        except ImageError as error:
            refused = refused or f"'{printable(str(path))}': {error}"
            continue
        ratio = min(1.0, MAX_SIDE / max(height, width))
        sizes.append((max(1, round(height * ratio)), max(1, round(width * ratio))))
    if not sizes:
        raise ValueError(f"export: 'profile_from' must hold images that can be read, and '{folder}' holds none ({refused})")
    if refused:
        logger.warning(
            "export: %d of %d images of '%s' cannot be read (%s)", len(paths) - len(sizes), len(paths), folder, refused
        )
    return sizes
