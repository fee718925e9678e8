"""How large an image may be, wherever nobody chose otherwise. Free of Pillow, which settings do not load."""

from __future__ import annotations

MAX_PIXELS = 80_000_000  # more are refused from the header
MAX_BYTES = 512 * 1024 * 1024  # larger files are refused unread
MAX_SIDE = 1024  # labelling reduces larger images to it
