"""The picture for people: the image beside the same image under its mask, with the names of the classes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from wsss_fast.files.font import font
from wsss_fast.files.png import BACKGROUND, IGNORE, IGNORE_16, MAX_CLASSES, PALETTE

_SIDE = 640
_STRENGTH = 0.55
_DIMMED = 0.4
_GAP = 8


def overlay_jpeg(pixels: np.ndarray, values: np.ndarray, names: list[tuple[int, str]]) -> bytes:
    """``names`` are (mask value, label) pairs for the legend."""
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    mask = np.asarray(Image.fromarray(values).resize(image.size, Image.Resampling.NEAREST))
    shown = Image.alpha_composite(image.convert("RGBA"), Image.fromarray(mask_layer(mask))).convert("RGB")

    line, letters = 22, font()
    legend = max(1, len(names)) * line + _GAP
    sheet = Image.new("RGB", (2 * image.width + _GAP, image.height + legend), (24, 24, 24))
    sheet.paste(image, (0, 0))
    sheet.paste(shown, (image.width + _GAP, 0))
    draw = ImageDraw.Draw(sheet)
    top = image.height + _GAP // 2
    for row, (value, text) in enumerate(names or [(BACKGROUND, "no class is present: everything is background")]):
        y = top + row * line
        draw.rectangle((_GAP, y + 3, _GAP + 14, y + 17), fill=colour_of(value), outline=(200, 200, 200))
        draw.text((_GAP + 24, y + 2), text, fill=(235, 235, 235), font=letters)
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def mask_layer(values: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 4], to be laid over the image: classes in their colours between white lines."""
    if values.dtype == np.uint16:
        values = np.where(values == IGNORE_16, IGNORE, _colour_number(values.astype(np.int64)))
    layer = np.empty((*values.shape, 4), np.uint8)
    layer[..., :3] = np.asarray(PALETTE, dtype=np.uint8).reshape(256, 3)[values]
    layer[..., 3] = round(255 * _STRENGTH)
    # The background is dimmed so that dark classes show as well.
    layer[(values == BACKGROUND) | (values == IGNORE)] = (0, 0, 0, round(255 * _DIMMED))
    layer[_outline(values)] = 255
    return layer


def colour_of(value: int) -> tuple[int, int, int]:
    """Of a mask value that is no 255."""
    red, green, blue = PALETTE[3 * _colour_number(value) :][:3]
    return red, green, blue


def _colour_number(value: Any) -> Any:
    """16-bit masks have more classes than there are colours: they come again from value 255 on."""
    return value - (value - 1) // MAX_CLASSES * MAX_CLASSES * (value > 0)


def _outline(mask: np.ndarray) -> np.ndarray:
    edge = np.zeros(mask.shape, dtype=bool)
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    edge[1:, :] |= mask[1:, :] != mask[:-1, :]
    return edge
