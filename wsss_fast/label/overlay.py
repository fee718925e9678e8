"""The picture for people: the image beside the same image under its mask, with the names of the classes."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wsss_fast.label.classes import BACKGROUND, IGNORE
from wsss_fast.label.write import PALETTE

_SIDE = 640
_STRENGTH = 0.55
_GAP = 8


def overlay_jpeg(pixels: np.ndarray, values: np.ndarray, names: list[tuple[int, str]]) -> bytes:
    """``names`` are (mask value, label) pairs for the legend."""
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    mask = np.asarray(Image.fromarray(values).resize(image.size, Image.Resampling.NEAREST))
    base = np.asarray(image).astype(np.float32)
    colour = np.asarray(PALETTE, dtype=np.float32).reshape(256, 3)[mask]
    labelled = (mask != BACKGROUND) & (mask != IGNORE)
    # The background is dimmed so that dark classes show as well.
    shown = np.where(labelled[..., None], (1 - _STRENGTH) * base + _STRENGTH * colour, 0.6 * base)
    shown[_outline(mask)] = 255

    line, letters = 22, font()
    legend = max(1, len(names)) * line + _GAP
    sheet = Image.new("RGB", (2 * image.width + _GAP, image.height + legend), (24, 24, 24))
    sheet.paste(image, (0, 0))
    sheet.paste(Image.fromarray(shown.clip(0, 255).astype(np.uint8)), (image.width + _GAP, 0))
    draw = ImageDraw.Draw(sheet)
    top = image.height + _GAP // 2
    for row, (value, text) in enumerate(names or [(BACKGROUND, "no class is present: everything is background")]):
        y = top + row * line
        draw.rectangle((_GAP, y + 3, _GAP + 14, y + 17), fill=tuple(PALETTE[3 * value : 3 * value + 3]), outline=(200, 200, 200))
        draw.text((_GAP + 24, y + 2), text, fill=(235, 235, 235), font=letters)
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _outline(mask: np.ndarray) -> np.ndarray:
    edge = np.zeros(mask.shape, dtype=bool)
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    edge[1:, :] |= mask[1:, :] != mask[:-1, :]
    return edge


def font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size=14)
    except (OSError, ImportError):
        # Pillow without FreeType has one small bitmap font.
        return ImageFont.load_default()
