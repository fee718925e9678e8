"""The letters in pictures for people."""

from __future__ import annotations

from PIL import ImageFont


def font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size=14)
    except (OSError, ImportError):
        # Pillow without FreeType has one small bitmap font.
        return ImageFont.load_default()
