"""Pictures as bytes of PNG, the same for the same pixels; the values of masks, and their palette, the PASCAL VOC colours."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

BACKGROUND = 0
IGNORE = 255  # counts nowhere
IGNORE_16 = 65535  # in masks of 16 bits
MAX_CLASSES = 254  # that masks of 8 bits have values for


def voc_palette() -> list[int]:
    """The PASCAL VOC colours: the bits of a value, from low to high, fill red, green and blue from the top."""
    palette: list[int] = []
    for value in range(256):
        colour = [0, 0, 0]
        for place in range(8):
            for channel in range(3):
                colour[channel] |= ((value >> (3 * place + channel)) & 1) << (7 - place)
        palette.extend(colour)
    return palette


PALETTE = voc_palette()


def mask_png(values: np.ndarray) -> bytes:
    image = Image.fromarray(values)
    image.putpalette(PALETTE)
    return png(image)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
