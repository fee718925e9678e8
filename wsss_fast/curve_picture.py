"""The threshold curve of `wsss eval --curve`, drawn with Pillow."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageDraw

from wsss_fast.files.font import font

_WIDTH, _HEIGHT = 720, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 24, 44, 60
_OVERSAMPLING = 3
_BLUE, _RED, _GREY, _INK = (31, 92, 168), (200, 48, 40), (222, 222, 222), (40, 40, 40)


def curve_png(thresholds: np.ndarray, miou: np.ndarray, title: str) -> bytes:
    """mIoU in per cent over the background threshold from 0 to 1, with the best point named. NaN leaves a gap."""
    percent = 100 * np.asarray(miou, dtype=np.float64)
    known = ~np.isnan(percent)
    top = min(100, 10 * math.ceil((percent[known].max() if known.any() else 100) / 10 + 0.2))
    # Lines at three times the size and made small again are smooth; text is drawn sharp afterwards.
    big = Image.new("RGB", (_WIDTH * _OVERSAMPLING, _HEIGHT * _OVERSAMPLING), "white")
    draw = ImageDraw.Draw(big)

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + x * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _TOP - _BOTTOM)

    def line(points: list[tuple[float, float]], colour: tuple[int, int, int], width: int) -> None:
        scaled = [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in points]
        draw.line(scaled, fill=colour, width=width * _OVERSAMPLING, joint="curve")

    step = 10 if top > 40 else 5
    across, up = [tick / 5 for tick in range(6)], range(0, top + 1, step)
    for value in up:
        line([place(0, value), place(1, value)], _GREY, 1)
    for value in across:
        line([place(value, 0), place(value, top)], _GREY, 1)
    line([place(0, top), place(0, 0), place(1, 0)], _INK, 1)
    for run in np.split(np.arange(len(percent)), np.flatnonzero(np.diff(known)) + 1):
        if known[run].all() and len(run) > 1:
            line([place(float(thresholds[i]), percent[i]) for i in run], _BLUE, 2)
    best = int(np.nanargmax(percent)) if known.any() else None
    if best is not None:
        x, y = (value * _OVERSAMPLING for value in place(float(thresholds[best]), percent[best]))
        draw.ellipse((x - 15, y - 15, x + 15, y + 15), fill=_RED)

    sheet = big.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)
    draw, letters = ImageDraw.Draw(sheet), font()
    for value in up:
        x, y = place(0, value)
        draw.text((x - 8, y), str(value), fill=_INK, font=letters, anchor="rm")
    for value in across:
        x, y = place(value, 0)
        draw.text((x, y + 8), f"{value:.1f}", fill=_INK, font=letters, anchor="ma")
    middle = place(0.5, 0)[0]
    draw.text((middle, _HEIGHT - 12), "background threshold", fill=_INK, font=letters, anchor="md")
    draw.text((_LEFT - 40, _TOP - 12), "mIoU in per cent", fill=_INK, font=letters, anchor="ls")
    draw.text((_WIDTH - _RIGHT, _TOP - 12), title, fill=_INK, font=letters, anchor="rs")
    if best is not None:
        x, y = place(float(thresholds[best]), percent[best])
        side = "ls" if thresholds[best] < 0.6 else "rs"
        shift = 10 if side == "ls" else -10
        text = f"{percent[best]:.2f} at {thresholds[best]:.2f}"
        draw.text((x + shift, y - 9), text, fill=_RED, font=letters, anchor=side, stroke_width=3, stroke_fill="white")
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
