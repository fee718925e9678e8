"""Label Studio's own run lengths for brush masks.

Bits: the number of values (32), bits a value - 1 (5), four lengths of a run's counter - 1 (4 each); then for each run: 1, the
number of its counter (2), length - 1 (as many bits as that counter has), the value. A pixel is four equal values: RGBA.
"""

from __future__ import annotations

import numpy as np

_COUNTERS = (4, 8, 12, 16)
_LONGEST = 1 << _COUNTERS[-1]
_CHANNELS = 4


def brush_rle(chosen: np.ndarray) -> list[int]:
    """bool [H, W] → bytes."""
    flat = chosen.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    lengths = np.diff(ends, prepend=0) * _CHANNELS
    bits = [f"{flat.size * _CHANNELS:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in _COUNTERS)]
    for start, length in zip((ends - lengths // _CHANNELS).tolist(), lengths.tolist(), strict=True):
        value = "11111111" if flat[start] else "00000000"
        while length > 0:
            part = min(length, _LONGEST)
            counter = next(i for i, size in enumerate(_COUNTERS) if part <= 1 << size)
            bits.append(f"1{counter:02b}{part - 1:0{_COUNTERS[counter]}b}{value}")
            length -= part
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
